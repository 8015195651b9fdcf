//! The files of a cgroup, v1 and v2: which there are and what each says. Parsing is pure; `Reader` only reads.

use super::Depth;
use super::proc;
use super::tree::{Buffer, Tree, is_absent};
use crate::cgroups::{Cgroups, Version};
use crate::clock;
use crate::model::stats::{CgroupSpec, CgroupUse, Device, Faults, IoUse, Pressure, Stall};
use std::collections::HashMap;
use std::io;
use std::time::Duration;
use tokio::time::Instant;

/// Takes what one file says.
type Apply = fn(&mut CgroupUse, &str);

/// When a file is worth its system calls: opening costs microseconds, and a full node has thousands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Always, and first: where neither CPU time nor memory has changed, nothing has run, and all else is as it was.
    Sign,
    /// Always, unless it rests.
    Usage,
    /// Only for a full look.
    Detail,
    /// The same, and also of what rests: the kernel writes back late.
    Writeback,
    /// Only where there is a CPU quota; without one it says nothing.
    Quota,
    /// For a full look where there is a memory limit.
    Limit,
    /// How long tasks waited, also of what rests: wherever there is more to say than the usage.
    Pressure,
    /// Limits: they change with a resize only, and are remembered for a while.
    Spec,
}

impl When {
    /// Whether a look of that depth reads it, once the limits are known.
    fn is_wanted(self, depth: Depth, spec: &CgroupSpec) -> bool {
        match self {
            Self::Usage => true,
            Self::Detail | Self::Writeback => depth >= Depth::Full,
            Self::Pressure => depth >= Depth::Limits,
            Self::Quota => depth >= Depth::Limits && spec.cpu_quota > 0,
            Self::Limit => depth >= Depth::Full && spec.memory_limit > 0,
            // Those were read before.
            Self::Sign | Self::Spec => false,
        }
    }

    /// Whether it may change in a cgroup that rests.
    fn is_restless(self) -> bool {
        matches!(self, Self::Writeback | Self::Pressure)
    }
}

/// One file: its controller, its name, and what it says.
pub(super) struct Source {
    pub controller: &'static str,
    pub file: &'static str,
    pub when: When,
    pub apply: Apply,
}

const fn source(when: When, controller: &'static str, file: &'static str, apply: Apply) -> Source {
    Source { controller, file, when, apply }
}

const fn sign(controller: &'static str, file: &'static str, apply: Apply) -> Source {
    source(When::Sign, controller, file, apply)
}

const fn usage(controller: &'static str, file: &'static str, apply: Apply) -> Source {
    source(When::Usage, controller, file, apply)
}

const fn detail(controller: &'static str, file: &'static str, apply: Apply) -> Source {
    source(When::Detail, controller, file, apply)
}

const fn spec(controller: &'static str, file: &'static str, apply: Apply) -> Source {
    source(When::Spec, controller, file, apply)
}

/// `cpuacct.stat` counts ticks of 1/100 s (`USER_HZ`), whatever the kernel's own rate.
const TICK_NANOSECONDS: u64 = 10_000_000;
/// The least that stands for "no limit": v1 says 2^63 rounded down to a page (cadvisor's `specMemoryValue`).
const UNLIMITED: u64 = 1 << 62;

