//! The baseline standard: no known escalations of privilege. Texts and order are upstream's.

use super::pod::{Pod, forbid, named, plural, quote_all, unique};
use super::{Level, Standard, Version, Violation};
use crate::registry::value::{items, text, truth};
use serde_json::Value;

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Sysctls that are safe, with the minor release since which they are allowed.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];
/// SELinux types that runtimes give containers themselves.
const SELINUX_TYPES: [(&str, u32); 5] =
    [("", 0), ("container_t", 0), ("container_init_t", 0), ("container_kvm_t", 0), ("container_engine_t", 31)];
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// What of it the restricted standard says more strictly is left to that.
pub(super) fn check(standard: Standard, pod: &Pod<'_>, found: &mut Vec<Violation>) {
    let since = |minor: u32| standard.version >= Version::Minor(minor);
    let baseline = standard.level == Level::Baseline;
    apparmor(pod, found);
    if baseline || !since(22) {
        capabilities(pod, found);
    }
    let host: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| truth(&pod.spec[*field]))
        .map(|field| format!("{field}=true"))
        .collect();
    if !host.is_empty() {
        forbid(found, "host namespaces", host.join(", "));
    }
    if baseline {
        let volumes: Vec<&str> =
            items(&pod.spec["volumes"]).iter().filter(|v| !v["hostPath"].is_null()).map(|v| text(&v["name"])).collect();
        if !volumes.is_empty() {
            forbid(found, "hostPath volumes", named("volume", &volumes));
        }
    }
    host_ports(pod, found);
    if since(34) {
        hosts_of_probes(pod, found);
    }
    let privileged = pod.where_(|c| truth(&c["securityContext"]["privileged"]));
    if !privileged.is_empty() {
        let who = named("container", &privileged);
        forbid(found, "privileged", format!("{who} must not set securityContext.privileged=true"));
    }
    proc_mount(pod, found);
    selinux(pod, &since, found);
    if baseline || !since(19) {
        let unconfined = |context: &Value| text(&context["seccompProfile"]["type"]) == "Unconfined";
        let setters = pod.setters(unconfined);
        if !setters.is_empty() {
            let who = setters.join(" and ");
            forbid(
                found,
                "seccompProfile",
                format!("{who} must not set securityContext.seccompProfile.type to \"Unconfined\""),
            );
        }
    }
    let allowed = |name: &str| SYSCTLS.iter().any(|(known, minor)| *known == name && since(*minor));
    let sysctls: Vec<&str> = items(&pod.spec["securityContext"]["sysctls"])
        .iter()
        .map(|s| text(&s["name"]))
        .filter(|n| !allowed(n))
        .collect();
    if !sysctls.is_empty() {
        forbid(found, "forbidden sysctls", sysctls.join(", "));
    }
    let windows = pod.setters(|context| truth(&context["windowsOptions"]["hostProcess"]));
    if !windows.is_empty() {
        let who = windows.join(" and ");
        forbid(found, "hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"));
    }
}

fn apparmor(pod: &Pod<'_>, found: &mut Vec<Violation>) {
    let mut bad = Vec::new();
    let unconfined = |context: &Value| text(&context["appArmorProfile"]["type"]) == "Unconfined";
    for setter in pod.setters(unconfined) {
        bad.push(format!("{setter} must not set AppArmor profile type to \"Unconfined\""));
    }
    let allowed =
        |profile: &str| profile.is_empty() || profile == "runtime/default" || profile.starts_with("localhost/");
    let annotations =
        pod.annotations().filter(|(key, value)| key.starts_with(APPARMOR_ANNOTATION) && !allowed(text(value)));
    let annotations: Vec<String> = annotations.map(|(key, value)| format!("{key}={:?}", text(value))).collect();
    if !annotations.is_empty() {
        bad.push(format!("{} {}", plural("annotation", annotations.len()), annotations.join(", ")));
    }
    if !bad.is_empty() {
        forbid(found, &plural("forbidden AppArmor profile", bad.len()), bad.join(" and "));
    }
}

fn added(container: &Value) -> impl Iterator<Item = &str> {
    items(&container["securityContext"]["capabilities"]["add"]).iter().map(text)
}

fn capabilities(pod: &Pod<'_>, found: &mut Vec<Violation>) {
    let bad = |name: &&str| !CAPABILITIES.contains(name);
    let containers = pod.where_(|c| added(c).any(|name| bad(&name)));
    if !containers.is_empty() {
        let names = unique(pod.containers.iter().flat_map(|c| added(c)).filter(bad));
        let who = named("container", &containers);
        let detail = format!("{who} must not include {} in securityContext.capabilities.add", quote_all(&names));
        forbid(found, "non-default capabilities", detail);
    }
}

