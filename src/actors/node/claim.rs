//! Whether a node name is another machine's: two agents under one name would undo each other's work without end.

use super::{NodeError, machine};
use crate::clock;
use crate::cluster::{Cluster, ClusterError};
use crate::model::node::Machine;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;

/// Refuses a name under which another machine is at work right now. A Node that was left behind, by whomever, is
/// taken over, as the kubelet does.
pub async fn check(cluster: &dyn Cluster, name: &str) -> Result<(), NodeError> {
    let unknown = |error: ClusterError| {
        tracing::debug!(%error, "whether the node name is free is not known");
        None
    };
    let machine = machine::read().map_err(NodeError::Machine)?;
    let Some(node) = cluster.node(name).await.unwrap_or_else(unknown) else { return Ok(()) };
    let lease = cluster.lease(name).await.unwrap_or_else(|error| {
        tracing::debug!(%error, "the node's lease is not known");
        None
    });
    match holder(&node, lease.as_ref(), &machine, clock::now().wall) {
        Some(holder) => Err(NodeError::NameTaken { name: name.to_owned(), holder }),
        None => Ok(()),
    }
}

/// The other machine, as its Node describes it, if it is alive.
fn holder(node: &Node, lease: Option<&Lease>, machine: &Machine, now: Timestamp) -> Option<String> {
    let status = node.status.as_ref()?;
    let info = status.node_info.as_ref()?;
    // Same boot, same machine; after a boot, its identities tell.
    let same_machine = info.machine_id == machine.machine_id && info.system_uuid == machine.system_uuid;
    if info.boot_id == machine.boot_id || same_machine {
        return None;
    }
    let spec = lease?.spec.as_ref()?;
    let age = now.duration_since(spec.renew_time.as_ref()?.0).as_secs();
    if age >= i64::from(spec.lease_duration_seconds?) {
        return None;
    }
    let addresses = status.addresses.iter().flatten();
    let address =
        addresses.filter(|address| address.type_ == "InternalIP").map(|address| address.address.as_str()).next();
    let address = address.unwrap_or("an unknown address");
    Some(format!("the machine at {address} (machine ID {}), which renewed its lease {age} s ago", info.machine_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_name_is_taken_while_another_machine_is_alive_under_it() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let ours =
            Machine { machine_id: "m".into(), system_uuid: "u".into(), boot_id: "b".into(), ..Machine::default() };
        let node = |machine: &str, uuid: &str, boot: &str| -> Node {
            let info = json!({
                "machineID": machine, "systemUUID": uuid, "bootID": boot, "kernelVersion": "", "osImage": "",
                "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "", "operatingSystem": "",
                "architecture": "",
            });
            let status = json!({"nodeInfo": info, "addresses": [{"type": "InternalIP", "address": "10.0.0.9"}]});
            serde_json::from_value(json!({"metadata": {"name": "n1"}, "status": status})).unwrap()
        };
        let lease = |renewed: &str| -> Lease {
            let spec = json!({"renewTime": renewed, "leaseDurationSeconds": 40});
            serde_json::from_value(json!({"metadata": {"name": "n1"}, "spec": spec})).unwrap()
        };
        let (fresh, stale) = (lease("2026-01-01T00:00:57.000000Z"), lease("2026-01-01T00:00:10.000000Z"));
        for (node, lease, taken) in [
            (node("m", "u", "b"), Some(&fresh), false),
            // After a boot of this machine, and in a container that has the host's boot.
            (node("m", "u", "b2"), Some(&fresh), false),
            (node("m2", "u", "b"), Some(&fresh), false),
            (node("m2", "u2", "b2"), Some(&fresh), true),
            // A clone of this machine's image.
            (node("m", "u2", "b2"), Some(&fresh), true),
            (node("m2", "u2", "b2"), Some(&stale), false),
            (node("m2", "u2", "b2"), None, false),
        ] {
            assert_eq!(holder(&node, lease, &ours, now).is_some(), taken, "{node:?}");
        }
        let text = holder(&node("m2", "u2", "b2"), Some(&fresh), &ours, now).unwrap();
        assert_eq!(text, "the machine at 10.0.0.9 (machine ID m2), which renewed its lease 3 s ago");
    }
}
