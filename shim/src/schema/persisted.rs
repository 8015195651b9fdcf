//! Objects as any Kubernetes server left them in its store: protobuf in its envelope (stock's default), or JSON with its
//! keys in any order. Both become our canonical JSON.

use super::{FieldValidation, Schema, SchemaError, proto};
use serde_json::Value;

/// Stock's marks of values that are encrypted at rest begin so (`k8s:enc:aescbc:v1:…`).
const ENCRYPTED: &[u8] = b"k8s:enc:";

/// A stored object.
#[derive(Debug)]
pub struct Persisted {
    /// The schema of the version it is stored in; `None` for custom resources and for versions that are gone.
    pub schema: Option<&'static Schema>,
    /// Pruned and canonical when there is a schema; not defaulted.
    pub value: Value,
}

impl Persisted {
    /// Reads a stored value, whatever server wrote it.
    ///
    /// # Errors
    /// `Decode` for what cannot be read: broken bytes, an encrypted value, protobuf of a kind that is not known.
    pub fn read(bytes: &[u8]) -> Result<Persisted, SchemaError> {
        if proto::is_enveloped(bytes) {
            let (api_version, kind) = proto::type_of(bytes).map_err(SchemaError::Decode)?;
            let schema = Schema::named(api_version, kind).ok_or_else(|| {
                SchemaError::Decode(format!("no kind \"{kind}\" is registered for version \"{api_version}\""))
            })?;
            return Ok(Persisted { schema: Some(schema), value: schema.decode_protobuf(bytes)?.value });
        }
        if bytes.starts_with(ENCRYPTED) {
            return Err(SchemaError::Decode(
                "the stored value is encrypted at rest and no key for it is configured".into(),
            ));
        }
        let value: Value = serde_json::from_slice(bytes).map_err(|error| SchemaError::Decode(error.to_string()))?;
        if !value.is_object() {
            return Err(SchemaError::Decode("the stored value is no JSON object".to_owned()));
        }
        let text = |key: &str| value[key].as_str().unwrap_or_default();
        match Schema::named(text("apiVersion"), text("kind")) {
            Some(schema) => {
                Ok(Persisted { schema: Some(schema), value: schema.conform(value, FieldValidation::Ignore)?.value })
            }
            None => Ok(Persisted { schema: None, value }),
        }
    }

    /// Canonical bytes: `{"kind":…,"apiVersion":…,"metadata":{…},…`.
    pub fn canonical_json(&self) -> Vec<u8> {
        match self.schema {
            Some(schema) => schema.encode(&self.value),
            None => custom(&self.value),
        }
    }
}

/// An object without a schema: the header first, the rest sorted.
fn custom(value: &Value) -> Vec<u8> {
    const HEADER: [&str; 3] = ["kind", "apiVersion", "metadata"];
    let null = Value::Null;
    let head = HEADER.iter().map(|key| (*key, value.get(*key).unwrap_or(&null)));
    let rest = value.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value));
    let rest = rest.filter(|(key, _)| !HEADER.contains(key));
    let fields: Vec<String> = head.chain(rest).map(|(key, value)| format!("{}:{value}", Value::from(key))).collect();
    format!("{{{}}}", fields.join(",")).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gvr::GroupVersion;
    use serde_json::json;

    const CANONICAL: &str =
        r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c","namespace":"d"},"data":{"a":"1","b":"2"}}"#;

    #[test]
    fn protobuf_and_json_of_any_order_become_the_same_canonical_bytes() {
        let schema = Schema::builtin(GroupVersion { group: "", version: "v1" }, "ConfigMap").unwrap();
        let value: Value = serde_json::from_str(CANONICAL).unwrap();
        let shuffled = r#"{"data":{"b":"2","a":"1"},"metadata":{"namespace":"d","name":"c","creationTimestamp":null},"apiVersion":"v1","kind":"ConfigMap"}"#;
        for bytes in [CANONICAL.as_bytes(), shuffled.as_bytes(), &schema.encode_protobuf(&value)] {
            let read = Persisted::read(bytes).unwrap();
            assert_eq!(read.schema.map(Schema::kind), Some("ConfigMap"));
            assert_eq!(String::from_utf8(read.canonical_json()).unwrap(), CANONICAL);
        }
    }

    #[test]
    fn custom_resources_keep_all_they_have() {
        let stored =
            json!({"apiVersion": "e.com/v1", "kind": "W", "metadata": {"name": "w"}, "spec": {"any": null}, "a": 1});
        let read = Persisted::read(stored.to_string().as_bytes()).unwrap();
        assert!(read.schema.is_none());
        let text = r#"{"kind":"W","apiVersion":"e.com/v1","metadata":{"name":"w"},"a":1,"spec":{"any":null}}"#;
        assert_eq!(String::from_utf8(read.canonical_json()).unwrap(), text);
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        for (bytes, why) in [
            (&b"k8s:enc:aescbc:v1:key1:xyz"[..], "encrypted"),
            (b"k8s\0\x0a", "unexpected EOF"),
            (b"k8s\0\x0a\x07\x0a\x02v1\x12\x01X", "no kind \"X\""),
            (b"[]", "no JSON object"),
            (b"{", "EOF"),
        ] {
            let error = Persisted::read(bytes).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
