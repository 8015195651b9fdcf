//! Gets images onto the node: by pull policy, with pull secrets and what credential providers give, and one pull at a time unless configured otherwise.

use crate::clock::rate::TokenBucket;
use crate::cluster::{Cluster, Recorder};
use crate::images::credential::{CredentialProviders, Login, Puller};
use crate::images::reference::{registry_of, repository_of, with_default_tag};
use crate::model::pod::{DesiredPod, Wanted};
use crate::runtime::{Runtime, RuntimeError};
use base64::Engine;
use k8s_openapi::api::core::v1::Secret;
use node_config::agent::AgentConfig;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// Pulls at once where they are not serialised and no limit is set: more would only slow one another down.
const PARALLEL_PULLS: usize = 5;

/// Ensures images; cheap to clone.
#[derive(Clone)]
pub struct ImagesHandle {
    runtime: Arc<dyn Runtime>,
    cluster: Arc<dyn Cluster>,
    recorder: Recorder,
    /// Bounds pulls; waiters queue in order, at most one a container.
    permits: Arc<Semaphore>,
    /// `registryPullQPS` and `registryBurst`; what exceeds them fails, and is tried again after its back-off.
    rate: Arc<Mutex<TokenBucket>>,
    providers: CredentialProviders,
}

/// How many pulls there may be (`serializeImagePulls`, `maxParallelImagePulls`, `registryPullQPS`, `registryBurst`).
#[derive(Clone, Copy, Debug)]
pub struct PullLimits {
    /// At once.
    pub parallel: usize,
    /// Pulls begun a second; 0 is no limit.
    pub qps: u32,
    pub burst: u32,
}

impl PullLimits {
    pub fn new(config: &AgentConfig) -> Self {
        let most = config.kubelet.max_parallel_image_pulls.and_then(|most| usize::try_from(most).ok());
        let parallel = match config.serialize_image_pulls {
            true => 1,
            false => most.filter(|most| *most > 0).unwrap_or(PARALLEL_PULLS),
        };
        Self { parallel, qps: config.registry_pull_qps, burst: config.registry_burst }
    }
}

/// Why a container has no image: the waiting reason and message of its status.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct ImageFailure {
    pub reason: &'static str,
    pub message: String,
}

/// An image that a pod wants, and where its events point.
struct Wish<'a> {
    pod: &'a DesiredPod,
    image: &'a str,
    /// `imagePullPolicy`.
    policy: Option<&'a str>,
    path: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    Always,
    IfNotPresent,
    Never,
}

impl ImagesHandle {
    pub fn new(runtime: Arc<dyn Runtime>, cluster: Arc<dyn Cluster>, recorder: Recorder, limits: PullLimits) -> Self {
        let permits = Arc::new(Semaphore::new(limits.parallel));
        let burst = if limits.qps == 0 { f64::INFINITY } else { f64::from(limits.burst.max(1)) };
        let rate = Arc::new(Mutex::new(TokenBucket::new(f64::from(limits.qps), burst)));
        Self { runtime, cluster, recorder, permits, rate, providers: CredentialProviders::default() }
    }

    /// Asks the node's credential providers too.
    pub fn with_providers(self, providers: CredentialProviders) -> Self {
        Self { providers, ..self }
    }

    /// The id of the image to run, once it is on the node. Records the events of the way.
    pub async fn ensure(&self, pod: &DesiredPod, wanted: Wanted<'_>) -> Result<String, ImageFailure> {
        let wish = Wish {
            pod,
            image: wanted.image(),
            policy: wanted.spec.image_pull_policy.as_deref(),
            path: Some(pod.field_path(&wanted.spec.name)),
        };
        let result = self.find_or_pull(&wish).await;
        if let Err(failure) = &result {
            self.note(&wish, true, "Failed", format!("Error: {}", failure.reason));
        }
        result
    }

