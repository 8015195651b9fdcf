//! The user and group ids of pods with a user namespace of their own: each has a block of the node's ids, written down in
//! its folder as the kubelet does (`pkg/kubelet/userns`). The files are the only memory: what they name is taken.

use super::layout::PodDir;
use crate::runtime::IdBlock;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Blocks are whole multiples of this (`userNsUnitLength`).
const UNIT: u32 = 65536;
/// The user whose subordinate ids pods may have; without such a user, ids from the second block on.
const OWNER: &str = "kubelet";
const FILE: &str = "userns";

/// What the node is configured to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdSettings {
    /// `userNamespaces.idsPerPod`.
    pub per_pod: u32,
    pub max_pods: u32,
}

impl Default for IdSettings {
    fn default() -> Self {
        Self { per_pod: UNIT, max_pods: 110 }
    }
}

/// The ids that pods may have, in blocks of equal length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u32,
    blocks: u32,
    length: u32,
}

/// The kubelet's file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mappings {
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

/// The pod's block: the one that its folder names, or a free one. Blocks; two at once would take the same block.
pub(super) fn of_pod(pods: &Path, pod: &PodDir, settings: IdSettings) -> Result<IdBlock, String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (users, uids, gids) = (read("/etc/passwd"), read("/etc/subuid"), read("/etc/subgid"));
    let range = range(&users, &uids, &gids, settings).map_err(|why| format!("kubelet mappings: {why}"))?;
    if let Some(own) = written(&pod.path().join(FILE)).map_err(|why| format!("user namespace: {why}"))? {
        return match range.index(own) {
            Some(_) => Ok(own),
            None => Err(format!("user namespace: id {} is out of range", own.first)),
        };
    }
    let create = || -> Result<IdBlock, String> {
        let block = free(range, &taken(pods)?).ok_or("could not find an empty slot to allocate a user namespace")?;
        write(pod.path(), block).map_err(|error| error.to_string())?;
        Ok(block)
    };
    create().map_err(|why| format!("create user namespace: {why}"))
}

/// Which ids pods may have: those that `/etc/subuid` and `/etc/subgid` give to the user `kubelet`, where there is one.
fn range(users: &str, uids: &str, gids: &str, settings: IdSettings) -> Result<Range, String> {
    let IdSettings { per_pod, max_pods } = settings;
    let named = |line: &str| line.split(':').next() == Some(OWNER);
    let (first, length) = if users.lines().any(named) {
        let only = |text: &str, file: &str| {
            let found: Vec<_> = text.lines().filter(|line| named(line)).filter_map(ids_of).collect();
            match found[..] {
                [one] => Ok(one),
                _ => Err(format!("{file} must have exactly one range for the user {OWNER:?}, not {}", found.len())),
            }
        };
        let (uids, gids) = (only(uids, "/etc/subuid")?, only(gids, "/etc/subgid")?);
        if uids != gids {
            return Err(format!("ranges of /etc/subuid and /etc/subgid for the user {OWNER:?} must be the same"));
        }
        uids
    } else {
        (per_pod, per_pod.saturating_mul(max_pods))
    };
    let block = per_pod.max(UNIT);
    let rules = [
        (per_pod % UNIT != 0, format!("kubelet user namespace length {per_pod} is not a multiple of {UNIT}")),
        (first % block != 0, format!("kubelet user assigned ID {first} is not a multiple of {per_pod}")),
        (first < block, format!("kubelet user assigned ID {first} must be greater or equal to {per_pod}")),
        (length % block != 0, format!("kubelet user assigned IDs length {length} is not a multiple of {per_pod}")),
        (length / block < max_pods, format!("kubelet user assigned IDs are not enough to support {max_pods} pods")),
    ];
    match rules.into_iter().find(|(broken, _)| *broken) {
        Some((_, why)) => Err(why),
        None => Ok(Range { first, blocks: length / block, length: block }),
    }
}

/// First id and number of a line `name:first:number`.
fn ids_of(line: &str) -> Option<(u32, u32)> {
    let mut parts = line.split(':').skip(1);
    Some((parts.next()?.trim().parse().ok()?, parts.next()?.trim().parse().ok()?))
}

impl Range {
    fn index(self, block: IdBlock) -> Option<u32> {
        let from = block.first.checked_sub(self.first).filter(|_| block.length == self.length)?;
        Some(from / self.length).filter(|index| from % self.length == 0 && *index < self.blocks)
    }
}

fn free(range: Range, taken: &BTreeSet<u32>) -> Option<IdBlock> {
    let firsts = (0..range.blocks).map(|index| range.first + index * range.length);
    let first = firsts.into_iter().find(|first| !taken.contains(first))?;
    Some(IdBlock { first, length: range.length })
}

