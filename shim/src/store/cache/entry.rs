//! One object as the cache holds it: canonical bytes with `resourceVersion` spliced in, and what selectors look at.

use super::pairs::Compact;
use crate::revision::Revision;
use crate::selector::{FieldSelector, LabelSelector, Lookup, Pairs};
use crate::store::KeyValue;
use crate::store::key::StoreKey;
use bytes::Bytes;
use serde_json::{Map, Value};
use std::io::Write;
use std::sync::Arc;

/// Reads labels and selectable fields off a canonical object as it enters the cache.
pub type Indexer = Arc<dyn Fn(&Value) -> (Pairs, Pairs) + Send + Sync>;

/// One object as the cache holds it: bytes ready for the wire, `resourceVersion` spliced in.
#[derive(Debug)]
pub struct Entry {
    pub key: StoreKey,
    pub revision: Revision,
    /// Canonical JSON: `{"kind":K,"apiVersion":V,"metadata":{"resourceVersion":"N",…},…}`.
    pub bytes: Bytes,
    /// Offset just after `{"kind":…,"apiVersion":…,`: a LIST item is `{` + bytes[body..] for built-ins.
    pub body: usize,
    pub labels: Compact,
    /// What the key does not say: `metadata.name` and `metadata.namespace` are its last segments. Empty values are left
    /// out, since a field that is absent reads as empty.
    fields: Compact,
    namespaced: bool,
}

impl Entry {
    /// The entry of a stored value; `None` (and a warning) when it is not a JSON object.
    pub fn read(kv: &KeyValue, index: &Indexer) -> Option<Self> {
        Self::of(kv.key.clone(), kv.revision, &kv.value, index)
    }

    /// As `read`, from its parts.
    pub fn of(key: StoreKey, revision: Revision, value: &[u8], index: &Indexer) -> Option<Self> {
        let object: Value = match serde_json::from_slice(value) {
            Ok(object @ Value::Object(_)) => object,
            Ok(_) | Err(_) => {
                tracing::warn!(%key, "a stored value is not a JSON object; it is not served");
                return None;
            }
        };
        let (bytes, body) = splice(value, &object, revision);
        let (labels, fields) = index(&object);
        let namespaced = fields.get(NAMESPACE).is_some_and(|namespace| **namespace == *key.namespace());
        let fields = Compact::of(&fields, |field, value| match field {
            NAME => value != key.name(),
            NAMESPACE => !namespaced,
            _ => !value.is_empty(),
        });
        let labels = Compact::of(&labels, |_, _| true);
        Some(Self { key, revision, bytes, body, labels, fields, namespaced })
    }

    /// The value of a selectable field.
    pub fn field(&self, name: &str) -> Option<&str> {
        let own = self.fields.value(name);
        match name {
            NAME => own.or(Some(self.key.name())),
            NAMESPACE => own.or_else(|| self.namespaced.then(|| self.key.namespace())),
            _ => own,
        }
    }

    /// Whether the object is selected.
    pub fn matches(&self, labels: &LabelSelector, fields: &FieldSelector) -> bool {
        labels.matches(&self.labels) && fields.matches(self)
    }
}

const NAME: &str = "metadata.name";
const NAMESPACE: &str = "metadata.namespace";

/// An entry is looked up by field.
impl Lookup for Entry {
    fn value(&self, name: &str) -> Option<&str> {
        self.field(name)
    }
}

