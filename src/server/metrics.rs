//! The four scrapes: `/metrics`, `/metrics/cadvisor`, `/metrics/resource`, `/metrics/probes`, in Prometheus' text format.

mod cadvisor;
mod process;
mod resource;
mod volumes;

use super::{Deps, Reply, streamed, text};
use crate::actors::probes::{Counted, ProbesHandle};
use crate::clock;
use crate::ids::PodUid;
use crate::metrics::text::{CONTENT_TYPE, Kind, Text};
use crate::metrics::{DEFAULT_BUCKETS, catalog, slis};
use crate::model::observed::{ContainerState, ObservedPod};
use crate::model::pod::CONFIG_MIRROR;
use crate::stats::Depth;
use http::{HeaderValue, StatusCode, header};
use k8s_openapi::api::core::v1::Pod;
use std::path::Path;
use std::sync::Arc;

pub(super) async fn scrape(deps: &Deps) -> Reply {
    let pods = deps.pods.list();
    let mut out = Text::default();
    catalog::ALL.iter().for_each(|family| family.write(&mut out));
    about_pods(&mut out, deps, &pods);
    volumes::totals(&mut out, &pods, |uid| deps.pods.observed(uid).is_some_and(|seen| !seen.sandboxes.is_empty()));
    let claiming: Vec<_> = deps.subjects().into_iter().filter(|subject| has_claims(&subject.pod)).collect();
    let period = deps.kubelet.volume_stats_agg_period;
    if !claiming.is_empty() && period >= node_config::duration::Duration::ZERO {
        match deps.stats.disks(&claiming, period.to_std()).await {
            Ok(disks) => volumes::claims(&mut out, &pods, &disks),
            Err(error) => tracing::warn!(%error, "claims not measured"),
        }
    }
    about_certificates(&mut out, deps);
    build_info(&mut out);
    process::write(&mut out, deps.stats.booted());
    reply(out.take())
}

/// `/metrics/cadvisor`.
pub(super) async fn cadvisor(deps: &Deps) -> Reply {
    let groups = match deps.stats.groups(deps.subjects()).await {
        Ok(groups) => groups,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let root = deps.stats.root_disk();
    let shown = groups.into_iter().map(|group| {
        let disks = if group.id == "/" { root.iter().cloned().collect() } else { Vec::new() };
        cadvisor::show(group, |device| deps.stats.device_name(device), disks)
    });
    let pieces = cadvisor::pieces(shown.collect(), &deps.machine);
    let mut reply = streamed(futures::stream::iter(pieces.map(|piece| Ok(piece.into()))));
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    reply
}

/// `/metrics/slis`.
pub(super) fn slis() -> Reply {
    let mut out = Text::default();
    slis::ALL.iter().for_each(|family| family.write(&mut out));
    reply(out.take())
}

/// `/metrics/resource`.
pub(super) async fn resource(deps: &Deps) -> Reply {
    let stats = &deps.stats;
    let figures = tokio::try_join!(stats.machine(), stats.pods(deps.subjects(), Depth::Usage));
    reply(match &figures {
        Ok((node, pods)) => resource::write(Some((node, pods))),
        Err(error) => {
            tracing::warn!(%error, "resource figures not read");
            resource::write(None)
        }
    })
}

/// `/metrics/probes`.
pub(super) fn probes(probes: &ProbesHandle) -> Reply {
    let mut out = Text::default();
    out.family("prober_probe_duration_seconds", "[ALPHA] Duration in seconds for a probe response.", Kind::Histogram);
    for (timed, distribution) in probes.durations() {
        let Counted { uid: _, namespace, pod, container, probe, result: _ } = &timed;
        let labels = [("container", container.as_str()), ("namespace", namespace), ("pod", pod), ("probe_type", probe)];
        distribution.write(&mut out, DEFAULT_BUCKETS, &labels);
    }
    out.family(
        "prober_probe_total",
        "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.",
        Kind::Counter,
    );
    for (counted, number) in probes.counts() {
        let Counted { uid, namespace, pod, container, probe, result } = &counted;
        let labels = [
            ("container", container.as_str()),
            ("namespace", namespace),
            ("pod", pod),
            ("pod_uid", uid.as_str()),
            ("probe_type", probe),
            ("result", result),
        ];
        out.sample("", &labels, number as f64);
    }
    reply(out.take())
}

fn reply(scrape: String) -> Reply {
    let mut reply = text(StatusCode::OK, scrape);
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    reply
}

fn about_pods(out: &mut Text, deps: &Deps, pods: &[Arc<Pod>]) {
    out.family("kubelet_node_name", "[ALPHA] The node's name. The count is always 1.", Kind::Gauge);
    out.sample("", &[("node", &deps.node_name)], 1.0);
    let observed = |pod: &Arc<Pod>| deps.pods.observed(&PodUid::new(pod.metadata.uid.as_deref()?));
    let seen: Vec<Arc<ObservedPod>> = pods.iter().filter_map(observed).collect();
    let running = seen.iter().filter(|pod| pod.sandboxes.iter().any(|sandbox| sandbox.ready)).count();
    out.family("kubelet_running_pods", "[ALPHA] Number of pods that have a running pod sandbox", Kind::Gauge);
    out.sample("", &[], running as f64);
    out.family("kubelet_running_containers", "[ALPHA] Number of containers currently running", Kind::Gauge);
    for state in ["created", "running", "exited", "unknown"] {
        let number = seen.iter().flat_map(|pod| &pod.containers).filter(|c| name(&c.state) == state).count();
        out.sample("", &[("container_state", state)], number as f64);
    }
    let is_static = |pod: &Arc<Pod>| {
        pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(CONFIG_MIRROR))
            || pod
                .metadata
                .annotations
                .as_ref()
                .and_then(|map| map.get("kubernetes.io/config.source"))
                .is_some_and(|s| s != "api")
    };
    let is_active = |pod: &Arc<Pod>| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        !matches!(phase, Some("Succeeded" | "Failed"))
    };
    let mut by_static = |name, help, counts: &dyn Fn(&Arc<Pod>) -> bool| {
        out.family(name, help, Kind::Gauge);
        for (label, wanted) in [("", false), ("true", true)] {
            let number = pods.iter().filter(|pod| is_static(pod) == wanted && counts(pod)).count();
            out.sample("", &[("static", label)], number as f64);
        }
    };
    by_static(
        "kubelet_active_pods",
        "[ALPHA] The number of pods the kubelet considers active and which are being considered when admitting new pods. \
         static is true if the pod is not from the apiserver.",
        &is_active,
    );
    by_static(
        "kubelet_desired_pods",
        "[ALPHA] The number of pods the kubelet is being instructed to run. static is true if the pod is not from the \
         apiserver.",
        &|_| true,
    );
}

