//! Block volumes: a device of the host under the names that the kubelet has for it, from where containers are given it
//! (`MapBlockVolume`, `UnmapBlockVolume`). All of it blocks.

use super::layout::PodDir;
use super::mounts;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Name of the folders of devices, in a pod's and in those of plugins.
pub(super) const FOLDER: &str = "volumeDevices";
/// The plugin of disks of the node, as its folders are called.
const LOCAL: &str = "kubernetes.io~local-volume";

/// One device as one pod has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    /// The volume's folder: in it the device is bound for each pod that has it, under the pod's uid.
    pub global: PathBuf,
    /// The link in the pod's folder, by which containers are given the device. It is there from before anything is done
    /// until everything is undone.
    pub link: PathBuf,
    bound: PathBuf,
}

impl Mapping {
    pub(super) fn new(global: PathBuf, dir: &PodDir, plugin: &str, volume: &str) -> Self {
        let bound = global.join(dir.uid());
        Self { global, link: dir.path().join(FOLDER).join(plugin).join(volume), bound }
    }

    /// That of a disk of the node.
    pub(super) fn local(root_dir: &Path, dir: &PodDir, volume: &str) -> Self {
        Self::new(root_dir.join("plugins").join(LOCAL).join(FOLDER).join(volume), dir, LOCAL, volume)
    }

    /// The pod's own name of the device.
    pub(super) fn bound(&self) -> &Path {
        &self.bound
    }

    pub(super) fn is_mapped(&self) -> bool {
        is_device(&self.bound) && self.link.is_symlink()
    }

    /// Whether any pod has the device.
    pub(super) fn is_mapped_for_any(&self) -> io::Result<bool> {
        match fs::read_dir(&self.global) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            entries => Ok(entries?.flatten().any(|entry| is_device(&entry.path()))),
        }
    }

    /// Says that the pod has, or is about to have, what will be found at `device`.
    pub(super) fn note(&self, device: &Path) -> io::Result<()> {
        let (Some(folder), Some(name)) = (self.link.parent(), self.link.file_name()) else { return Ok(()) };
        DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
        let new = folder.join(format!(".{}.new", name.to_string_lossy()));
        gone(fs::remove_file(&new))?;
        symlink(device, &new)?;
        fs::rename(new, &self.link)
    }

    pub(super) fn map(&self, device: &Path) -> io::Result<()> {
        // What links to the device may be linked to another after the machine's restart.
        let device = device.canonicalize()?;
        if !is_device(&device) {
            return Err(io::Error::other(format!("{} is not a block device", device.display())));
        }
        DirBuilder::new().recursive(true).mode(0o750).create(&self.global)?;
        if !is_device(&self.bound) {
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o640).open(&self.bound)?;
            mounts::bind(&device, &self.bound)?;
        }
        hold(&self.bound);
        self.note(&device)
    }

    /// Takes everything back but the link.
    pub(super) fn unmap(&self) -> io::Result<()> {
        let_go(&self.bound)?;
        mounts::detach(&self.bound)?;
        gone(fs::remove_file(&self.bound))
    }
}

/// Takes back the disks of the node that the pod has; an error names the one that is stuck.
pub(super) fn unmap_local(root_dir: &Path, dir: &PodDir) -> Result<(), (PathBuf, io::Error)> {
    let folder = dir.path().join(FOLDER).join(LOCAL);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| (folder, error))?,
    };
    for entry in entries.flatten() {
        let mapping = Mapping::local(root_dir, dir, &entry.file_name().to_string_lossy());
        let undo = || {
            mapping.unmap()?;
            match fs::remove_dir(&mapping.global) {
                // Another pod has it.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                removed => gone(removed)?,
            }
            gone(fs::remove_file(&mapping.link))
        };
        undo().map_err(|error| (mapping.link.clone(), error))?;
    }
    Ok(())
}

/// Size of a device in bytes.
pub(super) fn size(device: &Path) -> io::Result<u64> {
    fs::File::open(device)?.seek(SeekFrom::End(0))
}

