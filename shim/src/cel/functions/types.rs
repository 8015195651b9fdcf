//! Conversions, times, and Kubernetes' own types: URLs, addresses, quantities, versions.

use super::fail;
use crate::cel::eval::{Evaluated, parse_duration};
use crate::cel::net::{Cidr, Ip};
use crate::cel::quantity::Decimal;
use crate::cel::url::Url;
use crate::cel::value::{Key, Val};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use semver::Version;
use std::cmp::Ordering;
use std::sync::Arc;

/// `None`: no such function here, or not for these types.
pub(super) fn call<'v>(name: &str, args: &[Val<'v>]) -> Option<Evaluated<'v>> {
    conversion(name, args)
        .or_else(|| time(name, args))
        .or_else(|| url(name, args))
        .or_else(|| net(name, args))
        .or_else(|| quantity(name, args))
        .or_else(|| version(name, args))
}

fn made<'v, T>(made: Result<T, String>, into: impl FnOnce(T) -> Val<'v>) -> Option<Evaluated<'v>> {
    match made {
        Ok(value) => Some(Ok(into(value))),
        Err(text) => fail(text),
    }
}

fn conversion<'v>(name: &str, args: &[Val<'v>]) -> Option<Evaluated<'v>> {
    let value = args.first();
    Some(Ok(match (name, value) {
        ("size", Some(value)) => Val::Int(i64::try_from(value.size()?).unwrap_or(i64::MAX)),
        ("type", Some(value)) => Val::Type(value.type_of()),
        ("dyn", Some(value)) => value.clone(),
        ("bool", Some(Val::Bool(_))) | ("int", Some(Val::Int(_))) | ("uint", Some(Val::UInt(_))) => args[0].clone(),
        ("double", Some(Val::Double(_))) | ("bytes", Some(Val::Bytes(_))) | ("string", Some(Val::String(_))) => {
            args[0].clone()
        }
        ("duration", Some(Val::Duration(_))) | ("timestamp", Some(Val::Timestamp(_))) => args[0].clone(),
        ("bool", Some(Val::String(text))) => match &**text {
            "true" | "True" | "TRUE" | "t" | "1" => Val::Bool(true),
            "false" | "False" | "FALSE" | "f" | "0" => Val::Bool(false),
            _ => return fail(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
        },
        ("int", Some(Val::UInt(number))) => match i64::try_from(*number) {
            Ok(number) => Val::Int(number),
            Err(_) => return fail("integer overflow"),
        },
        ("int", Some(Val::Double(number))) if number.abs() < 9.3e18 => Val::Int(*number as i64),
        ("int" | "uint", Some(Val::Double(_))) => return fail("integer overflow"),
        ("int", Some(Val::String(text))) => match text.parse() {
            Ok(number) => Val::Int(number),
            Err(_) => return fail(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")),
        },
        ("int", Some(Val::Timestamp(at))) => Val::Int(at.as_second()),
        ("uint", Some(Val::Int(number))) => match u64::try_from(*number) {
            Ok(number) => Val::UInt(number),
            Err(_) => return fail("unsigned integer overflow"),
        },
        ("uint", Some(Val::String(text))) => match text.parse() {
            Ok(number) => Val::UInt(number),
            Err(_) => return fail(format!("strconv.ParseUint: parsing {text:?}: invalid syntax")),
        },
        ("double", Some(Val::Int(number))) => Val::Double(*number as f64),
        ("double", Some(Val::UInt(number))) => Val::Double(*number as f64),
        ("double", Some(Val::String(text))) => match text.parse() {
            Ok(number) => Val::Double(number),
            Err(_) => return fail(format!("strconv.ParseFloat: parsing {text:?}: invalid syntax")),
        },
        ("bytes", Some(Val::String(text))) => Val::Bytes(text.as_bytes().into()),
        ("string", Some(Val::List(_) | Val::JsonList(..) | Val::Map(_) | Val::JsonMap(..))) => return None,
        ("string", Some(value)) => Val::string(value.to_string()),
        ("duration", Some(Val::String(text))) => return Some(parse_duration(text)),
        ("timestamp", Some(Val::String(text))) => match text.parse::<Timestamp>() {
            Ok(at) => Val::Timestamp(at),
            Err(_) => return fail(format!("parsing time {text:?}: cannot parse")),
        },
        ("timestamp", Some(Val::Int(seconds))) => Val::Timestamp(Timestamp::from_second(*seconds).ok()?),
        _ => return None,
    }))
}

fn time<'v>(name: &str, args: &[Val<'v>]) -> Option<Evaluated<'v>> {
    if let [Val::Duration(duration)] = args {
        return Some(Ok(Val::Int(match name {
            "getHours" => duration.as_secs() / 3600,
            "getMinutes" => duration.as_secs() / 60,
            "getSeconds" => duration.as_secs(),
            "getMilliseconds" => i64::try_from(duration.as_millis()).unwrap_or(i64::MAX),
            _ => return None,
        })));
    }
    let zoned: Zoned = match args {
        [Val::Timestamp(at)] => at.to_zoned(TimeZone::UTC),
        [Val::Timestamp(at), Val::String(zone)] => match time_zone(zone) {
            Some(zone) => at.to_zoned(zone),
            None => return fail(format!("unknown time zone {zone}")),
        },
        _ => return None,
    };
    Some(Ok(Val::Int(i64::from(match name {
        "getFullYear" => i32::from(zoned.year()),
        "getMonth" => i32::from(zoned.month()) - 1,
        "getDayOfYear" => i32::from(zoned.day_of_year()) - 1,
        "getDayOfMonth" => i32::from(zoned.day()) - 1,
        "getDate" => i32::from(zoned.day()),
        "getDayOfWeek" => i32::from(zoned.weekday().to_sunday_zero_offset()),
        "getHours" => i32::from(zoned.hour()),
        "getMinutes" => i32::from(zoned.minute()),
        "getSeconds" => i32::from(zoned.second()),
        "getMilliseconds" => i32::from(zoned.millisecond()),
        _ => return None,
    }))))
}

