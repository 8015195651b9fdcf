//! Served form ↔ storage form, for the resources that are served in more versions than they are stored in.

use crate::error::ApiError;
use crate::meta::Object;
use crate::registry::ResourceDef;
use crate::schema::{AnySchema, Schema};
use bytes::Bytes;

/// Whether objects are stored as they are served.
pub fn is_stored_form(def: &ResourceDef) -> bool {
    def.gv == def.storage_gv && def.custom.as_ref().is_none_or(|custom| custom.reads_as_stored())
}

pub(super) fn to_storage(def: &ResourceDef, object: Object) -> Object {
    match (&def.custom, def.conversion) {
        (Some(custom), _) => custom.to_storage(object),
        (None, Some(conversion)) => (conversion.to_storage)(object),
        (None, None) => object,
    }
}

pub fn to_served(def: &ResourceDef, object: Object) -> Object {
    match (&def.custom, def.conversion) {
        (Some(custom), _) => custom.to_served(object),
        (None, Some(conversion)) => (conversion.to_served)(object),
        (None, None) => object,
    }
}

/// The wire form of stored bytes: usually the same bytes.
pub fn served_bytes(def: &ResourceDef, stored: &Bytes) -> Result<Bytes, ApiError> {
    if is_stored_form(def) {
        return Ok(stored.clone());
    }
    Ok(schema(def)?.encode(&to_served(def, super::stored::value(stored)?)).into())
}

/// The schema of the served form.
pub fn schema(def: &ResourceDef) -> Result<AnySchema<'_>, ApiError> {
    if let Some(custom) = &def.custom {
        return Ok(AnySchema::Custom(&custom.schema));
    }
    Schema::builtin(def.gv, def.kind)
        .map(AnySchema::BuiltIn)
        .ok_or_else(|| ApiError::Internal(format!("no schema for {} {}", def.gv, def.kind)))
}

/// The schema of the storage form.
pub(super) fn storage_schema(def: &ResourceDef) -> Result<AnySchema<'_>, ApiError> {
    if let Some(custom) = &def.custom {
        return Ok(AnySchema::Custom(&custom.stored));
    }
    Schema::builtin(def.storage_gv, def.kind)
        .map(AnySchema::BuiltIn)
        .ok_or_else(|| ApiError::Internal(format!("no schema for {} {}", def.storage_gv, def.kind)))
}
