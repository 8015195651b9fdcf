//! Patches that need no schema: JSON merge patch (RFC 7386) and JSON patch (RFC 6902).

use super::SchemaError;
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation};
use serde_json::Value;

/// What kube-apiserver answers whatever the operation was that failed.
const REJECTED: &str = "the server rejected our request due to an error in our request";

/// Bytes of JSON that one patch may copy (apiserver sets json-patch's `AccumulatedCopySizeLimit` to its body limit): each
/// copy of a document into itself doubles it.
const MAX_COPIED_BYTES: usize = 3 << 20;

/// RFC 7386.
pub fn json_merge(original: &Value, patch: &Value) -> Value {
    let mut merged = original.clone();
    json_patch::merge(&mut merged, patch);
    merged
}

/// RFC 6902. A patch that is no list of operations is `Decode` (400); one that does not apply is `Patch` (422).
pub fn json_patch(original: &Value, patch: &Value) -> Result<Value, SchemaError> {
    let found = match patch {
        Value::Array(_) | Value::Null => "",
        Value::Object(_) => "object",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
    };
    if !found.is_empty() {
        let text = format!(
            "error decoding patch: json: cannot unmarshal {found} into Go value of type []handlers.jsonPatchOp"
        );
        return Err(SchemaError::Decode(text));
    }
    let rejected = || SchemaError::Patch(REJECTED.to_owned());
    let operations: json_patch::Patch = match patch {
        Value::Null => return Ok(original.clone()),
        _ => serde::Deserialize::deserialize(patch).map_err(|_| rejected())?,
    };
    let mut patched = original.clone();
    let mut copied = 0;
    for operation in operations.0 {
        if let PatchOperation::Copy(copy) = &operation
            && let Ok(value) = copy.from.resolve(&patched)
        {
            copied += value.to_string().len();
            if copied > MAX_COPIED_BYTES {
                return Err(rejected());
            }
        }
        let Some(operation) = lenient(&patched, operation) else { continue };
        json_patch::patch(&mut patched, &[operation]).map_err(|_| rejected())?;
    }
    Ok(patched)
}

/// The library that kube-apiserver uses is laxer than RFC 6902 about keys that an object does not have: `replace` adds
/// them, and a `test` for null holds.
fn lenient(document: &Value, operation: PatchOperation) -> Option<PatchOperation> {
    let absent = |path: &PointerBuf| {
        let Some((parent, key)) = path.split_back() else { return false };
        let key = key.decoded();
        parent.resolve(document).is_ok_and(|parent| parent.as_object().is_some_and(|map| !map.contains_key(&*key)))
    };
    match operation {
        PatchOperation::Replace(replace) if absent(&replace.path) => {
            Some(PatchOperation::Add(AddOperation { path: replace.path, value: replace.value }))
        }
        PatchOperation::Test(test) if test.value.is_null() && absent(&test.path) => None,
        operation => Some(operation),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations_apply_in_order_or_not_at_all() {
        let original = json!({"data": {"a": "1"}, "list": [1, 2]});
        let patched = json_patch(
            &original,
            &json!([
                {"op": "test", "path": "/data/a", "value": "1"},
                {"op": "add", "path": "/list/-", "value": 3},
                {"op": "remove", "path": "/data/a"},
                {"op": "test", "path": "/data/a", "value": null},
                {"op": "replace", "path": "/data/absent", "value": "x"},
            ]),
        );
        assert_eq!(patched, Ok(json!({"data": {"absent": "x"}, "list": [1, 2, 3]})));
        for refused in [
            json!([{"op": "test", "path": "/data/a", "value": "nope"}]),
            json!([{"op": "remove", "path": "/data/nosuch"}]),
            json!([{"op": "add", "path": "/metadata/labels/x", "value": "y"}]),
            json!([{"op": "replace", "path": "/nosuch/x", "value": 1}]),
            json!([{"op": "replace", "path": "/list/7", "value": 1}]),
            json!([{"op": "frob", "path": "/data/n", "value": "x"}]),
        ] {
            assert_eq!(json_patch(&original, &refused), Err(SchemaError::Patch(REJECTED.to_owned())), "{refused}");
        }
    }

    #[test]
    fn a_patch_of_the_wrong_type_is_a_decode_error() {
        let error = json_patch(&json!({}), &json!({"op": "add"})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
        );
    }

    #[test]
    fn merge_patch_removes_nulls_and_replaces_lists() {
        let merged = json_merge(&json!({"a": {"b": 1, "c": 2}, "l": [1]}), &json!({"a": {"b": null}, "l": [2]}));
        assert_eq!(merged, json!({"a": {"c": 2}, "l": [2]}));
    }
}
