//! The only place that spawns tasks: each has a name, all end together, a panic is logged and ends the process's work.
#![allow(clippy::disallowed_methods)]

use std::future::Future;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, info_span};

/// How long `stop` waits: a pod's sandbox that is just being made is made, and a status that is being written is written.
const PATIENCE: Duration = Duration::from_secs(8);

/// Spawns named tasks and stops them; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Supervisor {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Supervisor {
    pub fn new() -> Self {
        Self::default()
    }

    /// A supervisor whose tasks stop with this one's, or alone.
    pub fn child(&self) -> Self {
        Self { tracker: self.tracker.clone(), stop: self.stop.child_token() }
    }

    /// Runs `task` until it ends or the supervisor stops (it is then dropped at its current await).
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let task = async move {
            // Both arms are cancel-safe: a stopped task is dropped on purpose.
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        };
        self.tracker.spawn(task.instrument(info_span!("task", name)));
    }

    /// Runs `task` to its end even when the supervisor stops: it must watch `stopping()` itself.
    pub fn spawn_to_end(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(task.instrument(info_span!("task", name)));
    }

    /// Completes when the supervisor is asked to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Asks the tasks of this one and its children to stop, without waiting.
    pub fn cancel(&self) {
        self.stop.cancel();
    }

    /// Asks all tasks to stop and waits for them, those that a runtime or a disk holds up excepted.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(PATIENCE, self.tracker.wait()).await.is_err() {
            tracing::warn!(tasks = self.tracker.len(), "stopping without tasks that did not end within {PATIENCE:?}");
        }
    }
}
