//! Watch frames → bytes: plain JSON goes out as the cache holds it; other forms are made once for all who want them.

use super::audited::Open;
use super::negotiate::{Encoding, Form, Wanted};
use super::{Body, Context, body, encode, proxy, status, table, websocket};
use crate::error::ApiError;
use crate::pipeline::watch::{Frame, Kind, Watch};
use crate::pipeline::{schema, served_bytes, splice_version, to_served};
use crate::registry::Def;
use crate::revision::Revision;
use crate::schema::FieldValidation;
use crate::store::cache::Shape;
use crate::task::Tasks;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Response, header};
use serde_json::{Value, json};
use std::sync::Arc;

/// Chunks of a body or, for a client that asked for an upgrade, messages of a WebSocket: one an event.
pub(super) fn response(
    context: &Context,
    watch: Watch,
    upgrade: Option<(proxy::Upgrade, Option<Arc<Open>>)>,
    tasks: &Tasks,
) -> Result<Response<Body>, ApiError> {
    let wanted = Wanted::parse(&context.accept(), &context.query, true)?;
    let binary = wanted.encoding == Encoding::Protobuf;
    let encoder = Encoder { def: watch.def.clone(), wanted, first: true, websocket: upgrade.is_some() };
    let frames = futures::stream::unfold((watch, encoder), |(mut watch, mut encoder)| async move {
        let frame = watch.next().await?;
        let bytes = encoder.encode(&frame);
        Some((bytes, (watch, encoder)))
    });
    if let Some((upgrade, open)) = upgrade {
        return websocket::serve(&context.headers, upgrade, websocket::Frames { frames, binary, open }, tasks);
    }
    let content_type = if binary { "application/vnd.kubernetes.protobuf;stream=watch" } else { "application/json" };
    let mut response = Response::new(body::stream(frames));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(response)
}

/// Encodes the frames of one watch.
struct Encoder {
    def: Def,
    wanted: Wanted,
    /// The first table carries the column definitions.
    first: bool,
    /// Messages have lengths of their own.
    websocket: bool,
}

