//! What a pod asks of its node.

use crate::units::{Bytes, Millicores};
use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// Resource name of the node's own disk.
pub(crate) const EPHEMERAL_STORAGE: &str = "ephemeral-storage";

/// CPU and memory that a pod asks of its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    pub cpu: Millicores,
    pub memory: Bytes,
    pub ephemeral_storage: Bytes,
}

impl Requests {
    /// One whole amount of a list; what is not there, or malformed, counts as nothing.
    pub(crate) fn bytes(list: &BTreeMap<String, Quantity>, name: &str) -> Bytes {
        list.get(name).and_then(|quantity| Bytes::parse(quantity).ok()).unwrap_or_default()
    }

    /// The amounts of a resource list.
    pub(crate) fn in_list(list: Option<&BTreeMap<String, Quantity>>) -> Self {
        let bytes = |name| list.map(|list| Self::bytes(list, name)).unwrap_or_default();
        Self {
            cpu: list.and_then(|l| l.get("cpu")).and_then(|q| Millicores::parse(q).ok()).unwrap_or_default(),
            memory: bytes("memory"),
            ephemeral_storage: bytes(EPHEMERAL_STORAGE),
        }
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu: Millicores(self.cpu.0.saturating_add(other.cpu.0)),
            memory: Bytes(self.memory.0.saturating_add(other.memory.0)),
            ephemeral_storage: Bytes(self.ephemeral_storage.0.saturating_add(other.ephemeral_storage.0)),
        }
    }

    fn max(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.max(other.cpu),
            memory: self.memory.max(other.memory),
            ephemeral_storage: self.ephemeral_storage.max(other.ephemeral_storage),
        }
    }
}

/// The larger of running (containers and sidecars) and starting (one init container beside the sidecars before it),
/// or what the pod itself names; plus overhead (`resourcehelper.PodRequests`).
pub fn of(spec: &PodSpec) -> Requests {
    let own = |container: &Container| Requests::in_list(container.resources.as_ref().and_then(|r| r.requests.as_ref()));
    let mut running = together(spec, own);
    if let Some(list) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        let pod = Requests::in_list(Some(list));
        running.cpu = if list.contains_key("cpu") { pod.cpu } else { running.cpu };
        running.memory = if list.contains_key("memory") { pod.memory } else { running.memory };
    }
    running.plus(Requests::in_list(spec.overhead.as_ref()))
}

/// What the limits of its containers come to (`resourcehelper.PodLimits`); who has none counts as nothing.
pub fn limits(spec: &PodSpec) -> Requests {
    let own = |container: &Container| Requests::in_list(container.resources.as_ref().and_then(|r| r.limits.as_ref()));
    together(spec, own).plus(Requests::in_list(spec.overhead.as_ref()))
}

fn together(spec: &PodSpec, own: impl Fn(&Container) -> Requests) -> Requests {
    let running = spec.containers.iter().map(&own).fold(Requests::default(), Requests::plus);
    let mut sidecars = Requests::default();
    let mut starting = Requests::default();
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = sidecars.plus(own(container));
            starting = starting.max(sidecars);
        } else {
            starting = starting.max(sidecars.plus(own(container)));
        }
    }
    running.plus(sidecars).max(starting)
}
