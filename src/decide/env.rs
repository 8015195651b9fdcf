//! A container's environment, and `$(VAR)` in its command and arguments.

use super::env_file;
use super::requests::Requests;
use crate::model::node::NodeFacts;
use crate::model::pod::DesiredPod;
use crate::units::{Bytes, Millicores};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVarSource, FileKeySelector, ObjectFieldSelector, PodSpec, ResourceFieldSelector, Secret,
    Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Why the environment cannot be made; the texts are the kubelet's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("{kind} {name:?} not found")]
    NoObject { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey { key: String, kind: &'static str, namespace: String, name: String },
    #[error("unsupported fieldPath: {0}")]
    FieldPath(String),
    #[error("unsupported container resource : {0}")]
    Resource(String),
    #[error("container {0} not found")]
    NoContainer(String),
    #[error("environment variable key {key:?} not found in file {file:?}")]
    NoFileKey { key: String, file: String },
    /// The kubelet keeps to itself why: what the file says may be nobody else's business.
    #[error("couldn't parse env file")]
    File { file: String, why: String },
}

/// What the executor fetched beforehand; `None`: the object does not exist.
#[derive(Debug, Default)]
pub struct Sources {
    pub services: Vec<Arc<Service>>,
    pub config_maps: BTreeMap<String, Option<Arc<ConfigMap>>>,
    pub secrets: BTreeMap<String, Option<Arc<Secret>>>,
    pub pod_ips: Vec<IpAddr>,
    /// Environment files by volume and path.
    pub files: BTreeMap<(String, String), Option<EnvFile>>,
}

/// A file of variables that a container wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvFile {
    /// Where it lies on the node.
    pub path: String,
    pub text: String,
}

/// Volumes and paths of the environment files that a container refers to.
pub fn needed_files(container: &Container) -> BTreeSet<(&str, &str)> {
    let sources = container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
    let files = sources.filter_map(|source| source.file_key_ref.as_ref());
    files.map(|file| (file.volume_name.as_str(), file.path.as_str())).collect()
}

/// Names of the ConfigMaps and Secrets that a container's environment refers to.
pub fn needs(container: &Container) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for from in container.env_from.iter().flatten() {
        maps.extend(from.config_map_ref.as_ref().map(|source| source.name.as_str()));
        secrets.extend(from.secret_ref.as_ref().map(|source| source.name.as_str()));
    }
    for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
        maps.extend(source.config_map_key_ref.as_ref().map(|key| key.name.as_str()));
        secrets.extend(source.secret_key_ref.as_ref().map(|key| key.name.as_str()));
    }
    (maps, secrets)
}

/// The environment: envFrom and services first, sorted; then `env` in its own order, each name once, the last wins.
pub fn environment(
    pod: &DesiredPod,
    container: &Container,
    node: &NodeFacts,
    sources: &Sources,
) -> Result<Vec<(String, String)>, EnvError> {
    let services = service_environment(pod, &sources.services);
    let mut known = env_from(container, sources)?;
    let mut own: Vec<String> = Vec::new();
    for variable in container.env.iter().flatten() {
        let value = match (variable.value.as_deref(), &variable.value_from) {
            (Some(text), _) if !text.is_empty() => {
                Some(expand(text, |name| known.get(name).or_else(|| services.get(name)).cloned()))
            }
            (_, Some(source)) => from_source(pod, container, node, sources, source)?,
            (_, None) => Some(String::new()),
        };
        let Some(value) = value else { continue };
        known.insert(variable.name.clone(), value);
        own.retain(|name| *name != variable.name);
        own.push(variable.name.clone());
    }
    let mut list: Vec<(String, String)> = Vec::with_capacity(known.len() + services.len());
    list.extend(services.into_iter().filter(|(name, _)| !known.contains_key(name)));
    list.extend(
        known.iter().filter(|(name, _)| !own.contains(name)).map(|(name, value)| (name.clone(), value.clone())),
    );
    list.extend(own.into_iter().filter_map(|name| known.remove_entry(&name)));
    Ok(list)
}

