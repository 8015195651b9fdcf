//! Values: JSON as a schema types it, read where it lies, and what expressions make of it.

use super::EvalError;
use super::net::{Cidr, Ip};
use super::quantity::Decimal;
use super::url::Url;
use crate::schema::structural::{self, Structural};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// One value.
#[derive(Clone, Debug)]
pub enum Val<'v> {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    String(Cow<'v, str>),
    Bytes(Arc<[u8]>),
    Duration(SignedDuration),
    Timestamp(Timestamp),
    List(Arc<Vec<Val<'v>>>),
    Map(Arc<BTreeMap<Key, Val<'v>>>),
    /// A list of the document, its items typed by the schema.
    JsonList(&'v [Value], Option<&'v Structural>),
    /// An object of the document.
    JsonMap(&'v Map<String, Value>, Option<&'v Structural>),
    Optional(Option<Box<Val<'v>>>),
    Type(Type),
    Url(Arc<Url>),
    Ip(Ip),
    Cidr(Cidr),
    Quantity(Decimal),
    Semver(Arc<semver::Version>),
    /// A named format, as `format.dns1123Label()` gives it.
    Format(&'static str),
}

/// The type of a value, as `type(x)` gives it and errors name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Type(pub &'static str);

/// A key of a map.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Key {
    Bool(bool),
    Int(i64),
    UInt(u64),
    String(String),
}

impl<'v> Val<'v> {
    /// A value of the document by its schema; without one, as JSON types it.
    pub fn of(value: &'v Value, schema: Option<&'v Structural>) -> Self {
        use structural::Type as T;
        let ty = schema.map_or(T::Any, |schema| schema.ty);
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => match (ty, number.as_i64()) {
                (T::Number, _) | (_, None) => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
                (_, Some(int)) => Self::Int(int),
            },
            Value::String(text) => match schema.and_then(|s| s.checks.as_ref()).and_then(|c| c.format.as_deref()) {
                Some("date-time" | "datetime") => text.parse().map_or_else(|_| Self::text(text), Self::Timestamp),
                Some("date") => format!("{text}T00:00:00Z").parse().map_or_else(|_| Self::text(text), Self::Timestamp),
                Some("duration") => duration(text).map_or_else(|| Self::text(text), Self::Duration),
                Some("byte") => STANDARD.decode(text).map_or_else(|_| Self::text(text), |b| Self::Bytes(b.into())),
                Some(_) | None => Self::text(text),
            },
            Value::Array(items) => Self::JsonList(items, schema.and_then(|schema| schema.items.as_deref())),
            Value::Object(map) => Self::JsonMap(map, schema),
        }
    }

    fn text(text: &'v str) -> Self {
        Self::String(Cow::Borrowed(text))
    }

    pub fn string(text: impl Into<String>) -> Self {
        Self::String(Cow::Owned(text.into()))
    }

    pub fn list(items: Vec<Val<'v>>) -> Self {
        Self::List(Arc::new(items))
    }

    pub fn some(value: Val<'v>) -> Self {
        Self::Optional(Some(Box::new(value)))
    }

    pub fn type_of(&self) -> Type {
        Type(match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::UInt(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::List(_) | Self::JsonList(..) => "list",
            Self::Map(_) | Self::JsonMap(..) => "map",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Url(_) => "kubernetes.URL",
            Self::Ip(_) => "net.IP",
            Self::Cidr(_) => "net.CIDR",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Format(_) => "kubernetes.NamedFormat",
        })
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// How many items, entries, characters or bytes.
    pub fn size(&self) -> Option<usize> {
        Some(match self {
            Self::String(text) => text.chars().count(),
            Self::Bytes(bytes) => bytes.len(),
            Self::List(items) => items.len(),
            Self::JsonList(items, _) => items.len(),
            Self::Map(map) => map.len(),
            Self::JsonMap(map, _) => map.len(),
            _ => return None,
        })
    }

    /// The items of a list, the keys of a map: what a macro goes over.
    pub fn iterate(&self) -> Option<Vec<Val<'v>>> {
        match self {
            Self::Map(map) => Some(map.keys().map(Key::to_val).collect()),
            Self::JsonMap(map, _) => Some(map.keys().map(|key| Self::text(key)).collect()),
            list => list.items(),
        }
    }

    /// The items of a list.
    pub fn items(&self) -> Option<Vec<Val<'v>>> {
        match self {
            Self::List(items) => Some(items.to_vec()),
            Self::JsonList(items, schema) => Some(items.iter().map(|item| Self::of(item, *schema)).collect()),
            _ => None,
        }
    }

    /// One item of a list.
    pub fn item(&self, at: usize) -> Option<Val<'v>> {
        match self {
            Self::List(items) => items.get(at).cloned(),
            Self::JsonList(items, schema) => items.get(at).map(|item| Self::of(item, *schema)),
            _ => None,
        }
    }

    /// The value under a key of a map.
    pub fn entry(&self, key: &Key) -> Option<Val<'v>> {
        match (self, key) {
            (Self::Map(map), key) => map.get(key).or_else(|| map.get(&key.turned()?)).cloned(),
            (Self::JsonMap(map, schema), Key::String(name)) => {
                map.get(name).map(|value| Self::of(value, schema.and_then(|schema| schema.entry(name))))
            }
            _ => None,
        }
    }

    /// A field by its name in an expression: properties that are no identifiers are written escaped.
    pub fn field(&self, name: &str) -> Option<Val<'v>> {
        let direct = self.entry(&Key::String(name.to_owned()));
        direct.or_else(|| self.entry(&Key::String(unescape(name)?)))
    }

    /// As a key of a map.
    pub fn to_key(&self) -> Option<Key> {
        Some(match self {
            Self::Bool(value) => Key::Bool(*value),
            Self::Int(value) => Key::Int(*value),
            Self::UInt(value) => Key::UInt(*value),
            Self::Double(value) if value.fract() == 0.0 => Key::Int(*value as i64),
            Self::String(text) => Key::String(text.clone().into_owned()),
            _ => return None,
        })
    }

    /// CEL's equality: numbers by value whatever their type, the rest by type.
    pub fn equals(&self, other: &Val<'_>) -> bool {
        if let Some(order) = self.compare_numbers(other) {
            return order == Ordering::Equal;
        }
        match (self, other) {
            (Val::Null, Val::Null) => true,
            (Val::Bool(a), Val::Bool(b)) => a == b,
            (Val::String(a), Val::String(b)) => a == b,
            (Val::Bytes(a), Val::Bytes(b)) => a == b,
            (Val::Duration(a), Val::Duration(b)) => a == b,
            (Val::Timestamp(a), Val::Timestamp(b)) => a == b,
            (Val::Type(a), Val::Type(b)) => a == b,
            (Val::Url(a), Val::Url(b)) => a == b,
            (Val::Ip(a), Val::Ip(b)) => a == b,
            (Val::Cidr(a), Val::Cidr(b)) => a == b,
            (Val::Quantity(a), Val::Quantity(b)) => a == b,
            (Val::Semver(a), Val::Semver(b)) => a == b,
            (Val::Format(a), Val::Format(b)) => a == b,
            (Val::Optional(a), Val::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.equals(b),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            },
            (Val::List(_) | Val::JsonList(..), Val::List(_) | Val::JsonList(..)) => {
                let (Some(a), Some(b)) = (self.items(), other.items()) else { return false };
                a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.equals(b))
            }
            (Val::Map(_) | Val::JsonMap(..), Val::Map(_) | Val::JsonMap(..)) => {
                self.size() == other.size()
                    && self.keys().iter().all(|key| match (self.entry(key), other.entry(key)) {
                        (Some(a), Some(b)) => a.equals(&b),
                        _ => false,
                    })
            }
            _ => false,
        }
    }

    /// The keys of a map.
    pub fn keys(&self) -> Vec<Key> {
        match self {
            Self::Map(map) => map.keys().cloned().collect(),
            Self::JsonMap(map, _) => map.keys().cloned().map(Key::String).collect(),
            _ => Vec::new(),
        }
    }

    fn compare_numbers(&self, other: &Val<'_>) -> Option<Ordering> {
        match (self, other) {
            (Val::Int(a), Val::Int(b)) => Some(a.cmp(b)),
            (Val::UInt(a), Val::UInt(b)) => Some(a.cmp(b)),
            (Val::Int(a), Val::UInt(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Val::UInt(a), Val::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Val::Double(a), Val::Double(b)) => a.partial_cmp(b),
            (Val::Double(a), Val::Int(b)) => a.partial_cmp(&(*b as f64)),
            (Val::Int(a), Val::Double(b)) => (*a as f64).partial_cmp(b),
            (Val::Double(a), Val::UInt(b)) => a.partial_cmp(&(*b as f64)),
            (Val::UInt(a), Val::Double(b)) => (*a as f64).partial_cmp(b),
            _ => None,
        }
    }

    /// The order of two values of comparable types.
    pub fn compare(&self, other: &Val<'_>) -> Result<Ordering, EvalError> {
        if let Some(order) = self.compare_numbers(other) {
            return Ok(order);
        }
        match (self, other) {
            (Val::Bool(a), Val::Bool(b)) => Ok(a.cmp(b)),
            (Val::String(a), Val::String(b)) => Ok(a.cmp(b)),
            (Val::Bytes(a), Val::Bytes(b)) => Ok(a.cmp(b)),
            (Val::Duration(a), Val::Duration(b)) => Ok(a.cmp(b)),
            (Val::Timestamp(a), Val::Timestamp(b)) => Ok(a.cmp(b)),
            _ => Err(EvalError::NoSuchOverload(String::new())),
        }
    }

    /// As JSON, for what patches and audit annotations make of a value.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Null | Self::Optional(None) => Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Int(value) => (*value).into(),
            Self::UInt(value) => (*value).into(),
            Self::Double(value) => (*value).into(),
            Self::String(text) => text.as_ref().into(),
            Self::Bytes(bytes) => STANDARD.encode(bytes).into(),
            Self::Optional(Some(value)) => value.to_json(),
            Self::List(_) | Self::JsonList(..) => self.items().unwrap_or_default().iter().map(Val::to_json).collect(),
            Self::Map(_) | Self::JsonMap(..) => {
                let entries =
                    self.keys().into_iter().filter_map(|key| Some((key.to_string(), self.entry(&key)?.to_json())));
                Value::Object(entries.collect())
            }
            other => other.to_string().into(),
        }
    }
}

