//! Looks at a node that runs short and recovers, as tables over time.

use super::*;
use crate::model::eviction::Reading;
use serde_json::json;

fn config(fields: serde_json::Value) -> KubeletConfiguration {
    let mut config: KubeletConfiguration = serde_json::from_value(fields).unwrap();
    config.enforce_node_allocatable.get_or_insert_default();
    config
}

/// Each look: seconds, available memory in MiB of 1000, and `short|crossed signals` that it comes to.
fn check(fields: serde_json::Value, looks: &[(u64, u64, &str)]) {
    let mut watcher = Watcher::new(configured(&config(fields)), Duration::from_secs(300));
    let begin = Instant::now();
    for (at, available, expected) in looks {
        let reading = Reading { available: available << 20, capacity: 1000 << 20 };
        let verdict = watcher.look(&[(Signal::Memory, reading)].into(), begin + Duration::from_secs(*at));
        let short: Vec<String> = verdict.short.iter().map(ToString::to_string).collect();
        let crossed: Vec<&str> = verdict.crossed.iter().map(|threshold| threshold.signal.name()).collect();
        assert_eq!(format!("{}|{}", short.join(" "), crossed.join(" ")), *expected, "at {at} s");
    }
}

#[test]
fn a_hard_threshold_acts_at_once_and_its_condition_lasts() {
    check(
        json!({"evictionHard": {"memory.available": "100Mi"}}),
        &[
            (0, 100, "|"),
            (10, 99, "MemoryPressure|memory.available"),
            (20, 100, "MemoryPressure|"),
            (309, 500, "MemoryPressure|"),
            (310, 500, "|"),
        ],
    );
}

#[test]
fn a_soft_threshold_acts_when_it_has_lasted() {
    check(
        json!({"evictionSoft": {"memory.available": "20%"}, "evictionSoftGracePeriod": {"memory.available": "1m30s"}}),
        &[
            (0, 199, "MemoryPressure|"),
            (80, 199, "MemoryPressure|"),
            (85, 201, "MemoryPressure|"),
            (90, 199, "MemoryPressure|"),
            (179, 199, "MemoryPressure|"),
            (180, 199, "MemoryPressure|memory.available"),
        ],
    );
}

#[test]
fn once_crossed_the_minimum_is_reclaimed_too() {
    check(
        json!({"evictionHard": {"memory.available": "100Mi"}, "evictionMinimumReclaim": {"memory.available": "50Mi"}}),
        &[
            (0, 120, "|"),
            (10, 90, "MemoryPressure|memory.available"),
            (20, 149, "MemoryPressure|memory.available"),
            (30, 150, "MemoryPressure|"),
            (40, 120, "MemoryPressure|"),
        ],
    );
}

#[test]
fn memory_comes_before_disks() {
    let fields = json!({"evictionHard": {"nodefs.available": "10%", "memory.available": "10%", "pid.available": "1k"}});
    let mut watcher = Watcher::new(configured(&config(fields)), Duration::from_secs(300));
    let low = Reading { available: 1, capacity: 100_000 };
    let all = [(Signal::NodeFs, low), (Signal::Memory, low), (Signal::Pids, low)].into();
    let verdict = watcher.look(&all, Instant::now());
    let signals: Vec<_> = verdict.crossed.iter().map(|threshold| threshold.signal).collect();
    assert_eq!(signals, [Signal::Memory, Signal::NodeFs, Signal::Pids]);
    assert_eq!(verdict.short.len(), 3);
    assert!(!watcher.has_recovered(&all));
    assert!(watcher.has_recovered(&Readings::new()), "what cannot be read is not short");
}

#[test]
fn thresholds_are_those_of_the_configuration() {
    let names = |fields| {
        let list = configured(&config(fields));
        let name = |t: &Threshold| format!("{}{}", t.signal.name(), if t.hard { "" } else { " soft" });
        list.iter().map(name).collect::<Vec<_>>().join(", ")
    };
    let defaults = KubeletConfiguration::defaulted();
    let list = configured(&defaults).iter().map(|t| t.signal.name()).collect::<Vec<_>>().join(", ");
    assert_eq!(
        list,
        "memory.available, nodefs.available, nodefs.inodesFree, imagefs.available, imagefs.inodesFree, \
         allocatableMemory.available"
    );
    // As kind writes them: switched off.
    let off = json!({"evictionHard": {"nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"}});
    assert_eq!(names(off), "");
    let soft =
        json!({"evictionSoft": {"memory.available": "1Gi"}, "evictionSoftGracePeriod": {"memory.available": "1s"}});
    assert_eq!(names(soft), "memory.available soft");
}

#[test]
fn what_the_node_gives_up_first_lies_on_the_disk_that_is_short() {
    let both = OwnReserves { dead_containers: true, unused_images: true };
    let none = OwnReserves { dead_containers: false, unused_images: false };
    let containers = OwnReserves { dead_containers: true, unused_images: false };
    let images = OwnReserves { dead_containers: false, unused_images: true };
    for (signal, separate_images, separate_layers, expected) in [
        (Signal::Memory, false, false, none),
        (Signal::Pids, true, false, none),
        (Signal::NodeFs, false, false, both),
        (Signal::NodeFs, true, false, none),
        (Signal::ImageFs, true, false, both),
        (Signal::NodeFsInodes, true, true, containers),
        (Signal::ImageFsInodes, true, true, images),
    ] {
        assert_eq!(own_reserves(signal, separate_images, separate_layers), expected, "{signal:?}");
    }
}

#[test]
fn the_kernel_is_told_where_the_working_set_gets_too_large() {
    let watcher = Watcher::new(
        configured(&config(json!({
            "evictionHard": {"memory.available": "100Mi"},
            "evictionSoft": {"memory.available": "25%"},
            "evictionSoftGracePeriod": {"memory.available": "1m"},
        }))),
        Duration::ZERO,
    );
    let readings = [(Signal::Memory, Reading { available: 700 << 20, capacity: 1000 << 20 })].into();
    // 50 MiB of page cache could go at once.
    let used = MemoryUse { usage: 350 << 20, working_set: 300 << 20, ..Default::default() };
    assert_eq!(watcher.marks(Signal::Memory, &used, &readings), [(950 << 20), (800 << 20)]);
    assert!(watcher.marks(Signal::AllocatableMemory, &used, &readings).is_empty());
}
