//! `vol_data.json`, which the kubelet keeps beside each volume of a driver: what it takes to let go of it after a restart.

use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const FILE: &str = "vol_data.json";
/// Folder of such volumes in a pod's.
pub(super) const PLUGIN: &str = "kubernetes.io~csi";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Record {
    #[serde(rename = "attachmentID", skip_serializing_if = "String::is_empty")]
    pub attachment: String,
    pub driver_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    #[serde(rename = "specVolID", skip_serializing_if = "String::is_empty")]
    pub name: String,
    pub volume_handle: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub volume_lifecycle_mode: String,
}

impl Record {
    /// Written whole or not at all.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
        let new = folder.join(format!(".{FILE}.new"));
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(new, folder.join(FILE))
    }

    /// `None`: there is none.
    pub(super) fn read(folder: &Path) -> io::Result<Option<Self>> {
        match fs::read(folder.join(FILE)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes it and its folder, and the driver's mount point `within` that folder, which must be empty.
    pub(super) fn remove(folder: &Path, within: &str) -> io::Result<()> {
        gone(fs::remove_dir(folder.join(within)))?;
        gone(fs::remove_file(folder.join(FILE)))?;
        gone(fs::remove_dir(folder))
    }

    fn is_of(&self, driver: &str, handle: &str) -> bool {
        self.driver_name == driver && self.volume_handle == handle
    }
}

/// What is not there is removed.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The volumes of drivers in a pod's folder, each with its own.
pub(super) fn of_pod(pod: &Path) -> io::Result<Vec<(PathBuf, Record)>> {
    let entries = match fs::read_dir(pod.join("volumes").join(PLUGIN)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let folder = entry?.path();
        found.extend(Record::read(&folder)?.map(|record| (folder, record)));
    }
    Ok(found)
}

/// Those of every pod on disk.
pub(super) fn all(root_dir: &Path) -> io::Result<Vec<Record>> {
    let entries = match fs::read_dir(root_dir.join("pods")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        found.extend(of_pod(&entry?.path())?.into_iter().map(|(_, record)| record));
    }
    Ok(found)
}

/// Whether a pod but `except` has that volume.
pub(super) fn is_used(root_dir: &Path, driver: &str, handle: &str, except: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(root_dir.join("pods"))? {
        let pod = entry?.path();
        if pod != except && of_pod(&pod)?.iter().any(|(_, record)| record.is_of(driver, handle)) {
            return Ok(true);
        }
    }
    Ok(false)
}