impl fmt::Display for Val<'_> {
    /// As `string(x)` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::UInt(value) => write!(f, "{value}"),
            Self::Double(value) => write!(f, "{value}"),
            Self::String(text) => f.write_str(text),
            Self::Bytes(bytes) => f.write_str(&String::from_utf8_lossy(bytes)),
            Self::Duration(value) => write!(f, "{}s", seconds(*value)),
            Self::Timestamp(value) => write!(f, "{value}"),
            Self::Type(ty) => f.write_str(ty.0),
            Self::Url(url) => write!(f, "{}", url.text),
            Self::Ip(ip) => write!(f, "{ip}"),
            Self::Cidr(cidr) => write!(f, "{cidr}"),
            Self::Quantity(quantity) => write!(f, "{quantity}"),
            Self::Semver(version) => write!(f, "{version}"),
            Self::Format(name) => f.write_str(name),
            Self::Optional(_) | Self::List(_) | Self::JsonList(..) | Self::Map(_) | Self::JsonMap(..) => {
                write!(f, "{}", self.to_json())
            }
        }
    }
}

impl Key {
    pub fn to_val<'v>(&self) -> Val<'v> {
        match self {
            Self::Bool(value) => Val::Bool(*value),
            Self::Int(value) => Val::Int(*value),
            Self::UInt(value) => Val::UInt(*value),
            Self::String(text) => Val::string(text.as_str()),
        }
    }

