//! Runs postStart and preStop hooks: exec, HTTP and sleep.

use super::WorkerContext;
use super::job::{self, Done, Outcome};
use crate::clock;
use crate::ids::{ContainerId, ContainerName};
use crate::model::pod::DesiredPod;
use crate::model::step::{StepKey, StopContainer};
use crate::probe::http::{self, GetError};
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{HTTPGetAction, LifecycleHandler};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

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
        let failed = result.err().map(|failure| failure.message);
        if let Some(message) = &failed {
            tracing::info!(pod = %pod.key, container = %name, message, "postStart hook failed");
            let path = Some(pod.field_path(name.as_str()));
            // Without what the hook said: that may be a secret.
            context.recorder.pod(&pod.pod, path, true, "FailedPostStartHook", "PostStartHook failed".to_owned());
            let step = StopContainer {
                name: name.clone(),
                id: container.clone(),
                grace: pod.grace(),
                message: Some("FailedPostStartHook".to_owned()),
                pre_stop: true,
                renews: false,
            };
            job::stop(&context, &pod, &step).await;
        }
        Done { key: StepKey::PostStart(container.clone()), outcome: Outcome::Hook { container, name, failed } }
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
    if let Err(failure) = run(context, pod, &step.name, &step.id, handler, step.grace).await {
        tracing::info!(pod = %pod.key, container = %step.name, message = failure.message, "preStop hook failed");
        if failure.told {
            let path = Some(pod.field_path(step.name.as_str()));
            context.recorder.pod(&pod.pod, path, true, "FailedPreStopHook", "PreStopHook failed".to_owned());
        }
    }
    step.grace.saturating_sub(clock::now().mono.duration_since(begun))
}

/// A hook that failed: what the status says of it, and whether an event tells of it.
struct Failure {
    message: String,
    told: bool,
}

impl Failure {
    fn new(message: String) -> Self {
        Self { message, told: true }
    }
}

/// Failures are worded as the kubelet's (`lifecycle/handlers.go`).
async fn run(
    context: &WorkerContext,
    pod: &DesiredPod,
    name: &ContainerName,
    container: &ContainerId,
    handler: &LifecycleHandler,
    bound: Duration,
) -> Result<(), Failure> {
    let of = format!("for Container {:?} in Pod {:?} failed - error", name.as_str(), pod.full_name());
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let ended = tokio::time::timeout(bound, context.runtime.exec_sync(container, &command, bound)).await;
        let output = match ended {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(Failure::new(exec_failure(&command, &of, &error.to_string(), b""))),
            Err(_) => return Err(Failure::new(exec_failure(&command, &of, "it did not end in time", b""))),
        };
        if output.exit_code == 0 {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let error = format!("command '{}' exited with {}: {said}", command.join(" "), output.exit_code);
        return Err(Failure::new(exec_failure(&command, &of, &error, &[output.stdout, output.stderr].concat())));
    }
    if let Some(http) = &handler.http_get {
        let path = http.path.as_deref().unwrap_or_default();
        let failed = |error| Failure::new(format!("HTTP lifecycle hook ({path}) {of}: {error}"));
        return get(context, pod, name, http, bound).await.map_err(failed);
    }
    if let Some(sleep) = &handler.sleep {
        let wanted = Duration::from_secs(sleep.seconds.max(0).unsigned_abs());
        tokio::time::sleep(wanted.min(bound)).await;
        let message = || format!("Sleep lifecycle hook ({}) {of}: it did not end in time", sleep.seconds);
        return if wanted <= bound { Ok(()) } else { Err(Failure { message: message(), told: false }) };
    }
    // What validation lets pass for the sake of old objects: `tcpSocket`.
    Err(Failure::new("Cannot run handler: invalid handler".to_owned()))
}

fn exec_failure(command: &[String], of: &str, error: &str, said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    format!("Exec lifecycle hook ([{}]) {of}: {error}, message: {said:?}", command.join(" "))
}

/// Any answer will do, whatever its status. A server that turns out to speak without TLS is asked so
/// (`runHTTPHandler`).
async fn get(
    context: &WorkerContext,
    pod: &DesiredPod,
    name: &ContainerName,
    hook: &HTTPGetAction,
    bound: Duration,
) -> Result<(), String> {
    let ip = match hook.host.as_deref().filter(|host| !host.is_empty()) {
        // Named: the pod's own address plays no part.
        Some(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        None => pod_ip(context, pod).await.ok_or("failed to find networking container")?,
    };
    let wanted = pod.container(name.as_str()).ok_or("the container left the pod")?;
    let target = http::Target::of(hook, wanted.spec, ip)?;
    match http::get(&target, http::Caller::Lifecycle, bound).await {
        Ok(_) => Ok(()),
        Err(error @ GetError::InClear { .. }) => {
            let answer = http::get(&target.in_clear(), http::Caller::Lifecycle, bound).await;
            answer.map_err(|_| error.to_string())?;
            let host = target.authority();
            let message =
                format!("request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded");
            context.recorder.pod(&pod.pod, None, true, "LifecycleHTTPFallback", message);
            Ok(())
        }
        Err(error @ GetError::Failed { .. }) => Err(error.to_string()),
    }
}

/// As the runtime has it now, like the kubelet: the worker's last look may be older than the container.
async fn pod_ip(context: &WorkerContext, pod: &DesiredPod) -> Option<std::net::IpAddr> {
    if pod.host_network() {
        return context.node.borrow().ips.first().copied();
    }
    context.runtime.observe(&pod.uid).await.ok()?.sandboxes.first()?.ips.first().copied()
}
