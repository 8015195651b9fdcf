//! Gets images onto the node: by pull policy, with pull secrets and what credential providers give, and one pull at a time unless configured otherwise.

use crate::clock::rate::TokenBucket;
use crate::cluster::{Cluster, Recorder};
use crate::images::credential::{CredentialProviders, Puller};
use crate::images::keyring::{Credential, Keyring};
use crate::images::pulls::PullRecords;
use crate::images::reference::{repository_of, with_default_tag};
use crate::metrics::catalog;
use crate::model::pod::{DesiredPod, Wanted};
use crate::runtime::Runtime;
use k8s_openapi::api::core::v1::Secret;
use node_config::agent::AgentConfig;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OnceCell, Semaphore};

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
    /// `None`: who may use an image that is here is not looked at.
    records: Option<Arc<PullRecords>>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
        Self { runtime, cluster, recorder, permits, rate, providers: CredentialProviders::default(), records: None }
    }

    /// Keeps who pulled what, and lets pods use only what they may pull.
    pub fn with_records(self, records: Option<Arc<PullRecords>>) -> Self {
        Self { records, ..self }
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
        let policy = policy(wish.policy, &reference);
        let credentials = OnceCell::new();
        // Providers are programs: they are asked once, and only where it matters.
        let look_up = || credentials.get_or_init(|| self.credentials(wish.pod, &reference, &secrets));
        // The registry says whether there is a newer one; what is here is not asked for.
        let here = match policy {
            Policy::Always => None,
            Policy::IfNotPresent | Policy::Never => {
                let found = self.inspect(wish, &reference).await;
                Some(found.inspect_err(|_| count(policy, None, None))?)
            }
        };
        let usable = match &here {
            Some(Some(id)) => self.may_use(wish, id, look_up()).await.then(|| id.clone()),
            Some(None) | None => None,
        };
        let is_here = here.map(|found| found.is_some());
        let is_refused = policy == Policy::Never && is_here == Some(false);
        count(policy, is_here, (!is_refused).then_some(usable.is_none()));
        match (usable, policy) {
            (Some(id), _) => Ok(id),
            // That it is here is not for everyone to know.
            (None, Policy::Never) => {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                self.note(wish, true, "ErrImageNeverPull", message.clone());
                Err(ImageFailure { reason: "ErrImageNeverPull", message })
            }
            (None, Policy::Always | Policy::IfNotPresent) => self.pull(wish, &reference, look_up().await).await,
        }
    }

    /// The id of an image that is here.
    async fn inspect(&self, wish: &Wish<'_>, reference: &str) -> Result<Option<String>, ImageFailure> {
        let found = self.runtime.image(reference).await.map_err(|error| {
            let message = format!("Failed to inspect image {:?}: {error}", wish.image);
            self.note(wish, true, "InspectFailed", message.clone());
            ImageFailure { reason: "ImageInspectError", message }
        })?;
        Ok(found.map(|image| image.id))
    }

    /// Whether the pod may use an image that is here; says so.
    async fn may_use<'a>(
        &self,
        wish: &Wish<'_>,
        id: &str,
        credentials: impl Future<Output = &'a Vec<Credential>>,
    ) -> bool {
        let image = wish.image;
        let message = match &self.records {
            None => format!("Container image {image:?} already present on machine"),
            Some(records) if records.allows(image, id, credentials).await => {
                format!("Container image {image:?} already present on machine and can be accessed by the pod")
            }
            Some(_) => return false,
        };
        self.note(wish, false, "Pulled", message);
        true
    }

    async fn pull(&self, wish: &Wish<'_>, reference: &str, credentials: &[Credential]) -> Result<String, ImageFailure> {
        let image = wish.image;
        let record = match &self.records {
            None => None,
            Some(records) => Some(records.begin(image).await.map_err(|error| {
                let message = format!("Failed to record image pull intent for container image {image:?}: {error}");
                ImageFailure { reason: "ErrImagePull", message }
            })?),
        };
        let asked = crate::clock::now().mono;
        self.note(wish, false, "Pulling", format!("Pulling image {image:?}"));
        if !self.rate.lock().unwrap_or_else(PoisonError::into_inner).try_take(crate::clock::now()) {
            return Err(self.failed(wish, "pull QPS exceeded".to_owned()));
        }
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await;
        let begun = crate::clock::now().mono;
        match self.pull_as_someone(reference, credentials).await {
            Ok((id, credential)) => {
                if let Some(record) = record {
                    record.succeeded(&id, credential).await;
                }
                let now = crate::clock::now().mono;
                let size = self.runtime.image(&id).await.ok().flatten().map_or(0, |image| image.size);
                let (took, waited) = (now.duration_since(begun), now.duration_since(asked));
                catalog::IMAGE_PULLS.observe([size_class(size)], waited);
                let message = format!(
                    "Successfully pulled image {image:?} in {} ({} including waiting). Image size: {size} bytes.",
                    go_fraction(took),
                    go_fraction(waited),
                );
                self.note(wish, false, "Pulled", message);
                Ok(id)
            }
            Err(message) => Err(self.failed(wish, message)),
        }
    }

    /// With what the image may be pulled: the logins of the pod's secrets, then those of the node's providers.
    async fn credentials(&self, pod: &DesiredPod, reference: &str, secrets: &[Arc<Secret>]) -> Vec<Credential> {
        let repository = repository_of(reference);
        let mut found = Keyring::of_secrets(secrets).lookup(&repository);
        let puller = Puller { cluster: &*self.cluster, pod: &pod.pod };
        found.extend(self.providers.keyring(&repository, puller).await.lookup(&repository));
        found
    }

    /// Pulls with the first login that the registry takes; with none where there is none. The error is all that was said.
    async fn pull_as_someone<'a>(
        &self,
        reference: &str,
        credentials: &'a [Credential],
    ) -> Result<(String, Option<&'a Credential>), String> {
        if credentials.is_empty() {
            let pulled = self.runtime.pull_image(reference, None).await;
            return pulled.map(|id| (id, None)).map_err(|error| error.to_string());
        }
        let mut errors: Vec<String> = Vec::new();
        for credential in credentials {
            match self.runtime.pull_image(reference, Some(credential.login.clone())).await {
                Ok(id) => return Ok((id, Some(credential))),
                Err(error) => errors.push(error.to_string()),
            }
        }
        Err(aggregate(errors))
    }

    fn failed(&self, wish: &Wish<'_>, message: String) -> ImageFailure {
        self.note(wish, true, "Failed", format!("Failed to pull image {:?}: {message}", wish.image));
        ImageFailure { reason: "ErrImagePull", message }
    }

    /// The pull secrets that can be read; the others are named in an event, and the pull is tried without them.
    async fn pull_secrets(&self, pod: &DesiredPod) -> Vec<Arc<Secret>> {
        let mut found = Vec::new();
        let mut missing = Vec::new();
        let names = pod.spec().image_pull_secrets.iter().flatten().map(|reference| reference.name.as_str());
        // The API server lets references without a name through.
        for name in names.filter(|name| !name.is_empty()) {
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

/// Several errors as Go's `utilerrors.Aggregate` words them: each once.
fn aggregate(errors: Vec<String>) -> String {
    let mut distinct: Vec<String> = Vec::new();
    for error in errors {
        if !distinct.contains(&error) {
            distinct.push(error);
        }
    }
    match distinct.as_slice() {
        [only] => only.clone(),
        all => format!("[{}]", all.join(", ")),
    }
}

/// How `kubelet_image_pull_duration_seconds` names sizes, which begin above the bound: 0 is none.
fn size_class(bytes: u64) -> &'static str {
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    const CLASSES: [(u64, &str); 12] = [
        (100 * GIB, "GT100GB"),
        (60 * GIB, "60GB-100GB"),
        (40 * GIB, "40GB-60GB"),
        (30 * GIB, "30GB-40GB"),
        (20 * GIB, "20GB-30GB"),
        (10 * GIB, "10GB-20GB"),
        (5 * GIB, "5GB-10GB"),
        (GIB, "1GB-5GB"),
        (500 * MIB, "500MB-1GB"),
        (100 * MIB, "100MB-500MB"),
        (10 * MIB, "10MB-100MB"),
        (0, "0-10MB"),
    ];
    CLASSES.into_iter().find(|(above, _)| bytes > *above).map_or("N/A", |(_, name)| name)
}

/// `kubelet_image_manager_ensure_image_requests_total`; what is not known of a request is `unknown`.
fn count(policy: Policy, is_here: Option<bool>, is_pulled: Option<bool>) {
    let policy = match policy {
        Policy::Always => "always",
        Policy::IfNotPresent => "ifnotpresent",
        Policy::Never => "never",
    };
    let known = |answer: Option<bool>| answer.map_or("unknown", |answer| if answer { "true" } else { "false" });
    catalog::IMAGE_REQUESTS.inc([known(is_here), policy, known(is_pulled)]);
}

/// A duration as Go prints it, to milliseconds: `1.234s`, `12ms`.
fn go_fraction(duration: std::time::Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 { format!("{millis}ms") } else { format!("{}.{:03}s", millis / 1000, millis % 1000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_classed_as_the_kubelet_does() {
        for (bytes, expected) in
            [(0, "N/A"), (1, "0-10MB"), (10 << 20, "0-10MB"), ((10 << 20) + 1, "10MB-100MB"), (2 << 40, "GT100GB")]
        {
            assert_eq!(size_class(bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn what_went_wrong_with_several_logins_is_said_once_each() {
        let errors = |list: &[&str]| aggregate(list.iter().map(|text| (*text).to_owned()).collect());
        assert_eq!(errors(&["401"]), "401");
        assert_eq!(errors(&["401", "401"]), "401");
        assert_eq!(errors(&["401", "403", "401"]), "[401, 403]");
    }
}