/// Puts `resourceVersion` right after `"metadata":{` and says where `"metadata"` begins.
fn splice(value: &[u8], object: &Value, revision: Revision) -> (Bytes, usize) {
    let has_version = object.get("metadata").and_then(|m| m.get("resourceVersion")).is_some();
    let header = if has_version { None } else { canonical_header(value) };
    let Some((body, fields)) = header else { return rebuild(object, revision) };
    let first = value[fields..].iter().find(|c| !c.is_ascii_whitespace());
    let comma = if first == Some(&b'}') { "" } else { "," };
    // To the byte: a Vec with room to spare would keep it.
    let room = r#""resourceVersion":"""#.len() + digits(revision) + comma.len();
    let mut out = Vec::with_capacity(value.len() + room);
    out.extend_from_slice(&value[..fields]);
    // Writing to a Vec cannot fail.
    let _ = write!(out, r#""resourceVersion":"{revision}"{comma}"#);
    out.extend_from_slice(&value[fields..]);
    (out.into(), body)
}

fn digits(revision: Revision) -> usize {
    revision.0.checked_ilog10().unwrap_or(0) as usize + 1
}

/// Offsets of `"metadata"` and of what follows its `{`, when the bytes begin `{"kind":"K","apiVersion":"V","metadata":{`.
fn canonical_header(value: &[u8]) -> Option<(usize, usize)> {
    let after_kind = skip_name(value.strip_prefix(br#"{"kind":""#)?)?;
    let after_version = skip_name(after_kind.strip_prefix(br#","apiVersion":""#)?)?;
    let metadata = after_version.strip_prefix(b",")?;
    let fields = metadata.strip_prefix(br#""metadata":{"#)?;
    Some((value.len() - metadata.len(), value.len() - fields.len()))
}

/// What follows the closing quote; names have no escapes.
fn skip_name(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|c| matches!(c, b'"' | b'\\'))?;
    text[end..].strip_prefix(b"\"")
}

/// The slow way, for bytes that another server wrote in an order of its own.
fn rebuild(object: &Value, revision: Revision) -> (Bytes, usize) {
    let text = |field: &str| object.get(field).cloned().unwrap_or_else(|| Value::String(String::new()));
    let mut out = format!(r#"{{"kind":{},"apiVersion":{},"#, text("kind"), text("apiVersion")).into_bytes();
    let body = out.len();
    // Writing to a Vec cannot fail.
    let _ = write!(out, r#""metadata":{{"resourceVersion":"{revision}""#);
    let empty = Map::new();
    let fields = |v: &'_ Value| v.as_object().cloned().unwrap_or_default();
    let metadata = object.get("metadata").map(fields).unwrap_or(empty);
    for (name, value) in metadata.iter().filter(|(name, _)| *name != "resourceVersion") {
        let _ = write!(out, ",{}:{value}", Value::String(name.clone()));
    }
    out.push(b'}');
    for (name, value) in fields(object) {
        if !matches!(name.as_str(), "kind" | "apiVersion" | "metadata") {
            let _ = write!(out, ",{}:{value}", Value::String(name));
        }
    }
    out.push(b'}');
    (out.into(), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> Indexer {
        Arc::new(|_| Default::default())
    }

    #[test]
    fn splices_the_revision_first_into_metadata() {
        for (value, want) in [
            (
                r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"},"spec":{}}"#,
                r#"{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"7","name":"a"},"spec":{}}"#,
            ),
            (
                r#"{"kind":"Pod","apiVersion":"v1","metadata":{}}"#,
                r#"{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"7"}}"#,
            ),
            (
                r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"x":1}}"#,
                r#"{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"7","name":"a"},"spec":{"x":1}}"#,
            ),
            (
                r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","resourceVersion":"3"}}"#,
                r#"{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"7","name":"a"}}"#,
            ),
            (r#"{"kind":"Pod"}"#, r#"{"kind":"Pod","apiVersion":"","metadata":{"resourceVersion":"7"}}"#),
        ] {
            let key = StoreKey::object("pods", Some("d"), "a");
            let entry = Entry::of(key, Revision(7), value.as_bytes(), &none()).unwrap();
            assert_eq!(std::str::from_utf8(&entry.bytes).unwrap(), want);
            assert!(entry.bytes[entry.body..].starts_with(br#""metadata":{"#), "{want}");
            assert!(serde_json::from_slice::<Value>(&entry.bytes).is_ok());
        }
    }

    #[test]
    fn fields_are_read_off_the_key_where_it_says_them() {
        let index: Indexer = Arc::new(|object| {
            let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
            let fields = [(NAME, text("name")), (NAMESPACE, text("namespace")), ("spec.a", "x"), ("spec.b", "")];
            let fields = fields.into_iter().filter(|(field, value)| *field != NAMESPACE || !value.is_empty());
            (Pairs::new(), fields.map(|(field, value)| (field.into(), value.into())).collect())
        });
        let of = |namespace: Option<&str>, value: &str| {
            Entry::of(StoreKey::object("pods", namespace, "a"), Revision(1), value.as_bytes(), &index).unwrap()
        };
        let namespaced = of(Some("d"), r#"{"metadata":{"name":"a","namespace":"d"}}"#);
        let cluster = of(None, r#"{"metadata":{"name":"a"}}"#);
        let foreign = of(None, r#"{"metadata":{"name":"other"}}"#);
        let values = |entry: &Entry| [NAME, NAMESPACE, "spec.a", "spec.b"].map(|f| entry.field(f).map(str::to_owned));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(values(&namespaced), [some("a"), some("d"), some("x"), None]);
        assert_eq!(values(&cluster), [some("a"), None, some("x"), None]);
        assert_eq!(values(&foreign), [some("other"), None, some("x"), None]);
    }

    #[test]
    fn what_is_no_object_is_no_entry() {
        for value in [&b"k8s\0\n"[..], b"[]", b"", b"{"] {
            assert!(Entry::of(StoreKey::from_stored("/registry/x/y"), Revision(1), value, &none()).is_none());
        }
    }
}
