//! Follows the runtime's events, and once a minute has everything looked at again: what events missed is then repaired.

use crate::runtime::{Runtime, RuntimeEvent};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// The audit: events are the source, this only bounds how long a lost one matters.
const AUDIT_PERIOD: Duration = Duration::from_secs(60);
/// Events waiting for the pods actor, which never blocks on I/O; a full channel becomes one `Relist` in the runtime.
const EVENTS: usize = 256;

/// The channel of the pods actor (probes send to it too), and the task that feeds it (run it under the supervisor).
pub fn runtime_watch(
    runtime: Arc<dyn Runtime>,
) -> (mpsc::Sender<RuntimeEvent>, mpsc::Receiver<RuntimeEvent>, impl Future<Output = ()> + Send + 'static) {
    let (sender, receiver) = mpsc::channel(EVENTS);
    let followed = sender.clone();
    let task = async move {
        let audit = audit(followed.clone());
        tokio::join!(runtime.follow(followed), audit);
    };
    (sender, receiver, task)
}

async fn audit(sender: mpsc::Sender<RuntimeEvent>) {
    loop {
        tokio::time::sleep(AUDIT_PERIOD).await;
        // Full means that a relist is due anyway.
        match sender.try_send(RuntimeEvent::Relist) {
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => {}
            Err(mpsc::error::TrySendError::Closed(_)) => return,
        }
    }
}
