//! Request bodies → objects: the content type picks the reader, the schema does the rest.

use super::{Stage, form};
use crate::error::{ApiError, Qualified};
use crate::gvr::GroupVersion;
use crate::meta::{Meta, Object};
use crate::registry::ResourceDef;
use crate::registry::field::Cause;
use crate::schema::{AnySchema, Decoded, FieldValidation, Schema, SchemaError, yaml};
use serde_json::Value;
use std::borrow::Cow;

/// Decodes a body that must hold one object of that kind.
pub(super) fn object(
    stage: &Stage<'_>,
    gv: GroupVersion,
    kind: &str,
    body: &[u8],
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    let def = &stage.target.def;
    let schema = match Schema::builtin(gv, kind) {
        _ if def.custom.is_some() && (gv, kind) == (def.gv, def.kind) => form::schema(def)?,
        Some(schema) => AnySchema::BuiltIn(schema),
        None => return Err(ApiError::Internal(format!("no schema for {gv} {kind}"))),
    };
    let decoded = match (stage.content_type, schema) {
        ("application/vnd.kubernetes.protobuf", AnySchema::BuiltIn(builtin)) => {
            builtin.decode_protobuf(body).map_err(|e| refuse(schema, e, body))?
        }
        ("application/vnd.kubernetes.protobuf", AnySchema::Custom(_)) => {
            return Err(ApiError::UnsupportedMediaType(
                "the body of the request was in an unknown format - accepted media types include: application/json, \
                 application/yaml"
                    .into(),
            ));
        }
        (_, schema) => {
            let read = read(stage.content_type, kind, body)?;
            let decoded = schema.decode(&read.json, validation);
            strictly(decoded, read.duplicates, validation).map_err(|e| refuse(schema, e, &read.json))?
        }
    };
    let version = decoded.value["apiVersion"].as_str().unwrap_or("");
    let expected = schema.api_version();
    // Options exist in every version: clients name the one of what they delete.
    let options = schema.group_version().group == "meta.k8s.io";
    if version != expected && !options {
        return Err(ApiError::BadRequest(format!(
            "the API version in the data ({version}) does not match the expected API version ({expected})"
        )));
    }
    other_kind(def, schema, &decoded.value)?;
    Ok(decoded)
}

/// A custom resource of another kind is read, and then refused as what it says it is.
fn other_kind(def: &ResourceDef, schema: AnySchema<'_>, object: &Object) -> Result<(), ApiError> {
    let kind = object["kind"].as_str().unwrap_or_default();
    if !matches!(schema, AnySchema::Custom(_)) || kind == def.kind {
        return Ok(());
    }
    let what = Qualified::new(def.gv.group, kind);
    let text = format!("Invalid value: {kind:?}: must be {}", def.kind);
    Err(ApiError::invalid_field(what, object.name(), Cause::Invalid, "kind", text))
}

/// What the schema refused, as the answer that it is.
pub(super) fn refuse(schema: AnySchema<'_>, error: SchemaError, body: &[u8]) -> ApiError {
    match error {
        SchemaError::Patch(text) => ApiError::PatchRejected(text),
        error => ApiError::BadRequest(schema.refusal(&error, body)),
    }
}

/// A body as JSON.
struct Read<'a> {
    json: Cow<'a, [u8]>,
    /// What strict reading has against its YAML.
    duplicates: Option<String>,
}

/// Adds YAML's own complaint, which Go's strict decoder puts first.
fn strictly(
    decoded: Result<Decoded, SchemaError>,
    duplicates: Option<String>,
    validation: FieldValidation,
) -> Result<Decoded, SchemaError> {
    let Some(text) = duplicates else { return decoded };
    match (decoded, validation) {
        (Err(SchemaError::Strict(mut texts)), _) => {
            texts.insert(0, text);
            Err(SchemaError::Strict(texts))
        }
        (Ok(_), FieldValidation::Strict) => Err(SchemaError::Strict(vec![text])),
        (Ok(mut decoded), FieldValidation::Warn) => {
            decoded.warnings.insert(0, text);
            Ok(decoded)
        }
        (decoded, _) => decoded,
    }
}

