//! The kubelet's checkpoint files: JSON with a checksum over Go's dump of the same data, so that a kubelet takes over
//! what we wrote and the reverse (`pkg/kubelet/checkpointmanager`, `cpumanager/state/checkpoint.go`).

use crate::decide::cpus::CpuState;
use crate::decide::numa_memory::{Block, MemoryState, Node};
use crate::model::cpuset::BadCpuSet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

/// Why a checkpoint cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("checkpoint is corrupted")]
    Corrupt,
    #[error("configured policy {configured:?} differs from state checkpoint policy {kept:?}")]
    OtherPolicy { configured: String, kept: String },
    #[error("could not parse cpuset: {0}")]
    Cpus(#[from] BadCpuSet),
}

/// A manager's file.
pub(super) trait Checkpoint: Serialize + DeserializeOwned {
    fn policy(&self) -> &str;
    fn checksum(&self) -> u64;
    /// FNV-1a over what spew's `%#v` prints of Go's struct with no checksum (`checksum.New`).
    fn sum(&self) -> u64;
}

/// `CPUManagerCheckpoint`, the second format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CpuCheckpoint {
    policy_name: String,
    default_cpu_set: String,
    /// pod uid → container → CPUs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(default)]
    checksum: u64,
}

impl CpuCheckpoint {
    pub(super) fn of(policy: &str, state: &CpuState) -> Self {
        let containers =
            |own: &BTreeMap<String, _>| own.iter().map(|(name, cpus)| (name.clone(), text(cpus))).collect();
        let mut checkpoint = Self {
            policy_name: policy.to_owned(),
            default_cpu_set: state.shared.to_string(),
            entries: state.own.iter().map(|(uid, own)| (uid.clone(), containers(own))).collect(),
            checksum: 0,
        };
        checkpoint.checksum = checkpoint.sum();
        checkpoint
    }

    pub(super) fn state(&self) -> Result<CpuState, BadCpuSet> {
        let mut state = CpuState { shared: self.default_cpu_set.parse()?, ..CpuState::default() };
        for (uid, own) in &self.entries {
            for (name, cpus) in own {
                state.own.entry(uid.clone()).or_default().insert(name.clone(), cpus.parse()?);
            }
        }
        Ok(state)
    }
}

impl Checkpoint for CpuCheckpoint {
    fn policy(&self) -> &str {
        &self.policy_name
    }

    fn checksum(&self) -> u64 {
        self.checksum
    }

    fn sum(&self) -> u64 {
        let entries = dump(&self.entries, |own| dump(own, String::clone));
        fnv32a(&format!(
            "(*state.CPUManagerCheckpoint){{PolicyName:(string){} DefaultCPUSet:(string){} \
             Entries:(map[string]map[string]string){entries} Checksum:(checksum.Checksum)0}}",
            self.policy_name, self.default_cpu_set,
        ))
        .into()
    }
}

/// `MemoryManagerCheckpoint`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MemoryCheckpoint {
    policy_name: String,
    machine_state: BTreeMap<u32, Node>,
    /// pod uid → container → blocks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<String, BTreeMap<String, Vec<Block>>>,
    #[serde(default)]
    checksum: u64,
}

impl MemoryCheckpoint {
    pub(super) fn of(policy: &str, state: &MemoryState) -> Self {
        let mut checkpoint = Self {
            policy_name: policy.to_owned(),
            machine_state: state.nodes.clone(),
            entries: state.own.clone(),
            checksum: 0,
        };
        checkpoint.checksum = checkpoint.sum();
        checkpoint
    }

    pub(super) fn state(self) -> MemoryState {
        MemoryState { nodes: self.machine_state, own: self.entries }
    }
}

impl Checkpoint for MemoryCheckpoint {
    fn policy(&self) -> &str {
        &self.policy_name
    }

    fn checksum(&self) -> u64 {
        self.checksum
    }

    fn sum(&self) -> u64 {
        let list = |ids: &[u32]| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        let tables = |node: &Node| {
            dump(&node.memory_map, |t| {
                format!(
                    "<*>{{TotalMemSize:(uint64){} SystemReserved:(uint64){} Allocatable:(uint64){} Reserved:(uint64){} \
                     Free:(uint64){}}}",
                    t.total, t.system_reserved, t.allocatable, t.reserved, t.free
                )
            })
        };
        let nodes = dump(&self.machine_state, |node| {
            format!(
                "<*>{{NumberOfAssignments:(int){} MemoryMap:(map[v1.ResourceName]*state.MemoryTable){} Cells:([]int)[{}]}}",
                node.number_of_assignments,
                tables(node),
                list(&node.cells)
            )
        });
        let block = |block: &Block| {
            let Block { numa_affinity, kind, size } = block;
            format!(
                "{{NUMAAffinity:([]int)[{}] Type:(v1.ResourceName){kind} Size:(uint64){size}}}",
                list(numa_affinity)
            )
        };
        let blocks = |blocks: &Vec<Block>| format!("[{}]", blocks.iter().map(block).collect::<Vec<_>>().join(" "));
        let entries = dump(&self.entries, |own| dump(own, blocks));
        let text = format!(
            "(*state.MemoryManagerCheckpoint){{PolicyName:(string){} MachineState:(state.NUMANodeMap){nodes} \
             Entries:(state.ContainerMemoryAssignments){entries} Checksum:(checksum.Checksum)0}}",
            self.policy_name
        );
        fnv32a(&text).into()
    }
}