pub(super) const V1: &[Source] = &[
    sign("cpuacct", "cpuacct.usage", |u, text| u.cpu.total = number(text)),
    // Before `memory.stat`, which takes the inactive page cache away from it.
    sign("memory", "memory.usage_in_bytes", |u, text| u.memory.usage = number(text)),
    usage("memory", "memory.stat", memory_stat_v1),
    usage("pids", "pids.current", |u, text| u.pids.threads = number(text)),
    detail("cpuacct", "cpuacct.stat", |u, text| {
        each(text, |key, value| match key {
            "user" => u.cpu.user = value * TICK_NANOSECONDS,
            "system" => u.cpu.system = value * TICK_NANOSECONDS,
            _ => {}
        });
    }),
    source(When::Quota, "cpu", "cpu.stat", |u, text| {
        each(text, |key, value| match key {
            "nr_periods" => u.cpu.periods = value,
            "nr_throttled" => u.cpu.throttled_periods = value,
            "throttled_time" => u.cpu.throttled = value,
            _ => {}
        });
    }),
    spec("cpu", "cpu.shares", |u, text| u.spec.cpu_shares = number(text)),
    // -1 is none, and no number.
    spec("cpu", "cpu.cfs_quota_us", |u, text| u.spec.cpu_quota = number(text)),
    spec("cpu", "cpu.cfs_period_us", |u, text| u.spec.cpu_period = number(text)),
    detail("memory", "memory.max_usage_in_bytes", |u, text| u.memory.max_usage = number(text)),
    source(When::Limit, "memory", "memory.failcnt", |u, text| u.memory.failures = number(text)),
    detail("memory", "memory.oom_control", |u, text| {
        each(text, |key, value| {
            if key == "oom_kill" {
                u.memory.oom_kills = value;
            }
        });
    }),
    spec("memory", "memory.limit_in_bytes", |u, text| u.spec.memory_limit = limit(text)),
    spec("memory", "memory.soft_limit_in_bytes", |u, text| u.spec.memory_reservation = limit(text)),
    spec("memory", "memory.memsw.limit_in_bytes", |u, text| u.spec.swap_limit = limit(text)),
    spec("pids", "pids.max", |u, text| u.pids.threads_max = limit(text)),
    detail("blkio", "blkio.throttle.io_service_bytes_recursive", |u, text| {
        each_operation(u, text, |io, operation, value| match operation {
            "Read" => io.read_bytes = value,
            "Write" => io.write_bytes = value,
            _ => {}
        });
    }),
    detail("blkio", "blkio.throttle.io_serviced_recursive", |u, text| {
        each_operation(u, text, |io, operation, value| match operation {
            "Read" => io.reads = value,
            "Write" => io.writes = value,
            _ => {}
        });
    }),
];

pub(super) const V2: &[Source] = &[
    sign("cpu", "cpu.stat", |u, text| {
        each(text, |key, value| match key {
            "usage_usec" => u.cpu.total = value * 1000,
            "user_usec" => u.cpu.user = value * 1000,
            "system_usec" => u.cpu.system = value * 1000,
            "nr_periods" => u.cpu.periods = value,
            "nr_throttled" => u.cpu.throttled_periods = value,
            "throttled_usec" => u.cpu.throttled = value * 1000,
            _ => {}
        });
    }),
    sign("memory", "memory.current", |u, text| u.memory.usage = number(text)),
    usage("memory", "memory.stat", memory_stat_v2),
    usage("memory", "memory.swap.current", |u, text| u.memory.swap = number(text)),
    usage("pids", "pids.current", |u, text| u.pids.threads = number(text)),
    spec("cpu", "cpu.weight", |u, text| u.spec.cpu_shares = shares_of_weight(number(text))),
    spec("cpu", "cpu.max", |u, text| {
        let (quota, period) = text.trim().split_once(' ').unwrap_or((text, ""));
        (u.spec.cpu_quota, u.spec.cpu_period) = (number(quota), number(period));
    }),
    detail("memory", "memory.peak", |u, text| u.memory.max_usage = number(text)),
    detail("memory", "memory.events", |u, text| {
        each(text, |key, value| match key {
            "max" => u.memory.failures = value,
            "oom_kill" => u.memory.oom_kills = value,
            _ => {}
        });
    }),
    spec("memory", "memory.max", |u, text| u.spec.memory_limit = limit(text)),
    spec("memory", "memory.low", |u, text| u.spec.memory_reservation = limit(text)),
    spec("memory", "memory.swap.max", |u, text| u.spec.swap_limit = limit(text)),
    spec("pids", "pids.max", |u, text| u.pids.threads_max = limit(text)),
    source(When::Writeback, "io", "io.stat", io_stat_v2),
    source(When::Pressure, "cpu", "cpu.pressure", |u, text| u.pressure.cpu = pressure(text)),
    source(When::Pressure, "memory", "memory.pressure", |u, text| u.pressure.memory = pressure(text)),
    source(When::Pressure, "io", "io.pressure", |u, text| u.pressure.io = pressure(text)),
];

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and `full` in the next line, which older kernels have no line of for
/// the CPU.
fn pressure(text: &str) -> Option<Pressure> {
    let line = |kind: &str| {
        let figures = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let value = |name: &str| figures.split_whitespace().find_map(|one| one.strip_prefix(name)?.strip_prefix('='));
        let average = |name: &str| value(name).and_then(|text| text.parse().ok()).unwrap_or_default();
        Some(Stall {
            total: number(value("total")?),
            avg10: average("avg10"),
            avg60: average("avg60"),
            avg300: average("avg300"),
        })
    };
    Some(Pressure { some: line("some ")?, full: line("full ").unwrap_or_default() })
}