    /// The name of the image that an image volume shows, once it is on the node: its events are the pod's, its failure each mounting container's.
    pub async fn ensure_volume(&self, pod: &DesiredPod, volume: &str) -> Result<String, ImageFailure> {
        let volumes = pod.spec().volumes.iter().flatten();
        let source = volumes.filter(|known| known.name == volume).find_map(|known| known.image.as_ref());
        let Some(source) = source else {
            return Err(ImageFailure { reason: "ErrImagePull", message: format!("volume {volume:?} left the pod") });
        };
        let image = source.reference.as_deref().unwrap_or_default();
        let wish = Wish { pod, image, policy: source.pull_policy.as_deref(), path: None };
        let result = match self.find_or_pull(&wish).await {
            Ok(id) => Ok(self.name_of(id).await),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = &result {
            let all = pod.all_containers().chain(pod.ephemeral_containers());
            let mounts = |w: &Wanted<'_>| w.spec.volume_mounts.iter().flatten().any(|mount| mount.name == volume);
            for wanted in all.filter(mounts) {
                let wish = Wish { path: Some(pod.field_path(&wanted.spec.name)), ..wish };
                self.note(&wish, true, "Failed", format!("Error: {}", failure.reason));
            }
        }
        result
    }

    /// A name of the image: the runtime mounts by name, and an image that was imported has none that is its id.
    async fn name_of(&self, id: String) -> String {
        let info = self.runtime.image(&id).await.ok().flatten();
        info.and_then(|info| info.tags.into_iter().chain(info.digests).next()).unwrap_or(id)
    }

    async fn find_or_pull(&self, wish: &Wish<'_>) -> Result<String, ImageFailure> {
        let image = wish.image;
        let reference = with_default_tag(image).map_err(|why| {
            let message =
                format!("Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: {why}");
            self.note(wish, true, "InspectFailed", message.clone());
            ImageFailure { reason: "InvalidImageName", message }
        })?;
        let secrets = self.pull_secrets(wish.pod).await;
        let present = self.runtime.image(&reference).await.map_err(|error| {
            let message = format!("Failed to inspect image {image:?}: {error}");
            self.note(wish, true, "InspectFailed", message.clone());
            ImageFailure { reason: "ImageInspectError", message }
        })?;
        match (policy(wish.policy, &reference), present) {
            (Policy::IfNotPresent | Policy::Never, Some(found)) => {
                let message =
                    format!("Container image {image:?} already present on machine and can be accessed by the pod");
                self.note(wish, false, "Pulled", message);
                Ok(found.id)
            }
            (Policy::Never, None) => {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                self.note(wish, true, "ErrImageNeverPull", message.clone());
                Err(ImageFailure { reason: "ErrImageNeverPull", message })
            }
            (Policy::Always, _) | (Policy::IfNotPresent, None) => self.pull(wish, &reference, &secrets).await,
        }
    }

    async fn pull(&self, wish: &Wish<'_>, reference: &str, secrets: &[Arc<Secret>]) -> Result<String, ImageFailure> {
        let image = wish.image;
        let asked = crate::clock::now().mono;
        self.note(wish, false, "Pulling", format!("Pulling image {image:?}"));
        if !self.rate.lock().unwrap_or_else(PoisonError::into_inner).try_take(crate::clock::now()) {
            return Err(self.failed(wish, "pull QPS exceeded".to_owned()));
        }
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await;
        let begun = crate::clock::now().mono;
        match self.pull_as_someone(wish.pod, reference, secrets).await {
            Ok(id) => {
                let now = crate::clock::now().mono;
                let size = self.runtime.image(&id).await.ok().flatten().map_or(0, |image| image.size);
                let (took, waited) = (now.duration_since(begun), now.duration_since(asked));
                let message = format!(
                    "Successfully pulled image {image:?} in {} ({} including waiting). Image size: {size} bytes.",
                    go_fraction(took),
                    go_fraction(waited),
                );
                self.note(wish, false, "Pulled", message);
                Ok(id)
            }
            Err(error) => Err(self.failed(wish, error.to_string())),
        }
    }

    /// Pulls with the first login that the registry takes: the pod's, then those of the node's providers; with none
    /// where nobody knows one.
    async fn pull_as_someone(
        &self,
        pod: &DesiredPod,
        reference: &str,
        secrets: &[Arc<Secret>],
    ) -> Result<String, RuntimeError> {
        let mut logins: Vec<Login> = credentials(reference, secrets).into_iter().collect();
        let puller = Puller { cluster: &*self.cluster, pod: &pod.pod };
        logins.extend(self.providers.logins(&repository_of(reference), puller).await);
        let mut logins = logins.into_iter();
        let mut result = self.runtime.pull_image(reference, logins.next()).await;
        for login in logins {
            if result.is_ok() {
                break;
            }
            result = self.runtime.pull_image(reference, Some(login)).await;
        }
        result
    }

    fn failed(&self, wish: &Wish<'_>, message: String) -> ImageFailure {
        self.note(wish, true, "Failed", format!("Failed to pull image {:?}: {message}", wish.image));
        ImageFailure { reason: "ErrImagePull", message }
    }

    /// The pull secrets that can be read; the others are named in an event, and the pull is tried without them.
    async fn pull_secrets(&self, pod: &DesiredPod) -> Vec<Arc<Secret>> {
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for name in pod.spec().image_pull_secrets.iter().flatten().map(|reference| reference.name.as_str()) {
            match self.cluster.secret(&pod.key.namespace, name).await {
                Ok(secret) => found.push(secret),
                Err(_) => missing.push(name),
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.recorder.pod(&pod.pod, None, true, "FailedToRetrieveImagePullSecret", message);
        }
        found
    }

    fn note(&self, wish: &Wish<'_>, warning: bool, reason: &'static str, message: String) {
        self.recorder.pod(&wish.pod.pod, wish.path.clone(), warning, reason, message);
    }
}

fn policy(written: Option<&str>, reference: &str) -> Policy {
    match written {
        Some("Always") => Policy::Always,
        Some("Never") => Policy::Never,
        Some("IfNotPresent") => Policy::IfNotPresent,
        Some(_) | None if reference.ends_with(":latest") => Policy::Always,
        Some(_) | None => Policy::IfNotPresent,
    }
}

/// User and password for the reference's registry, from `.dockerconfigjson` or `.dockercfg` secrets.
fn credentials(reference: &str, secrets: &[Arc<Secret>]) -> Option<(String, String)> {
    let registry = registry_of(reference);
    secrets.iter().find_map(|secret| {
        let data = secret.data.as_ref()?;
        let parse = |key: &str| serde_json::from_slice::<serde_json::Value>(&data.get(key)?.0).ok();
        let list = match parse(".dockerconfigjson") {
            Some(config) => config.get("auths")?.clone(),
            None => parse(".dockercfg")?,
        };
        let (_, entry) = list.as_object()?.iter().find(|(server, _)| serves(server, registry))?;
        let text = |key: &str| entry.get(key).and_then(|value| value.as_str()).map(str::to_owned);
        if let (Some(user), Some(password)) = (text("username"), text("password")) {
            return Some((user, password));
        }
        let decoded = base64::engine::general_purpose::STANDARD.decode(text("auth")?).ok()?;
        let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        Some((user.to_owned(), password.to_owned()))
    })
}

fn serves(server: &str, registry: &str) -> bool {
    let host = server.trim_start_matches("https://").trim_start_matches("http://");
    let host = host.split('/').next().unwrap_or(host);
    host == registry || (registry == "docker.io" && host == "index.docker.io")
}

/// A duration as Go prints it, to milliseconds: `1.234s`, `12ms`.
fn go_fraction(duration: std::time::Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 { format!("{millis}ms") } else { format!("{}.{:03}s", millis / 1000, millis % 1000) }
}
