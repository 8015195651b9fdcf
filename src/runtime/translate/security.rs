//! Security contexts → CRI (`pkg/securitycontext`, `kuberuntime/security_context.go`, `kuberuntime/util`).

use super::{ContainerFacts, HostFacts, TranslateError};
use crate::runtime::IdBlock;
use k8s_cri::v1 as pb;
use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, PodSecurityContext, PodSpec, SELinuxOptions, SeccompProfile, SecurityContext,
};
use pb::security_profile::ProfileType;

/// Hidden from containers (`securitycontext.defaultMaskedPaths`).
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Read-only in containers (`securitycontext.defaultReadonlyPaths`).
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

pub(super) fn sandbox(spec: &PodSpec, ids: Option<IdBlock>) -> Result<pb::LinuxSandboxSecurityContext, TranslateError> {
    let empty = PodSecurityContext::default();
    let context = spec.security_context.as_ref().unwrap_or(&empty);
    Ok(pb::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(spec, None, ids)?),
        selinux_options: context.se_linux_options.as_ref().map(selinux),
        run_as_user: int64(context.run_as_user),
        run_as_group: int64(context.run_as_group),
        supplemental_groups: supplemental_groups(context),
        supplemental_groups_policy: groups_policy(context),
        privileged: has_privileged_container(spec),
        // The pause process needs nothing more.
        seccomp: Some(profile(ProfileType::RuntimeDefault, String::new())),
        ..Default::default()
    })
}

// The deprecated spelling is what containerd 1.6 reads.
#[allow(deprecated)]
pub(super) fn container(
    pod: &Pod,
    container: &Container,
    about: &ContainerFacts,
    facts: &HostFacts,
    ids: Option<IdBlock>,
) -> Result<pb::LinuxContainerSecurityContext, TranslateError> {
    let spec = pod.spec.as_ref().ok_or(TranslateError::NoSpec)?;
    let (no_pod, no_own) = (PodSecurityContext::default(), SecurityContext::default());
    let pod_context = spec.security_context.as_ref().unwrap_or(&no_pod);
    let own = container.security_context.as_ref().unwrap_or(&no_own);

    // The image's user where the pod names none; root where neither does.
    let asked = own.run_as_user.or(pod_context.run_as_user);
    let (run_as_user, run_as_username) = match (asked, about.image_uid, about.image_username.as_str()) {
        (Some(uid), _, _) | (None, Some(uid), _) => (Some(uid), String::new()),
        (None, None, "") => (Some(0), String::new()),
        (None, None, name) => (None, name.to_owned()),
    };
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let (apparmor, apparmor_profile) = match app_armor(pod, container, own, pod_context) {
        Some((profile, deprecated)) => (Some(profile), deprecated),
        None => (None, String::new()),
    };
    let seccomp = own.seccomp_profile.as_ref().or(pod_context.seccomp_profile.as_ref());
    Ok(pb::LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(|c| pb::Capability {
            add_capabilities: c.add.clone().unwrap_or_default(),
            drop_capabilities: c.drop.clone().unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged: own.privileged.unwrap_or_default(),
        namespace_options: Some(namespaces(spec, about.target_container_id.as_deref(), ids)?),
        selinux_options: own.se_linux_options.as_ref().or(pod_context.se_linux_options.as_ref()).map(selinux),
        run_as_user: int64(run_as_user),
        run_as_group: int64(own.run_as_group.or(pod_context.run_as_group)),
        run_as_username,
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or_default(),
        supplemental_groups: supplemental_groups(pod_context),
        supplemental_groups_policy: groups_policy(pod_context),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: if unmasked {
            Vec::new()
        } else {
            MASKED_PATHS.iter().map(|&path| path.to_owned()).chain(facts.thermal_throttle.iter().cloned()).collect()
        },
        readonly_paths: if unmasked { Vec::new() } else { READONLY_PATHS.map(str::to_owned).to_vec() },
        seccomp: Some(seccomp_profile(seccomp, facts)),
        apparmor,
        apparmor_profile,
        ..Default::default()
    })
}

/// Which namespaces a pod shares with the node, and its containers with one another.
fn namespaces(
    spec: &PodSpec,
    target: Option<&str>,
    ids: Option<IdBlock>,
) -> Result<pb::NamespaceOption, TranslateError> {
    use pb::NamespaceMode::{Container, Node, Pod, Target};
    let users = match (spec.host_users, ids) {
        (Some(false), Some(IdBlock { first, length })) => {
            let mapping = vec![pb::IdMapping { host_id: first, container_id: 0, length }];
            pb::UserNamespace { mode: Pod.into(), uids: mapping.clone(), gids: mapping }
        }
        (Some(false), None) => return Err(TranslateError::UserNamespace),
        (Some(true) | None, _) => pb::UserNamespace { mode: Node.into(), ..Default::default() },
    };
    let shared = |with_host: Option<bool>| if with_host == Some(true) { Node } else { Pod };
    let pid = match target {
        Some(_) => Target,
        None if spec.host_pid == Some(true) => Node,
        None if spec.share_process_namespace == Some(true) => Pod,
        None => Container,
    };
    Ok(pb::NamespaceOption {
        network: shared(spec.host_network).into(),
        pid: pid.into(),
        ipc: shared(spec.host_ipc).into(),
        target_id: target.unwrap_or_default().to_owned(),
        userns_options: Some(users),
    })
}

fn has_privileged_container(spec: &PodSpec) -> bool {
    let regular = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let contexts = regular.map(|c| &c.security_context);
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| &c.security_context);
    contexts.chain(ephemeral).flatten().any(|context| context.privileged == Some(true))
}