/// Command and arguments with `$(VAR)` replaced from the environment.
pub fn expand_all(words: Option<&Vec<String>>, environment: &[(String, String)]) -> Vec<String> {
    let find = |name: &str| environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    words.into_iter().flatten().map(|word| expand(word, find)).collect()
}

/// `$(NAME)` becomes its value, `$$` a dollar; what is unknown or unclosed stays (`third_party/forked/golang/expansion`).
pub fn expand(text: &str, find: impl Fn(&str) -> Option<String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        result.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        if let Some(next) = after.strip_prefix('$') {
            result.push('$');
            rest = next;
        } else if let Some((name, next)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match find(name) {
                Some(value) => result.push_str(&value),
                None => result.extend(["$(", name, ")"]),
            }
            rest = next;
        } else {
            result.push('$');
            rest = after;
        }
    }
    result.push_str(rest);
    result
}

fn env_from(container: &Container, sources: &Sources) -> Result<BTreeMap<String, String>, EnvError> {
    let mut known = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or("");
        if let Some(source) = &from.config_map_ref {
            let map = found(&sources.config_maps, "configmap", &source.name, source.optional)?;
            let data = map.iter().filter_map(|map| map.data.as_ref()).flatten();
            known.extend(data.map(|(key, value)| (format!("{prefix}{key}"), value.clone())));
        }
        if let Some(source) = &from.secret_ref {
            let secret = found(&sources.secrets, "secret", &source.name, source.optional)?;
            let data = secret.iter().filter_map(|secret| secret.data.as_ref()).flatten();
            known.extend(
                data.map(|(key, value)| (format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned())),
            );
        }
    }
    Ok(known)
}

/// An object that a reference names; a missing one is fine where it is optional.
fn found<'a, T>(
    objects: &'a BTreeMap<String, Option<Arc<T>>>,
    kind: &'static str,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<&'a T>, EnvError> {
    match objects.get(name) {
        Some(Some(object)) => Ok(Some(object)),
        Some(None) | None if optional == Some(true) => Ok(None),
        Some(None) | None => Err(EnvError::NoObject { kind, name: name.to_owned() }),
    }
}

