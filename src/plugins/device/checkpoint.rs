//! `kubelet_internal_checkpoint`: the device manager's state as the kubelet writes it, so that either goes on from the
//! other's (`pkg/kubelet/cm/devicemanager/checkpoint`).

use crate::decide::devices::{Book, Grant};
use crate::ids::PodUid;
use crate::model::devices::Edits;
use crate::plugins::proto::device as pb;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::time::Instant;

/// Its name in the folder of device plugins.
pub const FILE: &str = "kubelet_internal_checkpoint";

/// Why a checkpoint is not believed.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("is not what a kubelet writes: {0}")]
    Format(#[from] serde_json::Error),
    #[error("checkpoint is corrupted: its checksum is {written}, that of its data {real}")]
    Checksum { written: u64, real: u64 },
    #[error("holds an answer of a plugin that cannot be read: {0}")]
    Answer(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    data: Data,
    checksum: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    /// Go's nil where there are none.
    pod_device_entries: Option<Vec<Entry>>,
    registered_devices: Option<BTreeMap<String, Vec<String>>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    container_name: String,
    resource_name: String,
    #[serde(rename = "DeviceIDs")]
    device_ids: Option<BTreeMap<i64, Vec<String>>>,
    /// A `ContainerAllocateResponse` in base64.
    alloc_resp: Option<String>,
}

/// The file of a book.
pub fn encode(book: &Book) -> Result<Vec<u8>, CheckpointError> {
    let entries = book.grants().map(|(pod, container, resource, grant)| Entry {
        pod_uid: pod.to_string(),
        container_name: container.to_owned(),
        resource_name: resource.to_owned(),
        device_ids: Some(grant.by_node.clone()),
        alloc_resp: Some(STANDARD.encode(pb::ContainerAllocateResponse::from(&*grant.edits).encode_to_vec())),
    });
    let entries: Vec<_> = entries.collect();
    let data = Data {
        pod_device_entries: (!entries.is_empty()).then_some(entries),
        registered_devices: Some(book.registered()),
    };
    let checksum = data.checksum()?;
    Ok(serde_json::to_vec(&File { data, checksum })?)
}

/// The book of a file, as it is when no plugin has registered yet; `before_boot`: it was written before the machine was
/// booted.
pub fn decode(bytes: &[u8], before_boot: bool, now: Instant) -> Result<Book, CheckpointError> {
    let file: File = serde_json::from_slice(bytes)?;
    let real = file.data.checksum()?;
    if real != file.checksum {
        return Err(CheckpointError::Checksum { written: file.checksum, real });
    }
    let mut grants = Vec::new();
    for entry in file.data.pod_device_entries.into_iter().flatten() {
        let answer = entry.answer()?;
        let answer = pb::ContainerAllocateResponse::decode(answer.as_slice())
            .map_err(|error| CheckpointError::Answer(error.to_string()))?;
        let (by_node, edits) = (entry.device_ids.unwrap_or_default(), Arc::new(Edits::from(answer)));
        let grant = Grant { by_node, edits, before_boot };
        grants.push((PodUid::new(&entry.pod_uid), entry.container_name, entry.resource_name, grant));
    }
    let resources = file.data.registered_devices.unwrap_or_default().into_keys();
    Ok(Book::restored(grants, resources, now))
}

/// The book in `dir`; an empty one where there is none. Blocks.
pub fn read(dir: &Path, booted: SystemTime, now: Instant) -> Result<Book, CheckpointError> {
    let path = dir.join(FILE);
    let written = match std::fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Book::default()),
        metadata => metadata?.modified()?,
    };
    decode(&std::fs::read(&path)?, written < booted, now)
}

/// Replaces the file in `dir`, whole and synced. `dated`: while it holds what was given before the boot, the file is
/// older than the boot too, for the next start to see. Blocks.
pub fn write(dir: &Path, bytes: &[u8], dated: Option<SystemTime>) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    if let Some(dated) = dated {
        file.as_file().set_modified(dated)?;
    }
    file.as_file().sync_all()?;
    file.persist(dir.join(FILE))?;
    Ok(())
}

