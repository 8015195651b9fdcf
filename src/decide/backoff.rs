//! When a container that ended may start again: CrashLoopBackOff, derivable from restart counts after a crash of ours.

use super::{Scene, restart_count};
use crate::model::observed::{ContainerState, ObservedContainer};
use std::time::Duration;
use tokio::time::Instant;

/// First delay; doubles with each restart (`pkg/kubelet/kubelet.go` `backOffPeriod`).
pub const FIRST_DELAY_SECONDS: u64 = 10;
/// The delay never exceeds this (`MaxCrashLoopBackOff`, `MaxImageBackOff`), unless the node is configured to be quicker.
pub const MAX_DELAY_SECONDS: u64 = 300;
/// A run at least this long makes the backoff begin anew, whatever the longest delay is (`kubelet.go` `HasExpiredFunc`).
pub const RESET_AFTER_SECONDS: i64 = 600;

/// How long retries wait: twice as long each time, up to the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delays {
    first: Duration,
    longest: Duration,
}

impl Default for Delays {
    fn default() -> Self {
        Self::up_to(Duration::from_secs(MAX_DELAY_SECONDS))
    }
}

impl Delays {
    /// Of a node that waits no longer than that (`crashLoopBackOff.maxContainerRestartPeriod`).
    pub fn up_to(longest: Duration) -> Self {
        Self { first: Duration::from_secs(FIRST_DELAY_SECONDS).min(longest), longest }
    }

    /// The delay before retry number `failures` + 1, counted from 1: 10 s, 20 s, … 5 min.
    pub fn after(self, failures: u32) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
        // Ten doublings of a second are beyond any longest delay.
        self.first.saturating_mul(1 << doublings.min(10)).min(self.longest)
    }
}

/// When to start a container again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Now,
    /// `delay` is the whole backoff, as the message names it.
    At {
        at: Instant,
        delay: Duration,
    },
}

/// The first restart is prompt; each later one waits, counted from the end of the run before. One that was stopped so
/// that it starts anew does not wait for its own end but, if at all, for that of its predecessor (`doBackOff` looks at
/// what had ended before the kill).
pub(crate) fn restart_due(scene: &Scene<'_>, container: &ObservedContainer) -> Due {
    let Some(own) = since_end(scene, container) else { return Due::Now };
    let base = scene.memory.backoff_base.get(&container.name).copied().unwrap_or(0);
    let count = restart_count(container).saturating_sub(base);
    let (count, waited) = match scene.memory.renewed.contains(&container.id) {
        true => (count.saturating_sub(1), before(scene, container).unwrap_or(own).max(own)),
        false => (count, own),
    };
    let delay = scene.delays.after(count);
    if waited >= delay { Due::Now } else { Due::At { at: scene.now.mono + (delay - own), delay } }
}

/// How long ago the run before that one ended, if it is still known.
fn before(scene: &Scene<'_>, container: &ObservedContainer) -> Option<Duration> {
    let is_older =
        |other: &&ObservedContainer| other.name == container.name && restart_count(other) < restart_count(container);
    scene.seen.containers.iter().filter(is_older).find_map(|older| since_end(scene, older))
}

/// How long ago it ended, if it has. By both clocks: a wall clock set back must not lengthen a wait, a restart of ours
/// must not begin it anew.
pub(crate) fn since_end(scene: &Scene<'_>, container: &ObservedContainer) -> Option<Duration> {
    let ContainerState::Exited { finished_at, .. } = &container.state else { return None };
    let by_wall = Duration::try_from(scene.now.wall.duration_since(*finished_at)).unwrap_or_default();
    let seen = scene.memory.ended.get(&container.id);
    Some(by_wall.max(seen.map_or(Duration::ZERO, |seen| scene.now.mono.duration_since(*seen))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_nodes_longest() {
        for (longest, expected) in [
            (300, [0, 10, 20, 40, 80, 160, 300, 300]),
            (60, [0, 10, 20, 40, 60, 60, 60, 60]),
            (10, [0, 10, 10, 10, 10, 10, 10, 10]),
            (3, [0, 3, 3, 3, 3, 3, 3, 3]),
        ] {
            let delays = Delays::up_to(Duration::from_secs(longest));
            let seconds: Vec<u64> = (0..8).map(|failures| delays.after(failures).as_secs()).collect();
            assert_eq!(seconds, expected, "up to {longest} s");
        }
        assert_eq!(Delays::default().after(u32::MAX).as_secs(), MAX_DELAY_SECONDS);
    }
}