fn memory_stat_v1(u: &mut CgroupUse, text: &str) {
    let mut inactive = 0;
    // What is below counts too, but for the faults, which cadvisor shows both ways.
    each(text, |key, value| match key {
        "total_cache" => u.memory.cache = value,
        "total_rss" => u.memory.rss = value,
        "total_swap" => u.memory.swap = value,
        "total_mapped_file" => u.memory.mapped_file = value,
        "total_inactive_file" => inactive = value,
        "pgfault" => u.memory.page_faults.all = value,
        "pgmajfault" => u.memory.page_faults.major = value,
        "total_pgfault" => u.memory.tree_page_faults.all = value,
        "total_pgmajfault" => u.memory.tree_page_faults.major = value,
        _ => {}
    });
    u.memory.working_set = u.memory.usage.saturating_sub(inactive);
}

fn memory_stat_v2(u: &mut CgroupUse, text: &str) {
    let mut inactive = 0;
    let mut faults = Faults::default();
    each(text, |key, value| match key {
        "file" => u.memory.cache = value,
        "anon" => u.memory.rss = value,
        "file_mapped" => u.memory.mapped_file = value,
        "inactive_file" => inactive = value,
        "pgfault" => faults.all = value,
        "pgmajfault" => faults.major = value,
        _ => {}
    });
    (u.memory.page_faults, u.memory.tree_page_faults) = (faults, faults);
    u.memory.working_set = u.memory.usage.saturating_sub(inactive);
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`
fn io_stat_v2(u: &mut CgroupUse, text: &str) {
    for line in text.lines() {
        let mut words = line.split(' ');
        let Some(device) = words.next().and_then(device) else { continue };
        let io = u.io.entry(device).or_default();
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "rbytes" => io.read_bytes = number(value),
                "wbytes" => io.write_bytes = number(value),
                "rios" => io.reads = number(value),
                "wios" => io.writes = number(value),
                _ => {}
            }
        }
    }
}

/// `8:0 Read 4096`
fn each_operation(u: &mut CgroupUse, text: &str, mut apply: impl FnMut(&mut IoUse, &str, u64)) {
    for line in text.lines() {
        let mut words = line.split(' ');
        if let (Some(device), Some(operation), Some(value)) =
            (words.next().and_then(device), words.next(), words.next())
        {
            apply(u.io.entry(device).or_default(), operation, number(value));
        }
    }
}

fn device(text: &str) -> Option<Device> {
    let (major, minor) = text.split_once(':')?;
    Some(Device { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// `key value` lines.
fn each(text: &str, mut apply: impl FnMut(&str, u64)) {
    for (key, value) in text.lines().filter_map(|line| line.split_once(' ')) {
        apply(key, number(value));
    }
}

/// `max` and `-1` are no numbers, and count as 0.
fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

fn limit(text: &str) -> u64 {
    Some(number(text)).filter(|&value| value < UNLIMITED).unwrap_or(0)
}

/// The inverse of runc's conversion, as cadvisor computes it.
fn shares_of_weight(weight: u64) -> u64 {
    if weight == 0 { 0 } else { 2 + (weight - 1) * 262_142 / 9999 }
}

/// Everything is read again after this: limits that somebody else changed show that late.
const KNOWN_AGE: Duration = Duration::from_secs(300);
/// Cgroups remembered before those that nobody asked for of late are dropped: a full node's pods, sandboxes and
/// containers.
const SWEEP_AT: usize = 512;
/// The controller in whose tree processes are listed.
const LISTS_PROCESSES: &str = "memory";
/// Processes of one container whose open files are counted: each costs a folder of `/proc`.
const COUNTED_PROCESSES: usize = 256;

/// Reads cgroups, all into one buffer.
pub(super) struct Reader {
    trees: Vec<(Tree, Vec<&'static Source>)>,
    pub(super) buffer: Buffer,
    known: HashMap<String, Known>,
    sweep_at: usize,
}

/// What was last read of a cgroup, whole.
struct Known {
    /// The pod's version then: a later one may have other limits.
    version: String,
    read: Instant,
    asked: Instant,
    depth: Depth,
    found: CgroupUse,
    /// Its first process; not yet looked for: none.
    leader: Option<i32>,
}

impl Known {
    /// Whether the limits may have changed.
    fn is_of(&self, version: &str, now: Instant) -> bool {
        self.version == version && now.duration_since(self.read) < KNOWN_AGE
    }

    /// Whether nothing has run since, given the signs of now.
    fn rests(&self, depth: Depth, now: &CgroupUse) -> bool {
        let signs = |of: &CgroupUse| (of.cpu.total, of.memory.usage);
        self.depth >= depth && signs(&self.found) == signs(now)
    }
}

impl Reader {
    pub(super) fn new(cgroups: &Cgroups) -> Self {
        let all = match cgroups.version() {
            Version::V1 => V1,
            Version::V2 => V2,
        };
        let mut trees: Vec<(Tree, Vec<&'static Source>)> = Vec::new();
        for source in all {
            let Some(root) = cgroups.controller_root(source.controller) else { continue };
            match trees.iter_mut().find(|(tree, _)| tree.root() == root) {
                Some((_, sources)) => sources.push(source),
                None => trees.push((Tree::new(root), vec![source])),
            }
        }
        Self { trees, buffer: Buffer::default(), known: HashMap::new(), sweep_at: SWEEP_AT }
    }

    /// The look is over.
    pub(super) fn close(&mut self) {
        for (tree, _) in &mut self.trees {
            tree.close();
        }
    }

    /// One cgroup; `None`: there is none at that path. Files that this kernel does not have say nothing. `version` is its
    /// pod's; what has none is read whole each time.
    pub(super) fn read(&mut self, path: &str, depth: Depth, version: Option<&str>) -> io::Result<Option<CgroupUse>> {
        let now = clock::now();
        let mut found = CgroupUse { at: now.wall, ..Default::default() };
        if !self.pass(path, &mut found, |when, _| when == When::Sign)? {
            self.known.remove(path);
            return Ok(None);
        }
        // Who wants no more than the usage must not be told what is a minute old.
        let version = version.filter(|_| depth > Depth::Usage);
        let known = version.and_then(|version| self.known.get_mut(path).filter(|known| known.is_of(version, now.mono)));
        if let Some(known) = known {
            known.asked = now.mono;
            if known.rests(depth, &found) {
                found = CgroupUse { at: found.at, ..known.found.clone() };
                self.pass(path, &mut found, |when, spec| when.is_restless() && when.is_wanted(depth, spec))?;
                return Ok(Some(found));
            }
            (found.spec, found.pids.threads_max) = (known.found.spec, known.found.pids.threads_max);
        } else if depth > Depth::Usage {
            self.pass(path, &mut found, |when, _| when == When::Spec)?;
        }
        self.pass(path, &mut found, |when, spec| when.is_wanted(depth, spec))?;
        if depth >= Depth::Processes {
            self.count_files(path, &mut found);
        }
        if let Some(version) = version {
            self.keep(path, version, depth, &found, now.mono);
        }
        Ok(Some(found))
    }

    fn keep(&mut self, path: &str, version: &str, depth: Depth, found: &CgroupUse, now: Instant) {
        if self.known.len() >= self.sweep_at {
            self.known.retain(|_, known| now.duration_since(known.asked) < KNOWN_AGE);
            self.sweep_at = SWEEP_AT.max(self.known.len() * 2);
        }
        let read = self.known.get(path).filter(|known| known.is_of(version, now)).map_or(now, |known| known.read);
        let known = Known { version: version.to_owned(), read, asked: now, depth, found: found.clone(), leader: None };
        self.known.insert(path.to_owned(), known);
    }

    fn count_files(&mut self, path: &str, found: &mut CgroupUse) {
        let processes = self.processes(path);
        found.pids.processes = processes.len() as u64;
        for pid in processes.into_iter().take(COUNTED_PROCESSES) {
            let (files, sockets) = proc::open_files(pid);
            found.pids.files += files;
            found.pids.sockets += sockets;
        }
    }

    /// A process of a cgroup that was read in this look: the same one for as long as it rests.
    pub(super) fn leader(&mut self, path: &str) -> Option<i32> {
        if let Some(leader) = self.known.get(path).and_then(|known| known.leader) {
            return Some(leader);
        }
        let leader = self.processes(path).first().copied();
        if let Some(known) = self.known.get_mut(path) {
            known.leader = leader;
        }
        leader
    }

    /// Reads the wanted files of a cgroup in all trees; whether there was any.
    fn pass(
        &mut self,
        path: &str,
        found: &mut CgroupUse,
        wanted: impl Fn(When, &CgroupSpec) -> bool,
    ) -> io::Result<bool> {
        let spec = found.spec;
        let mut any = false;
        for (tree, sources) in &mut self.trees {
            for source in sources.iter().filter(|source| wanted(source.when, &spec)) {
                match tree.read(path, source.file, &mut self.buffer) {
                    Ok(text) => {
                        any = true;
                        (source.apply)(found, text);
                    }
                    Err(error) if is_absent(&error) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(any)
    }

    /// Processes of one cgroup, those below it left aside.
    pub(super) fn processes(&mut self, path: &str) -> Vec<i32> {
        let lists = |(_, sources): &&mut (Tree, Vec<&Source>)| {
            sources.iter().any(|source| source.controller == LISTS_PROCESSES)
        };
        let Some((tree, _)) = self.trees.iter_mut().find(lists) else { return Vec::new() };
        // 0 stands for a process of another PID namespace.
        let parse = |text: &str| text.lines().filter_map(|line| line.parse().ok()).filter(|&pid| pid > 0).collect();
        tree.read(path, "cgroup.procs", &mut self.buffer).map(parse).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(sources: &[Source], files: &[(&str, &str)]) -> CgroupUse {
        let mut found = CgroupUse::default();
        for source in sources {
            if let Some((_, text)) = files.iter().find(|(name, _)| *name == source.file) {
                (source.apply)(&mut found, text);
            }
        }
        found
    }

    /// Recorded from a pod with limits under kernel 6.1, v1.
    const FILES_V1: &[(&str, &str)] = &[
        ("cpuacct.usage", "123456789\n"),
        ("cpuacct.stat", "user 7\nsystem 4\n"),
        ("cpu.stat", "nr_periods 20\nnr_throttled 3\nthrottled_time 4500000\nnr_bursts 0\nburst_time 0\n"),
        ("cpu.shares", "51\n"),
        ("cpu.cfs_quota_us", "5000\n"),
        ("cpu.cfs_period_us", "100000\n"),
        ("memory.usage_in_bytes", "1048576\n"),
        ("memory.max_usage_in_bytes", "2097152\n"),
        ("memory.failcnt", "2\n"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
        ("memory.limit_in_bytes", "33554432\n"),
        ("memory.soft_limit_in_bytes", "9223372036854771712\n"),
        ("memory.memsw.limit_in_bytes", "33554432\n"),
        (
            "memory.stat",
            "cache 1\nrss 2\npgfault 10\npgmajfault 1\ntotal_cache 4096\ntotal_rss 8192\ntotal_mapped_file 512\n\
             total_swap 0\ntotal_pgfault 100\ntotal_pgmajfault 5\ntotal_inactive_file 48576\n",
        ),
        ("pids.current", "3\n"),
        ("pids.max", "max\n"),
        ("blkio.throttle.io_service_bytes_recursive", "8:0 Read 4096\n8:0 Write 512\n8:0 Total 4608\nTotal 4608\n"),
        ("blkio.throttle.io_serviced_recursive", "8:0 Read 2\n8:0 Write 1\n8:0 Total 3\nTotal 3\n"),
    ];

    /// The same under v2.
    const FILES_V2: &[(&str, &str)] = &[
        (
            "cpu.stat",
            "usage_usec 123456\nuser_usec 70000\nsystem_usec 40000\ncore_sched.force_idle_usec 0\nnr_periods 20\n\
             nr_throttled 3\nthrottled_usec 4500\nnr_bursts 0\nburst_usec 0\n",
        ),
        ("cpu.weight", "2\n"),
        ("cpu.max", "5000 100000\n"),
        ("memory.current", "1048576\n"),
        ("memory.peak", "2097152\n"),
        ("memory.events", "low 0\nhigh 0\nmax 2\noom 1\noom_kill 1\noom_group_kill 0\n"),
        ("memory.max", "33554432\n"),
        ("memory.low", "0\n"),
        ("memory.swap.max", "max\n"),
        ("memory.swap.current", "0\n"),
        ("memory.stat", "anon 8192\nfile 4096\nfile_mapped 512\ninactive_file 48576\npgfault 100\npgmajfault 5\n"),
        ("pids.current", "3\n"),
        ("pids.max", "100\n"),
        (
            "cpu.pressure",
            "some avg10=1.50 avg60=0.25 avg300=0.00 total=123456\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
        ),
        ("memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n"),
        ("io.pressure", ""),
        ("io.stat", "8:0 rbytes=4096 wbytes=512 rios=2 wios=1 dbytes=0 dios=0\n253:0 \n"),
    ];

    #[test]
    fn both_versions_of_the_files_say_the_same() {
        let (v1, v2) = (apply(V1, FILES_V1), apply(V2, FILES_V2));
        for (name, found) in [("v1", &v1), ("v2", &v2)] {
            assert_eq!(found.memory.working_set, 1_000_000, "{name}");
            assert_eq!((found.memory.usage, found.memory.max_usage), (1 << 20, 2 << 20), "{name}");
            assert_eq!((found.memory.rss, found.memory.cache, found.memory.mapped_file), (8192, 4096, 512), "{name}");
            assert_eq!((found.memory.failures, found.memory.oom_kills), (2, 1), "{name}");
            assert_eq!(found.memory.tree_page_faults, Faults { all: 100, major: 5 }, "{name}");
            assert_eq!((found.cpu.periods, found.cpu.throttled_periods, found.cpu.throttled), (20, 3, 4_500_000));
            assert_eq!((found.cpu.user, found.cpu.system), (70_000_000, 40_000_000), "{name}");
            assert_eq!(found.pids.threads, 3, "{name}");
            assert_eq!((found.spec.cpu_quota, found.spec.cpu_period), (5000, 100_000), "{name}");
            assert_eq!((found.spec.memory_limit, found.spec.memory_reservation), (32 << 20, 0), "{name}");
            let io = found.io[&Device { major: 8, minor: 0 }];
            assert_eq!(io, IoUse { read_bytes: 4096, write_bytes: 512, reads: 2, writes: 1 }, "{name}");
        }
        assert_eq!((v1.cpu.total, v2.cpu.total), (123_456_789, 123_456_000));
        assert_eq!((v1.spec.cpu_shares, v2.spec.cpu_shares), (51, 28));
        let cpu = v2.pressure.cpu.unwrap();
        assert_eq!((cpu.some.total, cpu.some.avg10, cpu.some.avg60, cpu.full.total), (123_456, 1.5, 0.25, 7));
        assert_eq!(v2.pressure.memory.map(|memory| (memory.some.total, memory.full)), Some((5, Stall::default())));
        assert_eq!((v2.pressure.io, v1.pressure.cpu), (None, None), "kernels that keep none");
        assert_eq!((v1.pids.threads_max, v2.pids.threads_max), (0, 100));
        assert_eq!((v1.spec.swap_limit, v2.spec.swap_limit), (32 << 20, 0));
    }

    #[test]
    fn a_cgroup_that_is_not_there_is_none_and_one_that_is_has_its_figures() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cgroup.controllers"), "cpu memory pids io").unwrap();
        let group = dir.path().join("kubepods/pod1");
        std::fs::create_dir_all(&group).unwrap();
        for (file, text) in FILES_V2 {
            std::fs::write(group.join(file), text).unwrap();
        }
        let many: String = (1..3000).map(|pid| format!("{pid}\n")).collect();
        std::fs::write(group.join("cgroup.procs"), format!("0\n{many}")).unwrap();
        let mut reader = Reader::new(&Cgroups::detect(dir.path(), "cgroupfs").unwrap());
        assert_eq!(reader.read("/kubepods/none", Depth::Full, Some("1")).unwrap(), None);
        let full = reader.read("/kubepods/pod1", Depth::Full, Some("1")).unwrap().unwrap();
        assert_eq!((full.memory.working_set, full.spec.memory_limit), (1_000_000, 32 << 20));
        let brief = reader.read("/kubepods/pod1", Depth::Usage, Some("1")).unwrap().unwrap();
        assert_eq!((brief.memory.working_set, brief.memory.max_usage), (1_000_000, 0));
        assert_eq!(reader.processes("/kubepods/pod1").len(), 2999);
    }
    #[tokio::test(start_paused = true)]
    async fn where_nothing_ran_only_what_may_have_changed_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cgroup.controllers"), "cpu memory pids io").unwrap();
        let group = dir.path().join("pod1");
        std::fs::create_dir_all(&group).unwrap();
        let write = |file: &str, text: &str| std::fs::write(group.join(file), text).unwrap();
        let changed: &[(&str, &str)] = &[
            ("memory.max", "1048576\n"),
            ("memory.stat", "anon 7\n"),
            ("io.stat", "8:0 rbytes=9 wbytes=9 rios=9 wios=9\n"),
            ("memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=9\n"),
        ];
        // What has changed, the version, seconds later, the depth: limit, memory, traffic and stall that are told.
        let [limit, more_limit] = [32 << 20, 1 << 20];
        let rows = [
            (None, "1", 0, Depth::Full, (limit, 0, 9, 9)),
            (Some(("cpu.stat", "usage_usec 124000\n")), "1", 0, Depth::Full, (limit, 7, 9, 9)),
            (Some(("memory.current", "5\n")), "1", 0, Depth::Full, (limit, 7, 9, 9)),
            (None, "2", 0, Depth::Full, (more_limit, 7, 9, 9)),
            (None, "1", 301, Depth::Full, (more_limit, 7, 9, 9)),
            // Traffic is not asked for, nor read again.
            (None, "1", 0, Depth::Limits, (limit, 0, 4096, 9)),
            (None, "1", 0, Depth::Usage, (0, 7, 0, 0)),
        ];
        for (sign, version, seconds, depth, expected) in rows {
            FILES_V2.iter().for_each(|(file, text)| write(file, text));
            write("memory.stat", "anon 0\n");
            let mut reader = Reader::new(&Cgroups::detect(dir.path(), "cgroupfs").unwrap());
            let before = reader.read("/pod1", Depth::Full, Some("1")).unwrap().unwrap();
            assert_eq!(before.memory.rss, 0);
            changed.iter().for_each(|(file, text)| write(file, text));
            if let Some((file, text)) = sign {
                write(file, text);
            }
            tokio::time::advance(Duration::from_secs(seconds)).await;
            let found = reader.read("/pod1", depth, Some(version)).unwrap().unwrap();
            let traffic = found.io.values().next().map_or(0, |io| io.read_bytes);
            let stall = found.pressure.memory.map_or(0, |pressure| pressure.some.total);
            let told = (found.spec.memory_limit, found.memory.rss, traffic, stall);
            assert_eq!(told, expected, "{sign:?} {version} {seconds} {depth:?}");
        }
    }
}
