//! Answers → bytes: JSON copied from the cache, YAML, protobuf, tables and metadata made on demand; gzip when it pays.

use super::negotiate::{Encoding, Form};
use super::{Body, Context, body, plain, table, text_header};
use crate::error::ApiError;
use crate::gvr::GroupVersion;
use crate::pipeline::{Collection, ObjectAnswer, is_stored_form, schema, served_bytes, to_served};
use crate::registry::ResourceDef;
use crate::registry::apps::daemonset::TEMPLATE_GENERATION;
use crate::schema::{Schema, yaml};
use crate::store::cache::Entry;
use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use std::io::Write;
use std::sync::Arc;

/// From this size on answers are compressed for those who accept it (upstream's `defaultGzipThresholdBytes`).
const GZIP_FROM: usize = 128 * 1024;
/// Size of the pieces in which a long list leaves.
const CHUNK: usize = 64 * 1024;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const META_V1: GroupVersion = GroupVersion { group: "meta.k8s.io", version: "v1" };

pub(super) fn object(context: &Context, answer: &ObjectAnswer) -> Result<Response<Body>, ApiError> {
    let code = StatusCode::from_u16(answer.code).unwrap_or(StatusCode::OK);
    let wanted = context.wanted()?;
    let def = &answer.def;
    let bytes = match wanted.form {
        Form::Plain => return object_bytes(context, wanted.encoding, code, def, served_bytes(def, &answer.bytes)?),
        Form::Discovery => return Err(super::negotiate::not_acceptable("application/json")),
        Form::MetadataList => {
            return Err(ApiError::NotAcceptable(format!(
                "you requested PartialObjectMetadataList, but the requested object is not a list (*{}.{})",
                go_package(def),
                def.kind
            )));
        }
        Form::Metadata => to_vec(&metadata_of(&parse(&answer.bytes)?, wanted.meta))?,
        Form::Table(include) => {
            let value = parse(&answer.bytes)?;
            let version = value["metadata"]["resourceVersion"].as_str().unwrap_or("").to_owned();
            let rows = vec![table::row(def, &value, include, wanted.meta)];
            to_vec(&table::document(def, json!({"resourceVersion": version}), rows, wanted.meta))?
        }
    };
    form_bytes(context, wanted.encoding, code, bytes)
}

/// An object of one of meta's kinds, from its JSON.
fn form_bytes(
    context: &Context,
    encoding: Encoding,
    code: StatusCode,
    json: Vec<u8>,
) -> Result<Response<Body>, ApiError> {
    if encoding != Encoding::Protobuf {
        return finish(context, encoding, code, json.into());
    }
    let bytes = protobuf(&parse(&json)?).ok_or_else(|| ApiError::Internal("no schema for this form".into()))?;
    Ok(compressed(context, code, PROTOBUF, bytes.into()))
}

fn object_bytes(
    context: &Context,
    encoding: Encoding,
    code: StatusCode,
    def: &ResourceDef,
    json: Bytes,
) -> Result<Response<Body>, ApiError> {
    match encoding {
        Encoding::Protobuf => {
            let bytes = builtin(def)?.encode_protobuf(&parse(&json)?);
            Ok(compressed(context, code, PROTOBUF, bytes.into()))
        }
        Encoding::Json { .. } | Encoding::Yaml => finish(context, encoding, code, json),
    }
}

/// A list: items are copied from the entries, never parsed, unless another form is asked for.
pub(super) fn collection(context: &Context, list: Collection) -> Result<Response<Body>, ApiError> {
    let wanted = context.wanted()?;
    let def = &list.def;
    let mut metadata = json!({"resourceVersion": list.revision.to_string()});
    match &list.next {
        Some(next) => metadata["continue"] = next.as_str().into(),
        // Upstream's untyped lists always have one.
        None if def.custom.is_some() && wanted.form == Form::Plain => metadata["continue"] = "".into(),
        None => {}
    }
    if let Some(remaining) = list.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    let bytes = match (wanted.form, wanted.encoding) {
        (Form::Plain, Encoding::Json { pretty: false }) if is_stored_form(def) => {
            let head = format!(
                "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
                def.list_kind(),
                def.gv
            );
            return Ok(json_list(context, head.into_bytes(), list.entries, def.custom.is_some()));
        }
        (Form::Plain, Encoding::Json { .. }) => ordered_list(&list, &metadata)?,
        (Form::Plain, Encoding::Protobuf) => {
            let bytes = protobuf_list(&list, &metadata)?;
            return Ok(compressed(context, StatusCode::OK, PROTOBUF, bytes.into()));
        }
        (Form::Plain, _) => {
            let items: Result<Vec<Value>, ApiError> = list.entries.iter().map(|e| item(def, e)).collect();
            to_vec(
                &json!({"kind": def.list_kind(), "apiVersion": def.gv.to_string(), "metadata": metadata, "items": items?}),
            )?
        }
        (Form::Metadata, _) => {
            return Err(ApiError::NotAcceptable(format!(
                "you requested PartialObjectMetadata, but the requested object is a list (*{}.{}List)",
                go_package(def),
                def.kind
            )));
        }
        (Form::MetadataList, _) => {
            let items: Result<Vec<Value>, ApiError> =
                list.entries.iter().map(|e| Ok(metadata_of(&parse(&e.bytes)?, wanted.meta))).collect();
            to_vec(&json!({
                "kind": "PartialObjectMetadataList", "apiVersion": wanted.meta, "metadata": metadata, "items": Some(items?).filter(|i| !i.is_empty()),
            }))?
        }
        (Form::Table(include), _) => {
            let rows: Result<Vec<Value>, ApiError> =
                list.entries.iter().map(|e| Ok(table::row(def, &parse(&e.bytes)?, include, wanted.meta))).collect();
            to_vec(&table::document(def, metadata, rows?, wanted.meta))?
        }
        (Form::Discovery, _) => return Err(super::negotiate::not_acceptable("application/json")),
    };
    form_bytes(context, wanted.encoding, StatusCode::OK, bytes)
}

