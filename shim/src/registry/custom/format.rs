//! `format` of strings: those that kube-openapi checks; unknown formats hold for everything.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::civil::Date;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Whether the text is of that format.
pub(crate) fn is_valid(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => date_time(text),
        "date" => text.len() == 10 && text.parse::<Date>().is_ok(),
        "duration" => duration(text),
        "email" => email(text),
        "hostname" => hostname(text),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => cidr(text),
        "mac" => mac(text),
        "uri" => text.contains(':') && http::Uri::try_from(text).is_ok() || uri(text),
        "byte" => STANDARD.decode(text).is_ok(),
        "uuid" => uuid(text, None),
        "uuid3" => uuid(text, Some('3')),
        "uuid4" => uuid(text, Some('4')),
        "uuid5" => uuid(text, Some('5')),
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()),
        "hexcolor" => {
            let digits = text.strip_prefix('#').unwrap_or(text);
            matches!(digits.len(), 3 | 6) && digits.bytes().all(|b| b.is_ascii_hexdigit())
        }
        "k8s-short-name" => crate::registry::names::dns1123_label(text, false).is_empty(),
        "k8s-long-name" => crate::registry::names::dns1123_subdomain(text, false).is_empty(),
        _ => true,
    }
}

/// RFC 3339 as go-openapi's strfmt reads it: a date, `T`, a time, and a zone.
fn date_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    let shaped = bytes.len() >= 20 && bytes[4] == b'-' && bytes[7] == b'-' && matches!(bytes[10], b'T' | b't' | b' ');
    shaped && text.parse::<jiff::Timestamp>().is_ok()
}

/// Go's `1h2m3.5s`, or a number with a unit spelled out (`3 days`).
fn duration(text: &str) -> bool {
    const UNITS: [&str; 24] = [
        "ns",
        "us",
        "µs",
        "μs",
        "ms",
        "s",
        "m",
        "h",
        "d",
        "w",
        "nanosecond",
        "nanoseconds",
        "microseconds",
        "milliseconds",
        "sec",
        "second",
        "seconds",
        "min",
        "minute",
        "minutes",
        "hour",
        "hours",
        "day",
        "days",
    ];
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        if digits == 0 || rest[..digits].parse::<f64>().is_err() {
            return false;
        }
        rest = rest[digits..].trim_start();
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.' || c == ' ').unwrap_or(rest.len());
        if !UNITS.contains(&&rest[..unit]) && !matches!(&rest[..unit], "week" | "weeks") {
            return false;
        }
        rest = rest[unit..].trim_start();
    }
    true
}

fn email(text: &str) -> bool {
    let address = match (text.rfind('<'), text.strip_suffix('>')) {
        (Some(start), Some(whole)) => &whole[start + 1..],
        _ => text,
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let atom = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c) || !c.is_ascii();
    let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with('.') && !part.contains("..");
    let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    (quoted || (plain(local) && local.chars().all(atom))) && plain(domain) && domain.chars().all(atom)
}

fn hostname(text: &str) -> bool {
    let label = |label: &str| {
        let edge = |c: char| c.is_alphanumeric();
        !label.is_empty()
            && label.len() <= 63
            && label.starts_with(edge)
            && label.ends_with(edge)
            && label.chars().all(|c| c.is_alphanumeric() || c == '-')
    };
    text.len() <= 255 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

fn cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let within = |max: u8| bits.parse::<u8>().is_ok_and(|bits| bits <= max);
    (address.parse::<Ipv4Addr>().is_ok() && within(32)) || (address.parse::<Ipv6Addr>().is_ok() && within(128))
}

fn mac(text: &str) -> bool {
    let bytes = |separator: char, digits: usize| {
        let parts: Vec<&str> = text.split(separator).collect();
        let total = parts.len() * digits / 2;
        matches!(total, 6 | 8 | 20)
            && parts.iter().all(|part| part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    bytes(':', 2) || bytes('-', 2) || bytes('.', 4)
}

/// A scheme and something after it, or an absolute path (Go's `url.ParseRequestURI`).
fn uri(text: &str) -> bool {
    let printable = text.bytes().all(|b| b > b' ' && b != 0x7f);
    let scheme = text.split_once(':').is_some_and(|(scheme, rest)| {
        !rest.is_empty()
            && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    });
    printable && (scheme || text.starts_with('/'))
}

fn uuid(text: &str, version: Option<char>) -> bool {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    let shaped = groups == [8, 4, 4, 4, 12] || groups == [32];
    let right = |version: char| {
        digits.chars().nth(12) == Some(version)
            && (version == '3' || digits.chars().nth(16).is_some_and(|c| "89abAB".contains(c)))
    };
    shaped && digits.bytes().all(|b| b.is_ascii_hexdigit()) && version.is_none_or(right)
}

#[cfg(test)]
mod tests {
    use super::is_valid;

    #[test]
    fn each_format_tells_its_own() {
        for (format, good, bad) in [
            ("date-time", "2020-01-01T00:00:00Z", "soon"),
            ("date-time", "2020-01-01T00:00:00.5+02:00", "2020-01-01"),
            ("date", "2020-02-29", "2020-02-30"),
            ("duration", "1h2m3.5s", "1x"),
            ("duration", "3 days", "days"),
            ("email", "a@b.example", "a b"),
            ("email", "A B <a@b>", "@"),
            ("hostname", "a-b.example.com", "-a"),
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("ipv6", "::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("mac", "00:1b:44:11:3a:b7", "00:1b:44:11:3a"),
            ("uri", "https://example.com/x", "::"),
            ("byte", "YQ==", "%"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
            ("uuid4", "123e4567-e89b-42d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
            ("hexcolor", "#fff", "#ggg"),
        ] {
            assert!(is_valid(format, good), "{format} {good}");
            assert!(!is_valid(format, bad), "{format} {bad}");
        }
        assert!(is_valid("anything", "at all"));
    }
}
