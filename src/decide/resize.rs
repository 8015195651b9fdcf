//! In-place resize (KEP-1287): whether the node grants other resources, how they reach containers that run, what shows.

use super::env::pod_limit;
use super::requests::{self, Requests};
use super::{Out, Scene, admit, terminate};
use crate::ids::ContainerName;
use crate::model::memory::{PodMemory, Resize};
use crate::model::node::NodeFacts;
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::model::pod::{ContainerKind, DesiredPod, PendingResize, Wanted};
use crate::model::qos::QosClass;
use crate::model::resources::{Allocation, differing};
use crate::model::step::{PodEvent, Step};
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use serde_json::{Value, json};
use std::sync::Arc;

/// Conditions that show a resize (`v1.PodResizePending`, `v1.PodResizeInProgress`).
pub const PENDING: &str = "PodResizePending";
pub const IN_PROGRESS: &str = "PodResizeInProgress";

/// Can never be, however long one waits.
const INFEASIBLE: &str = "Infeasible";
/// Not now: other pods have what is asked for.
const DEFERRED: &str = "Deferred";

/// What the node says to the resources that a pod's spec asks for now.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// They are those that were granted before.
    Unchanged,
    Granted,
    Pending(PendingResize),
}

/// What containers of Guaranteed pods have for as long as they run: the static policies give it once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fixed {
    pub cpu: bool,
    pub memory: bool,
}

/// Judges a spec (`canResizePod`); a changed one beside the `others`, the pods of the node that have not ended.
pub fn judge(
    wanted: &DesiredPod,
    granted: &Allocation,
    others: impl FnOnce() -> Vec<Arc<Pod>>,
    node: &NodeFacts,
    fixed: Fixed,
) -> Verdict {
    let spec = wanted.spec();
    if Allocation::of(spec) == *granted {
        return Verdict::Unchanged;
    }
    let generation = wanted.generation();
    let infeasible = |never, message| {
        Verdict::Pending(PendingResize { reason: INFEASIBLE, never: Some(never), message, generation })
    };
    if wanted.is_static {
        return infeasible("static_pod", "In-place resize of static-pods is not supported".to_owned());
    }
    let guaranteed = QosClass::of(&wanted.pod) == QosClass::Guaranteed;
    for (is_fixed, resource, never, policy) in [
        (fixed.cpu, "cpu", "guaranteed_pod_cpu_manager_static_policy", "CPU Manager policy \"static\""),
        (fixed.memory, "memory", "guaranteed_pod_memory_manager_static_policy", "Memory Manager policy \"Static\""),
    ] {
        if is_fixed && guaranteed && granted.changes(spec, resource) {
            return infeasible(never, format!("Resize is infeasible for Guaranteed Pods alongside {policy}"));
        }
    }
    let asked = requests::of(spec);
    let has = Requests::in_list(Some(&node.allocatable));
    for (name, asked, has) in [("memory", asked.memory.0, has.memory.0), ("cpu", asked.cpu.0, has.cpu.0)] {
        if asked > has {
            let message = format!("Node didn't have enough capacity: {name}, requested: {asked}, capacity: {has}");
            return infeasible("insufficient_node_allocatable", message);
        }
    }
    match admit::fits(spec, &others(), node) {
        Ok(()) => Verdict::Granted,
        Err(rejection) => {
            Verdict::Pending(PendingResize { reason: DEFERRED, never: None, message: rejection.message, generation })
        }
    }
}

/// Reason and message of the event that tells of a verdict.
pub fn event(pod: &DesiredPod, verdict: &Verdict) -> Option<(bool, &'static str, String)> {
    match verdict {
        Verdict::Unchanged => None,
        Verdict::Granted => Some((false, "ResizeStarted", message("Pod resize started", pod, None))),
        Verdict::Pending(pending) => {
            let reason = if pending.reason == INFEASIBLE { "ResizeInfeasible" } else { "ResizeDeferred" };
            Some((true, reason, message(&format!("Pod resize {}", pending.reason), pod, Some(&pending.message))))
        }
    }
}

/// The text of a resize event (`events.podResizeMessage`): what each container is to have.
pub fn message(what: &str, pod: &DesiredPod, error: Option<&str>) -> String {
    let list = |containers: &mut dyn Iterator<Item = Wanted<'_>>| -> Vec<Value> {
        let resources = |w: &Wanted<'_>| serde_json::to_value(w.spec.resources.clone().unwrap_or_default());
        containers.map(|w| json!({"name": w.spec.name, "resources": resources(&w).unwrap_or_default()})).collect()
    };
    let init = list(&mut pod.init_containers().filter(|wanted| wanted.kind == ContainerKind::Sidecar));
    let containers = list(&mut pod.regular_containers());
    // In the order in which Go writes them.
    let mut text = String::from("{");
    for (name, list) in [("initContainers", init), ("containers", containers)] {
        if !list.is_empty() {
            text.push_str(&format!("{name:?}:{},", Value::Array(list)));
        }
    }
    text.push_str(&format!("\"generation\":{}", pod.generation().unwrap_or_default()));
    if let Some(error) = error {
        text.push_str(&format!(",\"error\":{}", Value::String(error.to_owned())));
    }
    format!("{what}: {text}}}")
}

