//! fsGroup: gives a volume's tree to a group, as the kubelet's `SetVolumeOwnership` does.

use k8s_openapi::api::core::v1::Pod;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

/// The group that volumes with files of their own are given to, and whether always or only when their root is another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    gid: u32,
    /// `fsGroupChangePolicy: OnRootMismatch`.
    only_on_mismatch: bool,
}

impl Owner {
    /// `None`: the pod names no group.
    pub(super) fn of(pod: &Pod) -> Option<Self> {
        let context = pod.spec.as_ref()?.security_context.as_ref()?;
        let gid = u32::try_from(context.fs_group?).ok()?;
        Some(Self { gid, only_on_mismatch: context.fs_group_change_policy.as_deref() == Some("OnRootMismatch") })
    }

    pub(super) fn take(self, path: &Path) -> io::Result<()> {
        let meta = fs::symlink_metadata(path)?;
        let wanted = group_bits(true, false);
        let fits = meta.gid() == self.gid && meta.permissions().mode() & wanted == wanted;
        if self.only_on_mismatch && fits { Ok(()) } else { give_to_group(path, self.gid, false) }
    }
}

/// Owner group and group permissions of everything below `path` and, last, of itself: a root that fits says that all of it
/// does (`walkDeep`). Links are not followed.
pub(super) fn give_to_group(path: &Path, gid: u32, read_only: bool) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            give_to_group(&entry?.path(), gid, read_only)?;
        }
    }
    lchown(path, None, Some(gid))?;
    if meta.is_symlink() {
        return Ok(());
    }
    // After chown, which clears set-id bits.
    let mode = meta.permissions().mode() & 0o7777;
    fs::set_permissions(path, fs::Permissions::from_mode(mode | group_bits(meta.is_dir(), read_only)))
}

fn group_bits(directory: bool, read_only: bool) -> u32 {
    let base = if read_only { 0o440 } else { 0o660 };
    if directory { base | 0o2110 } else { base }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_bits_are_the_kubelets() {
        for (directory, read_only, bits) in
            [(true, false, 0o2770), (false, false, 0o660), (true, true, 0o2550), (false, true, 0o440)]
        {
            assert_eq!(group_bits(directory, read_only), bits);
        }
    }

    #[test]
    fn a_volume_whose_root_fits_is_left_alone_where_the_policy_says_so() {
        let pod = |policy: &str| -> Pod {
            let context =
                serde_json::json!({"fsGroup": nix::unistd::getegid().as_raw(), "fsGroupChangePolicy": policy});
            serde_json::from_value(
                serde_json::json!({"metadata": {}, "spec": {"containers": [], "securityContext": context}}),
            )
            .unwrap()
        };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o2770)).unwrap();
        Owner::of(&pod("OnRootMismatch")).unwrap().take(dir.path()).unwrap();
        assert_eq!(mode(&file), 0o600, "its root fits");
        Owner::of(&pod("Always")).unwrap().take(dir.path()).unwrap();
        assert_eq!(mode(&file), 0o660);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Owner::of(&pod("OnRootMismatch")).unwrap().take(dir.path()).unwrap();
        assert_eq!((mode(&file), mode(dir.path())), (0o660, 0o2770));
    }

    #[test]
    fn a_walk_that_fails_half_way_leaves_the_root_as_it_was_so_that_it_is_done_again() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: mounting needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("below");
        fs::create_dir(&below).unwrap();
        let read_only = nix::mount::MsFlags::MS_RDONLY;
        nix::mount::mount(Some("tmpfs"), &below, Some("tmpfs"), read_only, None::<&str>).unwrap();
        let before = fs::metadata(dir.path()).unwrap();
        let failed = give_to_group(dir.path(), 2222, false);
        let after = fs::metadata(dir.path()).unwrap();
        nix::mount::umount(&below).unwrap();
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!((after.gid(), after.mode()), (before.gid(), before.mode()));
    }
}
