//! A pod's resolv.conf (`pkg/kubelet/network/dns`).

use crate::model::dns::{Dns, NodeDns};
use crate::model::pod::DesiredPod;

/// Name servers that resolvers look at (`MaxDNSNameservers`).
const MAX_SERVERS: usize = 3;
/// `MaxDNSSearchPaths`.
const MAX_SEARCHES: usize = 32;
/// Of one search path (`DNS1123SubdomainMaxLength`).
const MAX_SEARCH_BYTES: usize = 253;
/// Of all of them with the spaces between (`MaxDNSSearchListChars`).
const MAX_SEARCH_LINE_BYTES: usize = 2048;
/// Reason of the events that tell of limits.
pub const DNS_CONFIG_FORMING: &str = "DNSConfigForming";

/// The pod's resolv.conf, and the text of an event for each limit that it would exceed.
pub fn of_pod(pod: &DesiredPod, node: &NodeDns) -> (Dns, Vec<String>) {
    let mut dns = composed(pod, node);
    let told = [fit_servers(&mut dns.servers), fit_searches(&mut dns.searches)];
    (dns, told.into_iter().flatten().collect())
}

fn fit_servers(servers: &mut Vec<String>) -> Option<String> {
    if servers.len() <= MAX_SERVERS {
        return None;
    }
    servers.truncate(MAX_SERVERS);
    Some(format!(
        "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
        servers.join(" ")
    ))
}

/// Too many, too long (which some resolvers end on) or too much together.
fn fit_searches(searches: &mut Vec<String>) -> Option<String> {
    let all = searches.len();
    searches.truncate(MAX_SEARCHES);
    searches.retain(|search| search.len() <= MAX_SEARCH_BYTES);
    while searches.join(" ").len() > MAX_SEARCH_LINE_BYTES {
        searches.pop();
    }
    (searches.len() < all).then(|| {
        format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            searches.join(" ")
        )
    })
}

fn composed(pod: &DesiredPod, node: &NodeDns) -> Dns {
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
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn of(spec: Value) -> (Dns, Vec<String>) {
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec});
        let pod = DesiredPod::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
        let node = NodeDns {
            cluster_servers: vec!["10.96.0.10".parse().unwrap()],
            cluster_domain: "cluster.local".to_owned(),
            host: parse_resolv_conf("nameserver 192.0.2.1\nsearch example.org. lan # here\noptions edns0\n"),
        };
        of_pod(&pod, &node)
    }

    #[test]
    fn each_policy_has_its_servers() {
        for (spec, servers, searches, options) in [
            (
                json!({"containers": []}),
                "10.96.0.10",
                "d.svc.cluster.local svc.cluster.local cluster.local example.org lan",
                "ndots:5",
            ),
            (json!({"containers": [], "dnsPolicy": "Default"}), "192.0.2.1", "example.org lan", "edns0"),
            (json!({"containers": [], "hostNetwork": true}), "192.0.2.1", "example.org lan", "edns0"),
            (
                json!({"containers": [], "dnsPolicy": "None",
                    "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a"], "options": [{"name": "x", "value": "2"}, {"name": "y"}]}}),
                "1.1.1.1",
                "a",
                "x:2 y",
            ),
        ] {
            let (dns, told) = of(spec.clone());
            let lines = [dns.servers.join(" "), dns.searches.join(" "), dns.options.join(" ")];
            assert_eq!((lines, told), ([servers, searches, options].map(str::to_owned), Vec::new()), "{spec}");
        }
    }

    #[test]
    fn what_exceeds_a_limit_is_left_out_and_told() {
        let config = |config: Value| of(json!({"containers": [], "dnsConfig": config}));
        let (dns, told) = config(json!({"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3"]}));
        assert_eq!(dns.servers, ["10.96.0.10", "1.1.1.1", "1.1.1.2"]);
        let expected = "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: \
                        10.96.0.10 1.1.1.1 1.1.1.2";
        assert_eq!(told, [expected]);
        let many: Vec<String> = (0..32).map(|number| format!("s{number}")).collect();
        let (dns, told) = config(json!({"searches": many}));
        assert_eq!((dns.searches.len(), dns.searches.last().map(String::as_str)), (32, Some("s26")));
        assert!(
            told[0].starts_with("Search Line limits were exceeded, some search paths have been omitted, the applied")
        );
        let long: Vec<String> = (0..20).map(|number| format!("{number}{}", "x".repeat(200))).collect();
        let (dns, told) = config(json!({"searches": long}));
        assert!(dns.searches.join(" ").len() <= 2048 && told.len() == 1);
        let (dns, told) = config(json!({"searches": ["y".repeat(254), "z"]}));
        assert_eq!((dns.searches.last().map(String::as_str), told.len()), (Some("z"), 1));
    }
}
