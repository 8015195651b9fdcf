//! Which images go (`pkg/kubelet/images/image_gc_manager.go`): unused ones, the longest unused first, never pinned ones.

use crate::model::stats::FsUse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// `imageGCHighThresholdPercent`, `imageGCLowThresholdPercent`, `imageMinimumGCAge`, `imageMaximumGCAge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// 100: images never go for want of room.
    pub high_percent: u64,
    pub low_percent: u64,
    pub min_age: Duration,
    /// Zero: images never go for their age.
    pub max_age: Duration,
}

/// An image of the node, by the names that containers and pods may use for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub id: String,
    pub names: Vec<String>,
    pub size: u64,
    /// The runtime is told to keep it: the sandbox image, and what was imported from archives.
    pub pinned: bool,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    detected: Instant,
    used: Option<Instant>,
    size: u64,
    pinned: bool,
}

/// What is known of the images, from look to look.
#[derive(Clone, Debug, Default)]
pub struct Records(BTreeMap<String, Record>);

/// An image that goes, and its size in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unused {
    pub id: String,
    pub size: u64,
}

impl Records {
    /// Takes the images that there are into account. `in_use`: names and ids of containers' and pods' images.
    pub fn look(&mut self, held: &[Held], in_use: &BTreeSet<String>, now: Instant) {
        let present: BTreeSet<&str> = held.iter().map(|image| image.id.as_str()).collect();
        self.0.retain(|id, _| present.contains(id.as_str()));
        for image in held {
            let fresh = Record { detected: now, used: None, size: image.size, pinned: image.pinned };
            let record = self.0.entry(image.id.clone()).or_insert(fresh);
            (record.size, record.pinned) = (image.size, image.pinned);
            if in_use.contains(&image.id) || image.names.iter().any(|name| in_use.contains(name)) {
                record.used = Some(now);
            }
        }
    }

    /// Images to remove until `bytes` are free, and how many bytes that makes. `now` is that of the last look.
    pub fn to_free(&self, bytes: u64, policy: Policy, now: Instant) -> (Vec<Unused>, u64) {
        let (mut list, mut freed) = (Vec::new(), 0_u64);
        for (id, record) in self.unused(now) {
            if freed >= bytes {
                break;
            }
            if now - record.detected < policy.min_age {
                continue;
            }
            freed = freed.saturating_add(record.size);
            list.push(Unused { id: id.clone(), size: record.size });
        }
        (list, freed)
    }

    /// Images that nobody has used for too long. `began`: an agent that has not run that long cannot know.
    pub fn too_old(&self, policy: Policy, began: Instant, now: Instant) -> Vec<Unused> {
        if policy.max_age.is_zero() || now - began <= policy.max_age {
            return Vec::new();
        }
        let old = self.unused(now).filter(|(_, record)| {
            now - record.used.unwrap_or(record.detected) > policy.max_age && now - record.detected >= policy.min_age
        });
        old.map(|(id, record)| Unused { id: id.clone(), size: record.size }).collect()
    }

    pub fn forget(&mut self, id: &str) {
        self.0.remove(id);
    }

    /// Those that may go at all, the longest unused first, then the longest known.
    fn unused(&self, now: Instant) -> impl Iterator<Item = (&String, &Record)> {
        let idle = |record: &Record| !record.pinned && record.used.is_none_or(|used| used < now);
        let mut list: Vec<_> = self.0.iter().filter(|(_, record)| idle(record)).collect();
        list.sort_by_key(|(_, record)| (record.used, record.detected));
        list.into_iter()
    }
}

/// A name in full, as images bear it: `busybox` is `docker.io/library/busybox:latest`.
pub fn full_name(image: &str) -> String {
    let (first, rest) = image.split_once('/').unwrap_or(("", image));
    let registry = first.contains(['.', ':']) || first == "localhost";
    let mut name = match (registry, first) {
        (true, _) => image.to_owned(),
        (false, "") => format!("docker.io/library/{rest}"),
        (false, _) => format!("docker.io/{image}"),
    };
    let last = name.rsplit('/').next().unwrap_or_default();
    if !last.contains([':', '@']) {
        name.push_str(":latest");
    }
    name
}

/// What a disk that is too full lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// To free.
    pub bytes: u64,
    pub used_percent: u64,
}

