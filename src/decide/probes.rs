//! When a container is probed first, and how soon after its start a failing probe counts against it.

use std::time::Duration;

/// A container gets this long to begin listening. The kubelet gives as much without saying so: its probe ticks begin
/// with the pod, so the first one after a container's start comes anywhere in a period, and a period is a second or more.
pub const SETTLING: Duration = Duration::from_secs(1);
/// First wait before a container that does not listen yet is asked again; doubles.
const FIRST_RETRY: Duration = Duration::from_millis(50);

/// After a probe failed: when to probe again without counting that failure, or `None` where it counts. `age` is how long
/// the container has run, `tries` how many failures were let pass. Commands are run again only once, when the time is
/// over: each run costs the container more than a connection does.
pub fn again(is_exec: bool, age: Duration, tries: u32) -> Option<Duration> {
    let left = SETTLING.checked_sub(age).filter(|left| !left.is_zero())?;
    Some(if is_exec { left } else { left.min(FIRST_RETRY.saturating_mul(1 << tries.min(5))) })
}

/// How long the first probe of a container waits that has run for `age`: what is left of its initial delay; and where the
/// container was started before the agent, which runs for `agent`, some part of a period, which `lot` says: all of these begin now.
pub fn first(delay: Duration, period: Duration, age: Duration, agent: Duration, lot: u32) -> Duration {
    let left = delay.saturating_sub(age);
    if age <= agent { left } else { left + period.mul_f64(f64::from(lot % 1000) / 1000.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_probe_waits_for_the_delay_and_adopted_containers_are_spread_over_a_period() {
        let s = Duration::from_secs;
        for (what, delay, age, lot, expected) in [
            ("at once", s(0), s(0), 500, s(0)),
            ("the delay counts from the start", s(8), s(3), 500, s(5)),
            ("after a long hook", s(0), s(50), 500, s(0)),
            ("adopted", s(0), s(600), 500, s(5)),
            ("adopted, drawn first", s(0), s(600), 3000, s(0)),
            ("adopted within its delay", s(700), s(600), 500, s(105)),
        ] {
            assert_eq!(first(delay, s(10), age, s(60), lot), expected, "{what}");
        }
    }

    #[test]
    fn a_failure_counts_once_the_container_has_had_a_second() {
        let ms = Duration::from_millis;
        let cases = [
            ("refused at once", false, ms(3), 0, Some(ms(50))),
            ("refused again", false, ms(60), 1, Some(ms(100))),
            ("never beyond the second", false, ms(900), 4, Some(ms(100))),
            ("however often it was asked", false, ms(10), u32::MAX, Some(ms(990))),
            ("a command waits for the end", true, ms(80), 0, Some(ms(920))),
            ("the second is over", false, ms(1000), 5, None),
            ("so it is for a command", true, ms(1001), 1, None),
            ("a container adopted after hours", false, Duration::from_secs(7200), 0, None),
        ];
        for (what, is_exec, age, tries, expected) in cases {
            assert_eq!(again(is_exec, age, tries), expected, "{what}");
        }
    }
}