impl Entry {
    fn answer(&self) -> Result<Vec<u8>, CheckpointError> {
        let text = self.alloc_resp.as_deref().unwrap_or_default();
        STANDARD.decode(text).map_err(|error| CheckpointError::Answer(error.to_string()))
    }
}

impl Data {
    /// FNV-1a (32 bits) of what Go's spew prints of the data with `%#v` (`hash.DeepHashObject`).
    fn checksum(&self) -> Result<u64, CheckpointError> {
        let mut text = "(checkpoint.checkpointData){PodDeviceEntries:([]checkpoint.PodDevicesEntry)".to_owned();
        match &self.pod_device_entries {
            None => text.push_str("<nil>"),
            Some(entries) => {
                let entries: Result<Vec<_>, _> = entries.iter().map(Entry::printed).collect();
                list(&mut text, entries?);
            }
        }
        text.push_str(" RegisteredDevices:(map[string][]string)");
        map(&mut text, self.registered_devices.as_ref());
        text.push('}');
        Ok(u64::from(
            text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)),
        ))
    }
}

impl Entry {
    fn printed(&self) -> Result<String, CheckpointError> {
        let mut text = format!(
            "{{PodUID:(string){} ContainerName:(string){} ResourceName:(string){} DeviceIDs:(checkpoint.DevicesPerNUMA)",
            self.pod_uid, self.container_name, self.resource_name
        );
        map(&mut text, self.device_ids.as_ref());
        text.push_str(" AllocResp:([]uint8)");
        match self.alloc_resp {
            None => text.push_str("<nil>"),
            Some(_) => list(&mut text, self.answer()?),
        }
        text.push('}');
        Ok(text)
    }
}

fn list<T: std::fmt::Display>(text: &mut String, items: impl IntoIterator<Item = T>) {
    text.push('[');
    for (index, item) in items.into_iter().enumerate() {
        let space = if index > 0 { " " } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(text, "{space}{item}");
    }
    text.push(']');
}

