//! Makes and starts one container: environment, mounts, create, start; with the kubelet's events and reasons.

use super::{WorkerContext, job};
use crate::cluster::ClusterError;
use crate::decide::env::{self, EnvError, EnvFile, Sources};
use crate::ids::ContainerId;
use crate::logs::make_folder;
use crate::model::devices::{DeviceMount, Edits};
use crate::model::pod::{DesiredPod, Wanted};
use crate::model::step::StartContainer;
use crate::runtime::{ContainerInput, Mount, Propagation, RuntimeError};
use crate::units::Bytes;
use crate::volumes::Placed;
use k8s_openapi::api::core::v1::{ResourceRequirements, Service};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Services must be known before the first container starts, but not for ever.
const SERVICES_WAIT: Duration = Duration::from_secs(5);

pub(super) struct Started {
    pub(super) id: ContainerId,
    pub(super) has_hook: bool,
    /// What it was given.
    pub(super) resources: ResourceRequirements,
}

/// Why not: the waiting reason and message of the container's status.
pub(super) struct StartFailure {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

pub(super) async fn start(
    context: &WorkerContext,
    pod: &DesiredPod,
    placed: &Placed,
    step: &StartContainer,
) -> Result<Started, StartFailure> {
    let path = pod.field_path(step.name.as_str());
    let note = |warning, reason, message: String| {
        context.recorder.pod(&pod.pod, Some(path.clone()), warning, reason, message);
    };
    let failed = |reason, message: String| {
        note(true, "Failed", format!("Error: {message}"));
        StartFailure { reason, message }
    };
    let Some(wanted) = pod.container(step.name.as_str()) else {
        return Err(failed("CreateContainerConfigError", format!("container {} left the pod", step.name)));
    };
    if let Some(target) = pod.target_of(step.name.as_str()).filter(|_| step.target.is_none()) {
        return Err(failed("CreateContainerConfigError", format!("unable to find target container {target}")));
    }
    let input = input(context, pod, wanted, placed, step).await;
    let (input, devices) = input.map_err(|message| failed("CreateContainerConfigError", message))?;
    let id = context
        .runtime
        .create_container_with(&step.sandbox, &input, &devices)
        .await
        .map_err(|error| failed("CreateContainerError", description(error)))?;
    note(false, "Created", "Container created".to_owned());
    context.runtime.start_container(&id).await.map_err(|error| failed("RunContainerError", description(error)))?;
    note(false, "Started", "Container started".to_owned());
    let has_hook = wanted.spec.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.post_start.is_some());
    Ok(Started { id, has_hook, resources: wanted.spec.resources.clone().unwrap_or_default() })
}

/// What grpc's `Status.Message` gives: without code.
fn description(error: RuntimeError) -> String {
    match error {
        RuntimeError::Rpc { message, .. } => message,
        other => other.to_string(),
    }
}