/// A list whole, its fields in Go's order.
fn ordered_list(list: &Collection, metadata: &Value) -> Result<Vec<u8>, ApiError> {
    let def = &list.def;
    let kind = def.list_kind();
    let head = format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},", def.gv);
    let mut out = head.into_bytes();
    out.extend_from_slice(b"\"items\":[");
    for (index, entry) in list.entries.iter().enumerate() {
        let object = served_bytes(def, &entry.bytes)?;
        // Canonical bytes begin with kind and apiVersion, which items of built-ins go without.
        let header = format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",", def.kind, def.gv);
        if index > 0 {
            out.push(b',');
        }
        match object.strip_prefix(header.as_bytes()).filter(|_| def.custom.is_none()) {
            Some(body) => {
                out.push(b'{');
                out.extend_from_slice(body);
            }
            None => out.extend_from_slice(&object),
        }
    }
    out.extend_from_slice(b"]}\n");
    Ok(out)
}

/// One list item as a value; built-ins are without kind and apiVersion in lists.
fn item(def: &ResourceDef, entry: &Entry) -> Result<Value, ApiError> {
    let mut value = to_served(def, parse(&entry.bytes)?);
    if let Some(map) = value.as_object_mut().filter(|_| def.custom.is_none()) {
        map.remove("kind");
        map.remove("apiVersion");
    }
    Ok(value)
}

/// `whole`: items with their kind and apiVersion.
fn json_list(context: &Context, head: Vec<u8>, entries: Vec<Arc<Entry>>, whole: bool) -> Response<Body> {
    let size = head.len() + 3 + entries.iter().map(|e| e.bytes.len() + 1).sum::<usize>();
    if size < GZIP_FROM {
        let mut out = BytesMut::with_capacity(size);
        out.extend_from_slice(&head);
        for (index, entry) in entries.iter().enumerate() {
            put_item(&mut out, index, entry, whole);
        }
        out.put_slice(b"]}\n");
        return plain(StatusCode::OK, "application/json", out.freeze());
    }
    let gzip = context.accepts_gzip();
    let chunks = ListChunks { head: Some(head), entries: entries.into_iter(), index: 0, done: false, whole };
    let mut response = if gzip {
        let mut response = Response::new(body::chunks(Gzipped::new(chunks)));
        mark_gzip(&mut response);
        response
    } else {
        Response::new(body::chunks(chunks))
    };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn put_item(out: &mut BytesMut, index: usize, entry: &Entry, whole: bool) {
    if index > 0 {
        out.put_u8(b',');
    }
    if whole {
        out.extend_from_slice(&entry.bytes);
        return;
    }
    out.put_u8(b'{');
    out.extend_from_slice(&entry.bytes[entry.body..]);
}

/// The pieces of a long list, made as the client reads.
struct ListChunks {
    head: Option<Vec<u8>>,
    entries: std::vec::IntoIter<Arc<Entry>>,
    index: usize,
    done: bool,
    whole: bool,
}

impl Iterator for ListChunks {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut out = BytesMut::with_capacity(CHUNK + CHUNK / 4);
        if let Some(head) = self.head.take() {
            out.extend_from_slice(&head);
        }
        while out.len() < CHUNK {
            match self.entries.next() {
                Some(entry) => {
                    put_item(&mut out, self.index, &entry, self.whole);
                    self.index += 1;
                }
                None => {
                    out.put_slice(b"]}\n");
                    self.done = true;
                    break;
                }
            }
        }
        Some(out.freeze())
    }
}

