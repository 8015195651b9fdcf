//! Whether more is to be started than the machine can start at once: what only tells of things then gives way.

use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Who was let in last gets done first.
const AFTER: Duration = Duration::from_millis(500);

/// Counts those that wait to be let in.
#[derive(Debug, Default)]
pub(crate) struct Door(watch::Sender<usize>);

/// One that waits, until it is dropped.
pub(crate) struct Waiting<'a>(&'a Door);

impl Door {
    pub(crate) fn wait(&self) -> Waiting<'_> {
        self.0.send_modify(|waiting| *waiting += 1);
        Waiting(self)
    }

    pub(crate) fn crowd(&self) -> Crowd {
        Crowd(self.0.subscribe())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|waiting| *waiting -= 1);
    }
}

/// Those that wait before a `Door`; cheap to clone.
#[derive(Clone, Debug)]
pub struct Crowd(watch::Receiver<usize>);

impl Crowd {
    /// Of no door: nobody ever waits.
    pub fn none() -> Self {
        Door::default().crowd()
    }

    /// Whether anybody waits now.
    pub(crate) fn is_there(&self) -> bool {
        *self.0.borrow() > 0
    }

    /// Waits until nobody has waited for a moment, but not beyond `until`.
    pub(crate) async fn disperse(&mut self, until: Instant) {
        while self.is_there() {
            // A door that is gone lets nobody in, and nobody waits before it.
            if timeout_at(until, self.0.wait_for(|waiting| *waiting == 0)).await.is_err() {
                return;
            }
            sleep_until(until.min(super::now().mono + AFTER)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test(start_paused = true)]
    async fn a_crowd_is_there_until_the_last_that_waits_is_in_and_is_waited_for_so_long_only() {
        let door = Door::default();
        let mut crowd = door.crowd();
        let begun = Instant::now();
        let until = begun + Duration::from_secs(10);
        crowd.disperse(until).await;
        assert_eq!(begun.elapsed(), Duration::ZERO, "nobody waits");
        let (first, second) = (door.wait(), door.wait());
        let mut other = crowd.clone();
        let mut dispersed = Box::pin(crowd.disperse(until));
        assert!((&mut dispersed).now_or_never().is_none());
        drop(first);
        assert!((&mut dispersed).now_or_never().is_none(), "one is left");
        drop(second);
        dispersed.await;
        assert_eq!(begun.elapsed(), AFTER);
        let _stays = door.wait();
        other.disperse(until).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(10));
    }
}