/// `None`: an optional source that is not there; the variable is not set.
fn from_source(
    pod: &DesiredPod,
    container: &Container,
    node: &NodeFacts,
    sources: &Sources,
    source: &EnvVarSource,
) -> Result<Option<String>, EnvError> {
    let no_key = |key: &str, kind: &'static str, name: &str| EnvError::NoKey {
        key: key.to_owned(),
        kind,
        namespace: pod.key.namespace.to_string(),
        name: name.to_owned(),
    };
    if let Some(field) = &source.field_ref {
        return field_value(pod, node, &sources.pod_ips, field).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return resource_value(pod, container, node, resource).map(Some);
    }
    if let Some(key) = &source.config_map_key_ref {
        let Some(map) = found(&sources.config_maps, "configmap", &key.name, key.optional)? else { return Ok(None) };
        return match map.data.as_ref().and_then(|data| data.get(&key.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if key.optional == Some(true) => Ok(None),
            None => Err(no_key(&key.key, "ConfigMap", &key.name)),
        };
    }
    if let Some(key) = &source.secret_key_ref {
        let Some(secret) = found(&sources.secrets, "secret", &key.name, key.optional)? else { return Ok(None) };
        return match secret.data.as_ref().and_then(|data| data.get(&key.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if key.optional == Some(true) => Ok(None),
            None => Err(no_key(&key.key, "Secret", &key.name)),
        };
    }
    if let Some(key) = &source.file_key_ref {
        return file_value(sources, key);
    }
    Ok(Some(String::new()))
}

/// A variable of an environment file. A key that is not there, or empty, is fine where it is optional; a file that is not
/// there never is (`makeEnvironmentVariables`).
fn file_value(sources: &Sources, key: &FileKeySelector) -> Result<Option<String>, EnvError> {
    let file = sources.files.get(&(key.volume_name.clone(), key.path.clone())).and_then(Option::as_ref);
    let Some(EnvFile { path, text }) = file else {
        return Err(EnvError::File { file: key.path.clone(), why: "it cannot be read".to_owned() });
    };
    match env_file::value(text, &key.key) {
        Ok(Some(value)) if !value.is_empty() => Ok(Some(value)),
        Ok(Some(_) | None) if key.optional == Some(true) => Ok(None),
        Ok(Some(_) | None) => Err(EnvError::NoFileKey { key: key.key.clone(), file: path.clone() }),
        Err(why) => Err(EnvError::File { file: path.clone(), why }),
    }
}

fn field_value(
    pod: &DesiredPod,
    node: &NodeFacts,
    pod_ips: &[IpAddr],
    field: &ObjectFieldSelector,
) -> Result<String, EnvError> {
    let join = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(ToString::to_string).unwrap_or_default();
    let metadata = &pod.pod.metadata;
    let path = field.field_path.as_str();
    if let Some(value) = keyed(path, "metadata.labels", metadata.labels.as_ref()) {
        return Ok(value);
    }
    if let Some(value) = keyed(path, "metadata.annotations", metadata.annotations.as_ref()) {
        return Ok(value);
    }
    Ok(match path {
        "metadata.name" => pod.key.name.to_string(),
        "metadata.namespace" => pod.key.namespace.to_string(),
        "metadata.uid" => pod.uid.to_string(),
        "spec.nodeName" => pod.spec().node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => pod.spec().service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => first(&node.ips),
        "status.hostIPs" => join(&node.ips),
        "status.podIP" => first(pod_ips),
        "status.podIPs" => join(pod_ips),
        _ => return Err(EnvError::FieldPath(path.to_owned())),
    })
}

/// `metadata.labels['key']`; a key that is not there is empty.
fn keyed(path: &str, list: &str, values: Option<&BTreeMap<String, String>>) -> Option<String> {
    let key = path.strip_prefix(list)?.strip_prefix("['")?.strip_suffix("']")?;
    Some(values.and_then(|values| values.get(key)).cloned().unwrap_or_default())
}

/// Rounded up to the divisor; a limit that is not set, or 0, is what the node can give.
fn resource_value(
    pod: &DesiredPod,
    container: &Container,
    node: &NodeFacts,
    field: &ResourceFieldSelector,
) -> Result<String, EnvError> {
    let named = field.container_name.as_deref().filter(|name| !name.is_empty());
    let target = match named {
        Some(name) => pod.container(name).ok_or_else(|| EnvError::NoContainer(name.to_owned()))?.spec,
        None => container,
    };
    let unsupported = || EnvError::Resource(field.resource.clone());
    let (list, resource) = field.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = target.resources.as_ref();
    let quantities = match list {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => return Err(unsupported()),
    };
    let quantity = quantities.and_then(|list| list.get(resource)).filter(|quantity| quantity.0 != "0");
    // Without a limit of its own a container is limited by the pod's.
    let quantity = quantity.or_else(|| pod_limit(pod.spec(), resource).filter(|_| list == "limits"));
    let allocatable = Requests::in_list(Some(&node.allocatable));
    let bytes = |fallback: Bytes| quantity.map_or(Ok(fallback), Bytes::parse).map_err(|_| unsupported());
    let default = |allocatable: Bytes| if list == "limits" { allocatable } else { Bytes(0) };
    let divide = |value: i64, divisor: i64| value.div_euclid(divisor.max(1)) + i64::from(value % divisor.max(1) != 0);
    let divisor = field.divisor.as_ref().filter(|quantity| quantity.0 != "0" && !quantity.0.is_empty());
    if resource == "cpu" {
        let fallback = if list == "limits" { allocatable.cpu } else { Millicores(0) };
        let value = quantity.map_or(Ok(fallback), Millicores::parse).map_err(|_| unsupported())?;
        let divisor = divisor.map_or(Ok(Millicores(1000)), Millicores::parse).map_err(|_| unsupported())?;
        return Ok(divide(value.0, divisor.0).to_string());
    }
    let value = match resource {
        "memory" => bytes(default(allocatable.memory))?,
        "ephemeral-storage" => bytes(default(allocatable.ephemeral_storage))?,
        name if name.starts_with("hugepages-") => bytes(Bytes(0))?,
        _ => return Err(unsupported()),
    };
    let divisor = divisor.map_or(Ok(Bytes(1)), Bytes::parse).map_err(|_| unsupported())?;
    Ok(divide(value.0, divisor.0).to_string())
}

/// What the pod as a whole may use (`defaultPodLimitsForDownwardAPI`).
pub fn pod_limit<'a>(spec: &'a PodSpec, resource: &str) -> Option<&'a Quantity> {
    spec.resources.as_ref()?.limits.as_ref()?.get(resource).filter(|quantity| quantity.0 != "0")
}

