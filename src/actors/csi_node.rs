//! What the API knows of the node's CSI drivers: the CSINode object, which each node has, and an annotation and topology
//! labels of the Node.

use crate::cluster::{Cluster, ClusterError};
use crate::plugins::csi::NodeInfo;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Name of the node at each driver, as JSON.
const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";
/// Volumes of the API's own sorts that are drivers' by now; the attach/detach controller wants to hear it of each node.
const MIGRATED: &str = "storage.alpha.kubernetes.io/migrated-plugins";
const MIGRATED_PLUGINS: &str = "kubernetes.io/aws-ebs,kubernetes.io/azure-disk,kubernetes.io/azure-file,\
     kubernetes.io/cinder,kubernetes.io/gce-pd,kubernetes.io/portworx-volume,kubernetes.io/vsphere-volume";
/// The API server that could not be asked is asked again so soon, then ever later.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// The API refuses shorter ones.
const LEAST_LIMIT_PERIOD: Duration = Duration::from_secs(10);

pub(super) struct CsiNode {
    pub(super) node_name: String,
    pub(super) cluster: Arc<dyn Cluster>,
}

impl CsiNode {
    /// Makes the object for a node that has just registered, drivers or none; until the API server has taken it.
    pub(super) async fn introduce(&self, node: &Node) {
        let mut retry = RETRY_FIRST;
        let mut told = false;
        while let Err(error) = self.introduce_once(node).await {
            // Once an outage.
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(%error, "CSINode not initialized, retrying");
            }
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(RETRY_LAST);
        }
    }

    async fn introduce_once(&self, node: &Node) -> Result<(), ClusterError> {
        let known = match self.cluster.csi_node(&self.node_name).await? {
            Some(known) => known,
            None => match self.create(node, Vec::new()).await {
                // By a driver that came meanwhile, with all that belongs to it.
                Ok(()) | Err(ClusterError::Conflict(_)) => return Ok(()),
                Err(error) => return Err(error),
            },
        };
        let told = known.metadata.annotations.as_ref().and_then(|annotations| annotations.get(MIGRATED));
        if told.is_some_and(|plugins| plugins == MIGRATED_PLUGINS) {
            return Ok(());
        }
        let patch = json!({"metadata": {"annotations": {MIGRATED: MIGRATED_PLUGINS}}});
        self.cluster.patch_csi_node(&self.node_name, &patch).await
    }

    async fn create(&self, node: &Node, drivers: Vec<CSINodeDriver>) -> Result<(), ClusterError> {
        self.cluster.create_csi_node(&CSINode { metadata: owned_by(node), spec: CSINodeSpec { drivers } }).await
    }

    /// Shows a driver at the API; the Node must be there.
    pub(super) async fn install(&self, driver: &str, info: &NodeInfo) -> Result<(), String> {
        let failed =
            |error: &dyn std::fmt::Display| format!("error updating Node object with CSI driver node info: {error}");
        if info.node_id.is_empty() {
            return Err("error adding CSI driver node info: driverNodeID must not be empty".to_owned());
        }
        let node = self.cluster.node(&self.node_name).await.map_err(|error| failed(&error))?;
        let node = node.ok_or_else(|| failed(&format!("node {:?} is not registered yet", self.node_name)))?;
        if let Some(patch) = node_patch(&node, driver, Some(info)).map_err(|error| failed(&error))? {
            self.cluster.patch_node(&self.node_name, &patch).await.map_err(|error| failed(&error))?;
        }
        let failed = |error: ClusterError| format!("error updating CSINode object with CSI driver node info: {error}");
        let wanted = described(driver, info);
        match self.cluster.csi_node(&self.node_name).await.map_err(failed)? {
            None => match self.create(&node, vec![wanted.clone()]).await {
                // Just now, without the driver.
                Err(ClusterError::Conflict(_)) => {}
                created => return created.map_err(failed),
            },
            Some(known) if known.spec.drivers.contains(&wanted) => return Ok(()),
            Some(_) => {}
        }
        let mut wanted = json!(wanted);
        if let Some(fields) = wanted.as_object_mut() {
            // What an earlier registration said and this one does not.
            for field in ["allocatable", "topologyKeys"] {
                fields.entry(field).or_insert(Value::Null);
            }
        }
        let patch = json!({"spec": {"drivers": [wanted]}});
        self.cluster.patch_csi_node(&self.node_name, &patch).await.map_err(failed)
    }

    /// How often a driver wants its limit looked at (`nodeAllocatableUpdatePeriodSeconds`).
    pub(super) async fn limit_period(&self, driver: &str) -> Result<Option<Duration>, ClusterError> {
        let described = self.cluster.csi_driver(driver).await?;
        let seconds = described.and_then(|driver| driver.spec.node_allocatable_update_period_seconds);
        Ok(seconds.map(|seconds| Duration::from_secs(seconds.unsigned_abs()).max(LEAST_LIMIT_PERIOD)))
    }

    /// Shows how many volumes the driver takes by now, and nothing else of it.
    pub(super) async fn show_limit(&self, driver: &str, info: &NodeInfo) -> Result<(), ClusterError> {
        let known = self.cluster.csi_node(&self.node_name).await?;
        let known = known.into_iter().flat_map(|node| node.spec.drivers).find(|known| known.name == driver);
        let wanted = described(driver, info).allocatable;
        // Who is not there has not registered yet, or not any more.
        let Some(known) = known.filter(|known| known.allocatable != wanted) else { return Ok(()) };
        let patch =
            json!({"spec": {"drivers": [{"name": known.name, "nodeID": known.node_id, "allocatable": wanted}]}});
        self.cluster.patch_csi_node(&self.node_name, &patch).await
    }

    /// Takes it away again.
    pub(super) async fn uninstall(&self, driver: &str) -> Result<(), String> {
        let failed = |error: ClusterError| format!("error uninstalling CSI driver from CSINode object {error}");
        let patch = json!({"spec": {"drivers": [{"name": driver, "$patch": "delete"}]}});
        match self.cluster.patch_csi_node(&self.node_name, &patch).await {
            Ok(()) | Err(ClusterError::NotFound(_)) => {}
            Err(error) => return Err(failed(error)),
        }
        let Some(node) = self.cluster.node(&self.node_name).await.map_err(failed)? else { return Ok(()) };
        if let Some(patch) = node_patch(&node, driver, None)? {
            self.cluster.patch_node(&self.node_name, &patch).await.map_err(failed)?;
        }
        Ok(())
    }
}

