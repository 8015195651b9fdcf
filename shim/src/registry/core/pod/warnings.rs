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
const OLD_VOLUMES: [(&str, &str); 8] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];
const NULL_SELECTOR: &str = "a null labelSelector results in matching no pod";

/// Texts of `Warning` headers; an update of an unchanged spec warns of nothing.
pub fn pod(new: &Object, old: Option<&Object>) -> Vec<String> {
    let mut warnings = Vec::new();
    match old {
        Some(old) if old["spec"] == new["spec"] => return warnings,
        Some(_) => {}
        None => warnings.extend(host_name(new.name())),
    }
    annotations(new, &Path::new("metadata").child("annotations"), &mut warnings);
    pod_spec(&new["spec"], &Path::new("spec"), &mut warnings);
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
    annotations(template, &path.child("metadata").child("annotations"), warnings);
    pod_spec(&template["spec"], &path.child("spec"), warnings);
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

fn pod_spec(spec: &Value, path: &Path, warnings: &mut Vec<String>) {
    for (key, _) in entries(&spec["nodeSelector"]) {
        if let Some((_, since, instead)) = OLD_LABELS.iter().find(|(label, _, _)| label == key) {
            let path = path.child("nodeSelector").key(key);
            warnings.push(format!("{}: deprecated since {since}; use {} instead", path.as_str(), quoted(instead)));
        }
    }
    for (index, constraint) in items(&spec["topologySpreadConstraints"]).iter().enumerate() {
        if constraint["labelSelector"].is_null() {
            let path = path.child("topologySpreadConstraints").index(index).child("labelSelector");
            warnings.push(format!("{}: {NULL_SELECTOR}", path.as_str()));
        }
    }
    affinity(&spec["affinity"], &path.child("affinity"), warnings);
    for (index, volume) in items(&spec["volumes"]).iter().enumerate() {
        for (kind, text) in OLD_VOLUMES.iter().filter(|(kind, _)| volume[*kind].is_object()) {
            warnings.push(format!("{}: {text}", path.child("volumes").index(index).child(kind).as_str()));
        }
    }
    for key in ["initContainers", "containers"] {
        let mut ports = Vec::new();
        for (index, container) in items(&spec[key]).iter().enumerate() {
            let path = path.child(key).index(index);
            environment(container, &path, warnings);
            fractions(&container["resources"], &path.child("resources"), warnings);
            duplicate_ports(container, &path, &mut ports, warnings);
        }
    }
}

fn affinity(affinity: &Value, path: &Path, warnings: &mut Vec<String>) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let (required, preferred) =
            ("requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution");
        for (index, term) in items(&affinity[kind][required]).iter().enumerate() {
            if term["labelSelector"].is_null() {
                let path = path.child(kind).child(required).index(index).child("labelSelector");
                warnings.push(format!("{}: {NULL_SELECTOR}", path.as_str()));
            }
        }
        for (index, term) in items(&affinity[kind][preferred]).iter().enumerate() {
            if term["podAffinityTerm"]["labelSelector"].is_null() {
                let path =
                    path.child(kind).child(preferred).index(index).child("podAffinityTerm").child("labelSelector");
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

/// The same port of the same address twice, in one container or two.
fn duplicate_ports<'a>(
    container: &'a Value,
    path: &Path,
    seen: &mut Vec<(&'a Value, &'a Value, &'a Value, &'a Value, Path)>,
    warnings: &mut Vec<String>,
) {
    for (index, port) in items(&container["ports"]).iter().enumerate() {
        let path = path.child("ports").index(index);
        let own = (&port["containerPort"], &port["protocol"], &port["hostPort"], &port["hostIP"]);
        match seen.iter().find(|(a, b, c, d, _)| (*a, *b, *c, *d) == own) {
            Some((_, _, _, _, first)) => {
                warnings.push(format!("{}: duplicate port definition with {}", path.as_str(), first.as_str()))
            }
            None => seen.push((own.0, own.1, own.2, own.3, path)),
        }
    }
}