/// Compresses pieces as they come.
struct Gzipped<I> {
    from: I,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl<I> Gzipped<I> {
    fn new(from: I) -> Self {
        // Upstream compresses at level 1: the network is rarely the slow part.
        Self { from, encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) }
    }
}

impl<I: Iterator<Item = Bytes>> Iterator for Gzipped<I> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        loop {
            let encoder = self.encoder.as_mut()?;
            match self.from.next() {
                // Writing to a Vec cannot fail.
                Some(chunk) => {
                    let _ = encoder.write_all(&chunk);
                    let out = std::mem::take(encoder.get_mut());
                    if !out.is_empty() {
                        return Some(out.into());
                    }
                }
                None => return self.encoder.take()?.finish().ok().map(Bytes::from),
            }
        }
    }
}

/// A list message: metadata is field 1 and items field 2 of every List type.
fn protobuf_list(list: &Collection, metadata: &Value) -> Result<Vec<u8>, ApiError> {
    let def = &list.def;
    let schema = builtin(def)?;
    let mut meta = Vec::new();
    put_field(&mut meta, 2, metadata["resourceVersion"].as_str().unwrap_or("").as_bytes());
    if let Some(next) = metadata["continue"].as_str() {
        put_field(&mut meta, 3, next.as_bytes());
    }
    if let Some(remaining) = metadata["remainingItemCount"].as_u64() {
        meta.push(4 << 3);
        put_varint(&mut meta, remaining);
    }
    let mut raw = Vec::new();
    put_field(&mut raw, 1, &meta);
    for entry in &list.entries {
        let object = to_served(def, parse(&entry.bytes)?);
        let envelope = schema.encode_protobuf(&object);
        put_field(&mut raw, 2, raw_of(&envelope).unwrap_or_default());
    }
    Ok(envelope(&def.gv.to_string(), &format!("{}List", def.kind), &raw))
}

/// `k8s\0` and a `runtime.Unknown`.
fn envelope(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut type_meta = Vec::new();
    put_field(&mut type_meta, 1, version.as_bytes());
    put_field(&mut type_meta, 2, kind.as_bytes());
    let mut out = Vec::with_capacity(raw.len() + type_meta.len() + 24);
    out.extend_from_slice(b"k8s\0");
    put_field(&mut out, 1, &type_meta);
    put_field(&mut out, 2, raw);
    put_field(&mut out, 3, b"");
    put_field(&mut out, 4, b"");
    out
}

/// The message inside an envelope (`runtime.Unknown.raw`).
fn raw_of(envelope: &[u8]) -> Option<&[u8]> {
    let mut rest = envelope.strip_prefix(b"k8s\0")?;
    while let Some((&tag, after)) = rest.split_first() {
        let (length, after) = take_varint(after)?;
        let content = after.get(..length)?;
        if tag == 2 << 3 | 2 {
            return Some(content);
        }
        rest = &after[length..];
    }
    None
}

pub(super) fn put_field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut number = 0usize;
    for (index, byte) in bytes.iter().enumerate().take(9) {
        number |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[index + 1..]));
        }
    }
    None
}

/// A document that is not a stored object.
pub(super) fn document(context: &Context, code: u16, value: &Value) -> Result<Response<Body>, ApiError> {
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::OK);
    let encoding = context.wanted()?.encoding;
    match encoding {
        Encoding::Protobuf => Ok(match protobuf(value) {
            Some(bytes) => plain(code, PROTOBUF, bytes.into()),
            None => plain(code, "application/json", to_vec(value)?.into()),
        }),
        Encoding::Json { .. } | Encoding::Yaml => finish(context, encoding, code, to_vec(value)?.into()),
    }
}

/// A `Status`, in the client's encoding if it is one of ours, else JSON.
pub(super) fn status(context: &Context, code: StatusCode, value: &Value) -> Response<Body> {
    let encoding = context.wanted().map(|w| w.encoding);
    let json = Bytes::from(value.to_string() + "\n");
    match encoding {
        Ok(Encoding::Protobuf) => match protobuf(value) {
            Some(bytes) => plain(code, PROTOBUF, bytes.into()),
            None => plain(code, "application/json", json),
        },
        Ok(encoding) => {
            finish(context, encoding, code, json.clone()).unwrap_or_else(|_| plain(code, "application/json", json))
        }
        Err(_) => plain(code, "application/json", json),
    }
}

