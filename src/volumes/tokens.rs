//! Service account tokens of projected volumes: kept until four fifths of their life are over, at most a day.

use crate::clock::Now;
use crate::cluster::{Cluster, ClusterError};
use crate::ids::PodUid;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The kubelet's token manager renews after a day whatever the token's life.
const LONGEST_USE: Duration = Duration::from_secs(24 * 60 * 60);

/// Pod, audience and seconds asked for.
type Key = (PodUid, Option<String>, i64);

/// Tokens of the pods on this node.
#[derive(Default)]
pub(super) struct Tokens {
    held: Mutex<HashMap<Key, Held>>,
}

#[derive(Clone)]
struct Held {
    token: Arc<str>,
    renew_at: Instant,
    expires: Timestamp,
}

impl Tokens {
    /// A token that is good for a while yet, and until when. Where renewal fails, the old one serves until it expires.
    pub(super) async fn get(
        &self,
        cluster: &dyn Cluster,
        pod: &Pod,
        audience: Option<&str>,
        seconds: i64,
        now: Now,
    ) -> Result<(Arc<str>, Timestamp), ClusterError> {
        let key = (PodUid::new(pod.metadata.uid.as_deref().unwrap_or_default()), audience.map(str::to_owned), seconds);
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(held) = &held
            && now.mono < held.renew_at
            && now.wall < held.expires
        {
            return Ok((held.token.clone(), held.expires));
        }
        match (cluster.service_account_token(pod, audience, seconds).await, held) {
            (Ok((token, expires)), _) => {
                let expires = expires.parse().unwrap_or(now.wall);
                let held = Held { token: token.into(), renew_at: now.mono + use_for(expires, now.wall), expires };
                let token = held.token.clone();
                self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(key, held);
                Ok((token, expires))
            }
            (Err(error), Some(held)) if now.wall < held.expires => {
                tracing::warn!(%error, "service account token not renewed, the old one still serves");
                Ok((held.token, held.expires))
            }
            (Err(error), _) => Err(error),
        }
    }

    pub(super) fn forget(&self, uid: &PodUid) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).retain(|(held, _, _), _| held != uid);
    }
}

fn use_for(expires: Timestamp, now: Timestamp) -> Duration {
    let life = Duration::try_from(expires.duration_since(now)).unwrap_or_default();
    life.mul_f64(0.8).min(LONGEST_USE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::cluster::fake::FakeCluster;

    #[tokio::test]
    async fn a_token_is_renewed_at_four_fifths_and_survives_an_outage() {
        let fake = FakeCluster::default();
        let tokens = Tokens::default();
        let pod = Pod::default();
        let start = clock::now();
        let after = |seconds: u64| Now {
            mono: start.mono + Duration::from_secs(seconds),
            wall: start.wall + Duration::from_secs(seconds),
        };
        for seconds in [0, 1, 470] {
            tokens.get(&fake, &pod, None, 600, after(seconds)).await.unwrap();
        }
        assert_eq!(fake.calls().len(), 1);
        fake.fail("service_account_token", ClusterError::Unavailable("down".into()));
        tokens.get(&fake, &pod, None, 600, after(500)).await.unwrap();
        assert_eq!(fake.calls().len(), 2);
        fake.fail("service_account_token", ClusterError::Unavailable("down".into()));
        assert!(tokens.get(&fake, &pod, None, 600, after(700)).await.is_err());
    }
}
