//! Keys that await a pass of their controller: each once, when due; failures wait longer each time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Wait after the first failure of a key; doubles with each further one (client-go's default rate limiter).
const FIRST_RETRY: Duration = Duration::from_millis(5);
/// Upstream goes to 1000 s; a minute repairs sooner and costs as good as nothing.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// How long to wait after a failure that `failures` others preceded.
pub(super) fn retry_wait(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << failures.min(20)).min(LAST_RETRY)
}

/// A set of keys with the moment each is due. Holds at most one entry a key, so it is bounded by the objects there are.
#[derive(Debug)]
pub(super) struct Queue<K> {
    due: BTreeSet<(Instant, K)>,
    when: BTreeMap<K, Instant>,
    failures: BTreeMap<K, u32>,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self { due: BTreeSet::new(), when: BTreeMap::new(), failures: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Queue<K> {
    /// Makes the key due at `at`, or leaves it if it is due sooner.
    pub(super) fn add(&mut self, key: K, at: Instant) {
        match self.when.get(&key) {
            Some(earlier) if *earlier <= at => return,
            Some(later) => {
                self.due.remove(&(*later, key.clone()));
            }
            None => {}
        }
        self.when.insert(key.clone(), at);
        self.due.insert((at, key));
    }

    /// The next key whose time has come.
    pub(super) fn pop(&mut self, now: Instant) -> Option<K> {
        if self.due.first()?.0 > now {
            return None;
        }
        let (_, key) = self.due.pop_first()?;
        self.when.remove(&key);
        Some(key)
    }

    /// When the next key is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The pass of this key failed: again after a wait that grows.
    pub(super) fn failed(&mut self, key: K, now: Instant) {
        let failures = self.failures.entry(key.clone()).or_default();
        let wait = retry_wait(*failures);
        *failures += 1;
        self.add(key, now + wait);
    }

    /// The pass of this key succeeded.
    pub(super) fn succeeded(&mut self, key: &K) {
        self.failures.remove(key);
    }

    /// Nothing is to be done for this key any more.
    pub(super) fn forget(&mut self, key: &K) {
        self.failures.remove(key);
        if let Some(at) = self.when.remove(key) {
            self.due.remove(&(at, key.clone()));
        }
    }

    /// Completes when the next key is due; never while there is none. Cancel-safe.
    pub(super) async fn wait(&self) {
        match self.next_due() {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_due_once_at_the_earliest_time_asked_for() {
        let start = clock::now().mono;
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut queue = Queue::default();
        queue.add("a", at(9));
        queue.add("b", at(5));
        queue.add("a", at(3));
        queue.add("a", at(7));
        queue.add("gone", at(1));
        queue.forget(&"gone");
        assert_eq!(queue.pop(at(2)), None);
        queue.wait().await;
        assert_eq!(clock::now().mono, at(3));
        assert_eq!((queue.pop(at(9)), queue.pop(at(9)), queue.pop(at(9))), (Some("a"), Some("b"), None));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_until_a_minute_and_a_success_starts_anew() {
        let start = clock::now().mono;
        let mut queue = Queue::default();
        let mut waits = Vec::new();
        for _ in 0..16 {
            queue.failed("a", start);
            waits.push((queue.next_due().unwrap() - start).as_millis());
            queue.pop(start + LAST_RETRY);
        }
        assert_eq!((waits[0], waits[1], waits[13], waits[15]), (5, 10, 40_960, 60_000));
        queue.succeeded(&"a");
        queue.failed("a", start);
        assert_eq!(queue.next_due(), Some(start + FIRST_RETRY));
    }
}
