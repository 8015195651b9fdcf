//! What clients are warned of in pods: `GetWarningsForPod`.

use crate::meta::{Meta, Object};
use crate::registry::field::{Path, quoted};
use crate::registry::names;
use crate::registry::quantity::Nanos;
use crate::registry::value::{entries, items, text};
use serde_json::Value;

/// (label, since, what to use instead)
const OLD_LABELS: [(&str, &str, &str); 5] = [
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
];
pub const OLD_VOLUMES: [(&str, &str); 9] = [
    ("gitRepo", "deprecated in v1.11"),
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const NULL_SELECTOR: &str = "a null labelSelector results in matching no pod";

/// Texts of `Warning` headers; an update of an unchanged spec warns of nothing.
pub fn pod(new: &Object, old: Option<&Object>) -> Vec<String> {
    let mut warnings = Vec::new();
    match old {
        Some(old) if old["spec"] == new["spec"] => return warnings,
        Some(_) => {}
        None => warnings.extend(host_name(new.name())),
    }
    whole(new, &Path::new(""), &mut warnings);
    warnings
}

fn host_name(name: &str) -> Option<String> {
    let texts = names::dns1123_label(name, false);
    (!texts.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
            texts.join(" ")
        )
    })
}

/// The same for the template of a workload.
pub fn template(template: &Value, path: &Path, warnings: &mut Vec<String>) {
    whole(template, path, warnings);
}

/// `warningsForPodSpecAndMeta`, in its order.
fn whole(pod: &Object, path: &Path, warnings: &mut Vec<String>) {
    let (spec, spec_path) = (&pod["spec"], path.child("spec"));
    placement(spec, &spec_path, warnings);
    annotations(pod, &path.child("metadata").child("annotations"), warnings);
    for (index, volume) in items(&spec["volumes"]).iter().enumerate() {
        for (kind, text) in OLD_VOLUMES.iter().filter(|(kind, _)| volume[*kind].is_object()) {
            warnings.push(format!("{}: {text}", spec_path.child("volumes").index(index).child(kind).as_str()));
        }
    }
    duplicates(&spec["hostAliases"], "ip", &spec_path.child("hostAliases"), warnings);
    duplicates(&spec["imagePullSecrets"], "name", &spec_path.child("imagePullSecrets"), warnings);
    containers(spec, &spec_path, warnings);
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        warnings.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            spec_path.child("terminationGracePeriodSeconds").as_str()
        ));
    }
    affinity(&spec["affinity"], &spec_path.child("affinity"), warnings);
}

/// Entries of a list that say the same once more.
fn duplicates(list: &Value, field: &str, path: &Path, warnings: &mut Vec<String>) {
    let list = items(list);
    for (index, entry) in list.iter().enumerate() {
        let value = text(&entry[field]);
        if list[..index].iter().any(|earlier| text(&earlier[field]) == value) {
            let path = path.index(index).child(field);
            warnings.push(format!("{}: duplicate {field} {}", path.as_str(), quoted(value)));
        }
    }
}

fn annotations(pod: &Object, path: &Path, warnings: &mut Vec<String>) {
    for (key, _) in pod.annotations().into_iter().flatten() {
        if key.starts_with("container.apparmor.security.beta.kubernetes.io/") {
            let path = path.key(key);
            warnings
                .push(format!("{}: deprecated since v1.30; use the \"appArmorProfile\" field instead", path.as_str()));
        } else if key == "seccomp.security.alpha.kubernetes.io/pod"
            || key.starts_with("container.seccomp.security.alpha.kubernetes.io/")
        {
            let path = path.key(key);
            warnings
                .push(format!("{}: non-functional in v1.27+; use the \"seccompProfile\" field instead", path.as_str()));
        }
    }
}

/// What replaced an older label of nodes, in upstream's words.
pub fn old_label(key: &str) -> Option<String> {
    let (_, since, instead) = OLD_LABELS.iter().find(|(label, _, _)| *label == key)?;
    Some(format!("deprecated since {since}; use {} instead", quoted(instead)))
}

