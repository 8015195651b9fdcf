//! Which sysctls a pod may set: those that its own namespaces hold and that cannot harm others (`pkg/kubelet/sysctl`).

use crate::model::memory::Rejection;
use k8s_openapi::api::core::v1::PodSpec;

/// What a sysctl belongs to; a pod that shares it with the node may not set it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Net,
}

/// `safeSysctlAllowlist`.
const SAFE: [(&str, Namespace); 12] = [
    ("kernel.shm_rmid_forced", Namespace::Ipc),
    ("net.ipv4.ip_local_port_range", Namespace::Net),
    ("net.ipv4.ip_local_reserved_ports", Namespace::Net),
    ("net.ipv4.ip_unprivileged_port_start", Namespace::Net),
    ("net.ipv4.ping_group_range", Namespace::Net),
    ("net.ipv4.tcp_fin_timeout", Namespace::Net),
    ("net.ipv4.tcp_keepalive_intvl", Namespace::Net),
    ("net.ipv4.tcp_keepalive_probes", Namespace::Net),
    ("net.ipv4.tcp_keepalive_time", Namespace::Net),
    ("net.ipv4.tcp_rmem", Namespace::Net),
    ("net.ipv4.tcp_syncookies", Namespace::Net),
    ("net.ipv4.tcp_wmem", Namespace::Net),
];

/// What else has a namespace, by the beginnings of its names.
const OTHERS: [(&str, Namespace); 5] = [
    ("kernel.sem", Namespace::Ipc),
    ("kernel.shm", Namespace::Ipc),
    ("kernel.msg", Namespace::Ipc),
    ("fs.mqueue.", Namespace::Ipc),
    ("net.", Namespace::Net),
];

/// Admits the pod's sysctls, or names the first that it may not set. `allowed` are those that the node allows beyond the
/// safe ones (`allowedUnsafeSysctls`): names, or beginnings of names followed by `*`.
pub(crate) fn admit(spec: &PodSpec, allowed: &[String]) -> Result<(), Rejection> {
    let sysctls = spec.security_context.as_ref().and_then(|context| context.sysctls.as_ref());
    sysctls.into_iter().flatten().try_for_each(|sysctl| {
        check(&sysctl.name, allowed, spec.host_network == Some(true), spec.host_ipc == Some(true))
            .map_err(|why| Rejection { reason: "SysctlForbidden".into(), message: format!("forbidden sysctl: {why}") })
    })
}

fn check(name: &str, allowed: &[String], host_net: bool, host_ipc: bool) -> Result<(), String> {
    let dotted = with_dots(name);
    let is_allowed = allowed.iter().map(|pattern| with_dots(pattern)).any(|pattern| match pattern.strip_suffix('*') {
        Some(beginning) => dotted.starts_with(beginning),
        None => dotted == pattern,
    });
    let other = || OTHERS.iter().find(|(beginning, _)| is_allowed && dotted.starts_with(beginning));
    match SAFE.iter().find(|(safe, _)| *safe == dotted).or_else(other) {
        Some((_, Namespace::Ipc)) if host_ipc => Err(format!("{dotted:?} not allowed with host ipc enabled")),
        Some((_, Namespace::Net)) if host_net => Err(format!("{dotted:?} not allowed with host net enabled")),
        Some(_) => Ok(()),
        None => Err(format!("{dotted:?} not allowlisted")),
    }
}

/// `net/ipv4/x` is `net.ipv4.x`: the first separator found is the one in use (`NormalizeName`).
fn with_dots(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        Some(_) | None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_safe_sysctls_of_the_pods_own_namespaces_are_admitted() {
        let allowed = ["kernel.msg*".to_owned(), "net/core/somaxconn".to_owned(), "vm.swappiness".to_owned()];
        for (name, host, expected) in [
            ("net.ipv4.tcp_syncookies", "", "admitted"),
            ("net/ipv4/tcp_syncookies", "", "admitted"),
            ("kernel.shm_rmid_forced", "hostNetwork", "admitted"),
            ("kernel.sem", "", "SysctlForbidden: forbidden sysctl: \"kernel.sem\" not allowlisted"),
            ("kernel.msgmax", "", "admitted"),
            ("net.core.somaxconn", "", "admitted"),
            (
                "kernel.msgmax",
                "hostIPC",
                "SysctlForbidden: forbidden sysctl: \"kernel.msgmax\" not allowed with host ipc enabled",
            ),
            ("vm.swappiness", "", "SysctlForbidden: forbidden sysctl: \"vm.swappiness\" not allowlisted"),
            (
                "net.ipv4.tcp_rmem",
                "hostNetwork",
                "SysctlForbidden: forbidden sysctl: \"net.ipv4.tcp_rmem\" not allowed with host net enabled",
            ),
            (
                "kernel.shm_rmid_forced",
                "hostIPC",
                "SysctlForbidden: forbidden sysctl: \"kernel.shm_rmid_forced\" not allowed with host ipc enabled",
            ),
        ] {
            let mut spec = json!({"containers": [], "securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
            if !host.is_empty() {
                spec[host] = json!(true);
            }
            let answer = match admit(&serde_json::from_value(spec).unwrap(), &allowed) {
                Ok(()) => "admitted".to_owned(),
                Err(rejection) => format!("{}: {}", rejection.reason, rejection.message),
            };
            assert_eq!(answer, expected, "{name} {host}");
        }
    }
}
