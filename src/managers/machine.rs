//! The machine's layout from `/sys/devices/system/{cpu,node}`, as cadvisor reads it.

use crate::model::cpuset::CpuSet;
use crate::model::topology::{CpuPlace, NumaNode, Topology};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

/// Caches of this level and above are shared between cores (cadvisor `UncoreCaches`).
const UNCORE_LEVEL: u32 = 3;
/// Only so many cache indices are looked at; real machines have four.
const CACHE_INDICES: u32 = 10;

/// Reads the layout below `root`; CPUs that are off do not count.
pub(super) fn read(root: &Path) -> io::Result<Topology> {
    let bad =
        |path: &Path| io::Error::new(io::ErrorKind::InvalidData, format!("{} is no list of CPUs", path.display()));
    let list = |path: &Path| -> io::Result<CpuSet> { fs::read_to_string(path)?.parse().map_err(|_| bad(path)) };
    let online = list(&root.join("cpu/online"))?;
    // A kernel without NUMA has no such folder: all is one node.
    let nodes = list(&root.join("node/online")).unwrap_or_default();
    let mut numa = BTreeMap::new();
    let mut node_of = BTreeMap::new();
    for node in nodes.iter() {
        let dir = root.join(format!("node/node{node}"));
        node_of.extend(list(&dir.join("cpulist"))?.iter().map(|cpu| (cpu, node)));
        numa.insert(node, read_node(&dir));
    }
    if numa.is_empty() {
        let memory_bytes = mem_total(&fs::read_to_string("/proc/meminfo")?);
        numa.insert(0, NumaNode { memory_bytes, distances: vec![10], ..NumaNode::default() });
    }
    let mut cpus = BTreeMap::new();
    for cpu in online.iter() {
        let dir = root.join(format!("cpu/cpu{cpu}"));
        let topology = dir.join("topology");
        let threads =
            list(&topology.join("core_cpus_list")).or_else(|_| list(&topology.join("thread_siblings_list")))?;
        // Some virtual machines say -1: then it is one socket.
        let socket = number(&topology.join("physical_package_id")).unwrap_or(0);
        let core = threads.intersection(&online).iter().next().unwrap_or(cpu);
        let numa = node_of.get(&cpu).copied().unwrap_or(0);
        cpus.insert(cpu, CpuPlace { core, socket, numa, uncore: uncore(&dir).unwrap_or(socket) });
    }
    Ok(Topology { cpus, numa })
}

