//! fsGroup: gives a volume's tree to a group, as the kubelet's `SetVolumeOwnership` does.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::Path;

/// Owner group and group permissions of everything below `path` and of itself; links are not followed.
pub(super) fn give_to_group(path: &Path, gid: u32, read_only: bool) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    lchown(path, None, Some(gid))?;
    if meta.is_symlink() {
        return Ok(());
    }
    // After chown, which clears set-id bits.
    let mode = meta.permissions().mode() & 0o7777;
    fs::set_permissions(path, fs::Permissions::from_mode(mode | group_bits(meta.is_dir(), read_only)))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            give_to_group(&entry?.path(), gid, read_only)?;
        }
    }
    Ok(())
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
}
