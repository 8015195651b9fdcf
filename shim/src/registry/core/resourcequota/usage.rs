//! What an object uses of the resources that quotas limit: upstream's evaluators (`pkg/quota/v1/evaluator/core`).

use crate::meta::Object;
use crate::registry::ResourceDef;
use crate::registry::value::{entries, items, text};
use crate::schema::quantity::Quantity;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Amounts by the names of resources, as a quota writes them.
#[derive(Clone, Debug, Default)]
pub struct Amounts(BTreeMap<String, Quantity>);

impl Amounts {
    /// Of a list of resources as objects have it.
    pub fn of(list: &Value) -> Self {
        let parsed = entries(list).filter_map(|(name, value)| Some((name.clone(), quantity(value)?)));
        Self(parsed.collect())
    }

    pub fn get(&self, name: &str) -> Option<Quantity> {
        self.0.get(name).copied()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A sum is written as its first part that is not zero.
    pub fn add(&mut self, name: &str, amount: Quantity) {
        let sum = match self.get(name) {
            Some(own) if own.nanos() != 0 => own.with_nanos(own.nanos().saturating_add(amount.nanos())),
            _ => amount,
        };
        self.0.insert(name.to_owned(), sum);
    }

    pub fn add_all(&mut self, other: &Self) {
        other.0.iter().for_each(|(name, amount)| self.add(name, *amount));
    }

    /// The larger of each amount.
    fn raise(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            if self.get(name).is_none_or(|own| own.nanos() < amount.nanos()) {
                self.0.insert(name.clone(), *amount);
            }
        }
    }

    /// What this is above `before`; nothing of what it is not.
    pub fn beyond(&self, before: &Self) -> Self {
        let more = self.0.iter().filter_map(|(name, amount)| {
            let nanos = amount.nanos() - before.get(name).map_or(0, Quantity::nanos);
            (nanos > 0).then(|| (name.clone(), amount.with_nanos(nanos)))
        });
        Self(more.collect())
    }

    /// Only what has one of these names.
    pub fn only<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Self {
        Self(names.into_iter().filter_map(|name| Some((name.to_owned(), self.get(name)?))).collect())
    }

    /// One of each of these names: nothing where there is none.
    pub fn of_each<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Self {
        Self(names.into_iter().map(|name| (name.to_owned(), self.get(name).unwrap_or(count(0)))).collect())
    }

    /// So many objects of a resource of which only the number counts.
    pub fn add_count(&mut self, group: &str, resource: &str, number: usize) {
        self.add(&count_name(group, resource), count(number));
        if group.is_empty() && PLAIN.contains(&resource) {
            self.add(resource, count(number));
        }
    }

    /// `cpu=1,memory=1Gi`, by name.
    pub fn shown(&self) -> String {
        self.0.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
    }

    /// As a list of resources in an object.
    pub fn value(&self) -> Value {
        self.0
            .iter()
            .map(|(name, amount)| (name.clone(), Value::from(amount.to_string())))
            .collect::<Map<_, _>>()
            .into()
    }
}

fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

fn count(number: usize) -> Quantity {
    // Digits alone are a quantity.
    Quantity::parse(&number.to_string()).unwrap_or_else(|_| unreachable!("digits are a quantity"))
}

/// Core kinds that quotas counted by their plain names before there was `count/…`.
pub const PLAIN: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];
/// What a container must ask for, or be limited in, when a quota limits it.
const ASKED_FOR: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// Whether objects of that resource can use any of a resource that a quota names.
pub fn concerns(def: &ResourceDef, name: &str) -> bool {
    if name == count_name(def.gv.group, def.resource) {
        return true;
    }
    if !def.gv.group.is_empty() {
        return false;
    }
    match def.resource {
        "pods" => {
            matches!(name, "pods" | "ephemeral-storage" | "requests.ephemeral-storage" | "limits.ephemeral-storage")
                || ASKED_FOR.contains(&name)
                || name.contains("hugepages-")
                || name.strip_prefix("requests.").is_some_and(|resource| resource.contains('/'))
        }
        "services" => matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
        "persistentvolumeclaims" => {
            let of_class = name.split_once(CLASS_SUFFIX).map_or(name, |(_, rest)| rest);
            matches!(of_class, "persistentvolumeclaims" | "requests.storage")
        }
        resource => PLAIN.contains(&resource) && name == resource,
    }
}

