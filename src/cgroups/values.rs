//! A pod's resources as cgroup files: pure, for v1 and v2 alike (`cm/helpers_linux.go`, `cm/cgroup_manager_linux.go`).

use crate::model::qos::QosClass;
use crate::model::resources::{BadQuantity, all_limited, pod_limits, pod_requests};
use crate::runtime::translate::{CPU_PERIOD_MICROSECONDS, cpu_quota, cpu_shares};
use crate::units::Millicores;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

/// Which tree the controllers are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// What a cgroup is given; `None` is left as the kernel makes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupResources {
    /// v1 scale: 2 to 262144.
    pub cpu_shares: Option<i64>,
    /// Microseconds in each period.
    pub cpu_quota: Option<i64>,
    /// Of the quota, in microseconds; `None` is 100 ms.
    pub cpu_period: Option<i64>,
    pub memory_bytes: Option<i64>,
    pub pids: Option<i64>,
}

impl CgroupResources {
    pub(super) fn period(&self) -> i64 {
        self.cpu_period.unwrap_or(CPU_PERIOD_MICROSECONDS)
    }
}

/// What the kubelet gives a pod's cgroup (`ResourceConfigForPod`): limits only where every container has one. `cpu_period`
/// in microseconds.
pub fn pod_resources(pod: &Pod, pids: Option<i64>, cpu_period: i64) -> Result<CgroupResources, BadQuantity> {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let requests = pod_requests(spec, true)?;
    let limits = pod_limits(spec, true)?;
    let limit = |name: &str| limits.get(name).copied().filter(|&limit| limit > 0);
    let shares = cpu_shares(Millicores(requests.get("cpu").copied().unwrap_or_default()));
    let quota = limit("cpu").map(|limit| cpu_quota(Millicores(limit), cpu_period));
    let resources = match QosClass::of(pod) {
        QosClass::Guaranteed => {
            let memory_bytes = limit("memory");
            CgroupResources { cpu_shares: Some(shares), cpu_quota: quota, memory_bytes, ..Default::default() }
        }
        QosClass::Burstable => CgroupResources {
            cpu_shares: Some(shares),
            cpu_quota: quota.filter(|_| all_limited(spec, "cpu")),
            memory_bytes: limit("memory").filter(|_| all_limited(spec, "memory")),
            ..Default::default()
        },
        QosClass::BestEffort => CgroupResources { cpu_shares: Some(cpu_shares(Millicores(0))), ..Default::default() },
    };
    Ok(CgroupResources { pids, cpu_period: resources.cpu_quota.map(|_| cpu_period), ..resources })
}

/// (controller, file, value), in the order in which they are written.
pub fn files(resources: &CgroupResources, version: Version) -> Vec<(&'static str, &'static str, String)> {
    let mut files = Vec::new();
    let mut file = |controller, name, value: String| files.push((controller, name, value));
    match version {
        Version::V1 => {
            if let Some(shares) = resources.cpu_shares {
                file("cpu", "cpu.shares", shares.to_string());
            }
            if let Some(quota) = resources.cpu_quota {
                file("cpu", "cpu.cfs_period_us", resources.period().to_string());
                file("cpu", "cpu.cfs_quota_us", quota.to_string());
            }
            if let Some(bytes) = resources.memory_bytes {
                file("memory", "memory.limit_in_bytes", bytes.to_string());
            }
            if let Some(pids) = resources.pids {
                file("pids", "pids.max", pids.to_string());
            }
        }
        Version::V2 => {
            if let Some(shares) = resources.cpu_shares {
                file("cpu", "cpu.weight", cpu_weight(shares).to_string());
            }
            if let Some(quota) = resources.cpu_quota {
                file("cpu", "cpu.max", format!("{quota} {}", resources.period()));
            }
            if let Some(bytes) = resources.memory_bytes {
                file("memory", "memory.max", bytes.to_string());
            }
            if let Some(pids) = resources.pids {
                file("pids", "pids.max", pids.to_string());
            }
        }
    }
    files
}