/// `UTC`, `+02:00`, or a name of the system's zones.
fn time_zone(text: &str) -> Option<TimeZone> {
    if text == "UTC" {
        return Some(TimeZone::UTC);
    }
    if let Some((hours, minutes)) = text.split_once(':') {
        let sign = if hours.starts_with('-') { -1 } else { 1 };
        let seconds = hours.parse::<i32>().ok()?.abs() * 3600 + minutes.parse::<i32>().ok()? * 60;
        return jiff::tz::Offset::from_seconds(sign * seconds).ok().map(TimeZone::fixed);
    }
    TimeZone::get(text).ok()
}

fn url<'v>(name: &str, args: &[Val<'v>]) -> Option<Evaluated<'v>> {
    match (name, args) {
        ("url", [Val::String(text)]) => made(Url::parse(text), |url| Val::Url(Arc::new(url))),
        ("isURL", [Val::String(text)]) => Some(Ok(Val::Bool(Url::parse(text).is_ok()))),
        (_, [Val::Url(url)]) => Some(Ok(match name {
            "getScheme" => Val::string(url.scheme.as_str()),
            "getHost" => Val::string(url.host.as_str()),
            "getHostname" => Val::string(url.hostname()),
            "getPort" => Val::string(url.port()),
            "getEscapedPath" => Val::string(url.path.as_str()),
            "getQuery" => {
                let values = |list: Vec<String>| Val::list(list.into_iter().map(Val::string).collect());
                let entries = url.query().into_iter().map(|(name, list)| (Key::String(name), values(list)));
                Val::Map(Arc::new(entries.collect()))
            }
            _ => return None,
        })),
        _ => None,
    }
}

fn net<'v>(name: &str, args: &[Val<'v>]) -> Option<Evaluated<'v>> {
    let cidr_of = |value: &Val<'_>| match value {
        Val::Cidr(cidr) => Some(Ok(*cidr)),
        Val::String(text) => Some(Cidr::parse(text)),
        _ => None,
    };
    let ip_of = |value: &Val<'_>| match value {
        Val::Ip(ip) => Some(Ok(*ip)),
        Val::String(text) => Some(Ip::parse(text)),
        _ => None,
    };
    match (name, args) {
        ("ip", [Val::String(text)]) => made(Ip::parse(text), Val::Ip),
        ("isIP", [Val::String(text)]) => Some(Ok(Val::Bool(Ip::parse(text).is_ok()))),
        ("ip.isCanonical", [Val::String(text)]) => made(Ip::parse(text), |ip| Val::Bool(ip.to_string() == **text)),
        ("cidr", [Val::String(text)]) => made(Cidr::parse(text), Val::Cidr),
        ("isCIDR", [Val::String(text)]) => Some(Ok(Val::Bool(Cidr::parse(text).is_ok()))),
        ("containsIP", [Val::Cidr(cidr), ip]) => made(ip_of(ip)?, |ip| Val::Bool(cidr.contains_ip(ip))),
        ("containsCIDR", [Val::Cidr(cidr), other]) => made(cidr_of(other)?, |other| Val::Bool(cidr.contains(other))),
        ("ip", [Val::Cidr(cidr)]) => Some(Ok(Val::Ip(Ip(cidr.address)))),
        ("masked", [Val::Cidr(cidr)]) => Some(Ok(Val::Cidr(cidr.masked()))),
        ("prefixLength", [Val::Cidr(cidr)]) => Some(Ok(Val::Int(i64::from(cidr.bits)))),
        (_, [Val::Ip(ip)]) => Some(Ok(match name {
            "family" => Val::Int(ip.family()),
            "isUnspecified" => Val::Bool(ip.0.is_unspecified()),
            "isLoopback" => Val::Bool(ip.0.is_loopback()),
            "isLinkLocalMulticast" => Val::Bool(ip.is_link_local_multicast()),
            "isLinkLocalUnicast" => Val::Bool(ip.is_link_local_unicast()),
            "isGlobalUnicast" => Val::Bool(ip.is_global_unicast()),
            _ => return None,
        })),
        _ => None,
    }
}

