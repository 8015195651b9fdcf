//! `/openapi/v3`: the index with a hash in each URL, and the documents, which never change under their hash; `/openapi/v2`.

use super::{Body, Context, encode, negotiate, plain, text_header};
use crate::clock;
use crate::error::ApiError;
use crate::pipeline::{Api, published};
use crate::schema::{ServedKind, ServedSubresource, openapi_document, openapi_index, swagger_json, swagger_protobuf};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use jiff::ToSpan;
use sha2::{Digest, Sha256};

/// How clients ask for v2 as protobuf; the second is what they said before 1.30.
const SWAGGER_PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
];

/// The index (`None`) or one document of v3.
pub(super) async fn response(context: &Context, api: &Api, path: Option<&str>) -> Result<Response<Body>, ApiError> {
    let served = served(context);
    let index = openapi_index(&served);
    let Some(path) = path else { return encode::document(context, 200, &index) };
    let path = path.trim_matches('/');
    let url = index["paths"][path]["serverRelativeURL"].as_str().ok_or(ApiError::UnknownPath)?;
    let hash = url.rsplit_once('=').map_or("", |(_, hash)| hash);
    let asked = context.query.get("hash").unwrap_or_default();
    if !asked.is_empty() && asked != hash {
        let mut moved = plain(StatusCode::MOVED_PERMANENTLY, "text/html; charset=utf-8", Bytes::new());
        moved.headers_mut().insert(header::LOCATION, text_header(url));
        return Ok(moved);
    }
    let etag = text_header(&format!("\"{hash}\""));
    let mut response = if context.headers.get(header::IF_NONE_MATCH) == Some(&etag) {
        plain(StatusCode::NOT_MODIFIED, "application/json", Bytes::new())
    } else {
        let bytes = openapi_document(path, &served, &published(api, path).await?).ok_or(ApiError::UnknownPath)?;
        encode::compressed(context, StatusCode::OK, "application/json", bytes)
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, etag);
    if !asked.is_empty() {
        headers.append(header::VARY, HeaderValue::from_static("Accept"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        let year = clock::now().wall.checked_add((365 * 24).hours()).unwrap_or(clock::now().wall);
        headers.insert(header::EXPIRES, text_header(&year.strftime("%a, %d %b %Y %H:%M:%S UTC").to_string()));
    }
    Ok(response)
}

/// The v2 document.
pub(super) async fn swagger(context: &Context, api: &Api) -> Result<Response<Body>, ApiError> {
    let accept = context.accept();
    let ranges = accept.split(',').map(|range| range.split(';').next().unwrap_or_default().trim());
    let wanted = ranges.filter_map(|range| match range {
        "" | "*/*" | "application/*" | "application/json" => Some("application/json"),
        range if SWAGGER_PROTOBUF.contains(&range) => Some(SWAGGER_PROTOBUF[0]),
        _ => None,
    });
    let available = format!("application/json, {}", SWAGGER_PROTOBUF[0]);
    let content_type = wanted.into_iter().next().ok_or_else(|| negotiate::not_acceptable(&available))?;
    let served = served(context);
    let index = openapi_index(&served).to_string();
    let hash = Sha256::new().chain_update(index).chain_update(content_type).finalize();
    let hash: String = hash.iter().map(|byte| format!("{byte:02X}")).collect();
    let etag = text_header(&format!("\"{hash}\""));
    let mut response = if context.headers.get(header::IF_NONE_MATCH) == Some(&etag) {
        plain(StatusCode::NOT_MODIFIED, content_type, Bytes::new())
    } else {
        let protobuf = content_type != "application/json";
        let published = published(api, "").await?;
        let bytes = if protobuf { swagger_protobuf(&served, &published) } else { swagger_json(&served, &published) };
        encode::compressed(context, StatusCode::OK, content_type, bytes)
    };
    response.headers_mut().insert(header::ETAG, etag);
    response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

fn served(context: &Context) -> Vec<ServedKind> {
    context
        .served
        .all()
        .map(|d| ServedKind {
            edition: d.custom.as_ref().map(|custom| custom.edition.to_string()).unwrap_or_default(),
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
