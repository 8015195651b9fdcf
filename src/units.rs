//! Millicores and bytes: Kubernetes quantities parsed once.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// CPU in thousandths of a core, rounded up as `resource.Quantity.MilliValue`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Millicores(pub i64);

/// A size in bytes, rounded up as `resource.Quantity.Value`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Bytes(pub i64);

/// A quantity that Kubernetes would refuse; the text is apimachinery's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Millicores {
    /// `250m`, `0.25`, `1`, … in thousandths, away from zero when finer; capped at 2^63-1.
    pub fn parse(quantity: &Quantity) -> Result<Self, QuantityError> {
        parse_scaled(&quantity.0, 3).map(Self)
    }

    /// The canonical form: `250m`, `2`.
    pub fn quantity(self) -> Quantity {
        Quantity(if self.0 % 1000 == 0 { (self.0 / 1000).to_string() } else { format!("{}m", self.0) })
    }
}

impl Bytes {
    /// `64Mi`, `1G`, `1.5Gi`, `12e6`, … in whole bytes, away from zero when finer; capped at 2^63-1.
    pub fn parse(quantity: &Quantity) -> Result<Self, QuantityError> {
        parse_scaled(&quantity.0, 0).map(Self)
    }

    /// The canonical form with binary (`64Mi`) or decimal (`64M`) suffixes: the largest that leaves a whole number.
    pub fn quantity(self, binary: bool) -> Quantity {
        let (base, suffixes) =
            if binary { (1024, ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]) } else { (1000, ["k", "M", "G", "T", "P", "E"]) };
        let mut value = self.0;
        let mut suffix = "";
        for next in suffixes {
            if value == 0 || value % base != 0 {
                break;
            }
            value /= base;
            suffix = next;
        }
        Quantity(format!("{value}{suffix}"))
    }
}

/// Significant decimal digits kept exactly: 10^20 shifted by the largest binary suffix (2^60) still fits in 127 bits.
const KEPT_DIGITS: usize = 20;

/// Parses `text` and returns it times 10^`scale`, rounded away from zero (apimachinery `Quantity.ScaledValue`).
fn parse_scaled(text: &str, scale: i64) -> Result<i64, QuantityError> {
    if text.is_empty() {
        return Err(QuantityError::Format);
    }
    let (negative, rest) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let split = |s: &str| s.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(s.len());
    let (whole, rest) = rest.split_at(split(rest));
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(split(rest)),
        None => ("", rest),
    };
    let (exponent, shift) = suffix_of(suffix)?;

    // value = mantissa × 10^exponent × 2^shift, plus less than one unit of the last digit where `inexact`.
    let mut exponent = exponent.saturating_add(scale);
    let mut mantissa: u128 = 0;
    let mut kept = 0;
    let mut inexact = false;
    let digits = whole.bytes().map(|b| (b, false)).chain(fraction.bytes().map(|b| (b, true)));
    for (digit, fractional) in digits {
        if kept < KEPT_DIGITS {
            mantissa = mantissa * 10 + u128::from(digit - b'0');
            kept += usize::from(mantissa != 0);
            exponent = exponent.saturating_sub(i64::from(fractional));
        } else {
            inexact |= digit != b'0';
            exponent = exponent.saturating_add(i64::from(!fractional));
        }
    }
    let shifted = mantissa << shift;
    let power = u32::try_from(exponent.unsigned_abs()).ok().and_then(|e| 10u128.checked_pow(e));
    let magnitude = match (mantissa, exponent >= 0, power) {
        (0, _, _) => 0,
        (_, true, Some(power)) => {
            shifted.checked_mul(power).map_or(u128::MAX, |v| v.saturating_add(u128::from(inexact)))
        }
        (_, true, None) => u128::MAX,
        (_, false, Some(power)) => shifted / power + u128::from(inexact || !shifted.is_multiple_of(power)),
        // Smaller than the smallest fraction: still something.
        (_, false, None) => 1,
    };
    let magnitude = i64::try_from(magnitude).unwrap_or(i64::MAX);
    Ok(if negative { -magnitude } else { magnitude })
}

