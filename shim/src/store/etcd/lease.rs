//! Leases for keys that expire: one is shared by the keys of a while, as kube-apiserver does, since each costs etcd.

use super::fault::Fault;
use super::members::{Members, Repeat};
use crate::clock;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// kube-apiserver's `leaseReuseDurationSeconds`, `reuseDurationPercent` and `leaseMaxObjectCount`.
const SHARED_LONGEST: Duration = Duration::from_secs(60);
const SHARED_PERCENT: u32 = 5;
const SHARED_KEYS: u32 = 1000;
const PATIENCE: Duration = Duration::from_secs(5);

struct Lease {
    id: i64,
    /// Keys that come later would expire too early.
    until: Instant,
    keys: u32,
}

/// The leases in use, by the time to live that was asked for.
#[derive(Default)]
pub(super) struct Leases {
    /// Events have one time to live; nothing else expires, so this stays small.
    shared: Mutex<HashMap<Duration, Lease>>,
}

/// How long a lease is given out to new keys.
fn window(ttl: Duration) -> Duration {
    (ttl * SHARED_PERCENT / 100).min(SHARED_LONGEST)
}

/// What etcd is asked for, in whole seconds: the last key to come must live its full time.
fn granted_seconds(ttl: Duration) -> i64 {
    let whole = ttl + window(ttl);
    let seconds = whole.as_secs() + u64::from(whole.subsec_nanos() > 0);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

impl Leases {
    /// A lease under which a key written now lives at least `ttl`.
    pub(super) async fn take(&self, members: &Members, ttl: Duration) -> Result<i64, Fault> {
        // Held while one is granted, so that a burst of events makes one lease.
        let mut shared = self.shared.lock().await;
        let now = clock::now().mono;
        if let Some(lease) = shared.get_mut(&ttl).filter(|l| now < l.until && l.keys < SHARED_KEYS) {
            lease.keys += 1;
            return Ok(lease.id);
        }
        let seconds = granted_seconds(ttl);
        // A grant that was lost on the way runs out by itself.
        let granted = members
            .call(Repeat::Safe, PATIENCE, |member| async move { member.lease().grant(seconds, None).await })
            .await?;
        let lease = Lease { id: granted.value.id(), until: now + window(ttl), keys: 1 };
        let id = lease.id;
        shared.insert(ttl, lease);
        Ok(id)
    }

    /// etcd does not know this one any more.
    pub(super) async fn forget(&self, id: i64) {
        self.shared.lock().await.retain(|_, lease| lease.id != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_shared_as_long_as_kube_apiserver_shares_them() {
        for (ttl, shared, granted) in
            [(3600.0, 60.0, 3660), (600.0, 30.0, 630), (60.0, 3.0, 63), (0.02, 0.001, 1), (1.0, 0.05, 2)]
        {
            let ttl = Duration::from_secs_f64(ttl);
            assert_eq!((window(ttl), granted_seconds(ttl)), (Duration::from_secs_f64(shared), granted), "{ttl:?}");
        }
    }
}