/// Shares 2–262144 → weight 1–10000, as the kubelet maps them (`getCPUWeight`; runtimes may use another curve below it).
pub fn cpu_weight(shares: i64) -> i64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(spec: serde_json::Value, expected: Expect) {
        let pod: Pod = serde_json::from_value(serde_json::json!({ "spec": spec })).unwrap();
        let resources = pod_resources(&pod, Some(1024), CPU_PERIOD_MICROSECONDS).unwrap();
        let mut text = String::new();
        for (name, version) in [("v1", Version::V1), ("v2", Version::V2)] {
            for (controller, file, value) in files(&resources, version) {
                text += &format!("{name} {controller} {file} = {value}\n");
            }
        }
        expected.assert_eq(&text);
    }

    fn container(resources: serde_json::Value) -> serde_json::Value {
        serde_json::json!({ "name": "c", "resources": resources })
    }

    #[test]
    fn best_effort_pods_get_the_least_cpu_and_no_limits() {
        check(
            serde_json::json!({ "containers": [container(serde_json::json!({}))] }),
            expect![[r#"
                v1 cpu cpu.shares = 2
                v1 pids pids.max = 1024
                v2 cpu cpu.weight = 1
                v2 pids pids.max = 1024
            "#]],
        );
    }

    #[test]
    fn quotas_are_for_the_period_that_the_configuration_names() {
        let one = serde_json::json!({ "cpu": "500m", "memory": "64Mi" });
        let c = container(serde_json::json!({ "requests": one, "limits": one }));
        let pod: Pod = serde_json::from_value(serde_json::json!({ "spec": { "containers": [c] } })).unwrap();
        // The least quota that the kernel takes is a millisecond.
        for (period, quota) in [(100_000, 50_000), (10_000, 5_000), (1_000, 1_000)] {
            let resources = pod_resources(&pod, None, period).unwrap();
            let v2 = files(&resources, Version::V2);
            assert!(v2.contains(&("cpu", "cpu.max", format!("{quota} {period}"))), "{v2:?}");
            let v1 = files(&resources, Version::V1);
            assert!(v1.contains(&("cpu", "cpu.cfs_period_us", period.to_string())), "{v1:?}");
        }
    }

    #[test]
    fn guaranteed_pods_are_limited_to_their_sum() {
        let one = serde_json::json!({ "cpu": "500m", "memory": "64Mi" });
        let c = container(serde_json::json!({ "requests": one, "limits": one }));
        check(
            serde_json::json!({ "containers": [c, c] }),
            expect![[r#"
                v1 cpu cpu.shares = 1024
                v1 cpu cpu.cfs_period_us = 100000
                v1 cpu cpu.cfs_quota_us = 100000
                v1 memory memory.limit_in_bytes = 134217728
                v1 pids pids.max = 1024
                v2 cpu cpu.weight = 39
                v2 cpu cpu.max = 100000 100000
                v2 memory memory.max = 134217728
                v2 pids pids.max = 1024
            "#]],
        );
    }

    #[test]
    fn a_burstable_pod_is_limited_only_where_all_its_containers_are() {
        let memory = container(serde_json::json!({ "requests": { "cpu": "100m" }, "limits": { "memory": "1Gi" } }));
        let both = container(serde_json::json!({ "limits": { "memory": "1Gi", "cpu": "1" } }));
        check(
            serde_json::json!({ "containers": [memory, both] }),
            expect![[r#"
                v1 cpu cpu.shares = 102
                v1 memory memory.limit_in_bytes = 2147483648
                v1 pids pids.max = 1024
                v2 cpu cpu.weight = 4
                v2 memory memory.max = 2147483648
                v2 pids pids.max = 1024
            "#]],
        );
    }

    #[test]
    fn an_init_container_that_needs_more_raises_the_pod() {
        let small = container(serde_json::json!({ "requests": { "cpu": "100m" } }));
        let large = container(serde_json::json!({ "requests": { "cpu": "2" } }));
        check(
            serde_json::json!({ "containers": [small], "initContainers": [large], "overhead": { "cpu": "250m" } }),
            expect![[r#"
                v1 cpu cpu.shares = 2304
                v1 pids pids.max = 1024
                v2 cpu cpu.weight = 88
                v2 pids pids.max = 1024
            "#]],
        );
    }
}