/// `count/deployments.apps`
fn count_name(group: &str, resource: &str) -> String {
    match group {
        "" => format!("count/{resource}"),
        group => format!("count/{resource}.{group}"),
    }
}

/// What one object uses.
pub fn usage(def: &ResourceDef, object: &Object) -> Amounts {
    let mut used = Amounts::default();
    used.add_count(def.gv.group, def.resource, 1);
    match def.resource {
        "pods" if def.gv.group.is_empty() => pod(object, &mut used),
        "services" if def.gv.group.is_empty() => service(object, &mut used),
        "persistentvolumeclaims" if def.gv.group.is_empty() => claim(object, &mut used),
        _ => {}
    }
    used
}

/// A pod that has ended uses nothing but its name.
fn pod(pod: &Object, used: &mut Amounts) {
    if matches!(text(&pod["status"]["phase"]), "Succeeded" | "Failed") {
        return;
    }
    used.add("pods", count(1));
    for (name, amount) in total(pod, "requests").0 {
        match name.as_str() {
            "cpu" | "memory" | "ephemeral-storage" => {
                used.add(&name, amount);
                used.add(&format!("requests.{name}"), amount);
            }
            huge if huge.starts_with("hugepages-") => {
                used.add(huge, amount);
                used.add(&format!("requests.{huge}"), amount);
            }
            extended if extended.contains('/') => used.add(&format!("requests.{extended}"), amount),
            _ => {}
        }
    }
    for (name, amount) in total(pod, "limits").0 {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            used.add(&format!("limits.{name}"), amount);
        }
    }
}

/// What a pod needs at once: its containers and sidecars, or one of the containers before them with the sidecars that
/// run already (`resourcehelper.PodRequests`); what the pod asks for as a whole, and its overhead.
fn total(pod: &Object, list: &str) -> Amounts {
    let spec = &pod["spec"];
    let (mut running, mut sidecars, mut starting) = (Amounts::default(), Amounts::default(), Amounts::default());
    for container in items(&spec["containers"]) {
        running.add_all(&Amounts::of(&container["resources"][list]));
    }
    for container in items(&spec["initContainers"]) {
        let own = Amounts::of(&container["resources"][list]);
        if text(&container["restartPolicy"]) == "Always" {
            running.add_all(&own);
            sidecars.add_all(&own);
            starting.raise(&sidecars);
        } else {
            let mut with_sidecars = sidecars.clone();
            with_sidecars.add_all(&own);
            starting.raise(&with_sidecars);
        }
    }
    running.raise(&starting);
    running.0.extend(Amounts::of(&spec["resources"][list]).0);
    for (name, amount) in Amounts::of(&spec["overhead"]).0 {
        // A limit is not made of overhead alone.
        if list == "requests" || running.get(&name).is_some_and(|limit| limit.nanos() != 0) {
            running.add(&name, amount);
        }
    }
    running
}

fn service(service: &Object, used: &mut Amounts) {
    let spec = &service["spec"];
    let ports = items(&spec["ports"]);
    let (balancers, node_ports) = match text(&spec["type"]) {
        "NodePort" => (0, ports.len()),
        "LoadBalancer" if spec["allocateLoadBalancerNodePorts"].as_bool() == Some(false) => {
            (1, ports.iter().filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count())
        }
        "LoadBalancer" => (1, ports.len()),
        _ => (0, 0),
    };
    for (name, number) in [("services", 1), ("services.loadbalancers", balancers), ("services.nodeports", node_ports)] {
        used.add(name, count(number));
    }
}

