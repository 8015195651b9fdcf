//! `metav1.Duration`: Go's grammar (`1m30s`, `1.5h`, `300ms`) read and written.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// A length of time in nanoseconds, which may be negative (as Go's `time.Duration`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration {
    nanoseconds: i64,
}

/// A text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration, as in 300ms, 1m30s or 2h")]
pub struct DurationError(String);

const MICROSECOND: i64 = 1_000;
const MILLISECOND: i64 = 1_000 * MICROSECOND;
const SECOND: i64 = 1_000 * MILLISECOND;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

impl Duration {
    pub const ZERO: Self = Self { nanoseconds: 0 };

    pub const fn from_secs(seconds: i64) -> Self {
        Self { nanoseconds: seconds * SECOND }
    }

    pub const fn from_millis(milliseconds: i64) -> Self {
        Self { nanoseconds: milliseconds * MILLISECOND }
    }

    pub const fn from_nanos(nanoseconds: i64) -> Self {
        Self { nanoseconds }
    }

    /// For waits: a negative one is none.
    pub fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_nanos(u64::try_from(self.nanoseconds).unwrap_or(0))
    }

    pub fn is_zero(self) -> bool {
        self.nanoseconds == 0
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        parse(text).map(|nanoseconds| Self { nanoseconds }).ok_or_else(|| DurationError(text.to_owned()))
    }
}

/// Go's `time.ParseDuration`: a sign, then numbers with units; a bare zero needs no unit.
fn parse(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|&end| end > 0)?;
        let (number, tail) = rest.split_at(number);
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        total = total.checked_add(scaled(number, unit_of(unit)?)?)?;
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

fn unit_of(unit: &str) -> Option<i64> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => MICROSECOND,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        _ => return None,
    })
}

/// `number` times `unit`, what is finer than a nanosecond cut off.
fn scaled(number: &str, unit: i64) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i64>().ok() };
    // An hour has 3.6e12 nanoseconds: more digits than this say nothing.
    let fraction = &fraction[..fraction.len().min(15)];
    let power = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let unit = i128::from(unit);
    Some(i128::from(digits(whole)?) * unit + i128::from(digits(fraction)?) * unit / power)
}

impl fmt::Display for Duration {
    /// Go's `Duration.String`: `1m30s`, `1.5s`, `100ms`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.nanoseconds.unsigned_abs();
        if self.nanoseconds < 0 {
            f.write_str("-")?;
        }
        let part = |value: u64, unit: i64| {
            let unit = unit.unsigned_abs();
            let fraction = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
            let fraction = fraction.trim_end_matches('0');
            if unit == 1 || fraction.is_empty() {
                format!("{}", value / unit)
            } else {
                format!("{}.{fraction}", value / unit)
            }
        };
        let [second, minute, hour] = [SECOND, MINUTE, HOUR].map(i64::unsigned_abs);
        match magnitude {
            0 => f.write_str("0s"),
            n if n < MICROSECOND.unsigned_abs() => write!(f, "{n}ns"),
            n if n < MILLISECOND.unsigned_abs() => write!(f, "{}µs", part(n, MICROSECOND)),
            n if n < second => write!(f, "{}ms", part(n, MILLISECOND)),
            n => {
                if n >= hour {
                    write!(f, "{}h", n / hour)?;
                }
                if n >= minute {
                    write!(f, "{}m", n % hour / minute)?;
                }
                write!(f, "{}s", part(n % minute, SECOND))
            }
        }
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Duration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration, as in 300ms, 1m30s or 2h")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        for (text, shown) in [
            ("0", "0s"),
            ("0s", "0s"),
            ("1m", "1m0s"),
            ("90s", "1m30s"),
            ("4h", "4h0m0s"),
            ("1.5h", "1h30m0s"),
            ("100ms", "100ms"),
            ("1500ms", "1.5s"),
            ("-1m", "-1m0s"),
            ("+5s", "5s"),
            (".5s", "500ms"),
            ("1us", "1µs"),
            ("1500ns", "1.5µs"),
            ("3ns", "3ns"),
            ("1h1ms", "1h0m0.001s"),
        ] {
            assert_eq!(text.parse::<Duration>().unwrap().to_string(), shown, "{text}");
        }
        for bad in ["", "5", "s", "5 s", "5d", "1..5s", "-", ".s", "9999999h"] {
            assert!(bad.parse::<Duration>().is_err(), "{bad:?}");
        }
    }
}
