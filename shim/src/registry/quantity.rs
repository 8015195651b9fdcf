//! Resource quantities as numbers: enough of apimachinery's `resource.Quantity` to compare and check them.

use serde_json::Value;

/// A quantity in billionths of its unit: the finest a Quantity can hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Nanos(pub i128);

const NANOS_PER_UNIT: i128 = 1_000_000_000;

impl Nanos {
    /// Of a string or number as the API has it; `None` when it is no quantity.
    pub fn parse(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Self::parse_text(text),
            Value::Number(number) => Self::parse_text(&number.to_string()),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// `1.5Gi`, `100m`, `1e3` …; fractions of a billionth round up.
    pub fn parse_text(text: &str) -> Option<Self> {
        let (negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, suffix) = rest.split_at(end);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let mantissa: i128 = format!("0{whole}{fraction}").parse().ok()?;
        let scale = u32::try_from(fraction.len()).ok()?;
        let (multiplier, exponent) = multiplier(suffix)?;
        let mut value = mantissa.checked_mul(multiplier)?;
        // value × 10^(exponent + 9 - scale), rounded away from zero
        let power = exponent + 9 - i32::try_from(scale).ok()?;
        if power >= 0 {
            value = value.checked_mul(10i128.checked_pow(power.unsigned_abs())?)?;
        } else {
            let divisor = 10i128.checked_pow(power.unsigned_abs())?;
            value = value / divisor + i128::from(value % divisor != 0);
        }
        Some(Self(if negative { -value } else { value }))
    }

    pub fn is_integer(self) -> bool {
        self.0 % NANOS_PER_UNIT == 0
    }

    /// Whole units, rounded up.
    pub fn units(self) -> i128 {
        self.0.div_euclid(NANOS_PER_UNIT) + i128::from(self.0.rem_euclid(NANOS_PER_UNIT) != 0)
    }
}

/// (factor, power of ten) of a suffix.
fn multiplier(suffix: &str) -> Option<(i128, i32)> {
    let power = |n: u32| Some((1i128 << (10 * n), 0));
    match suffix {
        "" => Some((1, 0)),
        "n" => Some((1, -9)),
        "u" => Some((1, -6)),
        "m" => Some((1, -3)),
        "k" => Some((1, 3)),
        "M" => Some((1, 6)),
        "G" => Some((1, 9)),
        "T" => Some((1, 12)),
        "P" => Some((1, 15)),
        "E" => Some((1, 18)),
        "Ki" => power(1),
        "Mi" => power(2),
        "Gi" => power(3),
        "Ti" => power(4),
        "Pi" => power(5),
        "Ei" => power(6),
        other => Some((1, other.strip_prefix(['e', 'E'])?.parse::<i32>().ok().filter(|e| (-30..=30).contains(e))?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_compare_as_numbers() {
        for (text, want) in [
            ("1", Some(NANOS_PER_UNIT)),
            ("0.5", Some(500_000_000)),
            ("500m", Some(500_000_000)),
            (".5", Some(500_000_000)),
            ("1Ki", Some(1024 * NANOS_PER_UNIT)),
            ("1.5Gi", Some(1_610_612_736 * NANOS_PER_UNIT)),
            ("1e3", Some(1000 * NANOS_PER_UNIT)),
            ("1E", Some(1_000_000_000_000_000_000 * NANOS_PER_UNIT)),
            ("-1", Some(-NANOS_PER_UNIT)),
            ("0.0000000001", Some(1)),
            ("", None),
            ("x", None),
            ("1x", None),
        ] {
            assert_eq!(Nanos::parse_text(text).map(|n| n.0), want, "{text}");
        }
    }
}
