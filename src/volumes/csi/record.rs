//! `vol_data.json`, which the kubelet keeps beside each volume of a driver: what it takes to let go of it after a restart.

use super::device::Places;
use super::wanted;
use crate::volumes::block;
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
    /// The kubelet neither writes nor reads it.
    #[serde(rename = "skiffProgress", skip_serializing_if = "Progress::is_given")]
    pub progress: Progress,
}

/// How far a volume has come on its way to the pod, in words of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Progress {
    /// Its driver has not been asked to show it to the pod.
    Begun,
    /// It has been: it may be there, and not yet be the pod's group's.
    Shown,
    /// As it shall be. What a kubelet has noted may be.
    #[default]
    Given,
}

impl Progress {
    fn is_given(&self) -> bool {
        *self == Self::Given
    }
}

impl Record {
    /// Written whole or not at all.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
        let new = folder.join(format!(".{FILE}.new"));
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(new, folder.join(FILE))
    }

    /// `None`: there is none, or one that was being written when the machine went down: nothing is mounted since then.
    pub(super) fn read(folder: &Path) -> io::Result<Option<Self>> {
        match fs::read(folder.join(FILE)) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)
                .inspect_err(|error| tracing::warn!(folder = %folder.display(), %error, "{FILE} is not used"))
                .ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes it and its folder, and the driver's mount point `within` that folder, which must be empty.
    pub(super) fn remove(folder: &Path, within: &str) -> io::Result<()> {
        gone(fs::remove_dir(folder.join(within)))?;
        Self::remove_file(folder)?;
        gone(fs::remove_dir(folder))
    }

    pub(super) fn remove_file(folder: &Path) -> io::Result<()> {
        gone(fs::remove_file(folder.join(FILE)))
    }

    fn is_of_same(&self, other: &Self) -> bool {
        self.driver_name == other.driver_name && self.volume_handle == other.volume_handle
    }
}

/// What is not there is removed.
pub(super) fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// A volume of a driver that a pod has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub record: Record,
    pub at: At,
}

impl Held {
    /// Where its driver has made it ready for the node's pods; `None`: nowhere.
    pub(super) fn staged(&self, root_dir: &Path) -> io::Result<Option<PathBuf>> {
        match self.at {
            At::Folder(_) => {
                let staging = wanted::staging(root_dir, &self.record.driver_name, &self.record.volume_handle);
                Ok(Record::read(staging.parent().unwrap_or(&staging))?.map(|_| staging))
            }
            At::Link(_) => {
                let staging = Places::new(root_dir, &self.record.name).staging;
                Ok(staging.try_exists()?.then_some(staging))
            }
        }
    }

    /// The same as it is now; `None`: it is gone.
    pub(super) fn now(self, root_dir: &Path) -> io::Result<Option<Self>> {
        let record = match &self.at {
            At::Folder(folder) => Record::read(folder)?,
            At::Link(link) if link.is_symlink() => of_link(root_dir, link, &self.record.name)?,
            At::Link(_) => None,
        };
        Ok(record.map(|record| Self { record, at: self.at }))
    }

    /// Forgets that, once its driver has taken it back.
    pub(super) fn remove_staged(&self, root_dir: &Path) -> io::Result<()> {
        match self.at {
            At::Folder(_) => {
                let staging = wanted::staging(root_dir, &self.record.driver_name, &self.record.volume_handle);
                staging.parent().map_or(Ok(()), |folder| Record::remove(folder, "globalmount"))
            }
            At::Link(_) => Places::new(root_dir, &self.record.name).remove(),
        }
    }
}

/// What in the pod's folder says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// Its own folder, in which it is mounted.
    Folder(PathBuf),
    /// The link to its device.
    Link(PathBuf),
}

impl At {
    pub(super) fn path(&self) -> &Path {
        let (Self::Folder(path) | Self::Link(path)) = self;
        path
    }
}

/// The volumes of drivers in a pod's folder.
pub(super) fn of_pod(root_dir: &Path, pod: &Path) -> io::Result<Vec<Held>> {
    let mut found = Vec::new();
    for folder in entries(&pod.join("volumes").join(PLUGIN))? {
        found.extend(Record::read(&folder)?.map(|record| Held { record, at: At::Folder(folder) }));
    }
    for link in entries(&pod.join(block::FOLDER).join(PLUGIN))? {
        let Some(name) = link.file_name().and_then(|name| name.to_str()) else { continue };
        let record = of_link(root_dir, &link, name)?;
        found.extend(record.map(|record| Held { record, at: At::Link(link) }));
    }
    Ok(found)
}

/// That of a device, with how far it has come with the pod whose link it is.
fn of_link(root_dir: &Path, link: &Path, name: &str) -> io::Result<Option<Record>> {
    let places = Places::new(root_dir, name);
    let record = Record::read(&places.data)?;
    Ok(record.map(|record| Record { progress: places.progress(link), ..record }))
}

/// Those of every pod on disk.
pub(super) fn all(root_dir: &Path) -> io::Result<Vec<Held>> {
    let mut found = Vec::new();
    for pod in entries(&root_dir.join("pods"))? {
        found.extend(of_pod(root_dir, &pod)?);
    }
    Ok(found)
}

/// How far that volume has come with pods but `except`.
pub(super) fn with_others(root_dir: &Path, volume: &Record, except: &Path) -> io::Result<Vec<Progress>> {
    let mut found = Vec::new();
    for pod in entries(&root_dir.join("pods"))?.into_iter().filter(|pod| pod != except) {
        let held = of_pod(root_dir, &pod)?.into_iter().map(|held| held.record);
        found.extend(held.filter(|record| record.is_of_same(volume)).map(|record| record.progress));
    }
    Ok(found)
}

/// What is in that folder; nothing if it is not there.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}
