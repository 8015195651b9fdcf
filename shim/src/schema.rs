//! One structural schema for built-ins and CRDs alike, and everything derived from it (DESIGN decision 4).

mod any;
pub mod apply;
mod custom;
mod decode;
mod default;
mod encode;
mod facts;
mod merge;
mod openapi;
mod patch;
mod persisted;
mod proto;
pub mod quantity;
pub mod structural;
mod syntax;
#[cfg(test)]
mod tests;
mod time;
pub mod yaml;

pub use any::AnySchema;
pub use custom::CustomSchema;
pub use openapi::{
    PublishedKind, ServedKind, ServedSubresource, openapi_document, openapi_index, swagger_json, swagger_protobuf,
};
pub use patch::{json_merge, json_patch};
pub use persisted::Persisted;
pub use proto::encode_watch_event;
pub use time::parse_duration;

use crate::gvr::GroupVersion;
use serde_json::Value;

/// How unknown and duplicate fields of a body are treated (`fieldValidation`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// A decoded body.
#[derive(Debug)]
pub struct Decoded {
    /// Pruned, null-free, quantities and times canonical, omitted zeros dropped. Not defaulted.
    pub value: Value,
    /// Texts for `Warning` headers (fieldValidation=Warn), without the `299 - ` prefix.
    pub warnings: Vec<String>,
}

/// Why a body or patch was refused; the text is what Go's decoder says.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// Not JSON, or not an object with a readable kind: 400 BadRequest. The text is the whole message.
    #[error("{0}")]
    Unrecognized(String),
    /// A wrong type, or a patch of the wrong form: 400 BadRequest.
    #[error("{0}")]
    Decode(String),
    /// fieldValidation=Strict and unknown or duplicate fields: 400 `strict decoding error: …`.
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
    /// A JSON patch that does not apply: 422 Invalid with empty details.
    #[error("{0}")]
    Patch(String),
    /// A strategic merge patch that contradicts itself or the schema: upstream answers a bare 500 with this text.
    #[error("{0}")]
    Unmergeable(String),
}

/// The schema of one kind.
#[derive(Debug)]
pub struct Schema {
    gv: GroupVersion,
    kind: &'static str,
    ty: facts::TypeId,
}

impl Schema {
    /// The built-in of that version and kind. Kinds of `meta.k8s.io` (DeleteOptions, Status, …) exist in every version.
    pub fn builtin(gv: GroupVersion, kind: &str) -> Option<&'static Schema> {
        let facts = facts::facts();
        facts.kind(gv.group, gv.version, kind).or_else(|| facts.kind("meta.k8s.io", "v1", kind))
    }

    /// The built-in that an object says it is of.
    pub fn named(api_version: &str, kind: &str) -> Option<&'static Schema> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        facts::facts().kind(group, version, kind)
    }

    /// Every built-in, ordered by group, version and kind.
    pub fn builtins() -> &'static [Schema] {
        facts::facts().kinds()
    }

    pub fn group_version(&self) -> GroupVersion {
        self.gv
    }

    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// As `apiVersion` writes it; meta's own kinds are `v1` but for Table and PartialObjectMetadata.
    pub fn api_version(&self) -> String {
        let partial = matches!(self.kind, "Table" | "PartialObjectMetadata" | "PartialObjectMetadataList");
        if self.gv.group == "meta.k8s.io" && !partial { "v1".to_owned() } else { self.gv.to_string() }
    }

    /// The OpenAPI component: `io.k8s.api.core.v1.Pod`.
    pub fn type_name(&self) -> &'static str {
        facts::facts().ty(self.ty).openapi
    }

    /// Reads a JSON body.
    pub fn decode(&'static self, json: &[u8], validation: FieldValidation) -> Result<Decoded, SchemaError> {
        decode::decode(self, json, validation)
    }

    /// The same rules on a value at hand (after a patch was applied).
    pub fn conform(&'static self, value: Value, validation: FieldValidation) -> Result<Decoded, SchemaError> {
        decode::conform(self, value, validation)
    }

    /// The message of the 400 that answers a body which `decode` refused.
    pub fn refusal(&self, error: &SchemaError, body: &[u8]) -> String {
        #[derive(serde::Deserialize, Default)]
        #[serde(rename_all = "camelCase", default)]
        struct TypeMeta {
            api_version: Option<String>,
            kind: Option<String>,
        }
        if let SchemaError::Unrecognized(text) = error {
            return text.clone();
        }
        let meta = match proto::type_of(body) {
            Ok((version, kind)) => TypeMeta { api_version: Some(version.to_owned()), kind: Some(kind.to_owned()) },
            Err(_) => serde_json::from_slice(body).unwrap_or_default(),
        };
        let own = self.api_version();
        let kind = meta.kind.as_deref().filter(|kind| !kind.is_empty()).unwrap_or(self.kind);
        let api_version = meta.api_version.as_deref().filter(|v| !v.is_empty()).unwrap_or(&own);
        let version = api_version.rsplit_once('/').map_or(api_version, |(_, version)| version);
        format!("{kind} in version \"{version}\" cannot be handled as a {}: {error}", self.kind)
    }

    /// Static defaults (not the conditional ones: those are the registry's).
    pub fn default(&self, value: &mut Value) {
        default::apply(self, value);
    }

    /// Canonical bytes: `{"kind":…,"apiVersion":…,"metadata":{…` with fields in declared order, map keys sorted.
    pub fn encode(&self, value: &Value) -> Vec<u8> {
        encode::encode(self, value)
    }

    /// `application/vnd.kubernetes.protobuf` with its `k8s\0` envelope.
    pub fn encode_protobuf(&self, value: &Value) -> Vec<u8> {
        proto::encode(self, value)
    }

    /// Reads what `encode_protobuf`, or any Kubernetes component, wrote.
    pub fn decode_protobuf(&'static self, bytes: &[u8]) -> Result<Decoded, SchemaError> {
        proto::decode(self, bytes)
    }

    /// Strategic merge patch of `original` by `patch`, with `$patch`, `$retainKeys`, `$setElementOrder`, `$deleteFromPrimitiveList`.
    pub fn strategic_merge(&self, original: &Value, patch: &Value) -> Result<Value, SchemaError> {
        merge::strategic(self, original, patch)
    }

    /// Makes the value what reading its own canonical bytes would give.
    pub fn canonicalize(&self, value: &mut Value) {
        encode::canonical(self, value);
    }

    /// The type as server-side apply sees it.
    pub fn typed(&self) -> apply::Builtin {
        apply::Builtin::of(self.ty)
    }

    fn has_type_meta(&self) -> bool {
        facts::facts().ty(self.ty).field("kind").is_some() && facts::facts().ty(self.ty).field("apiVersion").is_some()
    }
}
