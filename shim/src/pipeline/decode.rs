//! Request bodies → objects: the content type picks the reader, the schema does the rest.

use super::Stage;
use crate::error::ApiError;
use crate::gvr::GroupVersion;
use crate::schema::{Decoded, FieldValidation, Schema, SchemaError};
use std::borrow::Cow;

/// Decodes a body that must hold one object of that kind.
pub(super) fn object(
    stage: &Stage<'_>,
    gv: GroupVersion,
    kind: &str,
    body: &[u8],
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    let schema = Schema::builtin(gv, kind).ok_or_else(|| ApiError::Internal(format!("no schema for {gv} {kind}")))?;
    let decoded = if stage.content_type == "application/vnd.kubernetes.protobuf" {
        schema.decode_protobuf(body).map_err(|e| refuse(schema, e, b""))?
    } else {
        let json = json(stage.content_type, kind, body)?;
        schema.decode(&json, validation).map_err(|e| refuse(schema, e, &json))?
    };
    let version = decoded.value["apiVersion"].as_str().unwrap_or("");
    let expected = schema.api_version();
    if version != expected {
        return Err(ApiError::BadRequest(format!(
            "the API version in the data ({version}) does not match the expected API version ({expected})"
        )));
    }
    Ok(decoded)
}

/// What the schema refused, as the answer that it is.
pub(super) fn refuse(schema: &Schema, error: SchemaError, body: &[u8]) -> ApiError {
    match error {
        SchemaError::Patch(text) => ApiError::PatchRejected(text),
        error => ApiError::BadRequest(schema.refusal(&error, body)),
    }
}

/// A YAML body becomes JSON; anything but JSON, YAML and nothing is refused with 415.
pub(super) fn json<'a>(content_type: &str, kind: &str, body: &'a [u8]) -> Result<Cow<'a, [u8]>, ApiError> {
    match content_type {
        "" | "application/json" => Ok(Cow::Borrowed(body)),
        "application/yaml" => Ok(Cow::Owned(yaml(kind, body)?)),
        _ => Err(ApiError::UnsupportedMediaType(
            "the body of the request was in an unknown format - accepted media types include: \
             application/json, application/yaml, application/vnd.kubernetes.protobuf"
                .into(),
        )),
    }
}

fn yaml(kind: &str, body: &[u8]) -> Result<Vec<u8>, ApiError> {
    let refuse = |text: String| {
        ApiError::BadRequest(format!(
            "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; {text}"
        ))
    };
    let text = std::str::from_utf8(body).map_err(|_| refuse("yaml: invalid UTF-8".into()))?;
    let value: serde_json::Value =
        serde_saphyr::from_str(text).map_err(|e| refuse(format!("error converting YAML to JSON: {e}")))?;
    serde_json::to_vec(&value).map_err(|e| refuse(e.to_string()))
}
