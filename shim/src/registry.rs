//! The resource table: group/version/resource → `ResourceDef`, and each kind's semantic rules, one resource a file.

pub mod field;

use crate::gvr::GroupVersion;
use crate::meta::Object;
use crate::selector::Pairs;
use field::FieldError;
use serde_json::Value;

/// Everything the generic pipeline must know of one served resource.
pub struct ResourceDef {
    /// Served group and version.
    pub gv: GroupVersion,
    /// Plural, as in paths.
    pub resource: &'static str,
    pub singular: &'static str,
    pub kind: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    /// As discovery lists them, sorted.
    pub verbs: &'static [&'static str],
    /// Upstream's storage prefix below `/registry/` (`minions`, `services/specs`); two GVs of one resource share it.
    pub storage: &'static str,
    /// The version objects are stored in (events.k8s.io/v1 events are stored as core v1 Events).
    pub storage_gv: GroupVersion,
    pub subresources: &'static [Subresource],
    pub columns: &'static [Column],
    /// The cells of one table row, as many as `columns`; `now` is Unix seconds (ages).
    pub row: fn(&Object, i64) -> Vec<Value>,
    /// Names a fieldSelector may use besides metadata.name and metadata.namespace.
    pub selectable: &'static [&'static str],
    /// Values of all selectable fields (metadata.name and metadata.namespace included).
    pub fields: fn(&Object) -> Pairs,
    pub strategy: &'static Strategy,
}

/// A subresource as discovery and the router see it.
pub struct Subresource {
    pub name: &'static str,
    /// Kind of its body (`Pod` for status, `Binding`, `Scale`, `PodExecOptions`, …) and that kind's group version.
    pub kind: &'static str,
    pub gv: GroupVersion,
    pub verbs: &'static [&'static str],
}

/// A printer column (`TableColumnDefinition`). Priority 0 shows always, 1 with `-o wide`.
pub struct Column {
    pub name: &'static str,
    pub kind: &'static str,
    pub format: &'static str,
    pub priority: i32,
    pub description: &'static str,
}

/// A resource's semantic rules as plain functions on the storage form; `Strategy::BASIC` does nothing special.
///
/// Order on create: `default` → `prepare_create` → `validate`. On update: `default` → `prepare_update` → `validate`
/// + `validate_update`. On status update: `prepare_status` → `validate_status`.
pub struct Strategy {
    /// Conditional defaults, idempotent; run on what is decoded, from clients and store alike.
    pub default: fn(&mut Object),
    /// Drops what a client may not set (status), sets generation.
    pub prepare_create: fn(&mut Object),
    /// Carries over what an update may not change (status, generation bump when the spec differs).
    pub prepare_update: fn(new: &mut Object, old: &Object),
    /// For `/status`: keeps everything but status of the old object (and metadata as upstream does).
    pub prepare_status: fn(new: &mut Object, old: &Object),
    pub validate: fn(&Object) -> Vec<FieldError>,
    pub validate_update: fn(new: &Object, old: &Object) -> Vec<FieldError>,
    pub validate_status: fn(new: &Object, old: &Object) -> Vec<FieldError>,
    /// Texts for `Warning` headers on create and update.
    pub warnings: fn(new: &Object, old: Option<&Object>) -> Vec<String>,
    /// Grace period in seconds when the kind is deleted gracefully: given the object and the requested seconds.
    /// `None`: the kind is deleted at once.
    pub grace: Option<fn(&Object, requested: Option<i64>) -> i64>,
    /// PUT to an absent name creates it.
    pub allow_create_on_update: bool,
    /// A PUT without resourceVersion overwrites (else 422 `metadata.resourceVersion: must be specified for an update`).
    pub allow_unconditional_update: bool,
    /// `metadata.generateName` and name rule: the error texts of the name validator for this kind (`true`: is a prefix).
    pub validate_name: fn(&str, prefix: bool) -> Vec<String>,
}

/// The definition served at that path.
pub fn find(_group: &str, _version: &str, _resource: &str) -> Option<&'static ResourceDef> {
    todo!("S3")
}

/// All definitions, in discovery order.
pub fn all() -> &'static [ResourceDef] {
    todo!("S3")
}
