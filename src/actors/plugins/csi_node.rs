//! What the API knows of the node's CSI drivers: the CSINode object, an annotation and topology labels of the Node.

use crate::cluster::{Cluster, ClusterError};
use crate::plugins::csi::NodeInfo;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Name of the node at each driver, as JSON.
const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";

pub(super) struct CsiNode {
    pub(super) node_name: String,
    pub(super) cluster: Arc<dyn Cluster>,
}

impl CsiNode {
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
            None => {
                let created = CSINode { metadata: owned_by(&node), spec: CSINodeSpec { drivers: vec![wanted] } };
                self.cluster.create_csi_node(&created).await.map_err(failed)
            }
            Some(known) if known.spec.drivers.contains(&wanted) => Ok(()),
            Some(_) => {
                let patch = json!({"spec": {"drivers": [wanted]}});
                self.cluster.patch_csi_node(&self.node_name, &patch).await.map_err(failed)
            }
        }
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
    ObjectMeta { name: Some(name), owner_references: Some(vec![owner]), ..ObjectMeta::default() }
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

    #[test]
    fn the_drivers_limit_is_the_nodes_allocatable_count() {
        for (max, count) in [(0, None), (16, Some(16)), (i64::MAX, Some(i32::MAX)), (-1, None)] {
            let info = NodeInfo { node_id: "i".into(), max_volumes: max, topology: BTreeMap::new() };
            assert_eq!(described("d", &info).allocatable.and_then(|a| a.count), count);
        }
    }
}
