//! Whether a text is a schedule that cron jobs accept: robfig/cron's `ParseStandard`, and names of time zones.

/// Name and bounds of each field of a schedule, in order, and the names its numbers may be given by.
const FIELDS: [(u32, u32, &[&str]); 5] = [
    (0, 59, &[]),
    (0, 23, &[]),
    (1, 31, &[]),
    (1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    (0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];
const DESCRIPTORS: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// Why it is no schedule, in the parser's words.
pub(super) fn parse(schedule: &str) -> Result<(), String> {
    let mut rest = schedule;
    for prefix in ["TZ=", "CRON_TZ="] {
        if let Some(zoned) = schedule.strip_prefix(prefix) {
            let (zone, after) = zoned.split_once(' ').unwrap_or((zoned, ""));
            if !is_zone(zone) {
                return Err(format!("provided bad location {zone}: unknown time zone {zone}"));
            }
            rest = after.trim();
        }
    }
    if let Some(interval) = rest.strip_prefix("@every ") {
        return if is_duration(interval) {
            Ok(())
        } else {
            Err(format!("failed to parse duration {rest}: time: invalid duration {interval:?}"))
        };
    }
    if rest.starts_with('@') {
        return if DESCRIPTORS.contains(&rest) { Ok(()) } else { Err(format!("unrecognized descriptor: {rest}")) };
    }
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    for (field, (min, max, names)) in fields.iter().zip(FIELDS) {
        for range in field.split(',') {
            check_range(range, min, max, names)?;
        }
    }
    Ok(())
}

fn check_range(text: &str, min: u32, max: u32, names: &[&str]) -> Result<(), String> {
    let mut steps = text.split('/');
    let (range, step, more) = (steps.next().unwrap_or(""), steps.next(), steps.next().is_some());
    if more {
        return Err(format!("too many slashes: {text}"));
    }
    let (start, mut end) = if matches!(range, "*" | "?") {
        (min, max)
    } else {
        let mut ends = range.split('-');
        let (first, last, more) = (ends.next().unwrap_or(""), ends.next(), ends.next().is_some());
        if more {
            return Err(format!("too many hyphens: {text}"));
        }
        let start = number(first, min, names)?;
        (start, last.map_or(Ok(start), |last| number(last, min, names))?)
    };
    let mut step_of = 1;
    if let Some(step) = step {
        step_of = step
            .parse::<u32>()
            .map_err(|_| format!("failed to parse int from {step}: strconv.Atoi: parsing {step:?}: invalid syntax"))?;
        // `N/step` means from N on.
        if !range.contains('-') && range != "*" && range != "?" {
            end = max;
        }
    }
    if start < min {
        Err(format!("beginning of range ({start}) below minimum ({min}): {text}"))
    } else if end > max {
        Err(format!("end of range ({end}) above maximum ({max}): {text}"))
    } else if start > end {
        Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"))
    } else if step_of == 0 {
        Err(format!("step of range should be a positive number: {text}"))
    } else {
        Ok(())
    }
}

fn number(text: &str, min: u32, names: &[&str]) -> Result<u32, String> {
    let lower = text.to_ascii_lowercase();
    if let Some(at) = names.iter().position(|name| *name == lower) {
        return Ok(min + u32::try_from(at).unwrap_or(0));
    }
    text.parse().map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))
}

/// Go's durations: numbers with units.
fn is_duration(text: &str) -> bool {
    let mut rest = text.trim_start_matches(['-', '+']);
    if rest == "0" {
        return true;
    }
    let mut any = false;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        if digits == 0 {
            return false;
        }
        rest = &rest[digits..];
        let Some(unit) = ["ns", "us", "µs", "ms", "s", "m", "h"].iter().find(|unit| rest.starts_with(**unit)) else {
            return false;
        };
        rest = &rest[unit.len()..];
        any = true;
    }
    any
}

/// Of the form of a name in the IANA database (`Area/Location`, `UTC`); the database itself belongs to the machine
/// that the controller runs on.
pub(super) fn is_zone(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.len() <= 32
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'+'))
            && part.bytes().any(|b| b.is_ascii_alphabetic())
    };
    let known = name.contains('/') || name.len() <= 9;
    known && name.split('/').all(part) && name.split('/').count() <= 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_five_fields_or_a_descriptor() {
        for (schedule, fine) in [
            ("* * * * *", true),
            ("*/5 0-12/2 1,15 jan-mar MON", true),
            ("0 0 ? * *", true),
            ("@daily", true),
            ("@every 1h30m", true),
            ("TZ=UTC 0 0 * * *", true),
            ("@often", false),
            ("@every x", false),
            ("* * * *", false),
            ("60 * * * *", false),
            ("* * 0 * *", false),
            ("5-1 * * * *", false),
            ("*/0 * * * *", false),
            ("a * * * *", false),
            ("1-2-3 * * * *", false),
        ] {
            assert_eq!(parse(schedule).is_ok(), fine, "{schedule}");
        }
    }
}
