//! The restricted standard: pods hardened as is best practice today. Texts and order are upstream's.

use super::pod::{Pod, forbid, named, plural, quote_all, unique};
use super::{Version, Violation};
use crate::registry::value::{items, text};
use serde_json::Value;

/// Volumes that show nothing of the node.
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

pub(super) fn check(version: Version, pod: &Pod<'_>, found: &mut Vec<Violation>) {
    let since = |minor: u32| version >= Version::Minor(minor);
    // What only Linux knows is not asked of Windows.
    let linux = !(since(25) && pod.is_windows());
    if since(8) && linux {
        let open = pod.where_(|c| c["securityContext"]["allowPrivilegeEscalation"] != Value::Bool(false));
        if !open.is_empty() {
            let who = named("container", &open);
            let detail = format!("{who} must set securityContext.allowPrivilegeEscalation=false");
            forbid(found, "allowPrivilegeEscalation != false", detail);
        }
    }
    if since(22) && linux {
        capabilities(pod, found);
    }
    volumes(pod, found);
    run_as_non_root(pod, found);
    if since(23) {
        let setters = pod.setters(|context| context["runAsUser"].as_i64() == Some(0));
        if !setters.is_empty() {
            forbid(found, "runAsUser=0", format!("{} must not set runAsUser=0", setters.join(" and ")));
        }
    }
    if since(19) && linux {
        seccomp(pod, found);
    }
}

fn capabilities(pod: &Pod<'_>, found: &mut Vec<Violation>) {
    let list = |c: &'_ Value, field: &str| -> Vec<String> {
        items(&c["securityContext"]["capabilities"][field]).iter().map(|v| text(v).to_owned()).collect()
    };
    let mut details = Vec::new();
    let keeping = pod.where_(|c| !list(c, "drop").iter().any(|name| name == "ALL"));
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named("container", &keeping)));
    }
    let bad = |name: &String| name != "NET_BIND_SERVICE";
    let adding = pod.where_(|c| list(c, "add").iter().any(bad));
    if !adding.is_empty() {
        let names: Vec<String> = pod.containers.iter().flat_map(|c| list(c, "add")).filter(|n| bad(n)).collect();
        let names = quote_all(&unique(names.iter().map(String::as_str)));
        details.push(format!(
            "{} must not include {names} in securityContext.capabilities.add",
            named("container", &adding)
        ));
    }
    if !details.is_empty() {
        forbid(found, "unrestricted capabilities", details.join("; "));
    }
}

fn volumes(pod: &Pod<'_>, found: &mut Vec<Violation>) {
    let kind = |volume: &'_ Value| -> String {
        let fields =
            volume.as_object().into_iter().flatten().filter(|(name, value)| *name != "name" && !value.is_null());
        fields.map(|(name, _)| name.clone()).next().unwrap_or_default()
    };
    let bad: Vec<(&str, String)> = items(&pod.spec["volumes"])
        .iter()
        .map(|volume| (text(&volume["name"]), kind(volume)))
        .filter(|(_, kind)| !VOLUMES.contains(&kind.as_str()))
        .collect();
    if bad.is_empty() {
        return;
    }
    let names: Vec<&str> = bad.iter().map(|(name, _)| *name).collect();
    let kinds = unique(bad.iter().map(|(_, kind)| kind.as_str()));
    let verb = if names.len() == 1 { "uses" } else { "use" };
    let what = plural("restricted volume type", kinds.len());
    forbid(
        found,
        "restricted volume types",
        format!("{} {verb} {what} {}", named("volume", &names), quote_all(&kinds)),
    );
}

fn run_as_non_root(pod: &Pod<'_>, found: &mut Vec<Violation>) {
    let setters = pod.setters(|context| context["runAsNonRoot"] == Value::Bool(false));
    let reason = "runAsNonRoot != true";
    if !setters.is_empty() {
        return forbid(
            found,
            reason,
            format!("{} must not set securityContext.runAsNonRoot=false", setters.join(" and ")),
        );
    }
    if pod.spec["securityContext"]["runAsNonRoot"] == Value::Bool(true) {
        return;
    }
    let silent = pod.where_(|c| c["securityContext"]["runAsNonRoot"].is_null());
    if !silent.is_empty() {
        let who = named("container", &silent);
        forbid(found, reason, format!("pod or {who} must set securityContext.runAsNonRoot=true"));
    }
}

fn seccomp(pod: &Pod<'_>, found: &mut Vec<Violation>) {
    let profile = |context: &'_ Value| text(&context["seccompProfile"]["type"]).to_owned();
    let valid = |profile: &str| matches!(profile, "RuntimeDefault" | "Localhost");
    let bad = |context: &Value| !profile(context).is_empty() && !valid(&profile(context));
    let setters = pod.setters(bad);
    if !setters.is_empty() {
        let contexts =
            std::iter::once(&pod.spec["securityContext"]).chain(pod.containers.iter().map(|c| &c["securityContext"]));
        let values: Vec<String> = contexts.map(profile).filter(|p| !p.is_empty() && !valid(p)).collect();
        let values = quote_all(&unique(values.iter().map(String::as_str)));
        let who = setters.join(" and ");
        return forbid(
            found,
            "seccompProfile",
            format!("{who} must not set securityContext.seccompProfile.type to {values}"),
        );
    }
    if valid(&profile(&pod.spec["securityContext"])) {
        return;
    }
    let silent = pod.where_(|c| profile(&c["securityContext"]).is_empty());
    if !silent.is_empty() {
        let who = named("container", &silent);
        let wanted = "\"RuntimeDefault\" or \"Localhost\"";
        forbid(
            found,
            "seccompProfile",
            format!("pod or {who} must set securityContext.seccompProfile.type to {wanted}"),
        );
    }
}