fn map<K: std::fmt::Display>(text: &mut String, map: Option<&BTreeMap<K, Vec<String>>>) {
    let Some(map) = map else { return text.push_str("<nil>") };
    text.push_str("map");
    let entries = map.iter().map(|(key, items)| {
        let mut entry = format!("{key}:");
        list(&mut entry, items);
        entry
    });
    list(text, entries);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::devices::Device;

    /// Files of real clusters (a Jetson on kind, NVIDIA cards with and without NUMA), checksums by their kubelets.
    const REAL: [&str; 3] = [
        r#"{"Data":{"PodDeviceEntries":null,"RegisteredDevices":{"nvidia.com/gpu":["GPU-0650a168-e770-3ea8-8ac3-8a1d419763e0"]}},"Checksum":3952659280}"#,
        r#"{"Data":{"PodDeviceEntries":[{"PodUID":"bf52b2cd-b611-4e79-86b1-280b283185c3","ContainerName":"check","ResourceName":"nvidia.com/gpu","DeviceIDs":{"-1":["tegra"]},"AllocResp":"Ch8KFk5WSURJQV9WSVNJQkxFX0RFVklDRVMSBXRlZ3Jh"}],"RegisteredDevices":{"nvidia.com/gpu":["tegra"]}},"Checksum":3660592824}"#,
        r#"{"Data":{"PodDeviceEntries":[{"PodUID":"9a15d2b5-c152-46b9-96e0-d57032629e1f","ContainerName":"app","ResourceName":"nvidia.com/gpu","DeviceIDs":{"1":["GPU-9b341c59-f96b-ba85-c137-78c3652fea65","GPU-c1e9f249-b37b-81c2-a8d9-ba5ca0294841"]},"AllocResp":"CmsKFk5WSURJQV9WSVNJQkxFX0RFVklDRVMSUUdQVS1jMWU5ZjI0OS1iMzdiLTgxYzItYThkOS1iYTVjYTAyOTQ4NDEsR1BVLTliMzQxYzU5LWY5NmItYmE4NS1jMTM3LTc4YzM2NTJmZWE2NRokCg4vZGV2L252aWRpYWN0bBIOL2Rldi9udmlkaWFjdGwaAnJ3GiYKDy9kZXYvbnZpZGlhLXV2bRIPL2Rldi9udmlkaWEtdXZtGgJydxoyChUvZGV2L252aWRpYS11dm0tdG9vbHMSFS9kZXYvbnZpZGlhLXV2bS10b29scxoCcncaLgoTL2Rldi9udmlkaWEtbW9kZXNldBITL2Rldi9udmlkaWEtbW9kZXNldBoCcncaIAoML2Rldi9udmlkaWExEgwvZGV2L252aWRpYTEaAnJ3GiAKDC9kZXYvbnZpZGlhMhIML2Rldi9udmlkaWEyGgJydw=="}],"RegisteredDevices":{"nvidia.com/gpu":["GPU-77a702db-e37f-3a74-d46d-c5713f66058c","GPU-9b341c59-f96b-ba85-c137-78c3652fea65","GPU-c1e9f249-b37b-81c2-a8d9-ba5ca0294841"]}},"Checksum":2530956716}"#,
    ];

    fn now() -> Instant {
        crate::clock::now().mono
    }

    #[test]
    fn files_of_real_kubelets_are_read_and_written_to_the_byte() {
        for file in REAL {
            let mut book = decode(file.as_bytes(), false, now()).unwrap();
            // What the plugin lists when it is back.
            let data: serde_json::Value = serde_json::from_str(file).unwrap();
            for (resource, ids) in data["Data"]["RegisteredDevices"].as_object().unwrap() {
                let ids = ids.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned());
                book.listed(resource, ids.map(|id| (id, Device { healthy: true, nodes: vec![] })).collect());
            }
            assert_eq!(String::from_utf8(encode(&book).unwrap()).unwrap(), file);
        }
    }

    #[test]
    fn what_a_container_was_given_is_known_from_the_file() {
        let book = decode(REAL[2].as_bytes(), false, now()).unwrap();
        let edits = book.edits(&PodUid::new("9a15d2b5-c152-46b9-96e0-d57032629e1f"), "app");
        let devices: Vec<_> = edits.nodes.iter().map(|node| node.host_path.as_str()).collect();
        assert_eq!(
            devices,
            [
                "/dev/nvidiactl",
                "/dev/nvidia-uvm",
                "/dev/nvidia-uvm-tools",
                "/dev/nvidia-modeset",
                "/dev/nvidia1",
                "/dev/nvidia2"
            ]
        );
        assert!(edits.envs["NVIDIA_VISIBLE_DEVICES"].starts_with("GPU-c1e9f249"));
        let advertised = book.advertised();
        assert_eq!((advertised.capacity["nvidia.com/gpu"], advertised.allocatable["nvidia.com/gpu"]), (0, 0));
    }

    #[test]
    fn a_file_that_was_changed_or_cut_off_is_refused() {
        for (file, expected) in [
            (REAL[1].replace("tegra", "tegrb"), "checkpoint is corrupted"),
            (REAL[1][..90].to_owned(), "is not what a kubelet writes"),
        ] {
            let error = decode(file.as_bytes(), false, now()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_folder_without_a_file_is_an_empty_book_and_what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let booted = SystemTime::UNIX_EPOCH;
        assert!(read(dir.path(), booted, now()).unwrap().is_empty());
        write(dir.path(), REAL[1].as_bytes(), None).unwrap();
        assert!(!read(dir.path(), booted, now()).unwrap().is_empty());
    }
}