async fn input(
    context: &WorkerContext,
    pod: &DesiredPod,
    wanted: Wanted<'_>,
    placed: &Placed,
    step: &StartContainer,
) -> Result<(ContainerInput, Edits), String> {
    let node = context.node.borrow().clone();
    let image = async {
        // Only the check below wants it; a lookup costs every other start a call.
        let needed = env::forbids_root(pod, wanted.spec);
        if needed { context.runtime.image(&step.image_ref).await.ok().flatten() } else { None }
    };
    let (sources, image) = tokio::join!(sources(context, pod, wanted, placed, step), image);
    let environment = env::environment(pod, wanted.spec, &node, &sources?).map_err(|error| {
        if let EnvError::File { file, why } = &error {
            tracing::warn!(pod = %pod.key, file, why, "environment file not used");
        }
        error.to_string()
    })?;
    let mut devices = context.devices.prepare(&pod.pod, &pod.uid, wanted.spec).await?;
    let block_devices = context.volumes.block_devices(&pod.pod, step.name.as_str(), placed);
    devices.nodes.extend(block_devices.map_err(|error| error.to_string())?);
    let (uid, user) = image.as_ref().map_or((None, ""), |image| (image.uid, image.username.as_str()));
    env::check_non_root(pod, wanted.spec, uid, user)?;
    let sandbox = job::sandbox_input(context, pod, step.sandbox_attempt).await?;
    let placed = &Placed { images: step.volume_images.clone(), ..placed.clone() };
    let logs = sandbox.log_directory.join(step.name.as_str());
    let made = make_folder(&logs);
    let mounts = context.volumes.mounts(&pod.pod, step.name.as_str(), step.attempt, placed, &step.ips, &environment);
    let (made, mounts) = tokio::join!(made, mounts);
    let mounts = mounts.map_err(|error| error.to_string())?;
    made.map_err(|error| format!("create container log directory for container {} failed: {error}", step.name))?;
    let input = ContainerInput {
        pod: pod.pod.clone(),
        name: step.name.to_string(),
        attempt: step.attempt,
        restart_count: step.attempt,
        image_ref: step.image_ref.clone(),
        command: env::expand_all(wanted.spec.command.as_ref(), &environment),
        args: env::expand_all(wanted.spec.args.as_ref(), &environment),
        // What comes with devices first, as the kubelet has it: the pod's own word is the last.
        env: devices.envs.clone().into_iter().chain(environment).collect(),
        mounts: devices.mounts.iter().map(device_mount).chain(mounts).collect(),
        sandbox,
        pins: context.managers.as_ref().map(|managers| managers.pins(&pod.pod, step.name.as_str())).unwrap_or_default(),
        node_memory: node.capacity.get("memory").and_then(|q| Bytes::parse(q).ok()).unwrap_or_default().0,
        target: step.target.clone(),
    };
    Ok((input, devices))
}

fn device_mount(mount: &DeviceMount) -> Mount {
    Mount {
        host_path: mount.host_path.clone().into(),
        container_path: mount.container_path.clone(),
        read_only: mount.read_only,
        propagation: Propagation::Private,
        recursive_read_only: false,
        image: None,
        image_sub_path: String::new(),
        selinux_relabel: false,
    }
}

/// Fetches what the environment refers to; what does not exist is told to `decide::env`, which knows what is optional.
async fn sources(
    context: &WorkerContext,
    pod: &DesiredPod,
    wanted: Wanted<'_>,
    placed: &Placed,
    step: &StartContainer,
) -> Result<Sources, String> {
    let namespace = &*pod.key.namespace;
    let (map_names, secret_names) = env::needs(wanted.spec);
    let mut config_maps = BTreeMap::new();
    for name in map_names {
        config_maps.insert(name.to_owned(), optional(context.cluster.config_map(namespace, name).await)?);
    }
    let mut secrets = BTreeMap::new();
    for name in secret_names {
        secrets.insert(name.to_owned(), optional(context.cluster.secret(namespace, name).await)?);
    }
    let mut files = BTreeMap::new();
    for (volume, path) in env::needed_files(wanted.spec) {
        let found = context.volumes.env_file(placed, volume, path).await.unwrap_or_else(|error| {
            tracing::warn!(pod = %pod.key, %error, "environment file not read");
            None
        });
        let file = found.map(|(path, text)| EnvFile { path: path.display().to_string(), text });
        files.insert((volume.to_owned(), path.to_owned()), file);
    }
    let services = services(context, pod).await?;
    Ok(Sources { services, config_maps, secrets, pod_ips: step.ips.clone(), files })
}

fn optional<T>(result: Result<Arc<T>, ClusterError>) -> Result<Option<Arc<T>>, String> {
    match result {
        Ok(object) => Ok(Some(object)),
        Err(ClusterError::NotFound(_)) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// A pod that comes from the API server is worth waiting for what that knows; one that does not must run without.
async fn services(context: &WorkerContext, pod: &DesiredPod) -> Result<Vec<Arc<Service>>, String> {
    if pod.is_static || pod.offline {
        return Ok(context.services.borrow().as_ref().map(|list| list.to_vec()).unwrap_or_default());
    }
    let mut receiver = context.services.clone();
    let listed = tokio::time::timeout(SERVICES_WAIT, receiver.wait_for(Option::is_some)).await;
    match listed {
        Ok(Ok(list)) => Ok(list.as_ref().map(|list| list.to_vec()).unwrap_or_default()),
        Ok(Err(_)) | Err(_) => {
            Err("services have not yet been read at least once, cannot construct envvars".to_owned())
        }
    }
}
