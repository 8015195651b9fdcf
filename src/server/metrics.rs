//! `/metrics`: what can be counted from the handles at the moment of a scrape, under the kubelet's names.

use super::{Deps, Reply, text};
use crate::actors::probes::{Counted, ProbesHandle};
use crate::model::observed::ContainerState;
use http::{HeaderValue, StatusCode, header};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Labels = Vec<(&'static str, String)>;

/// `/metrics/probes`, in the text format that the kubelet writes.
pub(super) fn probes(probes: &ProbesHandle) -> Reply {
    let mut out = String::from(
        "# HELP prober_probe_total [BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.\n\
         # TYPE prober_probe_total counter\n",
    );
    for (counted, number) in probes.counts() {
        let Counted { uid, namespace, pod, container, probe, result } = counted;
        // Names and uids of the API hold nothing that would need escaping.
        out += &format!(
            "prober_probe_total{{container=\"{container}\",namespace=\"{namespace}\",pod=\"{pod}\",pod_uid=\"{uid}\",\
             probe_type=\"{probe}\",result=\"{result}\"}} {number}\n"
        );
    }
    let mut reply = text(StatusCode::OK, out);
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8; escaping=values");
    reply.headers_mut().insert(header::CONTENT_TYPE, kind);
    reply
}

pub(super) fn scrape(deps: &Deps) -> Reply {
    let mut registry = Registry::default();
    let family = |registry: &mut Registry, name: &str, help: &str| {
        let family = Family::<Labels, Gauge>::default();
        registry.register(name, help, family.clone());
        family
    };
    let node = family(&mut registry, "kubelet_node_name", "[ALPHA] The node's name. The count is always 1.");
    node.get_or_create(&vec![("node", deps.node_name.to_string())]).set(1);
    let pods = family(&mut registry, "kubelet_running_pods", "[ALPHA] Number of pods that have a running pod sandbox");
    let containers =
        family(&mut registry, "kubelet_running_containers", "[ALPHA] Number of containers currently running");
    let seen: Vec<_> = deps.pods.list().iter().filter_map(|pod| observed(deps, pod)).collect();
    let running = seen.iter().filter(|pod| pod.sandboxes.iter().any(|sandbox| sandbox.ready)).count();
    pods.get_or_create(&Vec::new()).set(count(running));
    for state in ["created", "running", "exited", "unknown"] {
        let number = seen.iter().flat_map(|pod| &pod.containers).filter(|c| name(&c.state) == state).count();
        containers.get_or_create(&vec![("container_state", state.to_owned())]).set(count(number));
    }
    let mut out = String::new();
    match encode(&mut out, &registry) {
        Ok(()) => {
            let mut reply = text(StatusCode::OK, out);
            let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
            reply.headers_mut().insert(header::CONTENT_TYPE, kind);
            reply
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn observed(
    deps: &Deps,
    pod: &k8s_openapi::api::core::v1::Pod,
) -> Option<std::sync::Arc<crate::model::observed::ObservedPod>> {
    deps.pods.observed(&crate::ids::PodUid::new(pod.metadata.uid.as_deref()?))
}

fn name(state: &ContainerState) -> &'static str {
    match state {
        ContainerState::Created => "created",
        ContainerState::Running { .. } => "running",
        ContainerState::Exited { .. } => "exited",
        ContainerState::Unknown => "unknown",
    }
}

/// A node's containers are far fewer than `i64::MAX`.
fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