/// A value of any kind with a schema.
pub(super) fn protobuf(value: &Value) -> Option<Vec<u8>> {
    let kind = value["kind"].as_str()?;
    // Core's APIResourceList says no version.
    let version = value["apiVersion"].as_str().unwrap_or_default();
    let schema = Schema::named(version, kind).or_else(|| Schema::builtin(META_V1, kind))?;
    Some(schema.encode_protobuf(value))
}

/// JSON text as it is, pretty, or as YAML.
fn finish(context: &Context, encoding: Encoding, code: StatusCode, json: Bytes) -> Result<Response<Body>, ApiError> {
    match encoding {
        Encoding::Json { pretty: false } | Encoding::Protobuf => {
            Ok(compressed(context, code, "application/json", json))
        }
        Encoding::Json { pretty: true } => Ok(compressed(context, code, "application/json", indented(&json).into())),
        Encoding::Yaml => {
            let text = yaml::from_json(&parse(&json)?);
            Ok(compressed(context, code, "application/yaml", text.into()))
        }
    }
}

/// JSON text in lines, indented by two, as Go's `MarshalIndent` writes it; its order stays.
fn indented(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let (mut depth, mut in_text, mut escaped) = (0usize, false, false);
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', depth * 2));
    };
    let mut bytes = json.trim_ascii().iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if in_text {
            out.push(byte);
            in_text = byte != b'"' || escaped;
            escaped = byte == b'\\' && !escaped;
            continue;
        }
        match byte {
            b'{' | b'[' => {
                out.push(byte);
                if let Some(close) = bytes.next_if(|next| matches!(next, b'}' | b']')) {
                    out.push(close);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            _ => {
                in_text = byte == b'"';
                out.push(byte);
            }
        }
    }
    out
}

pub(super) fn compressed(context: &Context, code: StatusCode, content_type: &str, bytes: Bytes) -> Response<Body> {
    if bytes.len() < GZIP_FROM || !context.accepts_gzip() {
        return plain(code, content_type, bytes);
    }
    let whole: Vec<u8> = Gzipped::new(std::iter::once(bytes)).flatten().collect();
    let mut response = plain(code, content_type, whole.into());
    mark_gzip(&mut response);
    response
}

fn mark_gzip(response: &mut Response<Body>) {
    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().insert(header::VARY, text_header("Accept-Encoding"));
}

/// `PartialObjectMetadata` of an object.
pub(super) fn metadata_of(object: &Value, meta: &str) -> Value {
    let mut metadata = object["metadata"].clone();
    // A field of its internal type that apps/v1 writes as an annotation: no metadata to upstream.
    if object["kind"] == "DaemonSet"
        && let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut)
    {
        annotations.remove(TEMPLATE_GENERATION);
        if annotations.is_empty() {
            metadata.as_object_mut().map(|metadata| metadata.remove("annotations"));
        }
    }
    json!({"kind": "PartialObjectMetadata", "apiVersion": meta, "metadata": metadata})
}

/// The schema of what has a protobuf form; custom resources have none, and negotiation leaves it out for them.
pub(super) fn builtin(def: &ResourceDef) -> Result<&'static Schema, ApiError> {
    schema(def)?.builtin().ok_or_else(|| super::negotiate::not_acceptable("application/json, application/yaml"))
}

pub(super) fn parse(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes).map_err(internal)
}

fn to_vec(value: &Value) -> Result<Vec<u8>, ApiError> {
    let mut bytes = serde_json::to_vec(value).map_err(internal)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn internal(error: impl std::fmt::Display) -> ApiError {
    ApiError::Internal(error.to_string())
}

/// The Go package that upstream's internal type lives in, as its error texts show it.
fn go_package(def: &ResourceDef) -> &str {
    match def.gv.group {
        "" => "core",
        group => group.split('.').next().unwrap_or(group),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_gives_back_its_message() {
        let raw = vec![7; 300];
        assert_eq!(raw_of(&envelope("v1", "PodList", &raw)).unwrap(), raw);
    }

    #[test]
    fn pretty_json_keeps_its_order() {
        let json = br#"{"kind":"A","b":[],"a":[1,{"x":"},{\"\\"}],"c":{}}"#;
        let text = "{\n  \"kind\": \"A\",\n  \"b\": [],\n  \"a\": [\n    1,\n    {\n      \"x\": \"},{\\\"\\\\\"\n    }\n  ],\n  \"c\": {}\n}";
        assert_eq!(String::from_utf8(indented(json)).unwrap(), text);
    }

    #[test]
    fn gzip_of_pieces_is_one_stream() {
        let pieces = ["a".repeat(1000), "b".repeat(1000)].map(Bytes::from);
        let whole: Vec<u8> = Gzipped::new(pieces.into_iter()).flatten().collect();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&whole[..]), &mut text).unwrap();
        assert_eq!(text, "a".repeat(1000) + &"b".repeat(1000));
    }
}
