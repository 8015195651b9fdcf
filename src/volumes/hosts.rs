//! The content of a container's `/etc/hosts`, as the kubelet writes it.

use k8s_openapi::api::core::v1::{HostAlias, Pod};
use std::net::IpAddr;

/// Without host network: loopback names, the pod's own, the aliases.
pub(super) fn pod_hosts(pod: &Pod, ips: &[IpAddr], cluster_domain: &str) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    let (host, domain) = names(pod, cluster_domain);
    for ip in ips {
        match &domain {
            Some(domain) => text.push_str(&format!("{ip}\t{host}.{domain}\t{host}\n")),
            None => text.push_str(&format!("{ip}\t{host}\n")),
        }
    }
    push_aliases(&mut text, pod);
    text
}

/// With host network: the node's own file and the aliases.
pub(super) fn host_network_hosts(pod: &Pod, node_hosts: &str) -> String {
    let mut text = format!("# Kubernetes-managed hosts file (host network).\n{node_hosts}");
    push_aliases(&mut text, pod);
    text
}

/// Hostname and domain of a pod (`GeneratePodHostNameAndDomain`).
fn names(pod: &Pod, cluster_domain: &str) -> (String, Option<String>) {
    let spec = pod.spec.as_ref();
    if let Some(whole) = spec.and_then(|spec| spec.hostname_override.as_deref()) {
        return (whole.to_owned(), None);
    }
    let own = pod.metadata.name.as_deref().unwrap_or_default();
    let host = match spec.and_then(|spec| spec.hostname.as_deref()) {
        Some(host) if !host.is_empty() => host.to_owned(),
        // 63 bytes is what the kernel takes; pod names are ASCII.
        _ => own.get(..63).map_or(own, |cut| cut.trim_end_matches(['-', '.'])).to_owned(),
    };
    let domain = spec
        .and_then(|spec| spec.subdomain.as_deref())
        .filter(|sub| !sub.is_empty())
        .map(|sub| format!("{sub}.{}.svc.{cluster_domain}", pod.metadata.namespace.as_deref().unwrap_or_default()));
    (host, domain)
}

fn push_aliases(text: &mut String, pod: &Pod) {
    let aliases: &[HostAlias] = pod.spec.as_ref().and_then(|spec| spec.host_aliases.as_deref()).unwrap_or_default();
    if aliases.is_empty() {
        return;
    }
    text.push_str("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "ns"}, "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn the_pods_line_names_its_hostname_and_domain() {
        let ips = ["10.0.0.7".parse().unwrap()];
        for (spec, line) in [
            (r#"{"containers":[]}"#, "10.0.0.7\tp"),
            (
                r#"{"containers":[],"hostname":"web-1","subdomain":"peers"}"#,
                "10.0.0.7\tweb-1.peers.ns.svc.cluster.local\tweb-1",
            ),
            (r#"{"containers":[],"hostnameOverride":"box.example"}"#, "10.0.0.7\tbox.example"),
        ] {
            let text = pod_hosts(&pod(serde_json::from_str(spec).unwrap()), &ips, "cluster.local");
            assert_eq!(text.lines().last(), Some(line));
        }
    }

    /// golden/pods/network/host-aliases.json
    #[test]
    fn aliases_follow_a_blank_line() {
        let spec = serde_json::json!({"containers": [], "hostAliases": [
            {"ip": "10.1.2.3", "hostnames": ["foo.local", "bar"]}, {"ip": "10.1.2.4", "hostnames": ["baz"]}]});
        let text = pod_hosts(&pod(spec.clone()), &["10.0.0.7".parse().unwrap()], "cluster.local");
        assert_eq!(
            text,
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n\
             10.0.0.7\tp\n\n# Entries added by HostAliases.\n10.1.2.3\tfoo.local\tbar\n10.1.2.4\tbaz\n"
        );
        let text = host_network_hosts(&pod(spec), "127.0.0.1 localhost\n");
        assert!(text.starts_with("# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n\n# Entries"));
    }
}