fn name(state: &ContainerState) -> &'static str {
    match state {
        ContainerState::Created => "created",
        ContainerState::Running { .. } => "running",
        ContainerState::Exited { .. } => "exited",
        ContainerState::Unknown => "unknown",
    }
}

fn has_claims(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.into_iter().any(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some())
}

/// How long our certificates last, read from the files that are in use: rotation only replaces these.
fn about_certificates(out: &mut Text, deps: &Deps) {
    let mut left = |name, help, file: &Path| {
        let Some(expiry) = expiry(file) else { return };
        out.family(name, help, Kind::Gauge);
        out.sample("", &[], (expiry - clock::now().wall.as_second()) as f64);
    };
    left(
        "kubelet_certificate_manager_client_ttl_seconds",
        "[ALPHA] Gauge of the TTL (time-to-live) of the Kubelet's client certificate. The value is in seconds until \
         certificate expiry (negative if already expired). If client certificate is invalid or unused, the value will be \
         +INF.",
        &deps.config.cert_dir.join("kubelet-client-current.pem"),
    );
    left(
        "kubelet_certificate_manager_server_ttl_seconds",
        "[ALPHA] Gauge of the shortest TTL (time-to-live) of the Kubelet's serving certificate. The value is in seconds \
         until certificate expiry (negative if already expired). If serving certificate is invalid or unused, the value \
         will be +INF.",
        &match deps.config.server_tls_bootstrap {
            true => deps.config.cert_dir.join("kubelet-server-current.pem"),
            false => deps.config.tls_cert_file.clone(),
        },
    );
}

/// When the first certificate of a PEM file ends, in Unix seconds.
fn expiry(file: &Path) -> Option<i64> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let certificate = CertificateDer::from_pem_file(file).ok()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

/// What `KubeVersionMismatch` compares.
fn build_info(out: &mut Text) {
    let version = crate::actors::node::KUBELET_VERSION;
    let mut parts = version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let platform = format!("linux/{}", std::env::consts::ARCH);
    out.family(
        "kubernetes_build_info",
        "[ALPHA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build \
         date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.",
        Kind::Gauge,
    );
    let labels = [
        ("build_date", ""),
        ("compiler", "rustc"),
        ("git_commit", ""),
        ("git_tree_state", ""),
        ("git_version", version),
        ("go_version", ""),
        ("major", major),
        ("minor", minor),
        ("platform", &platform),
    ];
    out.sample("", &labels, 1.0);
}