/// What is to be freed on a disk that is too full; `None`: it is not. An error says why it cannot be judged.
pub fn wanted(disk: FsUse, policy: Policy) -> Result<Option<Shortfall>, String> {
    if disk.capacity == 0 {
        return Err("invalid capacity 0 on image filesystem".to_owned());
    }
    let available = disk.available.min(disk.capacity);
    let used_percent = 100 - available.saturating_mul(100) / disk.capacity;
    let target = disk.capacity.saturating_mul(100 - policy.low_percent.min(100)) / 100;
    let bytes = target.saturating_sub(available);
    Ok((used_percent >= policy.high_percent).then_some(Shortfall { bytes, used_percent }))
}

/// A size for people, as the kubelet writes it in the message of a disk that stays too full.
pub fn size_text(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut size = bytes as f64;
    let mut unit = "B";
    for larger in UNITS {
        if size < 1024.0 {
            break;
        }
        (size, unit) = (size / 1024.0, larger);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{size:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy =
        Policy { high_percent: 85, low_percent: 80, min_age: Duration::from_secs(120), max_age: Duration::ZERO };

    fn held(id: &str, size: u64, pinned: bool) -> Held {
        Held { id: id.to_owned(), names: vec![format!("docker.io/library/{id}:1")], size, pinned }
    }

    fn ids(list: &[Unused]) -> String {
        list.iter().map(|image| image.id.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_longest_unused_go_until_there_is_room_and_never_what_is_used_pinned_or_new() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut records = Records::default();
        let all = [held("a", 10, false), held("b", 20, false), held("kept", 40, true), held("used", 80, false)];
        records.look(&all, &["b".to_owned(), "docker.io/library/used:1".to_owned()].into(), at(0));
        let more = [&all[..], &[held("new", 5, false)]].concat();
        records.look(&more, &["used".to_owned()].into(), at(200));
        // a was never used, b once; new is too young.
        for (bytes, expected) in [(1, "a"), (10, "a"), (11, "a b"), (1000, "a b")] {
            let (list, freed) = records.to_free(bytes, POLICY, at(200));
            assert_eq!(ids(&list), expected, "{bytes}");
            assert_eq!(freed, list.iter().map(|image| image.size).sum::<u64>());
        }
        records.look(&more, &["a".to_owned()].into(), at(400));
        assert_eq!(ids(&records.to_free(1000, POLICY, at(400)).0), "new b used");
        records.look(&all[..1], &BTreeSet::new(), at(500));
        assert_eq!(ids(&records.to_free(1000, POLICY, at(500)).0), "a", "what is gone is forgotten");
    }

    #[test]
    fn images_unused_for_too_long_go_once_the_agent_can_know() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let policy = Policy { max_age: Duration::from_secs(1000), ..POLICY };
        let mut records = Records::default();
        let all = [held("old", 1, false), held("pinned", 1, true), held("late", 1, false)];
        records.look(&all[..2], &BTreeSet::new(), at(0));
        records.look(&all, &BTreeSet::new(), at(900));
        for (now, expected) in [(1000, ""), (1001, "old"), (1901, "old late")] {
            assert_eq!(ids(&records.too_old(policy, begin, at(now))), expected, "{now}");
        }
        assert_eq!(ids(&records.too_old(POLICY, begin, at(9999))), "");
    }

    #[test]
    fn names_are_compared_in_full() {
        for (name, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("a/b:1", "docker.io/a/b:1"),
            ("registry:5000/b", "registry:5000/b:latest"),
            ("localhost/b@sha256:1", "localhost/b@sha256:1"),
            ("quay.io/a/b:2", "quay.io/a/b:2"),
        ] {
            assert_eq!(full_name(name), full);
        }
    }

    #[test]
    fn a_disk_is_emptied_from_the_high_to_the_low_threshold() {
        let disk = |available| FsUse { capacity: 1000, available, ..Default::default() };
        let short = |bytes, used_percent| Ok(Some(Shortfall { bytes, used_percent }));
        assert_eq!(wanted(disk(151), POLICY), short(49, 85), "84.9 % count as 85");
        assert_eq!(wanted(disk(160), POLICY), Ok(None));
        assert_eq!(wanted(disk(100), POLICY), short(100, 90));
        assert_eq!(
            [0, 1023, 1536, 28_346_784_154, 1 << 62].map(size_text),
            ["0 B", "1023 B", "1.5 KiB", "26.4 GiB", "4.0 EiB"]
        );
        assert_eq!(wanted(disk(5000), POLICY), Ok(None), "more available than there is counts as all");
        assert!(wanted(FsUse::default(), POLICY).unwrap_err().contains("invalid capacity 0"));
    }
}
