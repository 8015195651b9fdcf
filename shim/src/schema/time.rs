//! metav1.Time and MicroTime: RFC 3339 as Go parses it (same refusals, same words), always written in UTC.

/// Seconds since the epoch and the nanoseconds after them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Instant {
    pub seconds: i64,
    pub nanos: u32,
}

/// How finely a timestamp is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Precision {
    /// metav1.Time.
    Seconds,
    /// metav1.MicroTime: six digits, no more and no fewer.
    Micros,
}

impl Precision {
    fn layout(self) -> &'static str {
        match self {
            Precision::Seconds => "2006-01-02T15:04:05Z07:00",
            Precision::Micros => "2006-01-02T15:04:05.000000Z07:00",
        }
    }
}

/// Parses `text`; the error is Go's text.
pub(super) fn parse(text: &str, precision: Precision) -> Result<Instant, String> {
    Parser { text, rest: text, layout: precision.layout() }.run(precision)
}

/// `text` in canonical form. Canonical input, the usual case, is given back without being parsed again.
pub(super) fn canonical(text: &str, precision: Precision) -> Result<String, String> {
    parse(text, precision).map(|at| at.format(precision))
}

struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
    layout: &'static str,
}

impl Parser<'_> {
    fn run(mut self, precision: Precision) -> Result<Instant, String> {
        let year = self.number(4, "2006")?;
        self.literal("-", "-")?;
        let month = self.number(2, "01")?;
        self.within(1..=12, month, "month")?;
        self.literal("-", "-")?;
        let day = self.number(2, "02")?;
        self.literal("T", "T")?;
        let hour = self.number(2, "15")?;
        self.within(0..=23, hour, "hour")?;
        self.literal(":", ":")?;
        let minute = self.number(2, "04")?;
        self.within(0..=59, minute, "minute")?;
        self.literal(":", ":")?;
        let second = self.number(2, "05")?;
        self.within(0..=59, second, "second")?;
        let nanos = self.fraction(precision)?;
        let offset = self.zone()?;
        if !self.rest.is_empty() {
            return Err(format!("parsing time {:?}: extra text: {:?}", self.text, self.rest));
        }
        self.within(1..=days_in_month(year, month), day, "day")?;
        let days = days_from_civil(year, month, day);
        Ok(Instant { seconds: days * 86_400 + hour * 3600 + minute * 60 + second - offset, nanos })
    }

    fn refuse<T>(&self, element: &str) -> Result<T, String> {
        Err(format!("parsing time {:?} as {:?}: cannot parse {:?} as {element:?}", self.text, self.layout, self.rest))
    }

    fn within(&self, range: std::ops::RangeInclusive<i64>, value: i64, what: &str) -> Result<(), String> {
        if range.contains(&value) { Ok(()) } else { Err(format!("parsing time {:?}: {what} out of range", self.text)) }
    }

    fn number(&mut self, width: usize, element: &str) -> Result<i64, String> {
        match self.rest.get(..width) {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                self.rest = &self.rest[width..];
                Ok(digits.bytes().fold(0, |sum, b| sum * 10 + i64::from(b - b'0')))
            }
            _ => self.refuse(element),
        }
    }

    fn literal(&mut self, text: &str, element: &str) -> Result<(), String> {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => self.refuse(element),
        }
    }

    fn fraction(&mut self, precision: Precision) -> Result<u32, String> {
        let digits = self.rest.strip_prefix('.').map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
        if precision == Precision::Micros && digits != 6 {
            return self.refuse(".000000");
        }
        if digits == 0 {
            return Ok(0);
        }
        let nanos = self.rest[1..=digits].bytes().chain(std::iter::repeat(b'0')).take(9);
        let nanos = nanos.fold(0, |sum, b| sum * 10 + u32::from(b - b'0'));
        self.rest = &self.rest[digits + 1..];
        Ok(nanos)
    }

    /// Seconds east of UTC.
    fn zone(&mut self) -> Result<i64, String> {
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(0);
        }
        let sign = match self.rest.as_bytes() {
            [b'+', ..] => 1,
            [b'-', ..] => -1,
            _ => return self.refuse("Z07:00"),
        };
        let Some((hours, minutes)) = self.rest.get(1..6).and_then(|zone| zone.split_once(':')) else {
            return self.refuse("Z07:00");
        };
        let (Ok(hours), Ok(minutes)) = (hours.parse::<u8>(), minutes.parse::<u8>()) else {
            return self.refuse("Z07:00");
        };
        self.within(0..=24, i64::from(hours), "time zone offset hour")?;
        self.within(0..=60, i64::from(minutes), "time zone offset minute")?;
        self.rest = &self.rest[6..];
        Ok(sign * (i64::from(hours) * 3600 + i64::from(minutes) * 60))
    }
}