/// Decimal exponent and binary shift that a suffix stands for.
fn suffix_of(suffix: &str) -> Result<(i64, u32), QuantityError> {
    // The shape that apimachinery's scanner accepts: letters, then a signed number.
    let letters = suffix.bytes().position(|b| !b"eEinumkKMGTP".contains(&b)).unwrap_or(suffix.len());
    let number = suffix[letters..].trim_start_matches(['-', '+']);
    let signs = suffix.len() - letters - number.len();
    if signs > 1 || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(QuantityError::Format);
    }
    Ok(match suffix {
        "n" => (-9, 0),
        "u" => (-6, 0),
        "m" => (-3, 0),
        "" => (0, 0),
        "k" => (3, 0),
        "M" => (6, 0),
        "G" => (9, 0),
        "T" => (12, 0),
        "P" => (15, 0),
        "E" => (18, 0),
        "Ki" => (0, 10),
        "Mi" => (0, 20),
        "Gi" => (0, 30),
        "Ti" => (0, 40),
        "Pi" => (0, 50),
        "Ei" => (0, 60),
        _ => match suffix.strip_prefix(['e', 'E']).map(str::parse) {
            Some(Ok(exponent)) => (exponent, 0),
            _ => return Err(QuantityError::Suffix),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_parse_as_in_apimachinery() {
        for (text, millis, value) in [
            ("0", 0, 0),
            ("1", 1000, 1),
            ("-1", -1000, -1),
            ("+2", 2000, 2),
            ("100m", 100, 1),
            ("1500m", 1500, 2),
            ("-1500m", -1500, -2),
            ("0.5", 500, 1),
            (".5", 500, 1),
            ("5.", 5000, 5),
            ("0.0001", 1, 1),
            ("1n", 1, 1),
            ("1u", 1, 1),
            ("2k", 2_000_000, 2000),
            ("64Mi", 67_108_864_000, 67_108_864),
            ("1.5Gi", 1_610_612_736_000, 1_610_612_736),
            ("1.0000000001Ki", 1_024_001, 1025),
            ("12e6", 12_000_000_000, 12_000_000),
            ("12E-3", 12, 1),
            ("1E", i64::MAX, 1_000_000_000_000_000_000),
            ("16Ei", i64::MAX, i64::MAX),
            ("1e400", i64::MAX, i64::MAX),
            ("1e-400", 1, 1),
            ("0e400", 0, 0),
            ("100000000000000000000000000000000000e-33", 100_000, 100),
            ("00000000000000000000000000000000000001", 1000, 1),
        ] {
            let quantity = Quantity(text.into());
            assert_eq!(Millicores::parse(&quantity), Ok(Millicores(millis)), "{text} in thousandths");
            assert_eq!(Bytes::parse(&quantity), Ok(Bytes(value)), "{text}");
        }
    }

    #[test]
    fn quantities_are_written_in_canonical_form() {
        for (millis, text) in [(0, "0"), (250, "250m"), (2000, "2"), (1500, "1500m")] {
            assert_eq!(Millicores(millis).quantity().0, text);
        }
        for (bytes, binary, text) in [
            (0, true, "0"),
            (64 << 20, true, "64Mi"),
            (1500, true, "1500"),
            (1_500_000, false, "1500k"),
            (3 << 30, true, "3Gi"),
        ] {
            assert_eq!(Bytes(bytes).quantity(binary).0, text);
        }
    }

    #[test]
    fn malformed_quantities_are_refused() {
        for (text, error) in [
            ("", QuantityError::Format),
            ("1.2.3", QuantityError::Format),
            ("1 Gi", QuantityError::Format),
            ("abc", QuantityError::Format),
            ("1K", QuantityError::Suffix),
            ("1mi", QuantityError::Suffix),
            ("1Ki3", QuantityError::Suffix),
            ("1e", QuantityError::Suffix),
            ("1e--3", QuantityError::Format),
        ] {
            assert_eq!(Bytes::parse(&Quantity(text.into())), Err(error), "{text:?}");
        }
    }
}
