//! Compaction every `--etcd-compaction-interval`, in step with every other API server on the same etcd.
//!
//! The protocol is kube-apiserver's: the *version* of one key is a clock. Who finds the key at the version last seen
//! moves it on, and so is the one that compacts; everybody else learns the new version and what was compacted. What is
//! compacted is the revision of one interval ago, so that watches and lists have that long to resume.

use super::fault::Fault;
use super::members::{Answer, Repeat};
use super::{Shared, revision, signed};
use crate::revision::Revision;
use etcd_client::{Compare, CompareOp, Txn, TxnOp, TxnOpResponse, TxnResponse};
use std::sync::Arc;
use std::time::Duration;

/// Outside of `--etcd-prefix`, as kube-apiserver has it: there is one history for all.
pub(super) const KEY: &str = "compact_rev_key";
const PATIENCE: Duration = Duration::from_secs(10);

/// What one server knows between two rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Clock {
    /// The key's version as last seen.
    version: i64,
    /// The store's revision at the last round: what the next one compacts. Zero: no round yet.
    pub(super) revision: Revision,
}

/// What a round found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Round {
    /// The key was at the version last seen, and moved on by us.
    ours: bool,
    /// Its version where it was not.
    version: i64,
    revision: Revision,
}

impl Clock {
    /// The state after a round, and what to compact.
    fn after(self, round: Round) -> (Self, Option<Revision>) {
        if !round.ours {
            return (Self { version: round.version, revision: round.revision }, None);
        }
        // The first round only sets the clock: nothing is an interval old yet.
        let due = Some(self.revision).filter(|revision| *revision > Revision(0));
        (Self { version: self.version + 1, revision: round.revision }, due)
    }
}

/// Compacts until it is dropped; failures wait for the next round.
pub(super) async fn run(shared: Arc<Shared>, every: Duration) {
    let mut clock = Clock::default();
    loop {
        tokio::time::sleep(every).await;
        match round(&shared, clock).await {
            Ok(next) => clock = next,
            Err(fault) => tracing::warn!(%fault, "etcd could not be compacted; the next round tries again"),
        }
    }
}

/// One round of the protocol.
pub(super) async fn round(shared: &Shared, clock: Clock) -> Result<Clock, Fault> {
    let exchanged: Answer<TxnResponse> = shared
        .members
        .call(Repeat::Never, PATIENCE, |member| {
            let txn = Txn::new()
                .when([Compare::version(KEY, CompareOp::Equal, clock.version)])
                .and_then([TxnOp::put(KEY, clock.revision.to_string(), None)])
                .or_else([TxnOp::get(KEY, None)]);
            async move { member.kv().txn(txn).await }
        })
        .await?;
    let (next, due) = clock.after(read(&exchanged.value));
    if let Some(due) = due {
        compact(shared, due).await?;
        tracing::debug!(revision = %due, "etcd is compacted");
    }
    Ok(next)
}

/// Drops the history below a revision; one that is dropped already is no error.
pub(super) async fn compact(shared: &Shared, below: Revision) -> Result<(), Fault> {
    let compacted = shared
        .members
        .call(Repeat::Safe, PATIENCE, |member| async move { member.kv().compact(signed(below), None).await });
    match compacted.await {
        Ok(_) | Err(Fault::Compacted) => Ok(()),
        Err(fault) => Err(fault),
    }
}

fn read(response: &TxnResponse) -> Round {
    let found = response.op_responses().into_iter().find_map(|op| match op {
        TxnOpResponse::Get(get) => get.kvs().first().map(etcd_client::KeyValue::version),
        TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
    });
    Round {
        ours: response.succeeded(),
        // Absent: deleted by hand; its version is zero then.
        version: found.unwrap_or_default(),
        revision: response.header().map(|header| revision(header.revision())).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_many_servers_compacts_what_is_an_interval_old() {
        let ours = |at| Round { ours: true, version: 0, revision: Revision(at) };
        let others = |version, at| Round { ours: false, version, revision: Revision(at) };
        let (first, due) = Clock::default().after(ours(10));
        assert_eq!((first, due), (Clock { version: 1, revision: Revision(10) }, None));
        let (second, due) = first.after(ours(20));
        assert_eq!((second, due), (Clock { version: 2, revision: Revision(20) }, Some(Revision(10))));
        // A server that starts later finds the clock ahead, and takes its turn once it has caught up.
        let (late, due) = Clock::default().after(others(2, 21));
        assert_eq!((late, due), (Clock { version: 2, revision: Revision(21) }, None));
        assert_eq!(late.after(ours(30)).1, Some(Revision(21)));
        assert_eq!(second.after(others(3, 31)).1, None);
    }
}