fn described(driver: &str, info: &NodeInfo) -> CSINodeDriver {
    // The API's count has 32 bits; no limit is no count.
    let count = Some(i32::try_from(info.max_volumes).unwrap_or(i32::MAX)).filter(|count| *count > 0);
    CSINodeDriver {
        name: driver.to_owned(),
        node_id: info.node_id.clone(),
        topology_keys: Some(info.topology.keys().cloned().collect()).filter(|keys: &Vec<_>| !keys.is_empty()),
        allocatable: count.map(|count| VolumeNodeResources { count: Some(count) }),
    }
}

fn owned_by(node: &Node) -> ObjectMeta {
    let name = node.metadata.name.clone().unwrap_or_default();
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.clone(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    };
    let annotations = BTreeMap::from([(MIGRATED.to_owned(), MIGRATED_PLUGINS.to_owned())]);
    ObjectMeta {
        name: Some(name),
        annotations: Some(annotations),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    }
}

/// What of the Node changes with a driver that comes (`None`: goes); `None`: nothing. Labels stay when it goes, as other
/// drivers may tell the same place.
fn node_patch(node: &Node, driver: &str, info: Option<&NodeInfo>) -> Result<Option<Value>, String> {
    let known = node.metadata.annotations.as_ref().and_then(|annotations| annotations.get(NODE_IDS));
    let known: BTreeMap<String, String> = match known {
        Some(text) => serde_json::from_str(text)
            .map_err(|error| format!("failed to parse node's {NODE_IDS:?} annotation: {error}"))?,
        None => BTreeMap::new(),
    };
    let mut ids = known.clone();
    match info {
        Some(info) => ids.insert(driver.to_owned(), info.node_id.clone()),
        None => ids.remove(driver),
    };
    let labels = node.metadata.labels.as_ref();
    let mut new_labels = BTreeMap::new();
    for (key, value) in info.into_iter().flat_map(|info| &info.topology) {
        match labels.and_then(|labels| labels.get(key)) {
            Some(other) if other != value => {
                return Err(format!(
                    "detected topology value collision: driver reported {key:?}:{value:?} but existing label is {key:?}:{other:?}"
                ));
            }
            Some(_) => {}
            None => drop(new_labels.insert(key, value)),
        }
    }
    if ids == known && new_labels.is_empty() {
        return Ok(None);
    }
    let ids = if ids.is_empty() { Value::Null } else { json!(json!(ids).to_string()) };
    Ok(Some(json!({"metadata": {"annotations": {NODE_IDS: ids}, "labels": new_labels}})))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fake::FakeCluster;

    #[test]
    fn a_driver_is_shown_by_an_annotation_and_labels_and_leaves_what_others_wrote() {
        let node = |annotation: Option<&str>, zone: Option<&str>| -> Node {
            let mut node = Node::default();
            node.metadata.annotations = annotation.map(|ids| BTreeMap::from([(NODE_IDS.to_owned(), ids.to_owned())]));
            node.metadata.labels = zone.map(|zone| BTreeMap::from([("ex.org/zone".to_owned(), zone.to_owned())]));
            node
        };
        let topology = BTreeMap::from([("ex.org/zone".to_owned(), "z1".to_owned())]);
        let info = NodeInfo { node_id: "i-1".into(), max_volumes: 0, topology };
        let ids = |patch: Value| patch["metadata"]["annotations"][NODE_IDS].clone();
        let check = |node: Node, info: Option<&NodeInfo>| node_patch(&node, "d", info);
        let first = check(node(None, None), Some(&info)).unwrap().unwrap();
        assert_eq!(first["metadata"]["labels"], json!({"ex.org/zone": "z1"}));
        assert_eq!(ids(first), json!(r#"{"d":"i-1"}"#));
        let second = check(node(Some(r#"{"a":"x"}"#), Some("z1")), Some(&info)).unwrap().unwrap();
        assert_eq!(ids(second), json!(r#"{"a":"x","d":"i-1"}"#));
        assert_eq!(check(node(Some(r#"{"d":"i-1"}"#), Some("z1")), Some(&info)), Ok(None));
        assert_eq!(ids(check(node(Some(r#"{"d":"i-1"}"#), None), None).unwrap().unwrap()), Value::Null);
        assert_eq!(check(node(None, None), None), Ok(None));
        assert_eq!(
            check(node(None, Some("z2")), Some(&info)).unwrap_err(),
            r#"detected topology value collision: driver reported "ex.org/zone":"z1" but existing label is "ex.org/zone":"z2""#
        );
    }

    #[tokio::test]
    async fn each_node_has_its_object_with_drivers_or_none() {
        let cluster = Arc::new(FakeCluster::default());
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n", "uid": "u"}})).unwrap();
        let csi = CsiNode { node_name: "n".into(), cluster: cluster.clone() };
        csi.introduce(&node).await;
        let shown = cluster.get_object("csinodes", "n").unwrap();
        assert_eq!(
            shown["metadata"]["ownerReferences"],
            json!([{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}])
        );
        assert_eq!(shown["metadata"]["annotations"][MIGRATED], MIGRATED_PLUGINS);
        assert_eq!(shown["spec"], json!({"drivers": []}));
        // One of an older node hears of what has moved since, and keeps its drivers.
        let drivers = json!({"drivers": [{"name": "d", "nodeID": "i"}]});
        cluster.put_object("csinodes", json!({"metadata": {"name": "n"}, "spec": drivers}));
        csi.introduce(&node).await;
        let shown = cluster.get_object("csinodes", "n").unwrap();
        assert_eq!((&shown["metadata"]["annotations"][MIGRATED], &shown["spec"]), (&json!(MIGRATED_PLUGINS), &drivers));
    }

    #[test]
    fn the_drivers_limit_is_the_nodes_allocatable_count() {
        for (max, count) in [(0, None), (16, Some(16)), (i64::MAX, Some(i32::MAX)), (-1, None)] {
            let info = NodeInfo { node_id: "i".into(), max_volumes: max, topology: BTreeMap::new() };
            assert_eq!(described("d", &info).allocatable.and_then(|a| a.count), count);
        }
    }
}
