//! Carries out one step: calls the runtime, the volumes and the rest; makes no choices, reports what came of it.

use super::start::{self, StartFailure, Started};
use super::{WorkerContext, cleanup, hooks, resize};
use crate::actors::images::ImageFailure;
use crate::actors::status::Shown;
use crate::cluster::ClusterError;
use crate::decide::terminate::MIN_GRACE;
use crate::decide::{dns, sandbox};
use crate::ids::{ContainerId, ContainerName, SandboxId};
use crate::logs::make_folder;
use crate::metrics::catalog;
use crate::model::memory::{PodMemory, VolumesState};
use crate::model::observed::ContainerState;
use crate::model::pod::DesiredPod;
use crate::model::step::{Step, StepKey, StopContainer};
use crate::runtime::{DnsConfig, IdBlock, RuntimeError, SandboxInput};
use crate::volumes::{Placed, VolumeError};
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ResourceRequirements;
use std::sync::Arc;
use std::time::Duration;

/// Failures to read a claim of which nothing is said: three and a half seconds.
const QUIET_TRIES: u32 = 3;
/// Tries to find a volume attached of which nothing is said: two minutes, as the kubelet waits.
const ATTACH_TRIES: u32 = 8;

/// A job that ended.
pub(super) struct Done {
    pub(super) key: StepKey,
    pub(super) outcome: Outcome,
}

pub(super) enum Outcome {
    Volumes(Result<Placed, String>),
    Image(ContainerName, Result<String, ImageFailure>),
    VolumeImage(String, Result<String, ImageFailure>),
    Sandbox(Result<(), String>),
    Started(ContainerName, Result<Started, StartFailure>),
    Hook {
        container: ContainerId,
        name: ContainerName,
        failed: Option<String>,
    },
    PreStopped(ContainerId),
    /// The runtime did it: look.
    Changed,
    SandboxStopped(SandboxId, Result<(), String>),
    /// The runtime could not: look again a little later, and plan anew.
    Failed,
    /// What containers were given, as far as it went.
    Resized {
        generation: Option<i64>,
        given: Vec<(ContainerId, ResourceRequirements)>,
        failed: Option<String>,
    },
    Cleaned(Result<(), String>),
    Confirmed,
}

/// The future of one step.
pub(super) fn run(
    context: Arc<WorkerContext>,
    pod: DesiredPod,
    placed: Placed,
    memory: &PodMemory,
    step: Step,
) -> BoxFuture<'static, Done> {
    let key = step.key();
    let tries = match &memory.volumes {
        VolumesState::Failed(retry) => retry.failures,
        VolumesState::Unplaced | VolumesState::Placed => 0,
    };
    let generation = memory.resize.as_ref().and_then(|resize| resize.generation);
    let status = matches!(step, Step::Confirm { .. }).then(|| Arc::new(memory.status.clone()));
    async move {
        let outcome = match step {
            Step::PlaceVolumes => Outcome::Volumes(place(&context, &pod, tries).await),
            Step::EnsureImage { container } => {
                let result = match pod.container(container.as_str()) {
                    Some(wanted) => context.images.ensure(&pod, wanted).await,
                    None => Err(ImageFailure { reason: "ErrImagePull", message: "container left the pod".to_owned() }),
                };
                Outcome::Image(container, result)
            }
            Step::EnsureVolumeImage { volume } => {
                let result = context.images.ensure_volume(&pod, &volume).await;
                Outcome::VolumeImage(volume, result)
            }
            Step::RunSandbox { attempt } => {
                let result = run_sandbox(&context, &pod, attempt).await;
                let count = if result.is_ok() { &catalog::STARTED_PODS } else { &catalog::STARTED_PODS_ERRORS };
                count.add_one();
                Outcome::Sandbox(result)
            }
            Step::StopSandbox { id } => {
                let result = match context.runtime.stop_sandbox(&id).await {
                    Ok(()) | Err(RuntimeError::NotFound(_)) => Ok(()),
                    Err(error) => Err(not_killed(&context, &pod, "PodSandbox", pod.uid.as_str(), &error)),
                };
                Outcome::SandboxStopped(id, result)
            }
            Step::RemoveSandbox { id } => {
                let result = remove_sandbox(&context, &pod, &id).await;
                done("RemovePodSandbox", result)
            }
            Step::StartContainer(step) => {
                let result = start::start(&context, &pod, &placed, &step).await;
                count_start(&pod, step.name.as_str(), result.as_ref().err().map(|failure| failure.reason));
                Outcome::Started(step.name, result)
            }
            Step::PreStop(step) => {
                pre_stop(&context, &pod, &step).await;
                Outcome::PreStopped(step.id)
            }
            Step::StopContainer(step) => stop(&context, &pod, &step).await,
            Step::RemoveContainer { id } => done("RemoveContainer", context.runtime.remove_container(&id).await),
            Step::Resize { containers } => resize::apply(&context, &pod, generation, containers).await,
            Step::Cleanup => Outcome::Cleaned(cleanup::clean(&context, &pod).await),
            Step::Confirm { delete } => {
                let status = status.unwrap_or_default();
                if let Some(shown) = Shown::of(&pod) {
                    context.status.confirm(&shown, &status, delete).await;
                }
                Outcome::Confirmed
            }
        };
        Done { key, outcome }
    }
    .boxed()
}

