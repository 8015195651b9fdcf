//! Kubernetes quantities: `500m`, `1.5Gi`, `12e6`: their grammar and canonical form (apimachinery's resource.Quantity).

use std::fmt;

/// How a quantity's exponent is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    /// `12e6`
    DecimalExponent,
    /// `Ki`, `Mi`, …
    BinarySi,
    /// `m`, `k`, `M`, …
    DecimalSi,
}

/// Why a text is no quantity; texts as Go's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse quantity's suffix")]
    Suffix,
    #[error("unable to parse numeric part of quantity")]
    Number,
}

/// A quantity, exact to the nano (finer values round away from zero, as upstream's), at most 2^63-1 units.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quantity {
    /// In units of 1e-9.
    nanos: i128,
    format: Format,
}

const NANO: i128 = 1_000_000_000;
/// 2^63-1 units in nanos: larger values are cut to it.
const MAX: i128 = i64::MAX as i128 * NANO;

impl Quantity {
    /// Parses the grammar of resource.Quantity.
    pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            None => return Err(QuantityError::Format),
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
        };
        let whole = digits(rest);
        let after = &rest[whole.len()..];
        let (fraction, suffix) = match after.strip_prefix('.') {
            Some(tail) => {
                let fraction = digits(tail);
                (fraction, &tail[fraction.len()..])
            }
            None => ("", after),
        };
        if !well_formed(suffix) {
            return Err(QuantityError::Format);
        }
        let (binary, exponent, format) = interpret(suffix).ok_or(QuantityError::Suffix)?;
        if whole.is_empty() && fraction.is_empty() {
            return Err(QuantityError::Number);
        }
        let magnitude = magnitude(whole, fraction, binary, exponent);
        let format = if format == Format::BinarySi && magnitude < NANO { Format::DecimalSi } else { format };
        Ok(Quantity { nanos: if negative { -magnitude } else { magnitude }, format })
    }

    /// The value in thousandths, rounded up (away from zero).
    pub fn millis(self) -> i128 {
        divide_away(self.nanos, NANO / 1000)
    }

    /// The value in whole units, rounded up (away from zero).
    pub fn value(self) -> i128 {
        divide_away(self.nanos, NANO)
    }

    /// In billionths, the finest there is.
    pub fn nanos(self) -> i128 {
        self.nanos
    }

    /// That many billionths, written as this one is.
    pub fn with_nanos(self, nanos: i128) -> Quantity {
        Quantity { nanos, ..self }
    }

    /// Rounded up to thousandths, as upstream rounds every quantity of a ResourceList.
    pub(super) fn rounded_to_milli(self) -> Quantity {
        Quantity { nanos: self.millis() * (NANO / 1000), format: self.format }
    }
}

fn digits(text: &str) -> &str {
    &text[..text.bytes().take_while(u8::is_ascii_digit).count()]
}

/// `[eEinumkKMGTP]*[-+]?[0-9]*`
fn well_formed(suffix: &str) -> bool {
    let rest = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    rest.bytes().all(|b| b.is_ascii_digit())
}