/// A container that runs with other resources than it is granted.
struct Changed<'a> {
    container: &'a ObservedContainer,
    restarts: bool,
}

/// The steps of a resize under way.
pub(crate) fn steps(scene: &Scene<'_>, out: &mut Out) {
    let Some(resize) = &scene.memory.resize else { return };
    if let Some(error) = &resize.error
        && error.at > scene.now.mono
    {
        return out.wake_at(error.at);
    }
    let changed = changed(scene);
    if changed.is_empty() && resize.pod_done {
        out.resized = true;
        let message = message("Pod resize completed", scene.pod, None);
        out.events.push(PodEvent { container: None, warning: false, reason: "ResizeCompleted", message });
        return;
    }
    let (restart, update): (Vec<_>, Vec<_>) = changed.into_iter().partition(|changed| changed.restarts);
    if !resize.pod_done || !update.is_empty() {
        let under_pod = under_pod_limits(scene).filter(|_| !resize.pod_done);
        let containers = update.iter().map(|changed| changed.container).chain(under_pod);
        let mut containers: Vec<_> = containers.map(|c| (c.name.clone(), c.id.clone())).collect();
        containers.sort();
        containers.dedup();
        out.steps.push(Step::Resize { containers });
        return;
    }
    for Changed { container, .. } in restart {
        let message = format!("Container {} resize requires restart", container.name);
        out.steps.push(terminate::renew(scene, container, scene.pod.grace(), message));
    }
}

fn changed<'a>(scene: &Scene<'a>) -> Vec<Changed<'a>> {
    let Some(sandbox) = scene.sandbox() else { return Vec::new() };
    let look = |wanted: Wanted<'a>| {
        let container = scene.newest_in(&sandbox.id, &wanted.spec.name)?;
        let running = matches!(container.state, ContainerState::Running { .. });
        let actual = scene.memory.resources.get(&container.id).filter(|_| running)?;
        let differing = differing(actual, &granted(wanted));
        let restarts = differing.iter().any(|resource| {
            let mut policies = wanted.spec.resize_policy.iter().flatten();
            policies.any(|policy| policy.resource_name == *resource && policy.restart_policy == "RestartContainer")
        });
        (!differing.is_empty()).then_some(Changed { container, restarts })
    };
    scene.pod.all_containers().filter_map(look).collect()
}

/// Containers that run without a limit of their own, and so under the pod's, which may be another now.
fn under_pod_limits<'a>(scene: &Scene<'a>) -> impl Iterator<Item = &'a ObservedContainer> {
    let spec = scene.pod.spec();
    let has_own = |wanted: &Wanted<'_>, name: &str| {
        let limits = wanted.spec.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        limits.is_some_and(|limits| limits.contains_key(name))
    };
    let under = move |wanted: &Wanted<'a>| {
        ["cpu", "memory"].into_iter().any(|name| pod_limit(spec, name).is_some() && !has_own(wanted, name))
    };
    let sandbox = scene.sandbox();
    let running = move |wanted: Wanted<'a>| {
        let container = scene.seen.containers.iter().find(|seen| {
            seen.name.as_str() == wanted.spec.name && sandbox.is_some_and(|sandbox| seen.sandbox == sandbox.id)
        })?;
        matches!(container.state, ContainerState::Running { .. }).then_some(container)
    };
    scene.pod.all_containers().filter(move |wanted| under(wanted)).filter_map(running)
}

/// What a container has once a resize has reached it.
pub fn given_now(pod: &DesiredPod, name: &ContainerName) -> ResourceRequirements {
    pod.container(name.as_str()).map(granted).unwrap_or_default()
}

/// What a container is to have.
fn granted(wanted: Wanted<'_>) -> ResourceRequirements {
    wanted.spec.resources.clone().unwrap_or_default()
}

/// What a container that another run of the agent started was given: by the status if it is of this container.
pub(crate) fn given(memory: &PodMemory, pod: &DesiredPod, container: &ObservedContainer) -> ResourceRequirements {
    let shown = super::status::previous(&memory.status, container.name.as_str()).filter(|shown| {
        let id = shown.container_id.as_deref().and_then(|id| id.split_once("://")).map(|(_, id)| id);
        id == Some(container.id.as_str()) && memory.resize.is_some()
    });
    shown.and_then(|shown| shown.resources.clone()).unwrap_or_else(|| given_now(pod, &container.name))
}

/// A new spec is wanted: does a resize begin?
pub fn begins(old: &DesiredPod, new: &DesiredPod) -> Option<Resize> {
    let changed = Allocation::of(old.spec()) != Allocation::of(new.spec());
    changed.then(|| Resize { generation: new.generation(), pod_done: false, error: None })
}