/// Where the pod may run, by labels that nodes have had longer than they should.
fn placement(spec: &Value, path: &Path, warnings: &mut Vec<String>) {
    for (key, _) in entries(&spec["nodeSelector"]) {
        if let Some(text) = old_label(key) {
            warnings.push(format!("{}: {text}", path.child("nodeSelector").key(key).as_str()));
        }
    }
    let (node, node_path) = (&spec["affinity"]["nodeAffinity"], path.child("affinity").child("nodeAffinity"));
    let required = node_path.child(REQUIRED).child("nodeSelectorTerms");
    node_terms(&node[REQUIRED]["nodeSelectorTerms"], &required, warnings);
    for (index, preferred) in items(&node[PREFERRED]).iter().enumerate() {
        node_term(&preferred["preference"], &node_path.child(PREFERRED).index(index).child("preference"), warnings);
    }
    for (index, constraint) in items(&spec["topologySpreadConstraints"]).iter().enumerate() {
        let path = path.child("topologySpreadConstraints").index(index);
        let key = text(&constraint["topologyKey"]);
        if let Some(text) = old_label(key) {
            warnings.push(format!("{}: {key} is {text}", path.child("topologyKey").as_str()));
        }
        if constraint["labelSelector"].is_null() {
            warnings.push(format!("{}: {NULL_SELECTOR}", path.child("labelSelector").as_str()));
        }
    }
}

/// Old labels in the terms of a node selector; persistent volumes have them too.
pub fn node_terms(terms: &Value, path: &Path, warnings: &mut Vec<String>) {
    for (index, term) in items(terms).iter().enumerate() {
        node_term(term, &path.index(index), warnings);
    }
}

fn node_term(term: &Value, path: &Path, warnings: &mut Vec<String>) {
    for (index, expression) in items(&term["matchExpressions"]).iter().enumerate() {
        let key = text(&expression["key"]);
        if let Some(text) = old_label(key) {
            let path = path.child("matchExpressions").index(index).child("key");
            warnings.push(format!("{}: {key} is {text}", path.as_str()));
        }
    }
}

fn containers(spec: &Value, path: &Path, warnings: &mut Vec<String>) {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let all = || {
        lists.iter().flat_map(|key| {
            items(&spec[*key]).iter().enumerate().map(|(index, one)| (one, path.child(key).index(index)))
        })
    };
    for (container, path) in all() {
        fractions(&container["resources"], &path.child("resources"), warnings);
        environment(container, &path, warnings);
    }
    let mut seen = Vec::new();
    for (container, path) in all() {
        ports(container, &path, &mut seen, warnings);
    }
}

fn affinity(affinity: &Value, path: &Path, warnings: &mut Vec<String>) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        for (index, term) in items(&affinity[kind][REQUIRED]).iter().enumerate() {
            if term["labelSelector"].is_null() {
                let path = path.child(kind).child(REQUIRED).index(index).child("labelSelector");
                warnings.push(format!("{}: {NULL_SELECTOR}", path.as_str()));
            }
        }
        for (index, term) in items(&affinity[kind][PREFERRED]).iter().enumerate() {
            if term["podAffinityTerm"]["labelSelector"].is_null() {
                let path =
                    path.child(kind).child(PREFERRED).index(index).child("podAffinityTerm").child("labelSelector");
                warnings.push(format!("{}: {NULL_SELECTOR}", path.as_str()));
            }
        }
    }
}

/// A variable given twice; one that builds on its own earlier value is meant.
fn environment(container: &Value, path: &Path, warnings: &mut Vec<String>) {
    let list = items(&container["env"]);
    for (index, variable) in list.iter().enumerate() {
        let name = text(&variable["name"]);
        let builds_on_it = text(&variable["value"]).contains(&format!("$({name})"));
        if !builds_on_it && list[..index].iter().any(|earlier| text(&earlier["name"]) == name) {
            let path = path.child("env").index(index);
            warnings.push(format!(
                "{}: hides previous definition of {}, which may be dropped when using apply",
                path.as_str(),
                quoted(name)
            ));
        }
    }
}