/// Whether the base is 2, the exponent, and the format that a suffix means.
fn interpret(suffix: &str) -> Option<(bool, i32, Format)> {
    const DECIMAL: [(&str, i32); 10] =
        [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
    const BINARY: [(&str, i32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
    if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((false, *exponent, Format::DecimalSi));
    }
    if let Some((_, exponent)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Some((true, *exponent, Format::BinarySi));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?.parse::<i64>().ok()?;
    Some((false, exponent.clamp(-1000, 1000) as i32, Format::DecimalExponent))
}

/// `whole.fraction × base^exponent` in nanos, rounded up and cut at the maximum.
fn magnitude(whole: &str, fraction: &str, binary: bool, exponent: i32) -> i128 {
    let mut nanos = Saturating(0);
    // Each digit contributes at its own decimal place; places below a nano only decide whether to round up.
    let shift = if binary { 0 } else { exponent };
    let factor = if binary { 1i128 << exponent } else { 1 };
    let digits = whole.bytes().chain(fraction.bytes()).map(|b| i128::from(b - b'0'));
    let mut inexact = false;
    for (at, digit) in digits.enumerate().filter(|(_, digit)| *digit != 0) {
        let place = whole.len() as i64 - 1 - at as i64 + i64::from(shift) + 9;
        if place >= 0 {
            nanos.add(digit * factor, place);
        } else {
            // A binary factor can lift a digit above the nano again: 0.0000000001Gi.
            let divisor = u32::try_from(-place).ok().and_then(|p| 10i128.checked_pow(p));
            let (quotient, rest) = divisor.map_or((0, 1), |d| (digit * factor / d, digit * factor % d));
            nanos.add(quotient, 0);
            inexact |= rest != 0;
        }
    }
    if inexact {
        nanos.add(1, 0);
    }
    nanos.0.min(MAX)
}

/// A sum that sticks at its maximum.
struct Saturating(i128);

impl Saturating {
    fn add(&mut self, digit: i128, place: i64) {
        let power = u32::try_from(place).ok().and_then(|p| 10i128.checked_pow(p)).unwrap_or(i128::MAX);
        self.0 = self.0.saturating_add(digit.saturating_mul(power));
    }
}

fn divide_away(value: i128, by: i128) -> i128 {
    let quotient = value / by;
    if value % by == 0 { quotient } else { quotient + value.signum() }
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, the largest exponent that keeps the number whole.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * NANO;
        if self.format == Format::BinarySi && !small {
            let (mut amount, mut power) = (self.value(), 0);
            while amount % 1024 == 0 && power < 6 {
                amount /= 1024;
                power += 1;
            }
            return write!(f, "{amount}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        let (mut amount, mut power) = (self.nanos, -3);
        while amount % 1000 == 0 && power < 6 {
            amount /= 1000;
            power += 1;
        }
        match (self.format, power) {
            (_, 0) => write!(f, "{amount}"),
            (Format::DecimalExponent, _) => write!(f, "{amount}e{}", power * 3),
            (Format::DecimalSi | Format::BinarySi, _) => {
                write!(f, "{amount}{}", ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][(power + 3) as usize])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms_match_upstream() {
        for (text, canonical) in [
            ("0", "0"),
            ("0.5", "500m"),
            ("1", "1"),
            ("1.0", "1"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("2.5", "2500m"),
            ("100m", "100m"),
            ("0.1", "100m"),
            ("1000", "1k"),
            ("1e3", "1e3"),
            ("12e6", "12e6"),
            ("1E", "1E"),
            ("1E3", "1e3"),
            ("1Gi", "1Gi"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("1000Ki", "1000Ki"),
            ("123456789", "123456789"),
            ("1.1n", "2n"),
            ("0.0000000001", "1n"),
            ("-1.5", "-1500m"),
            ("+7", "7"),
            (".5", "500m"),
            ("5.", "5"),
            ("9223372036854775808", "9223372036854775807"),
            ("64M", "64M"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("129M", "129M"),
            ("128974848000m", "128974848"),
            ("123Mi", "123Mi"),
            ("0Mi", "0"),
            ("100n", "100n"),
            ("1u", "1u"),
            ("0.1Ki", "102400m"),
            ("1e-3", "1e-3"),
        ] {
            assert_eq!(Quantity::parse(text).map(|q| q.to_string()), Ok(canonical.to_owned()), "{text}");
        }
    }

    #[test]
    fn refuses_what_upstream_refuses() {
        for (text, error) in [
            ("", QuantityError::Format),
            ("1 ", QuantityError::Format),
            ("abc", QuantityError::Format),
            ("1.2.3", QuantityError::Format),
            ("1Kx", QuantityError::Format),
            ("1i", QuantityError::Suffix),
            ("1mm", QuantityError::Suffix),
            ("1ki", QuantityError::Suffix),
            (".", QuantityError::Number),
        ] {
            assert_eq!(Quantity::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn rounds_resource_lists_up_to_milli() {
        assert_eq!(Quantity::parse("0.0001").unwrap().rounded_to_milli().to_string(), "1m");
        assert_eq!(Quantity::parse("1.5Gi").unwrap().rounded_to_milli().to_string(), "1536Mi");
        assert_eq!(Quantity::parse("1500u").unwrap().millis(), 2);
        assert_eq!(Quantity::parse("1500m").unwrap().value(), 2);
    }
}
