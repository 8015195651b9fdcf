//! What a stopped pod leaves on the host: volumes, then cgroups.

use super::WorkerContext;
use crate::model::pod::DesiredPod;

/// Idempotent; an error names what is stuck.
pub(super) async fn clean(context: &WorkerContext, pod: &DesiredPod) -> Result<(), String> {
    context.volumes.remove(&pod.uid).await.map_err(|error| error.to_string())?;
    match &context.cgroups {
        Some(cgroups) => cgroups.remove_pod(&pod.uid).await.map_err(|error| error.to_string()),
        None => Ok(()),
    }
}
