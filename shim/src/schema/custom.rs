//! The schema of one version of a custom resource: reading, pruning and writing its objects. What all objects have in
//! common (kind, apiVersion, metadata) is read and written by the built-in engine.

mod read;

use super::structural::Structural;
use super::{Decoded, FieldValidation, Schema, SchemaError, syntax};
use crate::gvr::GroupVersion;
use serde_json::{Map, Value};
use std::io::Write;

/// An object that has nothing but the common fields.
const BARE: (GroupVersion, &str) = (GroupVersion { group: "meta.k8s.io", version: "v1" }, "PartialObjectMetadata");
/// The fields that the built-in engine reads and writes.
const COMMON: [&str; 3] = ["kind", "apiVersion", "metadata"];

/// The schema of a kind that a CustomResourceDefinition defines, in one version.
#[derive(Debug)]
pub struct CustomSchema {
    pub gv: GroupVersion,
    pub kind: &'static str,
    pub root: Structural,
}

impl CustomSchema {
    pub fn api_version(&self) -> String {
        self.gv.to_string()
    }

    /// Reads a JSON body.
    pub fn decode(&self, json: &[u8], validation: FieldValidation) -> Result<Decoded, SchemaError> {
        let (value, duplicates) = match read::read(json) {
            Ok(read) => read,
            Err(error) => {
                let text = syntax::refusal(json).unwrap_or(error);
                return Err(self.unrecognized(&format!("couldn't get version/kind; json parse error: {text}"), json));
            }
        };
        for (field, name) in [("kind", "Kind"), ("apiVersion", "apiVersion")] {
            if value[field].as_str().is_none_or(str::is_empty) {
                let text = String::from_utf8_lossy(json);
                return Err(self.unrecognized(&format!("Object '{name}' is missing in '{text}'"), json));
            }
        }
        self.finish(value, duplicates, validation)
    }

    /// The message of the 400 that answers a body which `decode` refused.
    pub fn refusal(&self, error: &SchemaError) -> String {
        match error {
            SchemaError::Unrecognized(text) => text.clone(),
            error => {
                let version = self.gv.version;
                format!("{} in version \"{version}\" cannot be handled as a {}: {error}", self.kind, self.kind)
            }
        }
    }

    /// The same rules on a value at hand (after a patch was applied).
    pub fn conform(&self, value: Value, validation: FieldValidation) -> Result<Decoded, SchemaError> {
        super::decode::check_depth(&value)?;
        self.finish(read::normalized(value), Vec::new(), validation)
    }

    fn finish(
        &self,
        value: Value,
        mut strict: Vec<String>,
        validation: FieldValidation,
    ) -> Result<Decoded, SchemaError> {
        let Value::Object(mut map) = value else {
            return Err(SchemaError::Decode("Object 'Kind' is missing".to_owned()));
        };
        let bare =
            Schema::builtin(BARE.0, BARE.1).ok_or_else(|| SchemaError::Decode("no schema of metadata".into()))?;
        let mut metadata = Map::new();
        metadata.extend(map.remove("metadata").map(|metadata| ("metadata".to_owned(), metadata)));
        let read = bare.conform(Value::Object(metadata), FieldValidation::Warn).map_err(|error| match error {
            // Upstream reads the metadata by itself: its errors begin below it.
            SchemaError::Decode(text) => SchemaError::Decode(text.replacen(".metadata.", ".", 1)),
            error => error,
        })?;
        strict.extend(read.warnings);
        let mut value = Value::Object(map);
        strict.extend(self.root.prune(&mut value).into_iter().map(|path| format!("unknown field \"{path}\"")));
        self.root.drop_nulls(&mut value);
        if let (Value::Object(map), Some(metadata)) = (&mut value, read.value.get("metadata")) {
            map.insert("metadata".to_owned(), metadata.clone());
        }
        let warnings = match validation {
            FieldValidation::Strict if !strict.is_empty() => return Err(SchemaError::Strict(strict)),
            FieldValidation::Strict | FieldValidation::Ignore => Vec::new(),
            FieldValidation::Warn => strict,
        };
        Ok(Decoded { value, warnings })
    }

