//! Runs postStart and preStop hooks: exec, HTTP and sleep.

use super::WorkerContext;
use super::job::{Done, Outcome};
use crate::clock;
use crate::ids::{ContainerId, ContainerName};
use crate::model::pod::DesiredPod;
use crate::model::step::{StepKey, StopContainer};
use crate::probe;
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::LifecycleHandler;
use std::sync::Arc;
use std::time::Duration;

/// What the process gets at least after a preStop hook (`minimumGracePeriodInSeconds`).
const MIN_GRACE: Duration = Duration::from_secs(2);
/// Hooks that have no bound of their own; HTTP hooks end far earlier.
const UNBOUNDED: Duration = Duration::from_secs(24 * 3600);

/// After a start; a failure kills the container.
pub(super) fn post_start(
    context: Arc<WorkerContext>,
    pod: DesiredPod,
    name: ContainerName,
    container: ContainerId,
) -> BoxFuture<'static, Done> {
    async move {
        let handler = pod
            .container(name.as_str())
            .and_then(|wanted| wanted.spec.lifecycle.clone())
            .and_then(|lifecycle| lifecycle.post_start);
        let result = match &handler {
            Some(handler) => run(&context, &pod, &name, &container, handler, UNBOUNDED).await,
            None => Ok(()),
        };
        let failed = result.err();
        if let Some(error) = &failed {
            tracing::info!(pod = %pod.key, container = %name, error, "postStart hook failed");
            let path = Some(pod.field_path(name.as_str()));
            let note = |warning, reason, message: &str| {
                context.recorder.pod(&pod.pod, path.clone(), warning, reason, message.to_owned());
            };
            note(true, "FailedPostStartHook", "PostStartHook failed");
            note(false, "Killing", "FailedPostStartHook");
            if let Err(error) = context.runtime.stop_container(&container, pod.grace()).await {
                tracing::warn!(pod = %pod.key, container = %name, %error, "container not killed after its hook failed");
            }
        }
        // No key of its own: nothing excludes a hook but its container's end.
        Done { key: StepKey::Remove(container.clone()), outcome: Outcome::Hook { container, name, failed } }
    }
    .boxed()
}

/// Before the signal; returns what is left of the grace.
pub(super) async fn pre_stop(context: &WorkerContext, pod: &DesiredPod, step: &StopContainer) -> Duration {
    let handler = pod
        .container(step.name.as_str())
        .and_then(|wanted| wanted.spec.lifecycle.as_ref())
        .and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    let Some(handler) = handler else { return step.grace };
    let begun = clock::now().mono;
    if let Err(error) = run(context, pod, &step.name, &step.id, handler, step.grace).await {
        tracing::info!(pod = %pod.key, container = %step.name, error, "preStop hook failed");
        let path = Some(pod.field_path(step.name.as_str()));
        context.recorder.pod(&pod.pod, path, true, "FailedPreStopHook", "PreStopHook failed".to_owned());
    }
    step.grace.saturating_sub(clock::now().mono.duration_since(begun)).max(MIN_GRACE)
}

async fn run(
    context: &WorkerContext,
    pod: &DesiredPod,
    name: &ContainerName,
    container: &ContainerId,
    handler: &LifecycleHandler,
    bound: Duration,
) -> Result<(), String> {
    let hook = async {
        if let Some(exec) = &handler.exec {
            let command = exec.command.clone().unwrap_or_default();
            let output = context.runtime.exec_sync(container, &command, bound).await.map_err(|e| e.to_string())?;
            return if output.exit_code == 0 {
                Ok(())
            } else {
                Err(format!("command {command:?} exited with {}", output.exit_code))
            };
        }
        if let Some(http) = &handler.http_get {
            let ip = pod_ip(context, pod).await.ok_or("the pod has no address yet")?;
            let wanted = pod.container(name.as_str()).ok_or("the container left the pod")?;
            let target = probe::http::Target::of(http, wanted.spec, ip)?;
            return probe::http::get(&target, probe::http::Caller::Lifecycle).await.map(drop);
        }
        if let Some(sleep) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0).unsigned_abs())).await;
        }
        Ok(())
    };
    match tokio::time::timeout(bound, hook).await {
        Ok(result) => result,
        Err(_) => Err(format!("hook did not complete in {}s", bound.as_secs())),
    }
}

/// As the runtime has it now, like the kubelet: the worker's last look may be older than the container.
async fn pod_ip(context: &WorkerContext, pod: &DesiredPod) -> Option<std::net::IpAddr> {
    if pod.host_network() {
        return context.node.borrow().ips.first().copied();
    }
    context.runtime.observe(&pod.uid).await.ok()?.sandboxes.first()?.ips.first().copied()
}