pub(super) fn is_device(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_block_device())
}

/// Keeps the device open by a loop device, so that its number cannot become another's while containers have it. The
/// kubelet does without a volume where it cannot; we do without the hold.
fn hold(bound: &Path) {
    let held = match holders(bound) {
        Ok(holders) if !holders.is_empty() => return,
        Ok(_) => losetup(&["--find".as_ref(), bound]),
        Err(error) => Err(error),
    };
    if let Err(error) = held {
        tracing::warn!(device = %bound.display(), %error, "device not held open by a loop device");
    }
}

fn let_go(bound: &Path) -> io::Result<()> {
    holders(bound)?.iter().try_for_each(|holder| losetup(&["--detach".as_ref(), holder]))
}

fn losetup(arguments: &[&Path]) -> io::Result<()> {
    let output = Command::new("losetup").args(arguments).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// The loop devices that stand on that path.
fn holders(bound: &Path) -> io::Result<Vec<PathBuf>> {
    let devices = match fs::read_dir("/sys/block") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        devices => devices?,
    };
    let stands = |device: &Path| {
        let backing = fs::read_to_string(device.join("loop/backing_file")).ok()?;
        (Path::new(backing.trim_end_matches('\n')) == bound).then(|| Path::new("/dev").join(device.file_name()?).into())
    };
    Ok(devices.flatten().filter_map(|entry| stands(&entry.path()).flatten()).collect())
}

/// What is not there is removed.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PodUid;

    /// A loop device that stands on a file, until it is dropped.
    struct Disk(PathBuf);

    impl Disk {
        /// `None`: this machine has none.
        fn on(file: &Path) -> Option<Self> {
            if !nix::unistd::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
                eprintln!("skipped: needs loop devices");
                return None;
            }
            fs::write(file, vec![7; 1 << 20]).unwrap();
            let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(Self(String::from_utf8(output.stdout).unwrap().trim().into()))
        }
    }

    impl Drop for Disk {
        fn drop(&mut self) {
            losetup(&["--detach".as_ref(), &self.0]).unwrap();
        }
    }

    #[test]
    fn a_disk_is_mapped_held_open_and_after_the_pod_nothing_is_left_of_it() {
        let root = tempfile::tempdir().unwrap();
        let Some(disk) = Disk::on(&root.path().join("file")) else { return };
        let dir = PodDir::new(root.path(), &PodUid::new("u")).unwrap();
        let mapping = Mapping::local(root.path(), &dir, "pv");
        let global = root.path().join("plugins/kubernetes.io~local-volume/volumeDevices/pv");
        assert!(!mapping.is_mapped() && !mapping.is_mapped_for_any().unwrap());
        mapping.map(&disk.0).unwrap();
        mapping.map(&disk.0).unwrap();
        assert!(mapping.is_mapped() && mapping.is_mapped_for_any().unwrap());
        assert_eq!(mapping.bound(), global.join("u"));
        assert_eq!(fs::read_link(&mapping.link).unwrap(), disk.0);
        assert_eq!(size(mapping.bound()).unwrap(), 1 << 20);
        assert_eq!(holders(mapping.bound()).unwrap().len(), 1);

        // The machine restarts: files are there, what was bound and held is not.
        let_go(mapping.bound()).unwrap();
        mounts::unmount(mapping.bound()).unwrap();
        assert!(!mapping.is_mapped());
        mapping.map(&disk.0).unwrap();
        assert!(mapping.is_mapped());

        unmap_local(root.path(), &dir).unwrap();
        assert!(!global.exists() && !mapping.link.is_symlink());
        assert_eq!(holders(mapping.bound()).unwrap(), [""; 0].map(PathBuf::from));
        unmap_local(root.path(), &dir).unwrap();
        let file = root.path().join("file");
        let why = mapping.map(&file).unwrap_err();
        assert_eq!(why.to_string(), format!("{} is not a block device", file.display()));
    }
}