/// Follows the name of a storage class in the name of a resource.
const CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";

fn claim(claim: &Object, used: &mut Amounts) {
    let class = match text(&claim["metadata"]["annotations"][super::super::persistentvolumeclaim::CLASS_ANNOTATION]) {
        "" => text(&claim["spec"]["storageClassName"]),
        class => class,
    };
    let mut add = |name: &str, amount: Quantity| {
        used.add(name, amount);
        if !class.is_empty() {
            used.add(&format!("{class}{CLASS_SUFFIX}{name}"), amount);
        }
    };
    add("persistentvolumeclaims", count(1));
    if let Some(size) = quantity(&claim["spec"]["resources"]["requests"]["storage"]) {
        add("requests.storage", size);
    }
}

/// Whether a quota with its scopes is about the object (`Matches`).
pub fn in_scope(quota: &Object, def: &ResourceDef, object: &Object) -> bool {
    let spec = &quota["spec"];
    let plain = items(&spec["scopes"]).iter().map(|scope| (text(scope), "Exists", &[][..]));
    let chosen = items(&spec["scopeSelector"]["matchExpressions"])
        .iter()
        .map(|r| (text(&r["scopeName"]), text(&r["operator"]), items(&r["values"])));
    let is_pod = def.gv.group.is_empty() && def.resource == "pods";
    plain.chain(chosen).all(|(scope, operator, values)| {
        let value = match scope {
            "PriorityClass" if is_pod => object["spec"]["priorityClassName"].as_str().filter(|name| !name.is_empty()),
            "VolumeAttributesClass" if def.resource == "persistentvolumeclaims" => {
                object["spec"]["volumeAttributesClassName"].as_str().filter(|name| !name.is_empty())
            }
            _ => return is_pod && pod_scope(scope, &object["spec"], object),
        };
        let listed = value.is_some_and(|value| values.iter().any(|listed| text(listed) == value));
        match operator {
            "In" => listed,
            "NotIn" => !listed,
            "DoesNotExist" => value.is_none(),
            _ => value.is_some(),
        }
    })
}

fn pod_scope(scope: &str, spec: &Value, pod: &Object) -> bool {
    let best_effort = || super::super::pod::qos::class(pod) == "BestEffort";
    let ends = spec["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
    match scope {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "CrossNamespacePodAffinity" => crosses(&spec["affinity"]),
        _ => false,
    }
}

/// Whether a pod looks at the pods of other namespaces to find its place.
fn crosses(affinity: &Value) -> bool {
    let crossing = |term: &Value| !items(&term["namespaces"]).is_empty() || term["namespaceSelector"].is_object();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let pods = &affinity[*kind];
        items(&pods["requiredDuringSchedulingIgnoredDuringExecution"]).iter().any(crossing)
            || items(&pods["preferredDuringSchedulingIgnoredDuringExecution"])
                .iter()
                .any(|term| crossing(&term["podAffinityTerm"]))
    })
}

