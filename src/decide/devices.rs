//! Which devices a container gets, and what the node has of each resource: the book of the kubelet's device manager
//! (`pkg/kubelet/cm/devicemanager`), without its calls. Where the kubelet takes any, this takes the first by id.

mod hints;
mod offer;
#[cfg(test)]
mod tests;

pub use offer::{Claim, Lack, Offer, Open};

use crate::ids::PodUid;
use crate::model::devices::{Advertised, Device, Devices, Edits};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceHealth, ResourceStatus};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// `endpointStopGracePeriod`: for so long a resource whose plugin is gone stays with nothing to be had.
const STOP_GRACE: Duration = Duration::from_secs(5 * 60);
/// The node of devices that are close to none (`nodeWithoutTopology`).
pub const NO_NODE: i64 = -1;

/// Ids of devices.
pub type Ids = BTreeSet<String>;

/// What one container holds of one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// By the NUMA nodes that they are close to; one that is close to several is with each of them.
    pub by_node: BTreeMap<i64, Vec<String>>,
    pub edits: Arc<Edits>,
    /// Given before the machine was booted: the devices may not be what they were.
    pub before_boot: bool,
}

impl Grant {
    pub fn ids(&self) -> Ids {
        self.by_node.values().flatten().cloned().collect()
    }
}

/// Grants of one pod: container → resource → grant.
type PodGrants = BTreeMap<String, BTreeMap<String, Grant>>;

#[derive(Debug, Default)]
struct Resource {
    /// As its plugin listed them last.
    devices: Devices,
    /// Its plugin is there, and has listed.
    present: bool,
    /// Since when its plugin is gone.
    stopped: Option<Instant>,
}

impl Resource {
    fn healthy(&self) -> impl Iterator<Item = (&String, &Device)> {
        self.devices.iter().filter(|(_, device)| self.present && device.healthy)
    }
}

/// Resources of plugins, and who holds what of them.
#[derive(Debug, Default)]
pub struct Book {
    resources: BTreeMap<String, Resource>,
    /// Resources that are gone for good: the node shows them as 0, which tells them from those of others.
    removed: BTreeSet<String>,
    grants: BTreeMap<PodUid, PodGrants>,
}

impl Book {
    /// What a checkpoint tells: the resources' plugins are not back yet.
    pub fn restored(
        grants: impl IntoIterator<Item = (PodUid, String, String, Grant)>,
        resources: impl IntoIterator<Item = String>,
        now: Instant,
    ) -> Self {
        let mut book = Self::default();
        for (pod, container, resource, grant) in grants {
            book.grants.entry(pod).or_default().entry(container).or_default().insert(resource, grant);
        }
        let stopped = |name| (name, Resource { stopped: Some(now), ..Default::default() });
        book.resources = resources.into_iter().map(stopped).collect();
        book
    }

