//! `resource.Quantity` as far as configuration needs it: whether a text is one, and how many bytes it says.

/// Suffixes with the power of ten or two that they stand for.
const SUFFIXES: [(&str, f64); 16] = [
    ("", 1.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
];

pub(super) fn is(text: &str) -> bool {
    value(text).is_some()
}

/// Whole bytes, rounded up; `None` for what is no quantity or negative.
pub(super) fn bytes(text: &str) -> Option<u64> {
    // Sizes of configuration are far below 2^53; a larger one is cut to u64's range by the cast.
    value(text).filter(|value| *value >= 0.0).map(|value| value.ceil() as u64)
}

fn value(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    if !number.bytes().any(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let power = |(known, power): &(&str, f64)| (*known == suffix).then_some(*power);
    let exponent = || suffix.strip_prefix(['e', 'E'])?.parse::<i16>().ok().map(|power| 10f64.powi(power.into()));
    let scale = SUFFIXES.iter().find_map(power).or_else(exponent)?;
    let magnitude = number.parse::<f64>().ok()? * scale;
    Some(if text.starts_with('-') { -magnitude } else { magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_told_from_other_texts() {
        for (text, expected) in
            [("10Mi", Some(10_485_760)), ("1", Some(1)), ("1.5k", Some(1500)), ("100m", Some(1)), ("1e3", Some(1000))]
        {
            assert_eq!(bytes(text), expected, "{text}");
        }
        for bad in ["", "Mi", "10 Mi", "10mb", "1.2.3", "-1"] {
            assert_eq!(bytes(bad), None, "{bad:?}");
        }
        assert!(is("-1"));
    }
}