/// What the containers of a pod leave open of what a quota limits (`Constraints`): `cpu for: a,b; memory for: b`.
pub fn left_open<'a>(pod: &Object, limited: impl Iterator<Item = &'a str>) -> Option<String> {
    let spec = &pod["spec"];
    if spec["resources"]["requests"].is_object() || spec["resources"]["limits"].is_object() {
        return None;
    }
    let all = || ["containers", "initContainers"].iter().flat_map(|list| items(&spec[*list]));
    let mut open: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for resource in limited.filter(|resource| ASKED_FOR.contains(resource)) {
        let (list, name) = resource.split_once('.').unwrap_or(("requests", resource));
        let missing = all().filter(|container| container["resources"][list][name].is_null());
        let mut names: Vec<&str> = missing.map(|container| text(&container["name"])).collect();
        names.sort_unstable();
        if !names.is_empty() {
            open.insert(resource, names);
        }
    }
    let shown: Vec<String> =
        open.iter().map(|(resource, names)| format!("{resource} for: {}", names.join(","))).collect();
    (!shown.is_empty()).then(|| shown.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::find;
    use serde_json::json;

    fn shown(group: &str, version: &str, resource: &str, object: Value) -> String {
        usage(find(group, version, resource).unwrap(), &object).shown()
    }

    #[test]
    fn objects_use_what_upstream_counts() {
        let container = |requests: Value| json!({"resources": {"requests": requests, "limits": requests}});
        let one = container(json!({"cpu": "300m", "memory": "100Mi"}));
        for (used, wanted) in [
            (shown("", "v1", "configmaps", json!({})), "configmaps=1,count/configmaps=1"),
            (shown("apps", "v1", "deployments", json!({})), "count/deployments.apps=1"),
            (
                shown("", "v1", "services", json!({"spec": {"type": "NodePort", "ports": [{}, {}]}})),
                "count/services=1,services=1,services.loadbalancers=0,services.nodeports=2",
            ),
            (
                shown(
                    "",
                    "v1",
                    "persistentvolumeclaims",
                    json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}}),
                ),
                "count/persistentvolumeclaims=1,fast.storageclass.storage.k8s.io/persistentvolumeclaims=1,fast.storageclass.storage.k8s.io/requests.storage=1Gi,persistentvolumeclaims=1,requests.storage=1Gi",
            ),
            (
                shown(
                    "",
                    "v1",
                    "pods",
                    json!({"spec": {"containers": [one, one], "initContainers": [container(json!({"cpu": "1"}))]}}),
                ),
                "count/pods=1,cpu=1,limits.cpu=1,limits.memory=200Mi,memory=200Mi,pods=1,requests.cpu=1,requests.memory=200Mi",
            ),
            (shown("", "v1", "pods", json!({"status": {"phase": "Failed"}})), "count/pods=1"),
            (
                shown(
                    "",
                    "v1",
                    "pods",
                    json!({"spec": {"containers": [{"resources": {"requests": {"example.com/gpu": "2"}}}]}}),
                ),
                "count/pods=1,pods=1,requests.example.com/gpu=2",
            ),
        ] {
            assert_eq!(used, wanted);
        }
    }

    #[test]
    fn scopes_choose_among_pods_and_nothing_else() {
        let pods = find("", "v1", "pods").unwrap();
        let quota = |spec: Value| json!({"spec": spec});
        let priority = |operator: &str, values: &[&str]| {
            quota(
                json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator, "values": values}]}}),
            )
        };
        let best = json!({"spec": {"containers": [{}]}});
        let high = json!({"spec": {"priorityClassName": "high", "activeDeadlineSeconds": 5,
            "containers": [{"resources": {"requests": {"cpu": "1"}}}]}});
        for (quota, of_best, of_high) in [
            (quota(json!({})), true, true),
            (quota(json!({"scopes": ["BestEffort"]})), true, false),
            (quota(json!({"scopes": ["NotBestEffort", "Terminating"]})), false, true),
            (quota(json!({"scopes": ["NotTerminating"]})), true, false),
            (quota(json!({"scopes": ["CrossNamespacePodAffinity"]})), false, false),
            (priority("In", &["high"]), false, true),
            (priority("NotIn", &["high"]), true, false),
            (priority("Exists", &[]), false, true),
            (priority("DoesNotExist", &[]), true, false),
        ] {
            assert_eq!((in_scope(&quota, pods, &best), in_scope(&quota, pods, &high)), (of_best, of_high), "{quota}");
        }
        let maps = find("", "v1", "configmaps").unwrap();
        assert!(!in_scope(&quota(json!({"scopes": ["BestEffort"]})), maps, &json!({})));
    }
}
