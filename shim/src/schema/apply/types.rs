//! What a schema must tell of a type for its fields to be owned: built-ins answer from the facts, CRDs from their own.

mod builtin;
mod custom;

pub use builtin::Builtin;
pub use custom::Custom;

use super::element;
use serde_json::{Map, Value};

/// One type of a schema, cheap to copy.
pub trait Typed<'s>: Copy {
    fn form(self) -> Form<'s, Self>;
    /// The type of a map's or struct's entry; `None` where the schema knows no such field.
    fn entry(self, name: &str) -> Option<Entry<Self>>;
    /// The default of a key field of this type, by which elements that leave it out are known.
    fn key_default(self, key: &str) -> Option<Value>;
}

/// How values of a type are owned.
#[derive(Clone, Copy, Debug)]
pub enum Form<'s, T> {
    Scalar(Scalar),
    /// Any JSON, owned whole.
    Opaque,
    /// A list or map that is owned whole.
    AtomicList(T),
    AtomicMap,
    /// A struct or map whose entries are owned one by one.
    Map,
    /// A list of scalars, each owned.
    Set(T),
    /// A list of maps that are known by some of their fields.
    Keyed(&'s [Box<str>], T),
    /// Without a schema: maps are owned by entry, everything else whole.
    Deduced,
}

/// What a scalar must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scalar {
    String,
    Number,
    Bool,
    /// Any of them.
    Any,
}

/// An entry of a map.
pub struct Entry<T> {
    pub of: T,
    /// The schema names it; the key of a map it does not.
    pub declared: bool,
}

/// The path element of a list's item; `Err` says why it has none.
pub(super) fn item_element<'s, T: Typed<'s>>(keys: Option<&[Box<str>]>, of: T, item: &Value) -> Result<String, String> {
    let Some(keys) = keys else {
        return match item {
            Value::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
            Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
            Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
            scalar => Ok(element::value(scalar)),
        };
    };
    let map = match item {
        Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
        Value::Object(map) => map,
        _ => return Err("associative list with keys may not have non-map elements".to_owned()),
    };
    let mut found = Map::new();
    for key in keys {
        let value = map.get(&**key).cloned().or_else(|| of.key_default(key)).ok_or_else(|| {
            format!("associative list with keys has an element that omits key field {key:?} (and doesn't have default value)")
        })?;
        found.insert(key.to_string(), value);
    }
    Ok(element::key(found))
}

/// The items of a list by their path elements, in order, an element that occurs twice as often as it does. Items without
/// an element are left out.
pub(super) fn elements<'s, 'v, T: Typed<'s>>(
    keys: Option<&[Box<str>]>,
    of: T,
    items: &'v [Value],
) -> Vec<(String, &'v Value)> {
    items.iter().filter_map(|item| Some((item_element(keys, of, item).ok()?, item))).collect()
}

/// The items of a list; none of null or of anything else.
pub(super) fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

impl<'s, T> Form<'s, T> {
    fn map<U>(self, each: impl Fn(T) -> U) -> Form<'s, U> {
        match self {
            Form::Scalar(kind) => Form::Scalar(kind),
            Form::Opaque => Form::Opaque,
            Form::AtomicList(item) => Form::AtomicList(each(item)),
            Form::AtomicMap => Form::AtomicMap,
            Form::Map => Form::Map,
            Form::Set(item) => Form::Set(each(item)),
            Form::Keyed(keys, item) => Form::Keyed(keys, each(item)),
            Form::Deduced => Form::Deduced,
        }
    }

    /// Without a schema the value decides.
    pub(super) fn of(self, old: Option<&Value>, new: Option<&Value>) -> Self {
        let is_map = |value: Option<&Value>| value.is_none_or(|v| v.is_object() || v.is_null());
        match self {
            Form::Deduced if is_map(old) && is_map(new) => Form::Map,
            Form::Deduced => Form::Opaque,
            form => form,
        }
    }
}

/// A type of a built-in or of a custom resource, whose metadata is built in.
#[derive(Clone, Copy, Debug)]
pub enum AnyType<'s> {
    Builtin(Builtin),
    Custom(Custom<'s>),
}

impl<'s> Typed<'s> for AnyType<'s> {
    fn form(self) -> Form<'s, Self> {
        match self {
            Self::Builtin(of) => of.form().map(Self::Builtin),
            Self::Custom(of) => of.form(),
        }
    }

    fn entry(self, name: &str) -> Option<Entry<Self>> {
        match self {
            Self::Builtin(of) => {
                of.entry(name).map(|entry| Entry { of: Self::Builtin(entry.of), declared: entry.declared })
            }
            Self::Custom(of) => of.entry(name),
        }
    }

    fn key_default(self, key: &str) -> Option<Value> {
        match self {
            Self::Builtin(of) => of.key_default(key),
            Self::Custom(of) => of.key_default(key),
        }
    }
}
