//! Volume content follows its source: a ConfigMap or Secret that changes is written again into the pods that show it,
//! as a pod's own labels and annotations are. Housekeeping repairs what this misses.

use crate::actors::pods::PodsHandle;
use crate::cluster::{Cluster, ContentKind, ContentRef};
use crate::ids::PodUid;
use crate::supervisor::Supervisor;
use crate::volumes::{ROOT_CA, Volumes};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Objects followed at once, one watch each; beyond it content is as late as housekeeping's period.
const MAX_WATCHES: usize = 64;
/// Changes waiting for the actor: a watch that finds it full waits, and its object's newest state is what counts.
const CHANGES: usize = 64;
/// Pods change many times a second while they start: the set of followed objects is worked out at most this often.
const SETTLE: Duration = Duration::from_secs(1);

/// The actor; `run` it under the supervisor.
pub struct ContentTask {
    pub cluster: Arc<dyn Cluster>,
    pub volumes: Volumes,
    pub pods: PodsHandle,
    pub tasks: Supervisor,
}

/// Labels and annotations as they were written last, of pods that show them.
type Shown = BTreeMap<PodUid, (Option<BTreeMap<String, String>>, Option<BTreeMap<String, String>>)>;

impl ContentTask {
    pub async fn run(self) {
        let (sender, mut changed) = mpsc::channel(CHANGES);
        let mut pods_changed = self.pods.changes();
        let mut followed: BTreeMap<ContentRef, Supervisor> = BTreeMap::new();
        let mut shown = Shown::new();
        loop {
            let pods: Vec<_> = self.pods.list().into_iter().filter(|pod| shows_volumes(pod)).collect();
            self.follow(&pods, &mut followed, &sender);
            self.refresh_downward(&pods, &mut shown).await;
            // Both arms are cancel-safe: a watch and a channel keep what was sent.
            tokio::select! {
                Ok(()) = pods_changed.changed() => tokio::time::sleep(SETTLE).await,
                Some(object) = changed.recv() => self.refresh(&object).await,
                else => return,
            }
        }
    }

    /// Starts following what pods show now, ends what none shows any more.
    fn follow(
        &self,
        pods: &[Arc<Pod>],
        followed: &mut BTreeMap<ContentRef, Supervisor>,
        sender: &mpsc::Sender<ContentRef>,
    ) {
        let wanted: BTreeSet<ContentRef> = pods.iter().flat_map(|pod| content_of(pod)).collect();
        followed.retain(|object, tasks| {
            let keep = wanted.contains(object);
            if !keep {
                tasks.cancel();
            }
            keep
        });
        for object in wanted {
            if followed.len() >= MAX_WATCHES || followed.contains_key(&object) {
                continue;
            }
            let (tasks, cluster, sender) = (self.tasks.child(), self.cluster.clone(), sender.clone());
            let follow = object.clone();
            tasks.spawn("content_watch", async move { cluster.follow_content(&follow, sender).await });
            followed.insert(object, tasks);
        }
    }

    async fn refresh(&self, object: &ContentRef) {
        for pod in self.pods.list().iter().filter(|pod| shows_volumes(pod)) {
            if content_of(pod).contains(object) {
                self.write(pod).await;
            }
        }
    }

    /// Pods whose labels or annotations changed, and which show them. They may have changed before this saw the pod.
    async fn refresh_downward(&self, pods: &[Arc<Pod>], shown: &mut Shown) {
        let own = |meta: &ObjectMeta| (meta.labels.clone(), meta.annotations.clone());
        let uid = |pod: &Pod| PodUid::new(pod.metadata.uid.as_deref().unwrap_or_default());
        shown.retain(|known, _| pods.iter().any(|pod| uid(pod) == *known));
        for pod in pods.iter().filter(|pod| volumes_of(pod).any(shows_fields)) {
            let before = shown.insert(uid(pod), own(&pod.metadata));
            if before.is_none_or(|before| before != own(&pod.metadata)) {
                self.write(pod).await;
            }
        }
    }