/// Fractions of a byte in requests and limits; claims and limit ranges warn of them too.
pub fn fractions(resources: &Value, path: &Path, warnings: &mut Vec<String>) {
    for list in ["limits", "requests"] {
        for resource in ["memory", "ephemeral-storage", "storage"] {
            let quantity = &resources[list][resource];
            if Nanos::parse(quantity).is_some_and(|n| !n.is_integer()) {
                let path = path.child(list).key(resource);
                warnings.push(format!(
                    "{}: fractional byte value {} is invalid, must be an integer",
                    path.as_str(),
                    quoted(text(quantity))
                ));
            }
        }
    }
}

/// Ports of the whole pod that are one and the same, or may be: upstream tells three cases apart.
fn ports<'a>(container: &'a Value, path: &Path, seen: &mut Vec<(&'a Value, Path)>, warnings: &mut Vec<String>) {
    for (index, port) in items(&container["ports"]).iter().enumerate() {
        let path = path.child("ports").index(index);
        let host = |port: &Value| (text(&port["hostIP"]).to_owned(), port["hostPort"].as_i64().unwrap_or(0));
        let (address, number) = host(port);
        let same = |other: &Value| {
            other["containerPort"] == port["containerPort"] && text(&other["protocol"]) == text(&port["protocol"])
        };
        for (other, first) in seen.iter().filter(|(other, _)| same(other)) {
            let (other_address, other_number) = host(other);
            let how = if (&address, number) == (&other_address, other_number) {
                "duplicate"
            } else if number == 0 || other_number == 0 {
                "overlapping"
            } else if number == other_number && address.is_empty() != other_address.is_empty() {
                "dangerously ambiguous"
            } else {
                continue;
            };
            warnings.push(format!("{}: {how} port definition with {}", path.as_str(), first.as_str()));
        }
        seen.push((port, path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_are_warned_of_in_upstreams_order() {
        let spec = json!({
            "nodeSelector": {"beta.kubernetes.io/os": "linux"},
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "beta.kubernetes.io/arch", "operator": "Exists"}]}]}}},
            "topologySpreadConstraints": [{"topologyKey": "failure-domain.beta.kubernetes.io/zone", "labelSelector": {}}],
            "volumes": [{"name": "g", "gitRepo": {"repository": "r"}}],
            "hostAliases": [{"ip": "1.2.3.4"}, {"ip": "1.2.3.4"}],
            "imagePullSecrets": [{"name": "a"}, {"name": "a"}],
            "initContainers": [{"ports": [{"containerPort": 80, "protocol": "TCP"}]}],
            "containers": [{"ports": [{"containerPort": 80, "protocol": "TCP", "hostPort": 8080}]}],
            "terminationGracePeriodSeconds": -1,
        });
        let object = json!({"metadata": {"name": "p"}, "spec": spec});
        assert_eq!(
            pod(&object, None),
            [
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].key: beta.kubernetes.io/arch is deprecated since v1.14; use \"kubernetes.io/arch\" instead",
                "spec.topologySpreadConstraints[0].topologyKey: failure-domain.beta.kubernetes.io/zone is deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
                "spec.volumes[0].gitRepo: deprecated in v1.11",
                "spec.hostAliases[1].ip: duplicate ip \"1.2.3.4\"",
                "spec.imagePullSecrets[1].name: duplicate name \"a\"",
                "spec.containers[0].ports[0]: overlapping port definition with spec.initContainers[0].ports[0]",
                "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
            ]
        );
        assert!(pod(&object, Some(&object)).is_empty(), "nothing of an unchanged spec");
    }
}
