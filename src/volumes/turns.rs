//! One at a time for each key. Work that outlives whoever waits for it (a thread that a hung disk holds) keeps its turn.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;

/// As long as a disk or a driver is waited for: who has the turn should be done by then.
const PATIENCE: Duration = Duration::from_secs(120);

/// Somebody else has the turn, and keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an earlier attempt has not ended within {PATIENCE:?}")]
pub(super) struct Busy;

/// Holds the turn until the last clone is dropped.
pub(super) type Turn = Arc<OwnedMutexGuard<()>>;

/// As many as there are keys that somebody works on.
pub(super) struct Turns<K>(Mutex<BTreeMap<K, Arc<tokio::sync::Mutex<()>>>>);

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord> Turns<K> {
    pub(super) async fn take(&self, key: K) -> Result<Turn, Busy> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(key).or_default().clone()
        };
        let turn = tokio::time::timeout(PATIENCE, lock.lock_owned()).await;
        turn.map(Arc::new).map_err(|_| Busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_turn_is_kept_until_the_last_who_has_it_ends_and_waiting_for_it_ends_too() {
        let turns = Turns::default();
        let first = turns.take("a").await.unwrap();
        let outlives = first.clone();
        drop(first);
        turns.take("b").await.unwrap();
        assert_eq!(turns.take("a").await.unwrap_err(), Busy);
        drop(outlives);
        turns.take("a").await.unwrap();
    }
}