    async fn write(&self, pod: &Arc<Pod>) {
        if let Err(error) = self.volumes.refresh(pod).await {
            tracing::warn!(pod = pod.metadata.name, %error, "volumes not refreshed");
        }
    }
}

/// One of its containers has been made, so that its volumes are there, and it goes on.
pub(crate) fn shows_volumes(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let made = |container: &ContainerStatus| container.container_id.as_deref().is_some_and(|id| !id.is_empty());
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    !ended && pod.metadata.deletion_timestamp.is_none() && containers.into_iter().any(made)
}

fn volumes_of(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
}

/// Does it show fields of the pod that may change?
fn shows_fields(volume: &Volume) -> bool {
    let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    let projected = projected.filter_map(|source| source.downward_api.as_ref()?.items.as_ref());
    let own = volume.downward_api.iter().filter_map(|source| source.items.as_ref());
    let fields = own.chain(projected).flatten().filter_map(|item| item.field_ref.as_ref());
    let mut paths = fields.map(|field| field.field_path.as_str());
    paths.any(|path| path.starts_with("metadata.labels") || path.starts_with("metadata.annotations"))
}

/// The ConfigMaps and Secrets that a pod's volumes show.
fn content_of(pod: &Pod) -> BTreeSet<ContentRef> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let of = |kind, name: &str| ContentRef { kind, namespace: namespace.to_owned(), name: name.to_owned() };
    let mut found = BTreeSet::new();
    for volume in volumes_of(pod) {
        found.extend(volume.config_map.iter().map(|source| of(ContentKind::ConfigMap, &source.name)));
        let secret = volume.secret.as_ref().and_then(|source| source.secret_name.as_deref());
        found.extend(secret.map(|name| of(ContentKind::Secret, name)));
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            found.extend(source.config_map.iter().map(|source| of(ContentKind::ConfigMap, &source.name)));
            found.extend(source.secret.iter().map(|source| of(ContentKind::Secret, &source.name)));
        }
    }
    found.retain(|object| object.name != ROOT_CA);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_volumes_show_is_followed_but_for_the_root_certificate() {
        let pod = serde_json::from_value(serde_json::json!({"metadata": {"namespace": "d"}, "spec": {"containers": [],
            "volumes": [
                {"name": "a", "configMap": {"name": "settings"}},
                {"name": "b", "secret": {"secretName": "keys"}},
                {"name": "c", "projected": {"sources": [
                    {"configMap": {"name": "kube-root-ca.crt"}}, {"configMap": {"name": "settings"}},
                    {"secret": {"name": "more"}},
                    {"downwardAPI": {"items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}},
                {"name": "d", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels['a']"}}]}},
                {"name": "e", "emptyDir": {}}]}}))
        .unwrap();
        let names: Vec<_> =
            content_of(&pod).into_iter().map(|object| format!("{:?} {}", object.kind, object.name)).collect();
        assert_eq!(names, ["ConfigMap settings", "Secret keys", "Secret more"]);
        assert_eq!(volumes_of(&pod).map(shows_fields).collect::<Vec<_>>(), [false, false, false, true, false]);
    }

    #[test]
    fn volumes_show_from_the_first_container_to_the_end_of_the_pod() {
        let made = serde_json::json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "containerID": "containerd://1"}]);
        let waiting = serde_json::json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0}]);
        for (status, deleted, expected) in [
            (serde_json::json!({"phase": "Pending", "containerStatuses": waiting}), false, false),
            (serde_json::json!({"phase": "Pending", "initContainerStatuses": made}), false, true),
            (serde_json::json!({"phase": "Running", "containerStatuses": made}), false, true),
            (serde_json::json!({"phase": "Running", "containerStatuses": made}), true, false),
            (serde_json::json!({"phase": "Failed", "containerStatuses": made}), false, false),
        ] {
            let mut pod = serde_json::json!({"metadata": {}, "status": status});
            if deleted {
                pod["metadata"]["deletionTimestamp"] = serde_json::json!("2026-01-01T00:00:00Z");
            }
            assert_eq!(shows_volumes(&serde_json::from_value(pod.clone()).unwrap()), expected, "{pod}");
        }
    }
}