impl Encoder {
    fn encode(&mut self, frame: &Frame) -> Bytes {
        match self.try_encode(frame) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(%error, resource = self.def.resource, "a watch event could not be encoded");
                let body = status::body_of(&error);
                self.frame("ERROR", &Bytes::from(body.to_string()), Some(&body))
            }
        }
    }

    fn try_encode(&mut self, frame: &Frame) -> Result<Bytes, ApiError> {
        match frame {
            Frame::Initial(entry) => self.object(Kind::Added.name(), &entry.bytes),
            Frame::Change { kind, object, delivery } => {
                let event = kind.name();
                let stored = || match kind {
                    Kind::Added | Kind::Modified => object.bytes.clone(),
                    Kind::Deleted => at_revision(&object.bytes, object.revision, delivery.change.revision),
                };
                match self.shared_form() {
                    Some(form) => {
                        let shape = Shape { version: self.def.gv, meta: self.wanted.meta, event, form };
                        delivery.frame(shape, || self.object(event, &stored()))
                    }
                    None => self.object(event, &stored()),
                }
            }
            Frame::Bookmark { revision, initial_end } => self.bookmark(*revision, *initial_end),
            Frame::Expired(text) => {
                let body = status::body_of(&ApiError::Expired(text.clone()));
                Ok(self.frame("ERROR", &Bytes::from(body.to_string()), Some(&body)))
            }
        }
    }

    /// The name of a form whose frames are the same for all who want it; a table's depend on the watcher's clock and on
    /// what it was sent before.
    fn shared_form(&self) -> Option<&'static str> {
        match (self.wanted.form, self.wanted.encoding) {
            (Form::Plain, Encoding::Protobuf) if self.websocket => Some("protobuf message"),
            (Form::Plain, Encoding::Protobuf) => Some("protobuf"),
            (Form::Plain, Encoding::Json { .. } | Encoding::Yaml) => Some("json"),
            (Form::Metadata, Encoding::Protobuf) if !self.websocket => Some("metadata protobuf"),
            (Form::Metadata, Encoding::Json { .. }) => Some("metadata json"),
            (Form::Table(_) | Form::Metadata | Form::MetadataList | Form::Discovery, _) => None,
        }
    }

    /// An event of an object in its storage form.
    fn object(&mut self, event: &str, stored: &Bytes) -> Result<Bytes, ApiError> {
        let def = &self.def;
        match self.wanted.form {
            Form::Plain => {
                let json = served_bytes(def, stored)?;
                Ok(self.frame(event, &json, None))
            }
            Form::Table(include) => {
                let value = encode::parse(stored)?;
                let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
                let meta = self.wanted.meta;
                let rows = vec![table::row(def, &value, include, meta)];
                let document = if self.first {
                    table::document(def, metadata, rows, meta)
                } else {
                    table::without_columns(metadata, rows, meta)
                };
                self.first = false;
                Ok(self.frame(event, &Bytes::from(document.to_string()), None))
            }
            Form::Metadata | Form::MetadataList | Form::Discovery => {
                let value = encode::metadata_of(&encode::parse(stored)?, self.wanted.meta);
                Ok(self.frame(event, &Bytes::from(value.to_string()), None))
            }
        }
    }

    fn bookmark(&self, revision: Revision, initial_end: bool) -> Result<Bytes, ApiError> {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let def = &self.def;
        let object = match self.wanted.form {
            Form::Plain => {
                let empty = json!({"kind": def.kind, "apiVersion": def.gv.to_string(), "metadata": metadata});
                let schema = schema(def)?;
                // An empty object still has the fields that its kind always writes.
                let value = schema.conform(empty, FieldValidation::Ignore).map(|d| d.value);
                let value = value.map_err(|e| ApiError::Internal(e.to_string()))?;
                Bytes::from(schema.encode(&to_served(def, value)))
            }
            Form::Table(_) => Bytes::from(table::without_columns(metadata, Vec::new(), self.wanted.meta).to_string()),
            Form::Metadata | Form::MetadataList | Form::Discovery => {
                Bytes::from(encode::metadata_of(&json!({"metadata": metadata}), self.wanted.meta).to_string())
            }
        };
        Ok(self.frame("BOOKMARK", &object, None))
    }

    /// One event: a JSON line, or a length-delimited `WatchEvent` message.
    fn frame(&self, kind: &str, json: &Bytes, value: Option<&Value>) -> Bytes {
        if self.wanted.encoding != Encoding::Protobuf {
            let mut out = BytesMut::with_capacity(json.len() + kind.len() + 24);
            out.put_slice(b"{\"type\":\"");
            out.put_slice(kind.as_bytes());
            out.put_slice(b"\",\"object\":");
            out.put_slice(json);
            out.put_slice(b"}\n");
            return out.freeze();
        }
        let parsed;
        let value = match value {
            Some(value) => value,
            None => {
                parsed = encode::parse(json).unwrap_or(Value::Null);
                &parsed
            }
        };
        let object = match value["kind"] == self.def.kind {
            true => encode::builtin(&self.def).map(|s| s.encode_protobuf(value)).ok(),
            false => encode::protobuf(value),
        };
        let mut raw = Vec::new();
        encode::put_field(&mut raw, 1, &object.unwrap_or_default());
        let mut event = Vec::with_capacity(raw.len() + 16);
        encode::put_field(&mut event, 1, kind.as_bytes());
        encode::put_field(&mut event, 2, &raw);
        if self.websocket {
            return event.into();
        }
        let mut out = BytesMut::with_capacity(event.len() + 4);
        out.put_u32(event.len() as u32);
        out.put_slice(&event);
        out.freeze()
    }
}

/// The same object, with the revision of its deletion.
fn at_revision(bytes: &Bytes, old: Revision, new: Revision) -> Bytes {
    let text = format!("\"metadata\":{{\"resourceVersion\":\"{old}\"");
    let Some(at) = bytes.windows(text.len()).position(|w| w == text.as_bytes()) else { return bytes.clone() };
    let start = at + "\"metadata\":{".len();
    let rest = at + text.len();
    let mut without = Vec::with_capacity(bytes.len());
    without.extend_from_slice(&bytes[..start]);
    without.extend_from_slice(bytes[rest..].strip_prefix(b",").unwrap_or(&bytes[rest..]));
    splice_version(&without, new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deleted_object_carries_the_revision_of_its_deletion() {
        let bytes = Bytes::from_static(br#"{"kind":"A","metadata":{"resourceVersion":"3","name":"a"}}"#);
        assert_eq!(
            at_revision(&bytes, Revision(3), Revision(12)),
            r#"{"kind":"A","metadata":{"resourceVersion":"12","name":"a"}}"#
        );
    }
}