    /// Whether no plugin was ever heard of.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.grants.is_empty()
    }

    /// A plugin has registered: what it has is known with its first list.
    pub fn connected(&mut self, resource: &str) {
        if let Some(known) = self.resources.get_mut(resource) {
            known.stopped = None;
        }
    }

    /// All devices that the plugin has now.
    pub fn listed(&mut self, resource: &str, devices: Devices) {
        self.removed.remove(resource);
        self.resources.insert(resource.to_owned(), Resource { devices, present: true, stopped: None });
    }

    /// The plugin is gone: none of its devices can be had.
    pub fn disconnected(&mut self, resource: &str, now: Instant) {
        if let Some(known) = self.resources.get_mut(resource) {
            known.present = false;
            known.stopped = Some(now);
        }
    }

    /// Forgets resources whose plugins are gone for too long; whether there were any.
    pub fn expire(&mut self, now: Instant) -> bool {
        let before = self.resources.len();
        let removed = &mut self.removed;
        self.resources.retain(|name, resource| {
            let keep = resource.stopped.is_none_or(|stopped| now - stopped < STOP_GRACE);
            if !keep {
                removed.insert(name.clone());
            }
            keep
        });
        self.resources.len() != before
    }

    /// What the node has.
    pub fn advertised(&self) -> Advertised {
        let mut advertised = Advertised::default();
        for name in &self.removed {
            advertised.capacity.insert(name.clone(), 0);
            advertised.allocatable.insert(name.clone(), 0);
        }
        for (name, resource) in &self.resources {
            advertised.capacity.insert(name.clone(), resource.devices.len());
            advertised.allocatable.insert(name.clone(), resource.healthy().count());
        }
        advertised
    }

    /// Healthy devices of every resource, for who asks what there is to be had.
    pub fn healthy_devices(&self) -> impl Iterator<Item = (&str, &str, &[i64])> {
        self.resources.iter().flat_map(|(resource, known)| {
            known.healthy().map(move |(id, device)| (resource.as_str(), id.as_str(), device.nodes.as_slice()))
        })
    }

    /// Names of all resources, each with the ids of its healthy devices.
    pub fn registered(&self) -> BTreeMap<String, Vec<String>> {
        self.resources
            .iter()
            .map(|(name, known)| (name.clone(), known.healthy().map(|(id, _)| id.clone()).collect()))
            .collect()
    }

    /// Every grant: pod, container, resource.
    pub fn grants(&self) -> impl Iterator<Item = (&PodUid, &str, &str, &Grant)> {
        self.grants.iter().flat_map(|(pod, containers)| {
            containers.iter().flat_map(move |(container, resources)| {
                resources.iter().map(move |(resource, grant)| (pod, container.as_str(), resource.as_str(), grant))
            })
        })
    }

    /// What a container holds, by resource.
    pub fn held(&self, pod: &PodUid, container: &str) -> Option<&BTreeMap<String, Grant>> {
        self.grants.get(pod)?.get(container)
    }

    /// Who holds any.
    pub fn holders(&self) -> impl Iterator<Item = &PodUid> {
        self.grants.keys()
    }

    /// What a container's status tells of the health of what it holds: what the plugin said last
    /// (`UpdateAllocatedResourcesStatus`).
    pub fn health(&self, pod: &PodUid, container: &str) -> Vec<ResourceStatus> {
        let held = self.held(pod, container).into_iter().flatten();
        let health = held.map(|(resource, grant)| {
            let listed = self.resources.get(resource).map(|known| &known.devices);
            let resources = grant.ids().into_iter().map(|id| {
                // Before the plugin is back: healthy, as the kubelet has it.
                let healthy = listed.and_then(|devices| devices.get(&id)).is_none_or(|device| device.healthy);
                let health = if healthy { "Healthy" } else { "Unhealthy" };
                ResourceHealth { resource_id: id, health: Some(health.to_owned()), message: None }
            });
            ResourceStatus { name: resource.clone(), resources: Some(resources.collect()) }
        });
        health.collect()
    }

    /// The devices of `resource` that somebody holds.
    fn allocated(&self, resource: &str) -> Ids {
        self.grants().filter(|(.., name, _)| *name == resource).flat_map(|(.., grant)| grant.ids()).collect()
    }

    /// Healthy devices that nobody holds.
    fn free(&self, resource: &str) -> Ids {
        let allocated = self.allocated(resource);
        let healthy = self.resources.get(resource).into_iter().flat_map(Resource::healthy);
        healthy.map(|(id, _)| id).filter(|id| !allocated.contains(*id)).cloned().collect()
    }

    /// What of a container's limits is a plugin's to give.
    pub fn wants(&self, container: &Container) -> Vec<(String, usize)> {
        let limits = container.resources.iter().flat_map(|resources| resources.limits.iter().flatten());
        let ours = limits.filter(|(name, _)| {
            self.resources.contains_key(*name) || self.grants().any(|(.., resource, _)| resource == *name)
        });
        ours.filter_map(|(name, quantity)| {
            let count = crate::units::Bytes::parse(quantity).ok()?.0;
            Some((name.clone(), usize::try_from(count).ok()?))
        })
        .collect()
    }

    /// Frees what pods hold that are not `active` any more.
    pub fn release(&mut self, active: &BTreeSet<PodUid>) {
        self.grants.retain(|pod, _| active.contains(pod));
    }

    /// Frees what one pod holds.
    pub fn forget(&mut self, pod: &PodUid) {
        self.grants.remove(pod);
    }

    /// Devices that plain init containers of the pod hold and no container that runs beside or after them: these run
    /// one after the other, so the next may have them.
    fn reusable(&self, pod: &Pod, uid: &PodUid, resource: &str) -> Ids {
        let Some(spec) = &pod.spec else { return Ids::new() };
        let ids = |container: &Container| {
            let grant = self.held(uid, &container.name).and_then(|held| held.get(resource));
            grant.map(Grant::ids).unwrap_or_default()
        };
        let (sidecars, plain): (Vec<_>, Vec<_>) =
            spec.init_containers.iter().flatten().partition(|c| c.restart_policy.as_deref() == Some("Always"));
        let taken: Ids = sidecars.into_iter().chain(&spec.containers).flat_map(ids).collect();
        plain.into_iter().flat_map(ids).filter(|id| !taken.contains(id)).collect()
    }

    /// Notes what a container was given.
    pub fn grant(&mut self, claim: &Claim<'_>, ids: Ids, edits: Edits) {
        let devices = self.resources.get(claim.resource).map(|known| &known.devices);
        let mut by_node: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for id in ids {
            match devices.and_then(|devices| devices.get(&id)).filter(|device| !device.nodes.is_empty()) {
                Some(device) => device.nodes.iter().for_each(|node| by_node.entry(*node).or_default().push(id.clone())),
                None => by_node.entry(NO_NODE).or_default().push(id),
            }
        }
        let grant = Grant { by_node, edits: Arc::new(edits), before_boot: false };
        let containers = self.grants.entry(claim.uid.clone()).or_default();
        containers.entry(claim.container.to_owned()).or_default().insert(claim.resource.to_owned(), grant);
    }

    /// Whether a container can start with what it holds: after a boot its plugins must have listed it again. (The kubelet
    /// fails such pods; here they wait.)
    pub fn ready(&self, pod: &PodUid, container: &str) -> Result<(), Lack> {
        let held = self.held(pod, container).into_iter().flatten();
        for (resource, grant) in held.filter(|(_, grant)| grant.before_boot) {
            let known = self.resources.get(resource).ok_or_else(|| Lack::Unregistered(resource.clone()))?;
            let healthy: Ids = known.healthy().map(|(id, _)| id.clone()).collect();
            if healthy.is_empty() {
                return Err(Lack::Unhealthy(resource.clone()));
            }
            if !grant.ids().is_subset(&healthy) {
                return Err(Lack::Lost(resource.clone()));
            }
        }
        Ok(())
    }

    /// What a container is given with all that it holds; where two plugins differ the first by name is heard.
    pub fn edits(&self, pod: &PodUid, container: &str) -> Edits {
        let mut all = Edits::default();
        let held = self.held(pod, container).into_iter().flatten();
        for edits in held.map(|(_, grant)| &grant.edits) {
            add(&mut all.envs, &edits.envs);
            add(&mut all.annotations, &edits.annotations);
            for mount in &edits.mounts {
                if all.mounts.iter().all(|known| known.container_path != mount.container_path) {
                    all.mounts.push(mount.clone());
                }
            }
            for node in &edits.nodes {
                if all.nodes.iter().all(|known| known.container_path != node.container_path) {
                    all.nodes.push(node.clone());
                }
            }
            for name in &edits.cdi_devices {
                if !all.cdi_devices.contains(name) {
                    all.cdi_devices.push(name.clone());
                }
            }
        }
        all
    }

    /// The least that the node must have of each resource for a pod that holds devices of it to fit: what is given
    /// out, also where the plugin failed since (`sanitizeNodeAllocatable`).
    pub fn given_out(&self, pod: &PodUid) -> BTreeMap<String, usize> {
        let held = self.grants.get(pod).into_iter().flat_map(|containers| containers.values());
        let names: BTreeSet<&String> = held.flat_map(BTreeMap::keys).collect();
        names.into_iter().map(|name| (name.clone(), self.allocated(name).len())).collect()
    }
}

fn add(all: &mut BTreeMap<String, String>, more: &BTreeMap<String, String>) {
    for (key, value) in more {
        if let Entry::Vacant(free) = all.entry(key.clone()) {
            free.insert(value.clone());
        }
    }
}

/// A name that a plugin may register (`IsExtendedResourceName`).
pub fn is_extended_resource(name: &str) -> bool {
    let Some((domain, own)) = name.split_once('/') else { return false };
    let word = |text: &str, more: &str, most: usize| {
        let inner = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        text.len() <= most && text.chars().all(inner) && edge(text.chars().next()) && edge(text.chars().next_back())
    };
    // As part of a quota's name the domain has `requests.` before it.
    let label = |part: &str| word(part, "-", 63) && !part.contains(|c: char| c.is_ascii_uppercase());
    !name.contains("kubernetes.io/")
        && !name.starts_with("requests.")
        && "requests.".len() + domain.len() <= 253
        && domain.split('.').all(label)
        && word(own, "-_.", 63)
}