fn number(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The id of the CPU's first cache of the outer levels.
fn uncore(cpu: &Path) -> Option<u32> {
    let caches = (0..CACHE_INDICES).map(|index| cpu.join(format!("cache/index{index}")));
    let mut outer = caches.filter(|dir| number(&dir.join("level")).is_some_and(|level| level >= UNCORE_LEVEL));
    number(&outer.next()?.join("id"))
}

fn read_node(dir: &Path) -> NumaNode {
    let distances = fs::read_to_string(dir.join("distance")).unwrap_or_default();
    NumaNode {
        memory_bytes: mem_total(&fs::read_to_string(dir.join("meminfo")).unwrap_or_default()),
        huge_pages: huge_pages(&dir.join("hugepages")),
        distances: distances.split_ascii_whitespace().filter_map(|text| text.parse().ok()).collect(),
    }
}

/// `Node 0 MemTotal:       24659856 kB`, in bytes.
fn mem_total(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.split_once("MemTotal:"));
    let kib = line.and_then(|(_, rest)| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Bytes in pages of each size.
fn huge_pages(dir: &Path) -> BTreeMap<u64, u64> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        Some((kib * 1024, kib * 1024 * u64::from(number(&entry.path().join("nr_hugepages"))?)))
    });
    sizes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `/sys` as such a machine has it: per CPU its threads, socket, node and last-level cache.
    fn tree(cpus: &[(&str, u32, u32, Option<u32>)], distances: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let write = |path: String, text: String| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text + "\n").unwrap();
        };
        write("cpu/online".into(), format!("0-{}", cpus.len() - 1));
        for (cpu, (threads, socket, _, cache)) in cpus.iter().enumerate() {
            write(format!("cpu/cpu{cpu}/topology/core_cpus_list"), (*threads).into());
            write(format!("cpu/cpu{cpu}/topology/physical_package_id"), socket.to_string());
            write(format!("cpu/cpu{cpu}/cache/index0/level"), "1".into());
            write(format!("cpu/cpu{cpu}/cache/index0/id"), cpu.to_string());
            if let Some(cache) = cache {
                write(format!("cpu/cpu{cpu}/cache/index3/level"), "3".into());
                write(format!("cpu/cpu{cpu}/cache/index3/id"), cache.to_string());
            }
        }
        if !distances.is_empty() {
            write("node/online".into(), format!("0-{}", distances.len() - 1));
        }
        for (node, distances) in distances.iter().enumerate() {
            let here =
                cpus.iter().enumerate().filter(|(_, cpu)| cpu.2 as usize == node).map(|(cpu, _)| cpu.to_string());
            write(format!("node/node{node}/cpulist"), here.collect::<Vec<_>>().join(","));
            write(format!("node/node{node}/distance"), (*distances).into());
            write(
                format!("node/node{node}/meminfo"),
                format!("Node {node} MemTotal:       1024 kB\nNode {node} MemFree: 1 kB"),
            );
            write(format!("node/node{node}/hugepages/hugepages-2048kB/nr_hugepages"), "3".into());
        }
        root
    }

    fn shown(topology: &Topology) -> String {
        let cpus = topology.cpus.iter();
        let cpus =
            cpus.map(|(cpu, p)| format!("{cpu}:core{},socket{},numa{},cache{}", p.core, p.socket, p.numa, p.uncore));
        cpus.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn machines_of_one_and_two_sockets_and_of_several_nodes_are_read() {
        for (root, expected) in [
            (
                tree(&[("0", 0, 0, Some(0)), ("1", 0, 0, Some(0))], &["10"]),
                "0:core0,socket0,numa0,cache0 1:core1,socket0,numa0,cache0",
            ),
            // Two sockets, threads numbered last, core ids that repeat in each socket.
            (
                tree(
                    &[("0,2", 0, 0, Some(0)), ("1,3", 1, 1, Some(1)), ("0,2", 0, 0, Some(0)), ("1,3", 1, 1, Some(1))],
                    &["10 21", "21 10"],
                ),
                "0:core0,socket0,numa0,cache0 1:core1,socket1,numa1,cache1 2:core0,socket0,numa0,cache0 3:core1,socket1,numa1,cache1",
            ),
            // One socket of two nodes; no cache named, and then no NUMA in the kernel.
            (
                tree(&[("0", 0, 0, None), ("1", 0, 1, None)], &["10 12", "12 10"]),
                "0:core0,socket0,numa0,cache0 1:core1,socket0,numa1,cache0",
            ),
            (
                tree(&[("0-1", 3, 0, None), ("0-1", 3, 0, None)], &[]),
                "0:core0,socket3,numa0,cache3 1:core0,socket3,numa0,cache3",
            ),
        ] {
            let topology = read(root.path()).unwrap();
            assert_eq!(shown(&topology), expected);
            assert!(topology.numa.values().all(|node| node.distances.contains(&10)));
        }
        let two = read(tree(&[("0", 0, 0, None), ("1", 1, 1, None)], &["10 21", "21 10"]).path()).unwrap();
        assert_eq!(two.numa[&1].distances, [21, 10]);
        assert_eq!((two.numa[&1].memory_bytes, two.numa[&1].huge_pages[&(2 << 20)]), (1 << 20, 6 << 20));
        assert!(read(Path::new("/nowhere")).is_err());
    }

    #[test]
    fn this_machine_is_read() {
        let topology = read(Path::new("/sys/devices/system")).unwrap();
        assert!(topology.cpus_per_core() > 0 && topology.sockets() > 0 && !topology.cpu_nodes().is_empty());
    }
}
