//! Graceful shutdown: holds logind's lock until the pods have ended, group by group.

use crate::actors::eviction::Eviction;
use crate::actors::pods::PodsHandle;
use crate::cluster::Recorder;
use crate::decide::shutdown::{self, Group};
use crate::ids::PodUid;
use crate::logind::{Lock, Logind, LogindError};
use crate::model::eviction::Distress;
use crate::model::observed::ContainerState;
use k8s_openapi::api::core::v1::Pod;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// The bus was lost (it restarts with an upgrade of dbus or systemd).
const RETRY: Duration = Duration::from_secs(10);
/// What a group's pods get beyond their grace, to be killed and told of.
const MARGIN: Duration = Duration::from_secs(2);

/// The actor; `run` it under the supervisor.
pub struct ShutdownTask {
    pub logind: Logind,
    /// As configured (`decide::shutdown::groups`), not empty.
    pub groups: Vec<Group>,
    pub pods: PodsHandle,
    pub recorder: Recorder,
    pub removals: mpsc::Sender<Eviction>,
    pub distress: watch::Sender<Distress>,
}

impl ShutdownTask {
    /// Runs until the supervisor stops it; the lock goes with it.
    pub async fn run(self) {
        let mut told = false;
        loop {
            match self.guard().await {
                Ok(()) => told = false,
                // Once an outage: a machine without logind never has one.
                Err(error) if !std::mem::replace(&mut told, true) => {
                    tracing::warn!(%error, "a shutdown of the machine does not wait for pods (shutdownGracePeriod)");
                }
                Err(error) => tracing::debug!(%error, "still no word with logind"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Guards against shutdowns until the bus is lost.
    async fn guard(&self) -> Result<(), LogindError> {
        self.logind.allow_delay(shutdown::whole(&self.groups)).await?;
        let mut shutdowns = self.logind.shutdowns()?;
        let mut lock = Some(self.logind.inhibit()?);
        let mut pending = None;
        while let Some(begins) = match pending.take() {
            Some(word) => Some(word),
            None => shutdowns.next().await,
        } {
            self.distress.send_if_modified(|known| std::mem::replace(&mut known.shutting_down, begins) != begins);
            if !begins {
                tracing::info!("the machine's shutdown was called off");
                self.recorder.node(false, "Shutdown", "Shutdown manager detected shutdown cancellation".to_owned());
                lock = Some(self.logind.inhibit()?);
                continue;
            }
            tracing::info!("the machine is shutting down: ending pods");
            self.recorder.node(false, "Shutdown", "Shutdown manager detected shutdown event".to_owned());
            // Both arms are cancel-safe: what pods were told stays said.
            tokio::select! {
                () = self.end_pods() => release(&mut lock),
                // Called off meanwhile; or the bus is gone, and the machine after it.
                word = shutdowns.next() => pending = Some(word.unwrap_or(false)),
            }
        }
        Ok(())
    }

    async fn end_pods(&self) {
        let pods = self.pods.list().into_iter().filter(|pod| !is_over(pod)).collect();
        for group in shutdown::assign(self.groups.clone(), pods) {
            let uids: Vec<PodUid> = group.pods.iter().map(uid).collect();
            for pod in &group.pods {
                let removal = shutdown::removal(pod, group.period);
                if self.removals.send(Eviction { uid: uid(pod), removal }).await.is_err() {
                    return;
                }
            }
            if tokio::time::timeout(group.period + MARGIN, self.ended(&uids)).await.is_err() {
                tracing::warn!(priority = group.priority, "pods did not end in their part of the shutdown");
            }
        }
    }

    async fn ended(&self, uids: &[PodUid]) {
        let mut changes = self.pods.changes();
        let runs = |uid: &PodUid| {
            let alive = |state: &ContainerState| matches!(state, ContainerState::Running { .. });
            let running = self.pods.observed(uid).is_some_and(|seen| seen.containers.iter().any(|c| alive(&c.state)));
            self.pods.get_uid(uid).is_some_and(|pod| running || !is_over(&pod))
        };
        while uids.iter().any(runs) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

/// The machine may go on.
fn release(lock: &mut Option<Lock>) {
    tracing::info!("pods have ended: the shutdown goes on");
    drop(lock.take());
}

fn uid(pod: &Arc<Pod>) -> PodUid {
    PodUid::new(pod.metadata.uid.as_deref().unwrap_or_default())
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests;
