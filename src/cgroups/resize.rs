//! Other limits for a pod's cgroup while its containers run: grown before theirs, shrunk after them.

use super::values::{self, CgroupResources, Version};
use super::{CgroupError, Cgroups, Driver, blocking, slice_name, systemd, write};
use crate::model::qos::QosClass;
use k8s_openapi::api::core::v1::Pod;
use std::fs;

/// `memory.limit_in_bytes` of a v1 cgroup without a limit is the largest multiple of a page: anything near it is none.
const V1_UNLIMITED_BYTES: i64 = i64::MAX / 2;

impl Cgroups {
    /// Gives the pod's cgroup what it is granted beyond what it has. What is less waits for its containers.
    pub async fn raise_pod(&self, pod: &Pod) -> Result<(), CgroupError> {
        let wanted = self.resources_of(pod, None)?;
        let names = self.names_of(pod);
        let raised = raised(wanted, self.current(&names).await?);
        self.set(&names, raised).await
    }

    /// Gives the pod's cgroup exactly what it is granted; not where it uses more memory than that already, since the
    /// kernel would kill for it.
    pub async fn resize_pod(&self, pod: &Pod) -> Result<(), CgroupError> {
        let wanted = self.resources_of(pod, None)?;
        let names = self.names_of(pod);
        let has = self.current(&names).await?;
        if let Some(limit) = wanted.memory_bytes
            && has.memory_bytes.is_none_or(|has| limit < has)
            && let Some(used) = self.memory_usage(&names).await?.filter(|used| *used > limit)
        {
            return Err(CgroupError::BelowUsage { limit, used });
        }
        self.set(&names, wanted).await
    }

    /// Limits a cgroup that is there already to what is reserved for it (`enforceNodeAllocatable`: `system-reserved`,
    /// `kube-reserved`); `path` as `systemReservedCgroup` names it.
    pub async fn limit_reserved(&self, path: &str, reserved: CgroupResources) -> Result<(), CgroupError> {
        let names = path.split('/').filter(|name| !name.is_empty());
        let names: Vec<String> = match self.driver {
            Driver::Cgroupfs => names.map(str::to_owned).collect(),
            Driver::Systemd => names.map(|name| name.trim_end_matches(".slice").to_owned()).collect(),
        };
        if names.is_empty() || !self.folders(&names).any(|folder| folder.is_dir()) {
            return Err(CgroupError::Missing(path.to_owned()));
        }
        self.set(&names, reserved).await
    }

    fn names_of(&self, pod: &Pod) -> Vec<String> {
        self.pod_names(QosClass::of(pod), pod.metadata.uid.as_deref().unwrap_or_default())
    }

    /// CPU quota and memory limit as the kernel has them.
    async fn current(&self, names: &[String]) -> Result<CgroupResources, CgroupError> {
        let (quota, memory) = match self.version {
            Version::V1 => ("cpu.cfs_quota_us", "memory.limit_in_bytes"),
            Version::V2 => ("cpu.max", "memory.max"),
        };
        Ok(CgroupResources {
            cpu_quota: self.number(names, quota).await?,
            memory_bytes: self.number(names, memory).await?,
            ..Default::default()
        })
    }

    async fn memory_usage(&self, names: &[String]) -> Result<Option<i64>, CgroupError> {
        let file = match self.version {
            Version::V1 => "memory.usage_in_bytes",
            Version::V2 => "memory.current",
        };
        self.number(names, file).await
    }

    /// The first word of that file in whichever hierarchy has it; `None`: no such file, or no limit.
    async fn number(&self, names: &[String], file: &'static str) -> Result<Option<i64>, CgroupError> {
        let folders: Vec<_> = self.folders(names).collect();
        let text = blocking(move || Ok(folders.iter().find_map(|folder| fs::read_to_string(folder.join(file)).ok())));
        Ok(text.await?.as_deref().and_then(limit_of))
    }

    async fn set(&self, names: &[String], resources: CgroupResources) -> Result<(), CgroupError> {
        if self.driver == Driver::Systemd {
            let slice = slice_name(names);
            return systemd::busctl(&slice, systemd::set_properties(&slice, &resources, self.version)).await;
        }
        let (this, names) = (self.clone(), names.to_vec());
        blocking(move || {
            let files = values::files(&resources, this.version);
            for (hierarchy, folder) in this.hierarchies.iter().zip(this.folders(&names)) {
                for (_, file, value) in files.iter().filter(|(c, ..)| hierarchy.controllers.iter().any(|own| own == c))
                {
                    write(&folder.join(file), value)?;
                }
            }
            Ok(())
        })
        .await
    }
}

/// The larger of what is wanted and what is there; what has no limit gets none yet.
fn raised(wanted: CgroupResources, has: CgroupResources) -> CgroupResources {
    let larger = |wanted: Option<i64>, has: Option<i64>| wanted.zip(has).map(|(wanted, has)| wanted.max(has));
    CgroupResources {
        cpu_quota: larger(wanted.cpu_quota, has.cpu_quota),
        memory_bytes: larger(wanted.memory_bytes, has.memory_bytes),
        ..wanted
    }
}

fn limit_of(text: &str) -> Option<i64> {
    let number: i64 = text.split_whitespace().next()?.parse().ok()?;
    Some(number).filter(|number| (0..V1_UNLIMITED_BYTES).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_grow_before_containers_and_never_shrink_there() {
        let limits = |cpu: Option<i64>, memory: Option<i64>| CgroupResources {
            cpu_shares: Some(100),
            cpu_quota: cpu,
            memory_bytes: memory,
            ..Default::default()
        };
        for (wanted, has, expected) in [
            (limits(Some(20), Some(64)), limits(Some(10), Some(32)), limits(Some(20), Some(64))),
            (limits(Some(10), Some(16)), limits(Some(20), Some(32)), limits(Some(20), Some(32))),
            (limits(Some(10), None), limits(None, Some(32)), limits(None, None)),
        ] {
            assert_eq!(raised(wanted, has), expected);
        }
    }

    #[test]
    fn limits_are_read_from_both_versions() {
        for (text, expected) in [
            ("10000\n", Some(10_000)),
            ("10000 100000\n", Some(10_000)),
            ("max 100000\n", None),
            ("max\n", None),
            ("-1\n", None),
            ("9223372036854771712\n", None),
        ] {
            assert_eq!(limit_of(text), expected, "{text:?}");
        }
    }
}