fn host_ports(pod: &Pod<'_>, found: &mut Vec<Violation>) {
    let ports = |c: &Value| -> Vec<i64> {
        items(&c["ports"]).iter().filter_map(|p| p["hostPort"].as_i64()).filter(|p| *p != 0).collect()
    };
    let containers = pod.where_(|c| !ports(c).is_empty());
    if containers.is_empty() {
        return;
    }
    let all: std::collections::BTreeSet<String> =
        pod.containers.iter().flat_map(|c| ports(c)).map(|p| p.to_string()).collect();
    let all: Vec<String> = all.into_iter().collect();
    let verb = if containers.len() == 1 { "uses" } else { "use" };
    let detail =
        format!("{} {verb} {} {}", named("container", &containers), plural("hostPort", all.len()), all.join(", "));
    forbid(found, "hostPort", detail);
}

/// Probes and hooks reach the pod itself; another host would be reached by the node.
fn hosts_of_probes(pod: &Pod<'_>, found: &mut Vec<Violation>) {
    let hosts = |c: &Value| -> Vec<String> {
        let handlers = [
            &c["livenessProbe"],
            &c["readinessProbe"],
            &c["startupProbe"],
            &c["lifecycle"]["postStart"],
            &c["lifecycle"]["preStop"],
        ];
        let of = handlers.into_iter().flat_map(|h| [&h["httpGet"]["host"], &h["tcpSocket"]["host"]]);
        of.map(|h| text(h).to_owned()).filter(|h| !h.is_empty()).collect()
    };
    let containers = pod.where_(|c| !hosts(c).is_empty());
    if containers.is_empty() {
        return;
    }
    let all: std::collections::BTreeSet<String> = pod.containers.iter().flat_map(|c| hosts(c)).collect();
    let all: Vec<String> = all.into_iter().collect();
    let verb = if containers.len() == 1 { "uses" } else { "use" };
    let detail = format!(
        "{} {verb} probe or lifecycle {} {}",
        named("container", &containers),
        plural("host", all.len()),
        quote_all(&all)
    );
    forbid(found, "probe or lifecycle host", detail);
}

fn proc_mount(pod: &Pod<'_>, found: &mut Vec<Violation>) {
    let mount = |c: &'_ Value| text(&c["securityContext"]["procMount"]).to_owned();
    let bad = |mount: &str| !matches!(mount, "" | "Default");
    let containers = pod.where_(|c| bad(&mount(c)));
    if containers.is_empty() {
        return;
    }
    let all: std::collections::BTreeSet<String> = pod.containers.iter().map(|c| mount(c)).filter(|m| bad(m)).collect();
    let all: Vec<String> = all.into_iter().collect();
    let who = named("container", &containers);
    forbid(found, "procMount", format!("{who} must not set securityContext.procMount to {}", quote_all(&all)));
}

fn selinux(pod: &Pod<'_>, since: &dyn Fn(u32) -> bool, found: &mut Vec<Violation>) {
    let allowed = |name: &str| SELINUX_TYPES.iter().any(|(known, minor)| *known == name && since(*minor));
    let options = |context: &'_ Value| context["seLinuxOptions"].clone();
    let bad = |context: &Value| {
        let options = options(context);
        !allowed(text(&options["type"])) || !text(&options["user"]).is_empty() || !text(&options["role"]).is_empty()
    };
    let setters = pod.setters(bad);
    if setters.is_empty() {
        return;
    }
    let contexts =
        || std::iter::once(&pod.spec["securityContext"]).chain(pod.containers.iter().map(|c| &c["securityContext"]));
    let types = unique(contexts().map(|c| text(&c["seLinuxOptions"]["type"])).filter(|t| !allowed(t)));
    let mut bad = Vec::new();
    if !types.is_empty() {
        bad.push(format!("{} {}", plural("type", types.len()), quote_all(&types)));
    }
    for field in ["user", "role"] {
        if contexts().any(|c| !text(&c["seLinuxOptions"][field]).is_empty()) {
            bad.push(format!("{field} may not be set"));
        }
    }
    let detail = format!("{} set forbidden securityContext.seLinuxOptions: {}", setters.join(" and "), bad.join("; "));
    forbid(found, "seLinuxOptions", detail);
}