/// `kubelet_started_containers_total` and its errors, by the kind of container.
fn count_start(pod: &DesiredPod, name: &str, failed: Option<&'static str>) {
    let named = |containers: &Option<Vec<k8s_openapi::api::core::v1::Container>>| {
        containers.iter().flatten().any(|container| container.name == name)
    };
    let spec = pod.spec();
    let kind = if named(&spec.init_containers) {
        "init_container"
    } else if spec.ephemeral_containers.iter().flatten().any(|container| container.name == name) {
        "ephemeral_container"
    } else {
        "container"
    };
    // As the kubelet counts: a start that failed was one too.
    catalog::STARTED_CONTAINERS.inc([kind]);
    if let Some(reason) = failed {
        catalog::STARTED_CONTAINERS_ERRORS.inc([reason, kind]);
    }
}

/// What is gone already is done.
fn done(call: &'static str, result: Result<(), RuntimeError>) -> Outcome {
    match result {
        Ok(()) | Err(RuntimeError::NotFound(_)) => Outcome::Changed,
        Err(error) => {
            tracing::warn!(call, %error, "runtime call failed");
            Outcome::Failed
        }
    }
}

/// A claim that cannot be read at first is soon told: the API server may hear of the pod's node later than we do.
async fn place(context: &WorkerContext, pod: &DesiredPod, tries: u32) -> Result<Placed, String> {
    let placed = match pod.offline {
        true => context.volumes.place_offline(&pod.pod).await,
        false => context.volumes.place(&pod.pod).await,
    };
    let quiet = |error: &VolumeError| match error {
        VolumeError::Claim { .. } => tries < QUIET_TRIES,
        VolumeError::NotAttached { .. } => tries < ATTACH_TRIES,
        _ => false,
    };
    placed.map_err(|failed| {
        for error in failed.0.iter().filter(|error| !quiet(error)) {
            context.recorder.pod(&pod.pod, None, true, error.reason(), error.to_string());
        }
        failed.to_string()
    })
}

async fn run_sandbox(context: &WorkerContext, pod: &DesiredPod, attempt: u32) -> Result<(), String> {
    let input = match sandbox_input(context, pod, attempt).await {
        Ok(input) => input,
        Err(message) => {
            context.recorder.pod(
                &pod.pod,
                None,
                true,
                "FailedCreatePodSandBox",
                format!("Failed to create pod sandbox: {message}"),
            );
            return Err(message);
        }
    };
    for message in dns::of_pod(pod, &context.dns).1 {
        context.recorder.pod(&pod.pod, None, true, dns::DNS_CONFIG_FORMING, message);
    }
    if let Some(cgroups) = &context.cgroups
        && let Err(error) = cgroups.create_pod(&pod.pod).await
    {
        let message = format!("unable to ensure pod container exists: {error}");
        context.recorder.pod(&pod.pod, None, true, "FailedCreatePodContainer", message.clone());
        return Err(message);
    }
    // The runtime writes container logs below it and does not make it.
    let made = match make_folder(&input.log_directory).await {
        Ok(()) => {
            let runtime = context.runtime.clone();
            let making = context.to_end("RunPodSandbox", async move { runtime.run_sandbox(&input).await });
            // What has the node's network may be what the others' networks wait for.
            let made = if pod.host_network() { making.await } else { context.pace.make(making).await };
            made.map(drop).map_err(|error| error.to_string())
        }
        Err(error) => Err(error),
    };
    let Err(error) = made else { return Ok(()) };
    let info = if pod.host_network() { None } else { context.runtime.info().await.ok() };
    let (reason, message) = match info.and_then(|info| info.network_problem()) {
        Some(problem) => ("NetworkNotReady", format!("network is not ready: {problem}")),
        None => ("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}")),
    };
    context.recorder.pod(&pod.pod, None, true, reason, message);
    Err(error)
}

/// RemovePodSandbox wants it stopped.
async fn remove_sandbox(context: &WorkerContext, pod: &DesiredPod, id: &SandboxId) -> Result<(), RuntimeError> {
    match context.runtime.stop_sandbox(id).await {
        Ok(()) | Err(RuntimeError::NotFound(_)) => context.runtime.remove_sandbox(id).await?,
        Err(error) => return Err(error),
    }
    if let Some(cgroups) = &context.cgroups
        && let Err(error) = cgroups.remove_container(&cgroups.pod_parent(&pod.pod), id.as_str()).await
    {
        tracing::warn!(sandbox = %id, %error, "processes of a sandbox that is removed are left");
    }
    Ok(())
}