/// The first ids of all pods' blocks. A file that cannot be read could name any: then none is known to be free.
fn taken(pods: &Path) -> Result<BTreeSet<u32>, String> {
    let mut taken = BTreeSet::new();
    for entry in fs::read_dir(pods).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        taken.extend(written(&path.join(FILE))?.map(|block| block.first));
    }
    Ok(taken)
}

fn written(path: &PathBuf) -> Result<Option<IdBlock>, String> {
    let text = match fs::read(path) {
        Ok(text) if text.is_empty() => return Ok(None),
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let unusable = |why: &str| format!("invalid user namespace configuration: {why}");
    let mappings: Mappings =
        serde_json::from_slice(&text).map_err(|error| format!("invalid user namespace mappings file: {error}"))?;
    let [uids] = &mappings.uid_mappings[..] else {
        return Err(unusable("no more than one mapping allowed."));
    };
    if mappings.gid_mappings != [uids.clone()] {
        return Err(unusable("GID and UID mappings should be identical."));
    }
    if uids.container_id != 0 {
        return Err(unusable("UID 0 must be mapped"));
    }
    Ok(Some(IdBlock { first: uids.host_id, length: uids.length }))
}

/// Durable before a container can make files with these ids.
fn write(dir: &Path, block: IdBlock) -> io::Result<()> {
    let mapping = vec![Mapping { host_id: block.first, container_id: 0, length: block.length }];
    let mappings = Mappings { uid_mappings: mapping.clone(), gid_mappings: mapping };
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(&serde_json::to_vec(&mappings)?)?;
    file.as_file().sync_all()?;
    file.persist(dir.join(FILE))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PodUid;

    #[test]
    fn ids_are_those_of_the_kubelet_user_or_begin_at_the_second_block() {
        let settings = |per_pod, max_pods| IdSettings { per_pod, max_pods };
        let user = "root:x:0:0::/:/bin/sh\nkubelet:x:999:999::/:/bin/false\n";
        let range = |users, uids, gids, settings| match range(users, uids, gids, settings) {
            Ok(range) => format!("{} + {} x {}", range.first, range.blocks, range.length),
            Err(why) => why,
        };
        let block = "kubelet:131072:6553600\n";
        for (users, uids, gids, settings, expected) in [
            ("", "", "", settings(65536, 110), "65536 + 110 x 65536"),
            ("", block, block, settings(131_072, 20), "131072 + 20 x 131072"),
            (user, block, block, settings(65536, 100), "131072 + 100 x 65536"),
            (user, block, block, settings(65536, 110), "kubelet user assigned IDs are not enough to support 110 pods"),
            (
                user,
                "kubelet:100000:6553600",
                "kubelet:100000:6553600",
                settings(65536, 10),
                "kubelet user assigned ID 100000 is not a multiple of 65536",
            ),
            (
                user,
                block,
                "kubelet:65536:6553600",
                settings(65536, 10),
                "ranges of /etc/subuid and /etc/subgid for the user \"kubelet\" must be the same",
            ),
            (
                user,
                "",
                "",
                settings(65536, 10),
                "/etc/subuid must have exactly one range for the user \"kubelet\", not 0",
            ),
            ("", "", "", settings(1000, 10), "kubelet user namespace length 1000 is not a multiple of 65536"),
        ] {
            assert_eq!(range(users, uids, gids, settings), expected);
        }
    }

    #[test]
    fn each_pod_keeps_its_block_until_its_folder_goes() {
        let root = tempfile::tempdir().unwrap();
        let pods = root.path().join("pods");
        let settings = IdSettings { per_pod: UNIT, max_pods: 2 };
        let pod = |uid: &str| {
            fs::create_dir_all(pods.join(uid)).unwrap();
            PodDir::new(root.path(), &PodUid::new(uid)).unwrap()
        };
        let first = |uid: &str| of_pod(&pods, &pod(uid), settings).map(|block| block.first);
        assert_eq!((first("a"), first("b"), first("a")), (Ok(65536), Ok(131_072), Ok(65536)));
        assert_eq!(
            fs::read_to_string(pods.join("a/userns")).unwrap(),
            r#"{"uidMappings":[{"hostId":65536,"containerId":0,"length":65536}],"gidMappings":[{"hostId":65536,"containerId":0,"length":65536}]}"#
        );
        let full = "create user namespace: could not find an empty slot to allocate a user namespace";
        assert_eq!(first("c"), Err(full.to_owned()));
        fs::remove_dir_all(pods.join("a")).unwrap();
        assert_eq!(first("c"), Ok(65536));
        fs::write(pods.join("b/userns"), "{").unwrap();
        fs::remove_dir_all(pods.join("c")).unwrap();
        assert!(first("d").unwrap_err().starts_with("create user namespace: invalid user namespace mappings file: "));
        assert!(first("b").unwrap_err().starts_with("user namespace: invalid user namespace mappings file: "));
    }
}
