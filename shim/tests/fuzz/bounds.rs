//! What one made-up case may cost. The kernel watches over the whole: memory beyond the limit aborts the process, and so
//! does a case that never ends.

use rustix::process::{Resource, Rlimit, setrlimit};
use std::sync::LazyLock;

/// Private memory of the process: what its threads and the corpus take, several times over.
const MEMORY_BYTES: u64 = 1 << 30;
/// CPU of the whole process for 256 cases of each test; they take a tenth of it in a debug build.
const CPU_SECONDS: u64 = 600;
/// CPU of one case, thousands of times what it takes. Not wall time: the machine may be busy.
const CASE_CPU_SECONDS: f64 = 10.0;
/// Of `/proc/<pid>/stat` (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

static LIMITED: LazyLock<()> = LazyLock::new(|| {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(256u64);
    let cpu = CPU_SECONDS * cases.div_ceil(256).max(1);
    for (resource, limit) in [(Resource::Data, MEMORY_BYTES), (Resource::Cpu, cpu)] {
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })
            .expect("a limit below that of before");
    }
});

/// Runs one case within its bounds.
pub fn bounded<T>(case: impl FnOnce() -> T) -> T {
    LazyLock::force(&LIMITED);
    let begun = cpu_seconds();
    let outcome = case();
    let took = cpu_seconds() - begun;
    assert!(took < CASE_CPU_SECONDS, "one case took {took} s of CPU");
    outcome
}

/// What this thread has used.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("procfs");
    // After the name, which may hold anything: utime and stime are the 12th and 13th.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}