fn supplemental_groups(context: &PodSecurityContext) -> Vec<i64> {
    context.fs_group.into_iter().chain(context.supplemental_groups.iter().flatten().copied()).collect()
}

fn groups_policy(context: &PodSecurityContext) -> i32 {
    match context.supplemental_groups_policy.as_deref() {
        Some("Strict") => pb::SupplementalGroupsPolicy::Strict.into(),
        _ => pb::SupplementalGroupsPolicy::Merge.into(),
    }
}

fn selinux(options: &SELinuxOptions) -> pb::SeLinuxOption {
    pb::SeLinuxOption {
        user: options.user.clone().unwrap_or_default(),
        role: options.role.clone().unwrap_or_default(),
        r#type: options.type_.clone().unwrap_or_default(),
        level: options.level.clone().unwrap_or_default(),
    }
}

fn seccomp_profile(wanted: Option<&SeccompProfile>, facts: &HostFacts) -> pb::SecurityProfile {
    let default = if facts.seccomp_default { ProfileType::RuntimeDefault } else { ProfileType::Unconfined };
    let Some(wanted) = wanted else { return profile(default, String::new()) };
    match (wanted.type_.as_str(), wanted.localhost_profile.as_deref()) {
        ("RuntimeDefault", _) => profile(ProfileType::RuntimeDefault, String::new()),
        ("Localhost", Some(file)) if !file.is_empty() => {
            profile(ProfileType::Localhost, facts.seccomp_profiles.join(file).to_string_lossy().into_owned())
        }
        ("Unconfined", _) => profile(ProfileType::Unconfined, String::new()),
        // Validation refuses anything else; confine rather than not.
        _ => profile(ProfileType::RuntimeDefault, String::new()),
    }
}

/// The profile and its deprecated spelling, from the container, the pod, or the annotation of older objects.
fn app_armor(
    pod: &Pod,
    container: &Container,
    own: &SecurityContext,
    pod_context: &PodSecurityContext,
) -> Option<(pb::SecurityProfile, String)> {
    let annotated = || {
        let key = format!("container.apparmor.security.beta.kubernetes.io/{}", container.name);
        let value = pod.metadata.annotations.as_ref()?.get(&key)?;
        Some(match value.as_str() {
            "unconfined" => ("Unconfined".to_owned(), None),
            "runtime/default" => ("RuntimeDefault".to_owned(), None),
            other => ("Localhost".to_owned(), Some(other.strip_prefix("localhost/")?.to_owned())),
        })
    };
    let field = |profile: &AppArmorProfile| (profile.type_.clone(), profile.localhost_profile.clone());
    let (kind, name) = own
        .app_armor_profile
        .as_ref()
        .map(field)
        .or_else(annotated)
        .or_else(|| pod_context.app_armor_profile.as_ref().map(field))?;
    Some(match (kind.as_str(), name) {
        ("Unconfined", _) => (profile(ProfileType::Unconfined, String::new()), "unconfined".into()),
        ("Localhost", Some(name)) => {
            let deprecated = format!("localhost/{name}");
            (profile(ProfileType::Localhost, name), deprecated)
        }
        _ => (profile(ProfileType::RuntimeDefault, String::new()), "runtime/default".into()),
    })
}

fn profile(kind: ProfileType, localhost_ref: String) -> pb::SecurityProfile {
    pb::SecurityProfile { profile_type: kind.into(), localhost_ref }
}

fn int64(value: Option<i64>) -> Option<pb::Int64Value> {
    value.map(|value| pb::Int64Value { value })
}