impl Instant {
    pub(super) fn format(self, precision: Precision) -> String {
        let (days, within) = (self.seconds.div_euclid(86_400), self.seconds.rem_euclid(86_400));
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second) = (within / 3600, within / 60 % 60, within % 60);
        let micros = match precision {
            Precision::Seconds => String::new(),
            Precision::Micros => format!(".{:06}", self.nanos / 1000),
        };
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{micros}Z")
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar (years begin in March, so leap days come last).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted_month + 2) / 5 + 1)
}

/// Go's time.ParseDuration of metav1.Duration, in nanoseconds.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let refuse = || format!("time: invalid duration {text:?}");
    let (sign, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (-1, &text[1..]),
        Some(b'+') => (1, &text[1..]),
        _ => (1, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(refuse());
    }
    let mut total = 0f64;
    let mut whole = 0i64;
    while !rest.is_empty() {
        let number = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        if number == 0 {
            return Err(refuse());
        }
        let unit = rest[number..].bytes().take_while(|b| *b != b'.' && !b.is_ascii_digit()).count();
        let (value, name) = (&rest[..number], &rest[number..number + unit]);
        if unit == 0 {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let scale: i64 = match name {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(format!("time: unknown unit {name:?} in duration {text:?}")),
        };
        match value.parse::<i64>() {
            Ok(value) => whole = value.checked_mul(scale).and_then(|v| whole.checked_add(v)).ok_or_else(refuse)?,
            Err(_) => total += value.parse::<f64>().map_err(|_| refuse())? * scale as f64,
        }
        rest = &rest[number + unit..];
    }
    whole.checked_add(total as i64).and_then(|sum| sum.checked_mul(sign)).ok_or_else(refuse)
}

/// Go's Duration.String: `1h0m0s`, `1.5s`, `100ms`.
pub(super) fn format_duration(nanos: i64) -> String {
    let (sign, total) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    if total == 0 {
        return "0s".to_owned();
    }
    let decimal = |value: u64, unit: u64, width: usize| {
        let (whole, rest) = (value / unit, value % unit);
        if rest == 0 {
            whole.to_string()
        } else {
            format!("{whole}.{}", format!("{rest:0width$}").trim_end_matches('0'))
        }
    };
    if total < 1_000 {
        return format!("{sign}{total}ns");
    } else if total < 1_000_000 {
        return format!("{sign}{}µs", decimal(total, 1_000, 3));
    } else if total < 1_000_000_000 {
        return format!("{sign}{}ms", decimal(total, 1_000_000, 6));
    }
    let (minutes, seconds) = (total / 60_000_000_000, decimal(total % 60_000_000_000, 1_000_000_000, 9));
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_utc_seconds() {
        for (text, expected) in [
            ("2024-02-29T23:59:59Z", "2024-02-29T23:59:59Z"),
            ("2024-03-01T01:30:00+02:00", "2024-02-29T23:30:00Z"),
            ("2020-01-01T00:00:00.123456789-05:30", "2020-01-01T05:30:00Z"),
            ("1969-12-31T23:59:59Z", "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(canonical(text, Precision::Seconds), Ok(expected.to_owned()), "{text}");
        }
        let micro = canonical("2020-01-01T00:00:00.123456+01:00", Precision::Micros);
        assert_eq!(micro, Ok("2019-12-31T23:00:00.123456Z".to_owned()));
    }

    #[test]
    fn refusals_are_worded_as_go_words_them() {
        for (text, precision, error) in [
            (
                "yesterday",
                Precision::Micros,
                r#"parsing time "yesterday" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "yesterday" as "2006""#,
            ),
            (
                "2020-01-01T00:00:00Z",
                Precision::Micros,
                r#"parsing time "2020-01-01T00:00:00Z" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "Z" as ".000000""#,
            ),
            ("2020-13-01T00:00:00Z", Precision::Seconds, r#"parsing time "2020-13-01T00:00:00Z": month out of range"#),
            ("2021-02-29T00:00:00Z", Precision::Seconds, r#"parsing time "2021-02-29T00:00:00Z": day out of range"#),
            ("", Precision::Seconds, r#"parsing time "" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "2006""#),
        ] {
            assert_eq!(canonical(text, precision), Err(error.to_owned()), "{text}");
        }
    }

    #[test]
    fn durations_round_trip_as_go_prints_them() {
        for (text, printed) in
            [("1h", "1h0m0s"), ("90s", "1m30s"), ("1.5s", "1.5s"), ("100ms", "100ms"), ("0", "0s"), ("-2m", "-2m0s")]
        {
            assert_eq!(parse_duration(text).map(format_duration), Ok(printed.to_owned()), "{text}");
        }
        assert!(parse_duration("5").is_err());
    }
}
