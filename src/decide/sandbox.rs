//! The sandbox: keep it or make a new one; its host name and user namespace.

use super::{Out, Scene, containers};
use crate::model::observed::ObservedSandbox;
use crate::model::pod::DesiredPod;
use crate::model::step::Step;
use std::collections::BTreeMap;

/// The host's name may have at most this many bytes (`hostnameMaxLen`).
const HOSTNAME_MAX_BYTES: usize = 63;
/// `__NEW_UTS_LEN` of Linux (`fqdnMaxLen`).
const NODENAME_MAX_BYTES: usize = 64;

pub(crate) enum Need<'a> {
    Keep(&'a ObservedSandbox),
    Create {
        attempt: u32,
    },
    /// Nothing would run in a new one.
    Nothing,
}

/// Keeps the newest sandbox while it is ready and has its address.
pub(crate) fn need<'a>(scene: &Scene<'a>) -> Need<'a> {
    let Some(newest) = scene.sandbox() else { return Need::Create { attempt: 0 } };
    let has_network = scene.pod.host_network() || !newest.ips.is_empty();
    let ready = scene.seen.sandboxes.iter().filter(|sandbox| sandbox.ready).count();
    if newest.ready && has_network && ready == 1 {
        return Need::Keep(newest);
    }
    let runs_again = scene.pod.regular_containers().any(|wanted| {
        scene.newest(&wanted.spec.name).is_none_or(|old| !containers::has_ended_for_good(scene, wanted, old))
    });
    if runs_again { Need::Create { attempt: newest.attempt + 1 } } else { Need::Nothing }
}

/// Makes the sandbox, unless the last try failed a moment ago.
pub(crate) fn run(scene: &Scene<'_>, attempt: u32, out: &mut Out) {
    match &scene.memory.sandbox_retry {
        Some(retry) if retry.at > scene.now.mono => out.wake_at(retry.at),
        Some(_) | None => out.steps.push(Step::RunSandbox { attempt }),
    }
}

/// Stops a sandbox, unless the last try failed a moment ago.
pub(crate) fn stop(scene: &Scene<'_>, sandbox: &ObservedSandbox, out: &mut Out) {
    match &scene.memory.stop_retry {
        Some(retry) if retry.at > scene.now.mono => out.wake_at(retry.at),
        Some(_) | None => out.steps.push(Step::StopSandbox { id: sandbox.id.clone() }),
    }
}

/// The host name inside the pod: `spec.hostname` or the pod's name, cut to 63 bytes; with the cluster's domain where
/// `setHostnameAsFQDN` asks for it; empty with host network.
pub fn hostname(pod: &DesiredPod, cluster_domain: &str) -> String {
    let spec = pod.spec();
    if let Some(own) = spec.hostname_override.as_deref().filter(|name| !name.is_empty()) {
        return own.to_owned();
    }
    if pod.host_network() {
        return String::new();
    }
    let name = spec.hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or(&pod.key.name);
    let cut = &name[..name.len().min(HOSTNAME_MAX_BYTES)];
    let short = cut.trim_end_matches(['-', '.']);
    match spec.subdomain.as_deref().filter(|subdomain| !subdomain.is_empty()) {
        Some(subdomain) if spec.set_hostname_as_fqdn == Some(true) => {
            format!("{short}.{subdomain}.{}.svc.{cluster_domain}", pod.key.namespace)
        }
        Some(_) | None => short.to_owned(),
    }
}

/// The kernel's limit of a host name; a name with the cluster's domain may be longer (`GetNodenameForKernel`).
pub fn check_hostname(pod: &DesiredPod, hostname: &str) -> Result<(), String> {
    if pod.spec().set_hostname_as_fqdn != Some(true) || hostname.len() <= NODENAME_MAX_BYTES {
        return Ok(());
    }
    Err(format!(
        "failed to construct FQDN from pod hostname and cluster domain, FQDN {hostname} is too long \
         ({NODENAME_MAX_BYTES} characters is the max, {} characters requested)",
        hostname.len()
    ))
}

/// Can the runtime give the pod a user namespace of its own? (`GetOrCreateUserNamespaceMappings`)
pub fn check_user_namespace(handler: &str, handlers: &BTreeMap<String, bool>) -> Result<(), String> {
    let whose = match handler {
        "" => "runtime".to_owned(),
        handler => format!("RuntimeClass handler {handler:?}"),
    };
    let refused = format!("can't set `spec.hostUsers: false`, {whose} does not support user namespaces");
    match handlers.get(handler) {
        Some(true) => Ok(()),
        Some(false) => Err(refused),
        None if handlers.is_empty() => Err(format!("{refused}: runtime handlers are not set")),
        None => Err(format!("{refused}: the handler {handler:?} is not known")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn user_namespaces_need_a_runtime_handler_that_makes_them() {
        let handlers = |list: &[(&str, bool)]| list.iter().map(|(name, can)| ((*name).to_owned(), *can)).collect();
        let refused = "can't set `spec.hostUsers: false`, runtime does not support user namespaces";
        let named = "can't set `spec.hostUsers: false`, RuntimeClass handler \"kata\" does not support user namespaces";
        for (handler, known, expected) in [
            ("", handlers(&[("", true), ("kata", false)]), Ok(())),
            ("", handlers(&[("", false)]), Err(refused.to_owned())),
            ("kata", handlers(&[("", true), ("kata", false)]), Err(named.to_owned())),
            ("kata", handlers(&[("", true)]), Err(format!("{named}: the handler \"kata\" is not known"))),
            ("", handlers(&[]), Err(format!("{refused}: runtime handlers are not set"))),
        ] {
            assert_eq!(check_user_namespace(handler, &known), expected, "{handler:?} of {known:?}");
        }
    }

    #[test]
    fn a_name_with_the_clusters_domain_may_be_too_long_for_the_kernel() {
        for (subdomain, expected) in [
            ("s".to_owned(), Ok("h.s.d.svc.cluster.local".to_owned())),
            (
                "s".repeat(63),
                Err(format!(
                    "failed to construct FQDN from pod hostname and cluster domain, FQDN h.{}.d.svc.cluster.local is too \
                     long (64 characters is the max, 85 characters requested)",
                    "s".repeat(63)
                )),
            ),
        ] {
            let pod = json!({
                "metadata": {"name": "p", "namespace": "d", "uid": "u"},
                "spec": {"hostname": "h", "subdomain": subdomain, "setHostnameAsFQDN": true, "containers": []},
            });
            let pod = DesiredPod::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
            let name = hostname(&pod, "cluster.local");
            assert_eq!(check_hostname(&pod, &name).map(|()| name), expected);
        }
    }
}
