//! Stored values of other API servers read as ours: protobuf, JSON of any layout and key order, other storage versions.

use super::form;
use crate::registry;
use crate::schema::Persisted;
use bytes::Bytes;

/// The canonical JSON of a stored value; `None` where it is that already, or cannot be read (`store::translated`).
pub fn canonical(value: &[u8]) -> Option<Bytes> {
    if is_canonical(value) {
        return None;
    }
    let read = Persisted::read(value).ok()?;
    let def = read.schema.and_then(|schema| {
        registry::all().iter().find(|def| def.gv == schema.group_version() && def.kind == schema.kind())
    });
    match def.filter(|def| !form::is_stored_form(def)) {
        Some(def) => Some(form::storage_schema(def).ok()?.encode(&form::to_storage(def, read.value)).into()),
        None => Some(read.canonical_json().into()),
    }
}

/// Ours, or as good: compact JSON with the kind first. Strings hold no raw newline, so one is layout, as at the end of
/// everything that a stock server writes; it would tear the frames of a watch apart.
fn is_canonical(value: &[u8]) -> bool {
    value.starts_with(br#"{"kind":""#) && value.ends_with(b"}") && !value.contains(&b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Schema;
    use serde_json::{Value, json};

    fn read(value: &[u8]) -> Option<Value> {
        canonical(value).map(|bytes| {
            assert!(is_canonical(&bytes), "{bytes:?}");
            serde_json::from_slice(&bytes).unwrap()
        })
    }

    #[test]
    fn what_a_stock_server_wrote_reads_as_ours() {
        let own = br#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"},"data":{"k":"v\n"}}"#;
        assert_eq!(canonical(own), None);
        let object: Value = serde_json::from_slice(own).unwrap();
        let stock = [&own[..], b"\n"].concat();
        let pretty = serde_json::to_vec_pretty(&object).unwrap();
        let other_order =
            br#"{"data":{"k":"v\n"},"metadata":{"creationTimestamp":null,"name":"a"},"apiVersion":"v1","kind":"ConfigMap"}"#;
        let protobuf = Schema::named("v1", "ConfigMap").unwrap().encode_protobuf(&object);
        for value in [&stock[..], &pretty, other_order, &protobuf] {
            assert_eq!(canonical(value).unwrap(), &own[..], "{}", String::from_utf8_lossy(value));
        }
    }

    #[test]
    fn another_storage_version_is_converted() {
        let event = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e", "namespace": "d"},
            "eventTime": "2026-01-01T00:00:00.000000Z", "note": "text", "type": "Normal",
            "regarding": {"kind": "Pod", "name": "p"},
        });
        let stored = read(event.to_string().as_bytes()).unwrap();
        assert_eq!((&stored["apiVersion"], &stored["message"]), (&json!("v1"), &json!("text")));
        assert_eq!(stored["involvedObject"]["name"], "p");
    }

    #[test]
    fn custom_resources_keep_all_they_have_and_the_unreadable_is_left_alone() {
        let custom = "{\"apiVersion\":\"x.io/v1\",\"kind\":\"X\",\"metadata\":{},\"any\":{\"b\":null}}\n";
        let kept: Value = serde_json::from_slice(&canonical(custom.as_bytes()).unwrap()).unwrap();
        assert_eq!(kept, serde_json::from_str::<Value>(custom).unwrap());
        for value in [&b"k8s:enc:aescbc:v1:x"[..], b"k8s\0\x0a\x01", b"", b"127.0.0.1"] {
            assert_eq!(canonical(value), None);
        }
    }
}