    fn unrecognized(&self, why: &str, body: &[u8]) -> SchemaError {
        const SHOWN_BYTES: usize = 30;
        let (start, more) = if body.len() > SHOWN_BYTES { (&body[..SHOWN_BYTES], " ...") } else { (body, "") };
        let body = String::from_utf8_lossy(start);
        SchemaError::Unrecognized(format!(
            "the object provided is unrecognized (must be of type {}): {why} ({body}{more})",
            self.kind
        ))
    }

    /// Fills in the defaults.
    pub fn default(&self, value: &mut Value) {
        self.root.fill(value);
    }

    /// An object as this version's schema has it, whatever version or state of the schema it was written with.
    pub fn reshape(&self, mut value: Value) -> Value {
        self.root.prune(&mut value);
        self.root.drop_nulls(&mut value);
        self.root.fill(&mut value);
        value["apiVersion"] = self.api_version().into();
        value
    }

    /// Canonical bytes: the common fields as for built-ins, then the others sorted.
    pub fn encode(&self, value: &Value) -> Vec<u8> {
        let Some(map) = value.as_object() else { return b"{}".to_vec() };
        let mut common: Map<String, Value> =
            COMMON.iter().filter_map(|key| Some(((*key).to_owned(), map.get(*key)?.clone()))).collect();
        common.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        let mut out = match Schema::builtin(BARE.0, BARE.1) {
            Some(bare) => bare.encode(&Value::Object(common)),
            None => Value::Object(common).to_string().into_bytes(),
        };
        out.pop();
        for (key, value) in map.iter().filter(|(key, _)| !COMMON.contains(&key.as_str())) {
            // Writing to a Vec cannot fail.
            let _ = write!(out, ",{}:{value}", Value::String(key.clone()));
        }
        out.push(b'}');
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> CustomSchema {
        let root = json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {"size": {"type": "number"}, "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}},
        }});
        CustomSchema {
            gv: GroupVersion { group: "example.com", version: "v1" },
            kind: "Gizmo",
            root: Structural::parse(&root),
        }
    }

    #[test]
    fn bodies_are_pruned_and_written_with_the_common_fields_first() {
        let body = br#"{"spec":{"size":2.0,"zzz":1,"free":{"b":1.5,"a":[null]}},"apiVersion":"example.com/v1","metadata":{"name":"a","bogus":1,"labels":{}},"kind":"Gizmo","spec":{"size":3.0,"free":{"x":1}}}"#;
        let decoded = schema().decode(body, FieldValidation::Warn).unwrap();
        assert_eq!(decoded.warnings, ["duplicate field \"spec\"", "unknown field \"metadata.bogus\""]);
        let text = String::from_utf8(schema().encode(&decoded.value)).unwrap();
        assert!(text.starts_with(r#"{"kind":"Gizmo","apiVersion":"example.com/v1","metadata":{"name":"a""#), "{text}");
        assert!(text.ends_with(r#","spec":{"free":{"x":1},"size":3}}"#), "{text}");
    }

    #[test]
    fn what_cannot_be_read_is_refused_in_upstreams_words() {
        for (body, wanted) in [
            (
                r#"{"apiVersion":"example.com/v1","kind":"Gizmo","metadata":{"labels":{"a":1}}}"#,
                "json: cannot unmarshal number into Go struct field ObjectMeta.labels of type string",
            ),
            (
                r#"{"apiVersion":"example.com/v1"}"#,
                "the object provided is unrecognized (must be of type Gizmo): Object 'Kind' is missing in \
                 '{\"apiVersion\":\"example.com/v1\"}' ({\"apiVersion\":\"example.com/v1\" ...)",
            ),
        ] {
            assert_eq!(schema().decode(body.as_bytes(), FieldValidation::Warn).unwrap_err().to_string(), wanted);
        }
        let strict = schema()
            .decode(br#"{"apiVersion":"example.com/v1","kind":"Gizmo","spec":{"x":1}}"#, FieldValidation::Strict);
        assert_eq!(strict.unwrap_err().to_string(), "strict decoding error: unknown field \"spec.x\"");
    }
}
