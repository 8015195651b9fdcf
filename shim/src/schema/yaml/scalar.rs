//! What a plain scalar means: yaml.v2's `resolve`, YAML 1.1's words and numbers included.

use serde_json::{Number, Value};

/// The meaning of a plain scalar. `None`: a string.
#[derive(Debug, PartialEq)]
pub(super) enum Meaning {
    Json(Value),
    /// A number that JSON cannot hold (`.inf`, `.nan`).
    NotJson,
    /// `<<`
    Merge,
}

pub(super) fn resolve(text: &str) -> Option<Meaning> {
    let meaning = match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Value::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Value::Bool(false),
        "<<" => return Some(Meaning::Merge),
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf"
        | "-.INF" => return Some(Meaning::NotJson),
        _ => return number(text).map(|number| Meaning::Json(Value::Number(number))),
    };
    Some(Meaning::Json(meaning))
}

fn number(text: &str) -> Option<Number> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return None;
    }
    let plain = text.replace('_', "");
    integer(&plain).or_else(|| float(&plain))
}

/// Go's `ParseInt(text, 0, 64)` and `ParseUint`: the prefix names the base.
fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (base, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    let magnitude = i128::from(u64::from_str_radix(digits, base).ok()?);
    let value = if negative { -magnitude } else { magnitude };
    i64::try_from(value).map(Number::from).or_else(|_| u64::try_from(value).map(Number::from)).ok()
}

fn float(text: &str) -> Option<Number> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let mantissa = unsigned.split(['e', 'E']).next().unwrap_or_default();
    let shaped = mantissa.bytes().any(|c| c.is_ascii_digit())
        && mantissa.bytes().all(|c| c.is_ascii_digit() || c == b'.')
        && unsigned.bytes().all(|c| c.is_ascii_digit() || matches!(c, b'.' | b'e' | b'E' | b'+' | b'-'));
    let value: f64 = if shaped { text.parse().ok()? } else { return None };
    // Go writes a whole float64 without a fraction, so that it reads back as an integer.
    if value.fract() == 0.0 && value.abs() < 1e15 { Some(Number::from(value as i64)) } else { Number::from_f64(value) }
}

/// Whether yaml.v2 would take a plain scalar for something but a string, so that a string must be quoted.
pub(super) fn needs_quotes(text: &str) -> bool {
    resolve(text).is_some() || is_sexagesimal(text) || is_timestamp(text)
}

/// `190:20:30`: a number in YAML 1.1's base 60.
fn is_sexagesimal(text: &str) -> bool {
    let mut parts = text.strip_prefix(['-', '+']).unwrap_or(text).split(':');
    let first = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    let whole = |text: &str| text.bytes().all(|c| c.is_ascii_digit() || c == b'_');
    let Some((last, middle)) = rest.split_last() else { return false };
    let below_sixty = |text: &str| {
        let digits = text.as_bytes();
        matches!(digits, [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9'])
    };
    let (last, fraction) = last.split_once('.').unwrap_or((last, ""));
    first.starts_with(|c: char| c.is_ascii_digit())
        && whole(first)
        && middle.iter().all(|part| below_sixty(part))
        && below_sixty(last)
        && whole(fraction)
}

/// `2001-12-14`, `2001-12-14T21:59:43.10-05:00`, `2001-12-14 21:59:43`.
fn is_timestamp(text: &str) -> bool {
    let date_end = text.find(['T', 't', ' ']).unwrap_or(text.len());
    let (date, time) = text.split_at(date_end);
    let mut parts = date.split('-');
    let number = |part: Option<&str>, digits: std::ops::RangeInclusive<usize>, most: u32| {
        part.is_some_and(|part| {
            digits.contains(&part.len())
                && part.bytes().all(|c| c.is_ascii_digit())
                && part.parse::<u32>().is_ok_and(|number| number <= most)
        })
    };
    let is_date = number(parts.next(), 4..=4, 9999)
        && number(parts.next(), 1..=2, 12)
        && number(parts.next(), 1..=2, 31)
        && parts.next().is_none();
    if !is_date || time.is_empty() {
        return is_date;
    }
    let with_zone = !time.starts_with(' ');
    let clock = &time[1..];
    let zone_at = clock.find(['Z', '+', '-']).unwrap_or(clock.len());
    let (clock, zone) = clock.split_at(zone_at);
    let mut parts = clock.split(':');
    let (hour, minute, second) = (parts.next(), parts.next(), parts.next());
    let second = second.map(|second| second.split_once('.').map_or(second, |(whole, _)| whole));
    number(hour, 1..=2, 23)
        && number(minute, 1..=2, 59)
        && number(second, 1..=2, 59)
        && parts.next().is_none()
        && zone.is_empty() != with_zone
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn plain_scalars_mean_what_yaml_v2_takes_them_for() {
        for (text, value) in [
            ("y", json!(true)),
            ("Off", json!(false)),
            ("~", json!(null)),
            ("010", json!(8)),
            ("0x1F", json!(31)),
            ("1_000", json!(1000)),
            ("-0b11", json!(-3)),
            ("1.0", json!(1)),
            ("1e3", json!(1000)),
            ("-.5", json!(-0.5)),
            ("18446744073709551615", json!(18446744073709551615u64)),
        ] {
            assert_eq!(resolve(text), Some(Meaning::Json(value)), "{text}");
        }
        for text in ["1.2.3", "0x", "1m", "0.5Gi", "truE", "-", ".", "e3", "1e", "10.0.0.1", "nope"] {
            assert_eq!(resolve(text), None, "{text}");
        }
    }

    #[test]
    fn times_and_base_sixty_numbers_need_quotes() {
        for text in ["2024-05-06T07:08:09Z", "2001-12-14", "2001-12-14 21:59:43", "190:20:30", "1:2", "12"] {
            assert!(needs_quotes(text), "{text}");
        }
        for text in ["2024-05", "10.0.0.1:80", "1:60", "a:1", "2001-12-14T21", "v1", "2024-13-01"] {
            assert!(!needs_quotes(text), "{text}");
        }
    }
}
