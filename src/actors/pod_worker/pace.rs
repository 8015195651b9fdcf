//! How fast sandboxes are begun when many pods come at once: a pod that has its sandbox gets its containers before more
//! pods ask for one. All begun together would all be ready only at the very end, and later than one after the other.

use crate::clock::crowd::{Crowd, Door};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// A call that takes longer waits for something else than a processor (a network's plugin, say) and counts no more.
const SLOT: Duration = Duration::from_millis(500);

/// Places at the runtime for calls that make sandboxes: one a processor, and one more for when one of them waits for the
/// disk or a network's plugin.
#[derive(Clone, Debug)]
pub struct SandboxPace {
    slots: Arc<Semaphore>,
    door: Arc<Door>,
}

impl SandboxPace {
    /// `processors` are those of this machine.
    pub fn new(processors: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(processors + 1)), door: Arc::default() }
    }

    /// Those whose turn has not come.
    pub fn crowd(&self) -> Crowd {
        self.door.crowd()
    }

    /// Makes the call when it is its turn. The first to ask is the first to be served.
    pub(super) async fn make<T>(&self, call: impl Future<Output = T>) -> T {
        // The semaphore is never closed.
        let slot = match self.slots.try_acquire() {
            Ok(slot) => Ok(slot),
            Err(_) => {
                let _waiting = self.door.wait();
                self.slots.acquire().await
            }
        };
        let mut call = std::pin::pin!(call);
        if let Ok(made) = tokio::time::timeout(SLOT, &mut call).await {
            return made;
        }
        drop(slot);
        call.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use tokio::sync::oneshot;

    #[tokio::test(start_paused = true)]
    async fn calls_wait_for_a_place_and_a_slow_one_holds_it_only_so_long() {
        let pace = SandboxPace::new(0);
        let (end, ended) = oneshot::channel::<()>();
        let mut slow = Box::pin(pace.make(ended));
        assert!((&mut slow).now_or_never().is_none());
        let mut next = Box::pin(pace.make(async {}));
        assert!((&mut next).now_or_never().is_none(), "the place is taken");
        tokio::time::advance(SLOT).await;
        assert!((&mut slow).now_or_never().is_none(), "it goes on");
        assert!((&mut next).now_or_never().is_some(), "but counts no more");
        end.send(()).expect("it waits");
        slow.await.expect("it was sent");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_ends_gives_its_place_to_the_next() {
        let pace = SandboxPace::new(2);
        let made = futures::future::join_all((0..10).map(|n| pace.make(async move { n }))).await;
        assert_eq!(made, (0..10).collect::<Vec<_>>());
    }
}
