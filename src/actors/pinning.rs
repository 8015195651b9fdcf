//! Keeps running containers on the CPUs that the managers give them: the shared pool shrinks and grows as pods with CPUs
//! of their own come and go.

use crate::actors::pods::PodsHandle;
use crate::ids::{ContainerId, PodUid};
use crate::managers::Managers;
use crate::model::observed::ContainerState;
use crate::model::topology::Pins;
use crate::runtime::{Runtime, RuntimeError};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Runs where a policy is static only.
pub struct PinningTask {
    pub managers: Arc<Managers>,
    pub runtime: Arc<dyn Runtime>,
    pub pods: PodsHandle,
    /// `cpuManagerReconcilePeriod`: finds containers that were created while the pool changed.
    pub period: Duration,
}

impl PinningTask {
    /// Runs until the supervisor stops it.
    pub async fn run(self) {
        // What each container was last told; after a restart all are told once.
        let mut told: BTreeMap<ContainerId, Pins> = BTreeMap::new();
        loop {
            // Both arms are cancel-safe: the notice is kept until it is taken.
            tokio::select! {
                () = self.managers.changed.notified() => {}
                () = tokio::time::sleep(self.period) => {}
            }
            told = self.reconcile(told).await;
        }
    }

    async fn reconcile(&self, told: BTreeMap<ContainerId, Pins>) -> BTreeMap<ContainerId, Pins> {
        let mut now = BTreeMap::new();
        for pod in self.pods.list() {
            let uid = PodUid::new(pod.metadata.uid.as_deref().unwrap_or_default());
            let Some(seen) = self.pods.observed(&uid) else { continue };
            let running = seen.containers.iter().filter(|c| matches!(c.state, ContainerState::Running { .. }));
            for container in running {
                let pins = self.managers.pins(&pod, container.name.as_str());
                if pins != Pins::default() && told.get(&container.id) != Some(&pins) {
                    match self.runtime.pin_container(&container.id, &pins).await {
                        Ok(()) => {}
                        // It ended meanwhile.
                        Err(RuntimeError::NotFound(_)) => continue,
                        Err(error) => {
                            let (pod, container) = (pod.metadata.name.as_deref(), container.name.as_str());
                            tracing::warn!(pod, container, cpus = pins.cpus, %error, "container not moved to its CPUs");
                            continue;
                        }
                    }
                }
                now.insert(container.id.clone(), pins);
            }
        }
        now
    }
}
