//! Gets images onto the node: by pull policy, with pull secrets, and one pull at a time unless configured otherwise.

use crate::cluster::{Cluster, Recorder};
use crate::model::pod::{DesiredPod, Wanted};
use crate::runtime::Runtime;
use base64::Engine;
use k8s_openapi::api::core::v1::Secret;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Pulls at once where they are not serialised (`maxParallelImagePulls` has no limit of its own).
const PARALLEL_PULLS: usize = 5;

/// Ensures images; cheap to clone.
#[derive(Clone)]
pub struct ImagesHandle {
    runtime: Arc<dyn Runtime>,
    cluster: Arc<dyn Cluster>,
    recorder: Recorder,
    /// Bounds pulls; waiters queue in order, at most one a container.
    permits: Arc<Semaphore>,
}

/// Why a container has no image: the waiting reason and message of its status.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct ImageFailure {
    pub reason: &'static str,
    pub message: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    Always,
    IfNotPresent,
    Never,
}

impl ImagesHandle {
    pub fn new(runtime: Arc<dyn Runtime>, cluster: Arc<dyn Cluster>, recorder: Recorder, serialize: bool) -> Self {
        let permits = Arc::new(Semaphore::new(if serialize { 1 } else { PARALLEL_PULLS }));
        Self { runtime, cluster, recorder, permits }
    }

    /// The id of the image to run, once it is on the node. Records the events of the way.
    pub async fn ensure(&self, pod: &DesiredPod, wanted: Wanted<'_>) -> Result<String, ImageFailure> {
        let result = self.find_or_pull(pod, wanted).await;
        if let Err(failure) = &result {
            self.note(pod, wanted, true, "Failed", format!("Error: {}", failure.reason));
        }
        result
    }

    async fn find_or_pull(&self, pod: &DesiredPod, wanted: Wanted<'_>) -> Result<String, ImageFailure> {
        let image = wanted.image();
        let reference = with_default_tag(image).map_err(|why| {
            let message =
                format!("Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: {why}");
            self.note(pod, wanted, true, "InspectFailed", message.clone());
            ImageFailure { reason: "InvalidImageName", message }
        })?;
        let secrets = self.pull_secrets(pod).await;
        let present = self.runtime.image(&reference).await.map_err(|error| {
            let message = format!("Failed to inspect image {image:?}: {error}");
            self.note(pod, wanted, true, "InspectFailed", message.clone());
            ImageFailure { reason: "ImageInspectError", message }
        })?;
        match (policy(wanted, &reference), present) {
            (Policy::IfNotPresent | Policy::Never, Some(found)) => {
                let message =
                    format!("Container image {image:?} already present on machine and can be accessed by the pod");
                self.note(pod, wanted, false, "Pulled", message);
                Ok(found.id)
            }
            (Policy::Never, None) => {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                self.note(pod, wanted, true, "ErrImageNeverPull", message.clone());
                Err(ImageFailure { reason: "ErrImageNeverPull", message })
            }
            (Policy::Always, _) | (Policy::IfNotPresent, None) => self.pull(pod, wanted, &reference, secrets).await,
        }
    }

    async fn pull(
        &self,
        pod: &DesiredPod,
        wanted: Wanted<'_>,
        reference: &str,
        secrets: Vec<Arc<Secret>>,
    ) -> Result<String, ImageFailure> {
        let image = wanted.image();
        let asked = crate::clock::now().mono;
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await;
        self.note(pod, wanted, false, "Pulling", format!("Pulling image {image:?}"));
        let begun = crate::clock::now().mono;
        let auth = credentials(reference, &secrets);
        match self.runtime.pull_image(reference, auth).await {
            Ok(id) => {
                let now = crate::clock::now().mono;
                let size = self.runtime.image(&id).await.ok().flatten().map_or(0, |image| image.size);
                let (took, waited) = (now.duration_since(begun), now.duration_since(asked));
                let message = format!(
                    "Successfully pulled image {image:?} in {} ({} including waiting). Image size: {size} bytes.",
                    go_fraction(took),
                    go_fraction(waited),
                );
                self.note(pod, wanted, false, "Pulled", message);
                Ok(id)
            }
            Err(error) => {
                self.note(pod, wanted, true, "Failed", format!("Failed to pull image {image:?}: {error}"));
                Err(ImageFailure { reason: "ErrImagePull", message: error.to_string() })
            }
        }
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

    fn note(&self, pod: &DesiredPod, wanted: Wanted<'_>, warning: bool, reason: &'static str, message: String) {
        self.recorder.pod(&pod.pod, Some(pod.field_path(&wanted.spec.name)), warning, reason, message);
    }
}

fn policy(wanted: Wanted<'_>, reference: &str) -> Policy {
    match wanted.spec.image_pull_policy.as_deref() {
        Some("Always") => Policy::Always,
        Some("Never") => Policy::Never,
        Some("IfNotPresent") => Policy::IfNotPresent,
        Some(_) | None if reference.ends_with(":latest") => Policy::Always,
        Some(_) | None => Policy::IfNotPresent,
    }
}

/// `busybox` → `busybox:latest`; the error is distribution/reference's, as far as users meet it.
fn with_default_tag(image: &str) -> Result<String, String> {
    let invalid = || "invalid reference format".to_owned();
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    if digest.is_some_and(|digest| !digest.contains(':')) {
        return Err(invalid());
    }
    let tag_at = name.rfind(':').filter(|at| !name[*at..].contains('/'));
    let (repository, tag) = tag_at.map_or((name, None), |at| (&name[..at], Some(&name[at + 1..])));
    let repository = repository.strip_suffix(':').unwrap_or(repository);
    if repository.is_empty() || tag == Some("") {
        return Err(invalid());
    }
    if path_of(repository).chars().any(char::is_uppercase) {
        let shown =
            if repository.contains('/') { path_of(repository).to_owned() } else { format!("library/{repository}") };
        return Err(format!("invalid reference format: repository name ({shown}) must be lowercase"));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:[]".contains(c);
    if !repository.chars().all(allowed)
        || !tag.unwrap_or("x").chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    {
        return Err(invalid());
    }
    Ok(if tag.is_none() && digest.is_none() { format!("{image}:latest") } else { image.to_owned() })
}

/// The part after the registry, which alone may have upper case letters.
fn path_of(repository: &str) -> &str {
    match repository.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => rest,
        Some(_) | None => repository,
    }
}

/// The registry host of a reference.
fn registry_of(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        Some(_) | None => "docker.io",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names_get_the_default_tag_or_the_reason_why_not() {
        let table = [
            ("busybox", "busybox:latest"),
            ("127.0.0.1:1/none:1", "127.0.0.1:1/none:1"),
            ("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest"),
            ("a/b@sha256:00", "a/b@sha256:00"),
            ("Bad_Name::UP", "invalid reference format: repository name (library/Bad_Name) must be lowercase"),
            ("x y", "invalid reference format"),
        ];
        for (image, expected) in table {
            assert_eq!(with_default_tag(image).unwrap_or_else(|why| why), expected, "{image}");
        }
    }
}