/// A map as spew prints it: `map[k:v k:v]`.
fn dump<K: std::fmt::Display, V>(map: &BTreeMap<K, V>, value: impl Fn(&V) -> String) -> String {
    let entries: Vec<String> = map.iter().map(|(key, entry)| format!("{key}:{}", value(entry))).collect();
    format!("map[{}]", entries.join(" "))
}

fn text(cpus: &impl ToString) -> String {
    cpus.to_string()
}

fn fnv32a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// What was kept under this policy; `None` where there is no file. A checksum of 0 is not looked at, as upstream.
pub(super) fn read<C: Checkpoint>(path: &Path, policy: &str) -> Result<Option<C>, CheckpointError> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    let kept: C = serde_json::from_slice(&bytes).map_err(|_| CheckpointError::Corrupt)?;
    if kept.checksum() != 0 && kept.checksum() != kept.sum() {
        return Err(CheckpointError::Corrupt);
    }
    if kept.policy() != policy {
        return Err(CheckpointError::OtherPolicy { configured: policy.to_owned(), kept: kept.policy().to_owned() });
    }
    Ok(Some(kept))
}

/// Replaces the file at once, and has it on disk before the container starts that it speaks of.
pub(super) fn write(path: &Path, checkpoint: &impl Serialize) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(&serde_json::to_vec(checkpoint)?)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{NONE, STATIC};
    use super::*;

    /// The files of real kubelets.
    #[test]
    fn checksums_are_the_kubelets() {
        for (text, policy) in [
            (r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#, NONE),
            (r#"{"policyName":"static","defaultCpuSet":"2-15,17-31,34-47,49-63","checksum":4141502832}"#, STATIC),
            (
                r#"{"policyName":"static","defaultCpuSet":"0-1,6-11","entries":{"4aec46af-22b7-4e26-babb-d15383ac9151":{"mysqld":"2-3"},"60008d73-6f6f-4467-96c5-cd0a1eeadf23":{"mysqld2":"4-5"}},"checksum":2764424633}"#,
                STATIC,
            ),
        ] {
            let kept: CpuCheckpoint = serde_json::from_str(text).unwrap();
            assert_eq!(kept.sum(), kept.checksum, "{text}");
            let written = CpuCheckpoint::of(policy, &kept.state().unwrap());
            assert_eq!(serde_json::to_string(&written).unwrap(), text);
        }
    }

    #[test]
    fn the_memory_managers_checksums_are_too() {
        let text = r#"{"policyName":"None","machineState":{},"checksum":4236770233}"#;
        let kept: MemoryCheckpoint = serde_json::from_str(text).unwrap();
        assert_eq!(kept.sum(), kept.checksum);
        assert_eq!(serde_json::to_string(&MemoryCheckpoint::of("None", &kept.clone().state())).unwrap(), text);
    }

    #[test]
    fn a_checkpoint_comes_back_unless_it_was_changed_or_is_of_another_policy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cpu_manager_state");
        assert!(read::<CpuCheckpoint>(&path, "static").unwrap().is_none());
        let own = [("uid".to_owned(), [("c".to_owned(), "1-2".parse().unwrap())].into())].into();
        let state = CpuState { shared: "0,3".parse().unwrap(), own };
        write(&path, &CpuCheckpoint::of("static", &state)).unwrap();
        assert_eq!(read::<CpuCheckpoint>(&path, "static").unwrap().unwrap().state().unwrap(), state);
        let text = std::fs::read_to_string(&path).unwrap();
        let head = r#"{"policyName":"static","defaultCpuSet":"0,3","entries":{"uid":{"c":"1-2"}},"checksum":"#;
        assert!(text.starts_with(head), "{text}");
        let error = read::<CpuCheckpoint>(&path, "none").unwrap_err().to_string();
        assert_eq!(error, "configured policy \"none\" differs from state checkpoint policy \"static\"");
        std::fs::write(&path, text.replace("1-2", "1-3")).unwrap();
        assert!(matches!(read::<CpuCheckpoint>(&path, "static"), Err(CheckpointError::Corrupt)));
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(read::<CpuCheckpoint>(&path, "static"), Err(CheckpointError::Corrupt)));
    }
}