pub(super) async fn sandbox_input(
    context: &WorkerContext,
    pod: &DesiredPod,
    attempt: u32,
) -> Result<SandboxInput, String> {
    let (dns, _) = dns::of_pod(pod, &context.dns);
    let hostname = sandbox::hostname(pod, &context.dns.cluster_domain);
    sandbox::check_hostname(pod, &hostname)?;
    let runtime_handler = runtime_handler(context, pod).await?;
    Ok(SandboxInput {
        user_namespace: user_namespace(context, pod, &runtime_handler).await?,
        pod: pod.pod.clone(),
        attempt,
        log_directory: context.paths.pod_logs.join(log_directory_name(pod)),
        hostname,
        dns: DnsConfig { servers: dns.servers, searches: dns.searches, options: dns.options },
        cgroup_parent: context.cgroups.as_ref().map(|cgroups| cgroups.pod_parent(&pod.pod)).unwrap_or_default(),
        runtime_handler,
    })
}

/// The ids of a pod that has a user namespace of its own.
async fn user_namespace(
    context: &WorkerContext,
    pod: &DesiredPod,
    runtime_handler: &str,
) -> Result<Option<IdBlock>, String> {
    if pod.spec().host_users != Some(false) {
        return Ok(None);
    }
    sandbox::check_user_namespace(runtime_handler, &context.node.borrow().user_namespaces)?;
    context.volumes.user_namespace(&pod.uid).await.map(Some)
}

/// The handler of the pod's runtime class; empty is the runtime's default (`LookupRuntimeHandler`).
async fn runtime_handler(context: &WorkerContext, pod: &DesiredPod) -> Result<String, String> {
    match pod.spec().runtime_class_name.as_deref().filter(|class| !class.is_empty()) {
        None => Ok(String::new()),
        Some(class) => context.cluster.runtime_handler(class).await.map_err(|error| match error {
            ClusterError::NotFound(_) => format!("runtimeclass.node.k8s.io {class:?} not found"),
            error => format!("failed to lookup RuntimeClass {class}: {error}"),
        }),
    }
}

/// `<namespace>_<name>_<uid>`.
pub(super) fn log_directory_name(pod: &DesiredPod) -> String {
    format!("{}_{}_{}", pod.key.namespace, pod.key.name, pod.uid)
}

/// Tells of the kill and runs the preStop hook; returns what is left of the grace.
async fn pre_stop(context: &WorkerContext, pod: &DesiredPod, step: &StopContainer) -> Duration {
    if let Some(message) = &step.message {
        let path = pod.container(step.name.as_str()).map(|_| pod.field_path(step.name.as_str()));
        context.recorder.pod(&pod.pod, path, false, "Killing", message.clone());
    }
    if step.pre_stop { hooks::pre_stop(context, pod, step).await } else { step.grace }
}

/// The preStop hook, then the signal with what is left of the grace.
pub(super) async fn stop(context: &WorkerContext, pod: &DesiredPod, step: &StopContainer) -> Outcome {
    let grace = pre_stop(context, pod, step).await.max(MIN_GRACE);
    match context.runtime.stop_container(&step.id, grace).await {
        // It may have ended by itself under the signal, which the runtime reports as a failure to kill it.
        Err(error) if has_ended(context, pod, &step.id).await => {
            tracing::debug!(container = %step.name, %error, "container ended while it was stopped");
            Outcome::Changed
        }
        Err(error) if !matches!(error, RuntimeError::NotFound(_)) => {
            not_killed(context, pod, "Container", step.name.as_str(), &error);
            Outcome::Failed
        }
        Ok(()) | Err(_) => Outcome::Changed,
    }
}

/// Says so on the pod, in the words of `SyncTerminatingPod`.
fn not_killed(context: &WorkerContext, pod: &DesiredPod, what: &str, name: &str, error: &RuntimeError) -> String {
    let message = format!("failed to \"Kill{what}\" for {name:?} with Kill{what}Error: {:?}", error.to_string());
    tracing::warn!(pod = %pod.key, name, %error, "not stopped");
    context.recorder.pod(&pod.pod, None, true, "FailedKillPod", format!("error killing pod: {message}"));
    message
}

async fn has_ended(context: &WorkerContext, pod: &DesiredPod, id: &ContainerId) -> bool {
    let Ok(seen) = context.runtime.observe(&pod.uid).await else { return false };
    let found = seen.containers.iter().find(|container| container.id == *id);
    found.is_none_or(|container| matches!(container.state, ContainerState::Exited { .. }))
}
