//! Reads of the current revision, shared: those asked for while one is under way all get the next one's answer.

use crate::revision::Revision;
use crate::store::StoreError;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Mutex;

/// What a caller gets was always asked of etcd after its call began, so it is as linearizable as a read of its own.
#[derive(Default)]
pub(super) struct Latest {
    /// Reads begun so far.
    begun: AtomicU64,
    ended: Mutex<Ended>,
}

/// The last read that ended.
#[derive(Default)]
struct Ended {
    number: u64,
    /// An error is kept as text, since it goes to several.
    result: Option<Result<Revision, String>>,
}

impl Latest {
    pub(super) async fn get<R>(&self, read: impl FnOnce() -> R) -> Result<Revision, StoreError>
    where
        R: Future<Output = Result<Revision, StoreError>>,
    {
        let begun = self.begun.load(Ordering::Acquire);
        // Whoever comes next runs the read for all who wait here; each read has a deadline of its own, so does this.
        let mut ended = self.ended.lock().await;
        if ended.number > begun {
            match &ended.result {
                Some(Ok(revision)) => return Ok(*revision),
                Some(Err(text)) => return Err(StoreError::Unavailable(text.clone())),
                None => {}
            }
        }
        let number = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
        // Dropped in the middle (a caller gave up), it leaves the last result, which is too old for those that wait.
        let result = read().await;
        let kept = result.as_ref().map(|revision| *revision).map_err(|error| match error {
            StoreError::Unavailable(text) => text.clone(),
            other => other.to_string(),
        });
        *ended = Ended { number, result: Some(kept) };
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn calls_that_wait_share_the_next_read_and_never_one_that_began_before_them() {
        let latest = Latest::default();
        let (reads, gate) = (AtomicU64::new(0), Arc::new(Semaphore::new(0)));
        let read = || async {
            let number = reads.fetch_add(1, Ordering::Relaxed) + 1;
            gate.acquire().await.unwrap().forget();
            Ok(Revision(number))
        };
        let mut first = Box::pin(latest.get(read));
        assert!(futures::poll!(&mut first).is_pending());
        let mut later: Vec<_> = (0..8).map(|_| Box::pin(latest.get(read))).collect();
        for call in &mut later {
            assert!(futures::poll!(call).is_pending());
        }
        gate.add_permits(2);
        assert_eq!(first.await.unwrap(), Revision(1));
        for call in later {
            assert_eq!(call.await.unwrap(), Revision(2));
        }
        assert_eq!(reads.load(Ordering::Relaxed), 2);
    }
}
