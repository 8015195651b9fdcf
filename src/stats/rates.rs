//! CPU use of late (`usageNanoCores`) from counters that are read only when somebody asks.

use jiff::Timestamp;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// A rate over less than this says little; cadvisor's housekeeping looks about as often.
const SHORTEST: Duration = Duration::from_secs(5);
/// A cgroup that nobody asked for so long is gone, or nobody asks at all.
const FORGET_AFTER: Duration = Duration::from_secs(600);
/// Cgroups remembered before those forgotten are looked for: a full node's pods, sandboxes and containers.
const SWEEP_AT: usize = 1024;

/// The reading that each cgroup's rate was last taken at.
#[derive(Debug, Default)]
pub(super) struct Rates {
    last: HashMap<String, Reading>,
    sweep_at: usize,
}

#[derive(Debug)]
struct Reading {
    at: Timestamp,
    asked: Instant,
    total: u64,
    rate: u64,
}

impl Rates {
    /// Nanocores since the last reading; since `started` when this is the first.
    pub(super) fn of(&mut self, path: &str, at: Timestamp, total: u64, started: Timestamp, now: Instant) -> u64 {
        if self.last.len() >= self.sweep_at.max(SWEEP_AT) {
            self.last.retain(|_, reading| now.duration_since(reading.asked) < FORGET_AFTER);
            self.sweep_at = self.last.len() * 2;
        }
        match self.last.get_mut(path) {
            // The same path with less CPU time is another cgroup.
            Some(last) if total >= last.total => {
                last.asked = now;
                let passed = at.duration_since(last.at);
                if passed.unsigned_abs() >= SHORTEST {
                    *last = Reading { at, asked: now, total, rate: rate(total - last.total, passed) };
                }
                last.rate
            }
            Some(_) | None => {
                let rate = rate(total, at.duration_since(started));
                self.last.insert(path.to_owned(), Reading { at, asked: now, total, rate });
                rate
            }
        }
    }
}

fn rate(used: u64, passed: jiff::SignedDuration) -> u64 {
    let nanoseconds = u128::try_from(passed.as_nanos()).unwrap_or(0).max(1);
    u64::try_from(u128::from(used) * 1_000_000_000 / nanoseconds).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_over_the_life_at_first_and_then_over_the_time_since_it_was_last_taken() {
        let second = |s: i64| Timestamp::from_second(1000 + s).unwrap();
        let now = crate::clock::now().mono;
        let mut rates = Rates::default();
        let mut of = |at: i64, total: u64| rates.of("/a", second(at), total, second(0), now);
        assert_eq!(of(10, 5_000_000_000), 500_000_000, "half a core since the start");
        assert_eq!(of(11, 6_000_000_000), 500_000_000, "too soon to tell");
        assert_eq!(of(20, 6_000_000_000), 100_000_000, "a tenth since the first");
        assert_eq!(of(30, 1_000_000_000), 33_333_333, "another cgroup of that name");
    }
}
