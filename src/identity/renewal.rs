//! When a certificate is renewed: between 70 and 90 % of its life, as client-go's certificate manager does it.

use jiff::{SignedDuration, Timestamp};

/// How long a certificate is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl Validity {
    pub fn holds_at(&self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// The moment to ask for the next one. `obtained`: when this one was signed for us, if we saw it; signers backdate
    /// by minutes, which in a life of minutes would count as most of it. `spread` in 0..1 keeps nodes that joined together apart.
    pub fn renew_at(&self, obtained: Option<Timestamp>, spread: f64) -> Timestamp {
        let begin = obtained.map_or(self.not_before, |obtained| obtained.max(self.not_before)).min(self.not_after);
        let life = self.not_after.duration_since(begin);
        let share = 0.7 + 0.2 * spread.clamp(0.0, 1.0);
        // The part of a duration between two timestamps is one too, and lies before `not_after`.
        begin.checked_add(SignedDuration::from_secs_f64(life.as_secs_f64() * share)).unwrap_or(self.not_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_is_asked_for_between_seven_and_nine_tenths_of_a_life() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let life = Validity { not_before: at(0), not_after: at(1000) };
        for (obtained, spread, expected) in [
            (None, 0.0, 700),
            (None, 0.5, 800),
            (None, 1.0, 900),
            (Some(600), 0.5, 920),
            // Before its time: a clock that lags the signer's.
            (Some(-50), 0.0, 700),
            // Ended before we had it.
            (Some(2000), 0.0, 1000),
        ] {
            assert_eq!(life.renew_at(obtained.map(at), spread), at(expected), "{obtained:?} {spread}");
        }
        assert!(life.holds_at(at(0)) && !life.holds_at(at(1000)) && !life.holds_at(at(-1)));
    }
}
