//! Content volumes: fetches what configMap, secret, downwardAPI and projected volumes show, as one payload.

use super::atomic::{Payload, Projection};
use super::content::{self, DEFAULT_MODE, Keys, bits};
use super::downward;
use super::tokens::Tokens;
use crate::clock;
use crate::cluster::{Cluster, ClusterError};
use crate::model::node::NodeFacts;
use k8s_openapi::api::core::v1::{
    ConfigMap, KeyToPath, Pod, ProjectedVolumeSource, Secret, ServiceAccountTokenProjection, Volume, VolumeProjection,
};
use std::sync::Arc;

/// The API server's certificate: in every namespace, shown to every pod, and as good as never changed.
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";

/// What collecting needs beside the volume.
pub(super) struct Sources<'a> {
    pub cluster: &'a dyn Cluster,
    pub tokens: &'a Tokens,
    pub facts: &'a NodeFacts,
    pub pod: &'a Pod,
    /// The API server is away: what only serves to talk to it may be missing.
    pub offline: bool,
}

impl Sources<'_> {
    /// The volume's files; `None`: it is no content volume. Errors are worded as the kubelet's.
    pub(super) async fn collect(&self, volume: &Volume) -> Option<Result<Payload, String>> {
        if let Some(source) = &volume.config_map {
            let keys = Keys {
                items: source.items.as_deref().unwrap_or_default(),
                default_mode: source.default_mode.unwrap_or(DEFAULT_MODE),
                optional: source.optional.unwrap_or(false),
            };
            return Some(self.config_map(&source.name, &keys).await);
        }
        if let Some(source) = &volume.secret {
            let keys = Keys {
                items: source.items.as_deref().unwrap_or_default(),
                default_mode: source.default_mode.unwrap_or(DEFAULT_MODE),
                optional: source.optional.unwrap_or(false),
            };
            return Some(self.secret(source.secret_name.as_deref().unwrap_or_default(), &keys).await);
        }
        if let Some(source) = &volume.downward_api {
            let items = source.items.as_deref().unwrap_or_default();
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            return Some(downward::render(items, self.pod, self.facts, mode));
        }
        match &volume.projected {
            Some(source) => Some(self.projected(source).await),
            None => None,
        }
    }

    async fn config_map(&self, name: &str, keys: &Keys<'_>) -> Result<Payload, String> {
        let answer = match self.cluster.config_map(self.namespace(), name).await {
            Err(ClusterError::Unavailable(why)) if self.offline && keys.optional => Err(ClusterError::NotFound(why)),
            answer => answer,
        };
        let map = optional(answer, keys.optional)?;
        content::config_map(&map.unwrap_or_else(|| Arc::new(ConfigMap::default())), keys)
    }

    async fn secret(&self, name: &str, keys: &Keys<'_>) -> Result<Payload, String> {
        let secret = optional(self.cluster.secret(self.namespace(), name).await, keys.optional)?;
        content::secret(&secret.unwrap_or_else(|| Arc::new(Secret::default())), keys)
    }

    /// All sources into one tree; all errors at once, as apimachinery's aggregate shows them.
    async fn projected(&self, source: &ProjectedVolumeSource) -> Result<Payload, String> {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let sources = source.sources.as_deref().unwrap_or_default();
        let parts = futures::future::join_all(sources.iter().map(|source| self.projection(source, mode))).await;
        let mut payload = Payload::new();
        let mut errors = Vec::new();
        for part in parts {
            match part {
                Ok(part) => payload.extend(part),
                Err(error) => errors.push(error),
            }
        }
        match errors.len() {
            0 => Ok(payload),
            1 => Err(errors.remove(0)),
            _ => Err(format!("[{}]", errors.join(", "))),
        }
    }

    async fn projection(&self, source: &VolumeProjection, default_mode: i32) -> Result<Payload, String> {
        let keys = |items: &'_ Option<Vec<KeyToPath>>| items.clone().unwrap_or_default();
        if let Some(map) = &source.config_map {
            let items = keys(&map.items);
            let optional = map.optional.unwrap_or(false) || (self.offline && map.name == ROOT_CA);
            return self.config_map(&map.name, &Keys { items: &items, default_mode, optional }).await;
        }
        if let Some(secret) = &source.secret {
            let items = keys(&secret.items);
            return self
                .secret(&secret.name, &Keys { items: &items, default_mode, optional: secret.optional.unwrap_or(false) })
                .await;
        }
        if let Some(fields) = &source.downward_api {
            return downward::render(fields.items.as_deref().unwrap_or_default(), self.pod, self.facts, default_mode);
        }
        match &source.service_account_token {
            Some(token) => self.token(token, default_mode).await,
            None => Err("projected volume source is not supported: only configMap, secret, downwardAPI and serviceAccountToken are".into()),
        }
    }

    async fn token(&self, wanted: &ServiceAccountTokenProjection, default_mode: i32) -> Result<Payload, String> {
        // One hour is what the API server fills in.
        let seconds = wanted.expiration_seconds.unwrap_or(3600);
        let audience = wanted.audience.as_deref().filter(|audience| !audience.is_empty());
        let (token, _) = match self.tokens.get(self.cluster, self.pod, audience, seconds, clock::now()).await {
            Ok(token) => token,
            Err(ClusterError::Unavailable(_)) if self.offline => return Ok(Payload::new()),
            Err(error) => return Err(format!("failed to fetch token: {error}")),
        };
        let uid = common_user(self.pod);
        // A pod with a user or a group of its own can read 0600; others get what the volume says.
        let mode = if uid.is_some() || fs_group(self.pod).is_some() { 0o600 } else { bits(default_mode) };
        Ok(Payload::from([(wanted.path.clone(), Projection { data: token.as_bytes().to_vec(), mode, uid })]))
    }

    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or("default")
    }
}

fn optional<T>(answer: Result<T, ClusterError>, optional: bool) -> Result<Option<T>, String> {
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(ClusterError::NotFound(_)) if optional => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// `spec.securityContext.fsGroup`.
pub(super) fn fs_group(pod: &Pod) -> Option<u32> {
    u32::try_from(pod.spec.as_ref()?.security_context.as_ref()?.fs_group?).ok()
}

/// The user that all containers run as, where the spec says one (`FsUserFrom`).
fn common_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let pod_user = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let users = spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut users = users.map(|c| c.security_context.as_ref().and_then(|context| context.run_as_user).or(pod_user));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok())?
}
