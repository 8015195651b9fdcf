//! Gives a pod that runs the resources it is granted now: the pod's cgroup first where it grows, last where it shrinks.

use super::WorkerContext;
use super::job::Outcome;
use crate::decide::env::pod_limit;
use crate::decide::resize::given_now;
use crate::ids::{ContainerId, ContainerName};
use crate::model::pod::DesiredPod;
use crate::units::Bytes;

/// The kernel would kill a container that uses more memory than it is to have (`validateMemoryResizeAction`).
async fn check_usage(
    context: &WorkerContext,
    pod: &DesiredPod,
    containers: &[(ContainerName, ContainerId)],
) -> Result<(), String> {
    let limit = |name: &ContainerName| {
        let own = given_now(pod, name).limits.and_then(|limits| limits.get("memory").cloned());
        let limit = own.or_else(|| pod_limit(pod.spec(), "memory").cloned())?;
        Bytes::parse(&limit).ok().filter(|limit| limit.0 > 0)
    };
    if containers.iter().all(|(name, _)| limit(name).is_none()) {
        return Ok(());
    }
    let stats = context.runtime.stats().await.map_err(|error| error.to_string())?;
    for (name, id) in containers {
        let used = stats.iter().find(|stats| stats.id == id.as_str()).map_or(0, |stats| stats.memory_usage_bytes);
        if let Some(Bytes(limit)) = limit(name)
            && used >= limit.unsigned_abs()
        {
            return Err(format!(
                "attempting to set container {:?} memory limit ({limit}) below current usage ({used})",
                name.as_str()
            ));
        }
    }
    Ok(())
}

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
        check_usage(context, pod, &containers).await?;
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