    /// The same number as the other integer type.
    fn turned(&self) -> Option<Key> {
        match self {
            Self::Int(value) => u64::try_from(*value).ok().map(Key::UInt),
            Self::UInt(value) => i64::try_from(*value).ok().map(Key::Int),
            Self::Bool(_) | Self::String(_) => None,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::UInt(value) => write!(f, "{value}"),
            Self::String(text) => f.write_str(text),
        }
    }
}

/// `foo__dash__bar` → `foo-bar`, `__namespace__` → `namespace` (apiserver's `cel.Unescape`); `None`: nothing is escaped.
pub fn unescape(name: &str) -> Option<String> {
    const ESCAPES: [(&str, &str); 4] =
        [("__underscores__", "__"), ("__dot__", "."), ("__dash__", "-"), ("__slash__", "/")];
    if let Some(word) = name.strip_prefix("__").and_then(|rest| rest.strip_suffix("__"))
        && RESERVED.contains(&word)
    {
        return Some(word.to_owned());
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find("__") {
        let (start, end) = rest.split_at(at);
        out.push_str(start);
        let (escape, plain) = ESCAPES.iter().find(|(escape, _)| end.starts_with(escape))?;
        out.push_str(plain);
        rest = &end[escape.len()..];
    }
    out.push_str(rest);
    (out != name).then_some(out)
}

const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Go's `time.ParseDuration`.
pub fn duration(text: &str) -> Option<SignedDuration> {
    const UNITS: [(&str, f64); 8] =
        [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 6e10), ("h", 3.6e12)];
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    let mut nanos = 0_i128;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (whole, fraction) = rest[..digits].split_once('.').unwrap_or((&rest[..digits], ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &rest[..end])?;
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let part: f64 = if fraction.is_empty() { 0.0 } else { format!("0.{fraction}").parse().ok()? };
        nanos += whole.checked_mul(*unit as i128)? + (part * unit) as i128;
        rest = &rest[end..];
    }
    let nanos = i64::try_from(if negative { -nanos } else { nanos }).ok()?;
    Some(SignedDuration::from_nanos(nanos))
}

/// Seconds with the fraction that there is.
fn seconds(value: SignedDuration) -> String {
    let (whole, nanos) = (value.as_secs(), value.subsec_nanos().abs());
    if nanos == 0 {
        return whole.to_string();
    }
    let sign = if whole == 0 && value.is_negative() { "-" } else { "" };
    let fraction = format!("{nanos:09}");
    format!("{sign}{whole}.{}", fraction.trim_end_matches('0'))
}
