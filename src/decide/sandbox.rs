//! The sandbox: keep it or make a new one; its host name, DNS and cgroup parent.

use super::{Out, Scene, containers};
use crate::model::dns::{Dns, NodeDns};
use crate::model::observed::ObservedSandbox;
use crate::model::pod::DesiredPod;
use crate::model::step::Step;

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
        scene.newest(&wanted.spec.name).is_none_or(|old| !containers::has_ended_for_good(scene.pod, wanted, old))
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

/// The pod's resolv.conf (`pkg/kubelet/network/dns` `GetPodDNS`).
pub fn dns(pod: &DesiredPod, node: &NodeDns) -> Dns {
    let spec = pod.spec();
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !pod.host_network(),
        _ => false,
    };
    let mut dns = if policy == "None" {
        Dns::default()
    } else if cluster && !node.cluster_servers.is_empty() {
        cluster_first(pod, node)
    } else {
        node.host.clone()
    };
    if let Some(own) = &spec.dns_config {
        append_new(&mut dns.servers, own.nameservers.iter().flatten());
        append_new(&mut dns.searches, own.searches.iter().flatten());
        for option in own.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or("");
            dns.options.retain(|known| known.split(':').next() != Some(name));
            dns.options.push(match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                Some(_) | None => name.to_owned(),
            });
        }
    }
    dns
}

fn cluster_first(pod: &DesiredPod, node: &NodeDns) -> Dns {
    let domain = &node.cluster_domain;
    let mut searches = Vec::new();
    if !domain.is_empty() {
        searches.extend([format!("{}.svc.{domain}", pod.key.namespace), format!("svc.{domain}"), domain.clone()]);
    }
    append_new(&mut searches, node.host.searches.iter());
    Dns {
        servers: node.cluster_servers.iter().map(ToString::to_string).collect(),
        searches,
        options: vec!["ndots:5".to_owned()],
    }
}

fn append_new<'a>(list: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

/// Reads resolv.conf as the kubelet does: nameserver, search (the last one counts), options (the last one counts).
pub fn parse_resolv_conf(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or("");
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
            Some("search") => {
                dns.searches = words.map(|word| word.strip_suffix('.').unwrap_or(word).to_owned()).collect();
            }
            Some("options") => dns.options = words.map(str::to_owned).collect(),
            Some(_) | None => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

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
