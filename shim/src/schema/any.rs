//! A kind's schema, built in or custom, as the pipeline sees it.

use super::apply::{AnyType, Custom};
use super::custom::CustomSchema;
use super::{Decoded, FieldValidation, Schema, SchemaError};
use crate::gvr::GroupVersion;
use serde_json::Value;

/// The schema of one kind in one version.
#[derive(Clone, Copy, Debug)]
pub enum AnySchema<'a> {
    BuiltIn(&'static Schema),
    Custom(&'a CustomSchema),
}

impl<'a> AnySchema<'a> {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::BuiltIn(schema) => schema.kind(),
            Self::Custom(schema) => schema.kind,
        }
    }

    pub fn group_version(&self) -> GroupVersion {
        match self {
            Self::BuiltIn(schema) => schema.group_version(),
            Self::Custom(schema) => schema.gv,
        }
    }

    /// As `apiVersion` writes it.
    pub fn api_version(&self) -> String {
        match self {
            Self::BuiltIn(schema) => schema.api_version(),
            Self::Custom(schema) => schema.api_version(),
        }
    }

    /// Reads a JSON body.
    pub fn decode(&self, json: &[u8], validation: FieldValidation) -> Result<Decoded, SchemaError> {
        match self {
            Self::BuiltIn(schema) => schema.decode(json, validation),
            Self::Custom(schema) => schema.decode(json, validation),
        }
    }

    /// The same rules on a value at hand (after a patch was applied).
    pub fn conform(&self, value: Value, validation: FieldValidation) -> Result<Decoded, SchemaError> {
        match self {
            Self::BuiltIn(schema) => schema.conform(value, validation),
            Self::Custom(schema) => schema.conform(value, validation),
        }
    }

    /// The message of the 400 that answers a body which `decode` refused.
    pub fn refusal(&self, error: &SchemaError, body: &[u8]) -> String {
        match self {
            Self::BuiltIn(schema) => schema.refusal(error, body),
            Self::Custom(schema) => schema.refusal(error),
        }
    }

    /// Static defaults.
    pub fn default(&self, value: &mut Value) {
        match self {
            Self::BuiltIn(schema) => schema.default(value),
            Self::Custom(schema) => schema.default(value),
        }
    }

    /// Makes the value what reading its own canonical bytes would give.
    pub fn canonicalize(&self, value: &mut Value) {
        match self {
            Self::BuiltIn(schema) => schema.canonicalize(value),
            // Nothing is written that is not there.
            Self::Custom(_) => {}
        }
    }

    /// The type as server-side apply sees it.
    pub fn typed(self) -> AnyType<'a> {
        match self {
            Self::BuiltIn(schema) => AnyType::Builtin(schema.typed()),
            Self::Custom(schema) => AnyType::Custom(Custom::Object(&schema.root)),
        }
    }

    /// Canonical bytes.
    pub fn encode(&self, value: &Value) -> Vec<u8> {
        match self {
            Self::BuiltIn(schema) => schema.encode(value),
            Self::Custom(schema) => schema.encode(value),
        }
    }

    /// `application/vnd.kubernetes.protobuf`; custom resources have none.
    pub fn encode_protobuf(&self, value: &Value) -> Option<Vec<u8>> {
        match self {
            Self::BuiltIn(schema) => Some(schema.encode_protobuf(value)),
            Self::Custom(_) => None,
        }
    }

    /// The built-in; protobuf and strategic merge patches are theirs alone.
    pub fn builtin(&self) -> Option<&'static Schema> {
        match self {
            Self::BuiltIn(schema) => Some(schema),
            Self::Custom(_) => None,
        }
    }
}