/// `SVC_SERVICE_HOST` and the rest for the services of the pod's namespace, and for `default/kubernetes` always
/// (`pkg/kubelet/envvars`).
fn service_environment(pod: &DesiredPod, services: &[Arc<Service>]) -> BTreeMap<String, String> {
    let links = pod.spec().enable_service_links.unwrap_or(true);
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let (namespace, name) = (service.metadata.namespace.as_deref(), service.metadata.name.as_deref());
        let (Some(namespace), Some(name)) = (namespace, name) else { continue };
        // One without an address does not hide the API server's, which may have its name.
        if address(service).is_none() {
            continue;
        }
        if namespace == "default" && name == "kubernetes" {
            chosen.entry(name).or_insert(service);
        } else if links && namespace == &*pod.key.namespace {
            chosen.insert(name, service);
        }
    }
    let mut list = BTreeMap::new();
    for (name, service) in chosen {
        service_variables(name, service, &mut list);
    }
    list
}

fn address(service: &Service) -> Option<&str> {
    service.spec.as_ref()?.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None")
}

fn service_variables(name: &str, service: &Service, list: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(ip) = address(service) else { return };
    let Some(first) = ports.first() else { return };
    let prefix = variable_name(name);
    list.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    list.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    for (index, port) in ports.iter().enumerate() {
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            list.insert(format!("{prefix}_SERVICE_PORT_{}", variable_name(name)), port.port.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if index == 0 {
            list.insert(format!("{prefix}_PORT"), url.clone());
        }
        let each = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        list.insert(format!("{each}_PROTO"), protocol.to_lowercase());
        list.insert(format!("{each}_PORT"), port.port.to_string());
        list.insert(format!("{each}_ADDR"), ip.to_owned());
        list.insert(each, url);
    }
}

fn variable_name(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

/// Whether `check_non_root` has anything to check, and so needs to know the image's user.
pub fn forbids_root(pod: &DesiredPod, container: &Container) -> bool {
    let own = container.security_context.as_ref().and_then(|c| c.run_as_non_root);
    own.or_else(|| pod.spec().security_context.as_ref().and_then(|c| c.run_as_non_root)) == Some(true)
}

/// Refuses to run as root where `runAsNonRoot` forbids it (`verifyRunAsNonRoot`); the image says who it runs as.
pub fn check_non_root(
    pod: &DesiredPod,
    container: &Container,
    image_uid: Option<i64>,
    image_user: &str,
) -> Result<(), String> {
    if !forbids_root(pod, container) {
        return Ok(());
    }
    let own = container.security_context.as_ref();
    let shared = pod.spec().security_context.as_ref();
    let whose = format!("(pod: {:?}, container: {})", pod.full_name(), container.name);
    match own.and_then(|c| c.run_as_user).or_else(|| shared.and_then(|c| c.run_as_user)) {
        Some(0) => Err(format!("container's runAsUser breaks non-root policy {whose}")),
        Some(_) => Ok(()),
        None => match (image_uid, image_user) {
            (Some(0), _) | (None, "") => Err(format!("container has runAsNonRoot and image will run as root {whose}")),
            (Some(_), _) => Ok(()),
            (None, user) => Err(format!(
                "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {whose}"
            )),
        },
    }
}

#[cfg(test)]
mod tests;
