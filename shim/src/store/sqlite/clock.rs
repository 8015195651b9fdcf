//! The clock that times-to-live are counted by: it neither jumps while the store is open, nor runs behind the file.

use crate::clock;
use std::time::Duration;
use tokio::time::Instant;

/// Wall time at the opening of the store, carried on by the monotonic clock. A machine without a battery-backed clock
/// boots in the past: what the file has seen already is then where it goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoreClock {
    opened: Instant,
    unix_millis: i64,
}

impl StoreClock {
    /// `seen` is the newest time that the file knows (Unix milliseconds).
    pub(super) fn after(seen: i64) -> Self {
        let now = clock::now();
        Self { opened: now.mono, unix_millis: now.wall.as_millisecond().max(seen) }
    }

    /// Unix milliseconds.
    pub(super) fn millis(&self) -> i64 {
        let elapsed = clock::now().mono.duration_since(self.opened);
        self.unix_millis.saturating_add(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
    }

    /// When what lives `ttl` from now on expires, in Unix milliseconds.
    pub(super) fn expiry(&self, ttl: Duration) -> i64 {
        self.millis().saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_never_runs_behind_what_the_file_has_seen_and_goes_on_evenly() {
        let future = clock::now().wall.as_millisecond() + 86_400_000;
        for (seen, least) in [(0, 0), (future, future)] {
            let clock = StoreClock::after(seen);
            let first = clock.millis();
            assert!(first >= least);
            tokio::time::advance(Duration::from_secs(5)).await;
            assert_eq!(clock.millis() - first, 5000);
            assert_eq!(clock.expiry(Duration::from_secs(1)) - first, 6000);
            assert_eq!(clock.expiry(Duration::MAX), i64::MAX);
        }
    }
}
