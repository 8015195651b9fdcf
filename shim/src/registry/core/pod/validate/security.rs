//! Security contexts of pods and containers.

use crate::registry::field::{Errors, Path};
use crate::registry::value::{items, text, truth};
use serde_json::Value;

const ID_TEXT: &str = "must be between 0 and 2147483647, inclusive";
const SYSCTL_TEXT: &str = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

fn id(context: &Value, field: &str, path: &Path, errors: &mut Errors) {
    check_id(&context[field], &path.child(field), errors);
}

fn check_id(id: &Value, path: &Path, errors: &mut Errors) {
    if let Some(id) = id.as_i64()
        && !(0..=i64::from(i32::MAX)).contains(&id)
    {
        errors.push(path.invalid(id, ID_TEXT));
    }
}

/// `ValidatePodSecurityContext` and the namespaces the pod shares with its host.
pub(super) fn pod(spec: &Value, spec_path: &Path, errors: &mut Errors) {
    let (context, path) = (&spec["securityContext"], spec_path.child("securityContext"));
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(context, field, &path, errors);
    }
    for (index, group) in items(&context["supplementalGroups"]).iter().enumerate() {
        check_id(group, &path.child("supplementalGroups").index(index), errors);
    }
    if truth(&spec["shareProcessNamespace"]) && truth(&spec["hostPID"]) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(path.child("shareProcessNamespace").invalid(true, detail));
    }
    if spec["hostUsers"].as_bool() == Some(false) {
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            if truth(&spec[field]) {
                errors.push(path.child(field).forbidden("when `hostUsers` is false"));
            }
        }
    }
    let mut seen = Vec::new();
    for (index, sysctl) in items(&context["sysctls"]).iter().enumerate() {
        let (name, path) = (text(&sysctl["name"]), path.child("sysctls").index(index).child("name"));
        if name.is_empty() {
            errors.push(path.required(""));
        } else if !is_sysctl(name) {
            errors.push(path.invalid(name, SYSCTL_TEXT));
        } else if seen.contains(&name) {
            errors.push(path.duplicate(name));
        }
        seen.push(name);
    }
    for (field, supported) in [
        ("fsGroupChangePolicy", ["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", ["Merge", "Strict"]),
        ("seLinuxChangePolicy", ["MountOption", "Recursive"]),
    ] {
        if let Some(policy) = context[field].as_str().filter(|p| !supported.contains(p)) {
            errors.push(path.child(field).not_supported(policy, &supported));
        }
    }
    profiles(context, &path, errors);
}

/// Seccomp and AppArmor profiles.
fn profiles(context: &Value, path: &Path, errors: &mut Errors) {
    for (field, kind) in [("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")] {
        let (profile, path) = (&context[field], path.child(field));
        if !profile.is_object() {
            continue;
        }
        let local = text(&profile["localhostProfile"]);
        match text(&profile["type"]) {
            "Localhost" => {
                let path = path.child("localhostProfile");
                if local.is_empty() {
                    errors.push(path.required(&format!("must be set when {kind} type is Localhost")));
                } else if kind == "seccomp" {
                    super::volumes::local_descending_path(local, &path, errors);
                }
            }
            "RuntimeDefault" | "Unconfined" => {
                if profile["localhostProfile"].is_string() {
                    let detail = format!("can only be set when {kind} type is Localhost");
                    errors.push(path.child("localhostProfile").invalid(local, &detail));
                }
            }
            "" => errors.push(path.child("type").required(&format!("type is required when {field} is set"))),
            other => {
                let supported = ["Localhost", "RuntimeDefault", "Unconfined"];
                errors.push(path.child("type").not_supported(other, &supported));
            }
        }
    }
}

/// Segments of lower-case letters, digits, `-` and `_` that start and end in a letter or digit.
fn is_sysctl(name: &str) -> bool {
    let segment = |s: &str| {
        let bytes = s.as_bytes();
        let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        !bytes.is_empty()
            && edge(bytes[0])
            && edge(bytes[bytes.len() - 1])
            && bytes.iter().all(|&c| edge(c) || matches!(c, b'-' | b'_'))
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

/// `ValidateSecurityContext` of a container.
pub(super) fn container(container: &Value, spec: &Value, path: &Path, errors: &mut Errors) {
    let context = &container["securityContext"];
    if !context.is_object() {
        return;
    }
    id(context, "runAsUser", path, errors);
    id(context, "runAsGroup", path, errors);
    if let Some(mount) = context["procMount"].as_str() {
        if !matches!(mount, "Default" | "Unmasked") {
            errors.push(path.child("procMount").not_supported(mount, &["Default", "Unmasked"]));
        }
        if mount == "Unmasked" && spec["hostUsers"].as_bool().unwrap_or(true) {
            let detail = "`hostUsers` must be false to use `Unmasked`";
            errors.push(path.child("procMount").invalid(mount, detail));
        }
    }
    profiles(context, path, errors);
    if context["allowPrivilegeEscalation"].as_bool() == Some(false) {
        if truth(&context["privileged"]) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(path.invalid(context.clone(), detail));
        }
        if items(&context["capabilities"]["add"]).iter().any(|c| text(c) == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(path.invalid(context.clone(), detail));
        }
    }
}
