//! Served form ↔ storage form, for the resources that are served in more versions than they are stored in.

use crate::error::ApiError;
use crate::meta::Object;
use crate::registry::ResourceDef;
use crate::registry::events::event;
use crate::schema::Schema;
use bytes::Bytes;

/// Whether objects are stored as they are served.
pub(super) fn is_stored_form(def: &ResourceDef) -> bool {
    def.gv == def.storage_gv
}

pub(super) fn to_storage(def: &ResourceDef, object: Object) -> Object {
    if is_stored_form(def) { object } else { event::to_core(object) }
}

pub fn to_served(def: &ResourceDef, object: Object) -> Object {
    if is_stored_form(def) { object } else { event::from_core(object) }
}

/// The wire form of stored bytes: usually the same bytes.
pub fn served_bytes(def: &ResourceDef, stored: &Bytes) -> Result<Bytes, ApiError> {
    if is_stored_form(def) {
        return Ok(stored.clone());
    }
    Ok(schema(def)?.encode(&to_served(def, super::stored::value(stored)?)).into())
}

/// The schema of the served form.
pub(super) fn schema(def: &ResourceDef) -> Result<&'static Schema, ApiError> {
    Schema::builtin(def.gv, def.kind)
        .ok_or_else(|| ApiError::Internal(format!("no schema for {} {}", def.gv, def.kind)))
}

/// The schema of the storage form.
pub(super) fn storage_schema(def: &ResourceDef) -> Result<&'static Schema, ApiError> {
    Schema::builtin(def.storage_gv, def.kind)
        .ok_or_else(|| ApiError::Internal(format!("no schema for {} {}", def.storage_gv, def.kind)))
}