/// A YAML body becomes JSON; anything but JSON, YAML and nothing is refused with 415.
pub(super) fn json<'a>(content_type: &str, kind: &str, body: &'a [u8]) -> Result<Cow<'a, [u8]>, ApiError> {
    read(content_type, kind, body).map(|read| read.json)
}

fn read<'a>(content_type: &str, kind: &str, body: &'a [u8]) -> Result<Read<'a>, ApiError> {
    match content_type {
        "" | "application/json" => Ok(Read { json: Cow::Borrowed(body), duplicates: None }),
        "application/yaml" => {
            let yaml::Converted { value, duplicates } = yaml::to_json(body).map_err(|text| {
                let hex: String = body.iter().take(30).map(|byte| format!("{byte:02x}")).collect();
                let more = if body.len() > 30 { " ..." } else { "" };
                ApiError::BadRequest(format!(
                    "the object provided is unrecognized (must be of type {kind}): {text} ({hex}{more})"
                ))
            })?;
            let json = serde_json::to_vec(&value).map_err(|error| ApiError::Internal(error.to_string()))?;
            Ok(Read { json: Cow::Owned(json), duplicates })
        }
        _ => Err(ApiError::UnsupportedMediaType(
            "the body of the request was in an unknown format - accepted media types include: \
             application/json, application/yaml, application/vnd.kubernetes.protobuf"
                .into(),
        )),
    }
}

/// The body of an apply: YAML, of which JSON is a part; with warnings of keys set twice.
pub(super) fn configuration(body: &[u8], validation: FieldValidation) -> Result<(Value, Vec<String>), ApiError> {
    // Most clients send JSON without a key twice, which is read faster as what it is.
    if validation == FieldValidation::Ignore
        && let Ok(value @ Value::Object(_)) = serde_json::from_slice(body)
    {
        return Ok((value, Vec::new()));
    }
    let refuse = |text: String| ApiError::BadRequest(format!("error decoding YAML: {text}"));
    let yaml::Converted { value, duplicates } =
        yaml::to_json(body).map_err(|text| refuse(format!("error converting YAML to JSON: {text}")))?;
    let found = match value {
        Value::Object(_) => return with_duplicates(value, duplicates, validation),
        // Nothing at all is an empty configuration.
        Value::Null => return Ok((Value::Object(serde_json::Map::new()), Vec::new())),
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
    };
    Err(refuse(format!(
        "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into Go value of type \
         map[string]interface {{}}"
    )))
}

fn with_duplicates(
    value: Value,
    duplicates: Option<String>,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), ApiError> {
    let duplicates = duplicates.map(|text| format!("error converting YAML to JSON: {text}"));
    match (duplicates, validation) {
        (Some(text), FieldValidation::Strict) => {
            Err(ApiError::BadRequest(format!("error strict decoding YAML: {text}")))
        }
        (Some(text), FieldValidation::Warn) => Ok((value, vec![text])),
        (None, _) | (_, FieldValidation::Ignore) => Ok((value, Vec::new())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_set_twice_in_yaml_is_refused_warned_of_or_ignored() {
        let decoded = || Ok(Decoded { value: serde_json::json!({}), warnings: vec!["unknown field \"a\"".to_owned()] });
        let twice = || Some("yaml: twice".to_owned());
        let of = |result: Result<Decoded, SchemaError>| result.map(|d| d.warnings).map_err(|e| e.to_string());
        assert_eq!(
            of(strictly(decoded(), twice(), FieldValidation::Warn)),
            Ok(vec!["yaml: twice".to_owned(), "unknown field \"a\"".to_owned()])
        );
        assert_eq!(
            of(strictly(Err(SchemaError::Strict(vec!["x".into()])), twice(), FieldValidation::Strict)),
            Err("strict decoding error: yaml: twice, x".to_owned())
        );
        assert_eq!(
            of(strictly(decoded(), twice(), FieldValidation::Strict)),
            Err("strict decoding error: yaml: twice".to_owned())
        );
        assert_eq!(of(strictly(decoded(), twice(), FieldValidation::Ignore)).map(|w| w.len()), Ok(1));
    }
}
