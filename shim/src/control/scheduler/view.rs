//! What the scheduler keeps of each pod and node: the little that it decides by.

use super::resources::{Resources, is_sidecar, pod_count, requests, requests_for_score};
use k8s_openapi::api::core::v1::{Node, NodeAffinity, Pod, PodSpec, Taint, Toleration};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Pods that name another scheduler are not ours.
pub(super) const SCHEDULER_NAME: &str = "default-scheduler";

/// A pod.
#[derive(Clone, Debug)]
pub(super) struct PodView {
    pub uid: Box<str>,
    pub stage: Stage,
}

/// Where a pod stands, as far as scheduling goes.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// Waits for a node of ours.
    Pending(Box<Pending>),
    /// Takes resources of its node.
    Assigned { node: Arc<str>, usage: Arc<Usage> },
    /// Takes nothing and waits for nothing of ours: ended, gated, on its way out, or another scheduler's.
    Idle,
}

/// A pod that waits for a node.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub wish: Wish,
    pub resource_version: Box<str>,
    pub generation: i64,
    /// Its condition PodScheduled.
    pub condition: Option<Condition>,
}

/// What decides where a pod may go.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Wish {
    pub priority: i32,
    pub never_preempts: bool,
    pub usage: Arc<Usage>,
    pub node_selector: BTreeMap<String, String>,
    pub affinity: NodeAffinity,
    pub tolerations: Vec<Toleration>,
}

/// What a pod takes of its node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Usage {
    pub requests: Resources,
    /// (milli-CPU, bytes) for comparing nodes.
    pub for_score: (i64, i64),
    pub ports: Box<[HostPort]>,
}

/// A port of the node.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct HostPort {
    pub protocol: Box<str>,
    /// Empty: every address.
    pub address: Box<str>,
    pub port: i32,
}

/// The part of a condition that is compared before it is written anew.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Condition {
    pub is_false: bool,
    pub reason: Box<str>,
    pub message: Box<str>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct NodeView {
    pub name: Arc<str>,
    pub labels: BTreeMap<String, String>,
    pub unschedulable: bool,
    pub taints: Vec<Taint>,
    pub allocatable: Resources,
    /// How many pods it takes.
    pub pods: i64,
}

impl PodView {
    pub(super) fn keep(pod: Pod) -> Self {
        let uid = pod.metadata.uid.as_deref().unwrap_or("").into();
        Self { uid, stage: stage(pod) }
    }

    pub(super) fn pending(&self) -> Option<&Pending> {
        match &self.stage {
            Stage::Pending(pending) => Some(pending),
            Stage::Assigned { .. } | Stage::Idle => None,
        }
    }
}

fn stage(pod: Pod) -> Stage {
    let status = pod.status.unwrap_or_default();
    let Some(spec) = pod.spec else { return Stage::Idle };
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Stage::Idle;
    }
    if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        return Stage::Assigned { node: node.into(), usage: Arc::new(usage(&spec)) };
    }
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    let other = spec.scheduler_name.as_deref().is_some_and(|name| name != SCHEDULER_NAME);
    if gated || other || pod.metadata.deletion_timestamp.is_some() {
        return Stage::Idle;
    }
    let condition = status.conditions.into_iter().flatten().find(|condition| condition.type_ == "PodScheduled");
    Stage::Pending(Box::new(Pending {
        resource_version: pod.metadata.resource_version.unwrap_or_default().into(),
        generation: pod.metadata.generation.unwrap_or(0),
        condition: condition.map(|condition| Condition {
            is_false: condition.status == "False",
            reason: condition.reason.unwrap_or_default().into(),
            message: condition.message.unwrap_or_default().into(),
        }),
        wish: Wish {
            priority: spec.priority.unwrap_or(0),
            never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
            usage: Arc::new(usage(&spec)),
            node_selector: spec.node_selector.unwrap_or_default(),
            affinity: spec.affinity.and_then(|affinity| affinity.node_affinity).unwrap_or_default(),
            tolerations: spec.tolerations.unwrap_or_default(),
        },
    }))
}

fn usage(spec: &PodSpec) -> Usage {
    let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container));
    let ports = (spec.containers.iter().chain(sidecars))
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let host_port = port.host_port.filter(|port| *port > 0)?;
            Some(HostPort {
                protocol: port.protocol.as_deref().unwrap_or("TCP").into(),
                address: port.host_ip.as_deref().filter(|ip| *ip != "0.0.0.0").unwrap_or("").into(),
                port: host_port,
            })
        })
        .collect();
    Usage { requests: requests(spec), for_score: requests_for_score(spec), ports }
}

impl NodeView {
    pub(super) fn keep(node: Node) -> Self {
        let spec = node.spec.unwrap_or_default();
        let allocatable = node.status.and_then(|status| status.allocatable);
        Self {
            name: node.metadata.name.unwrap_or_default().into(),
            labels: node.metadata.labels.unwrap_or_default(),
            unschedulable: spec.unschedulable.unwrap_or(false),
            taints: spec.taints.unwrap_or_default(),
            allocatable: Resources::of(allocatable.as_ref()),
            pods: pod_count(allocatable.as_ref()),
        }
    }
}
