//! `/openapi/v3`: the index with a hash in each URL, and the documents, which never change under their hash.

use super::{Body, Context, encode, plain};
use crate::error::ApiError;
use crate::registry;
use crate::schema::{ServedKind, ServedSubresource, openapi_document, openapi_index};
use http::{HeaderValue, Response, StatusCode, header};

pub(super) fn response(context: &Context, path: Option<&str>) -> Result<Response<Body>, ApiError> {
    let Some(path) = path else { return encode::document(context, 200, &openapi_index(&served())) };
    let bytes = openapi_document(path, &served()).ok_or(ApiError::UnknownPath)?;
    let mut response = plain(StatusCode::OK, "application/json", bytes);
    if context.query.get("hash").is_some() {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    }
    Ok(response)
}

fn served() -> Vec<ServedKind> {
    registry::all()
        .iter()
        .map(|d| ServedKind {
            gv: d.gv,
            kind: d.kind,
            resource: d.resource,
            namespaced: d.namespaced,
            verbs: d.verbs,
            subresources: d
                .subresources
                .iter()
                .map(|s| ServedSubresource { name: s.name, gv: s.gv, kind: s.kind, verbs: s.verbs })
                .collect(),
        })
        .collect()
}
