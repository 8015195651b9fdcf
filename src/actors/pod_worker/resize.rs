//! Gives a pod that runs the resources it is granted now: the pod's cgroup first where it grows, last where it shrinks.

use super::WorkerContext;
use super::job::Outcome;
use crate::decide::resize::given_now;
use crate::ids::{ContainerId, ContainerName};
use crate::model::pod::DesiredPod;
use crate::units::Bytes;

pub(super) async fn apply(
    context: &WorkerContext,
    pod: &DesiredPod,
    generation: Option<i64>,
    containers: Vec<(ContainerName, ContainerId)>,
) -> Outcome {
    let mut given = Vec::new();
    let result = async {
        if let Some(cgroups) = &context.cgroups {
            cgroups.raise_pod(&pod.pod).await.map_err(|error| error.to_string())?;
        }
        let memory =
            context.node.borrow().capacity.get("memory").and_then(|q| Bytes::parse(q).ok()).unwrap_or_default();
        for (name, id) in containers {
            let updated = context.runtime.update_container(&id, &pod.pod, name.as_str(), memory.0).await;
            updated.map_err(|error| format!("failed to resize container {name:?}: {error}"))?;
            given.push((id, given_now(pod, &name)));
        }
        match &context.cgroups {
            Some(cgroups) => cgroups.resize_pod(&pod.pod).await.map_err(|error| error.to_string()),
            None => Ok(()),
        }
    };
    let failed = result.await.err();
    Outcome::Resized { generation, given, failed }
}