fn quantity<'v>(name: &str, args: &[Val<'v>]) -> Option<Evaluated<'v>> {
    Some(Ok(match (name, args) {
        ("quantity", [Val::String(text)]) => return made(Decimal::parse(text), Val::Quantity),
        ("isQuantity", [Val::String(text)]) => Val::Bool(Decimal::parse(text).is_ok()),
        ("isInteger", [Val::Quantity(own)]) => Val::Bool(own.integer().is_some()),
        ("asInteger", [Val::Quantity(own)]) => match own.integer() {
            Some(number) => Val::Int(number),
            None => return fail("cannot convert value to integer"),
        },
        ("asApproximateFloat", [Val::Quantity(own)]) => Val::Double(own.float()),
        ("sign", [Val::Quantity(own)]) => Val::Int(own.sign()),
        ("compareTo", [Val::Quantity(own), Val::Quantity(other)]) => Val::Int(own.compare(*other) as i64),
        ("isGreaterThan", [Val::Quantity(own), Val::Quantity(other)]) => {
            Val::Bool(own.compare(*other) == Ordering::Greater)
        }
        ("isLessThan", [Val::Quantity(own), Val::Quantity(other)]) => Val::Bool(own.compare(*other) == Ordering::Less),
        ("add" | "sub", [Val::Quantity(own), other]) => {
            let other = match other {
                Val::Quantity(other) => *other,
                Val::Int(number) => own.like(*number),
                _ => return None,
            };
            match if name == "add" { own.plus(other) } else { own.minus(other) } {
                Some(sum) => Val::Quantity(sum),
                None => return fail("quantity overflow"),
            }
        }
        _ => return None,
    }))
}

fn version<'v>(name: &str, args: &[Val<'v>]) -> Option<Evaluated<'v>> {
    let parse = |args: &[Val<'_>]| -> Option<Result<Version, String>> {
        let text = args.first()?.as_str()?;
        let text = match args.get(1) {
            Some(Val::Bool(true)) => normalized(text),
            Some(Val::Bool(false)) | None => text.to_owned(),
            Some(_) => return None,
        };
        Some(Version::parse(&text).map_err(|error| error.to_string()))
    };
    Some(Ok(match (name, args) {
        ("semver", args) => return made(parse(args)?, |version| Val::Semver(Arc::new(version))),
        ("isSemver", args) => Val::Bool(parse(args)?.is_ok()),
        ("major", [Val::Semver(own)]) => Val::Int(own.major as i64),
        ("minor", [Val::Semver(own)]) => Val::Int(own.minor as i64),
        ("patch", [Val::Semver(own)]) => Val::Int(own.patch as i64),
        ("compareTo", [Val::Semver(own), Val::Semver(other)]) => Val::Int(own.cmp_precedence(other) as i64),
        ("isGreaterThan", [Val::Semver(own), Val::Semver(other)]) => {
            Val::Bool(own.cmp_precedence(other) == Ordering::Greater)
        }
        ("isLessThan", [Val::Semver(own), Val::Semver(other)]) => {
            Val::Bool(own.cmp_precedence(other) == Ordering::Less)
        }
        ("format.named", [Val::String(name)]) => {
            return Some(Ok(Val::Optional(format_name(name).map(|name| Box::new(Val::Format(name))))));
        }
        (name, []) => Val::Format(format_name(name.strip_prefix("format.")?)?),
        _ => return None,
    }))
}

/// `v1.2` → `1.2.0`, without leading zeros.
fn normalized(text: &str) -> String {
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let mut parts: Vec<&str> = numbers
        .split('.')
        .map(|part| match part.trim_start_matches('0') {
            "" if !part.is_empty() => "0",
            part => part,
        })
        .collect();
    while parts.len() < 3 {
        parts.push("0");
    }
    parts.join(".") + rest
}

fn format_name(name: &str) -> Option<&'static str> {
    const NAMES: [&str; 13] = [
        "dns1123Label",
        "dns1123Subdomain",
        "dns1035Label",
        "qualifiedName",
        "dns1123LabelPrefix",
        "dns1123SubdomainPrefix",
        "dns1035LabelPrefix",
        "labelValue",
        "uri",
        "uuid",
        "byte",
        "date",
        "datetime",
    ];
    NAMES.into_iter().find(|known| *known == name)
}
