//! The resource table: group/version/resource → `ResourceDef`, and each kind's semantic rules, one resource a file.
//!
//! `core/`, `coordination/`, … hold one file a resource: its definition, defaults, rules and table row. The other
//! modules are what those files share. Nothing here sees the store, a clock or the runtime.

pub mod admissionregistration;
pub mod apiextensions;
pub mod apiregistration;
pub mod apps;
pub mod authentication;
pub mod authorization;
pub mod autoscaling;
pub mod batch;
pub mod catalog;
pub mod certificates;
pub mod coordination;
pub mod core;
pub mod custom;
pub mod discovery;
pub mod duration;
pub mod events;
pub mod field;
pub mod flowcontrol;
pub mod gv;
pub mod ip;
pub mod labels;
pub mod meta;
pub mod names;
pub mod networking;
pub mod node;
pub mod policy;
pub mod quantity;
pub mod rbac;
pub mod resource;
pub mod scale;
pub mod scheduling;
pub mod storage;
pub mod table;
pub mod template;
pub mod value;

pub use catalog::{Catalog, Def, Served};

use crate::gvr::GroupVersion;
use crate::meta::{Meta, Object};
use crate::selector::Pairs;
use field::FieldError;
use serde_json::Value;
use std::sync::Arc;

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
    /// The cells of one table row, as many as `columns`; `now` is Unix seconds (ages). Takes the storage form.
    pub row: fn(&Object, i64) -> Vec<Value>,
    /// `TableRow.conditions`: present on rows of pods that have finished.
    pub row_conditions: fn(&Object) -> Vec<Value>,
    /// Names a fieldSelector may use besides metadata.name and metadata.namespace.
    pub selectable: &'static [&'static str],
    /// Values of all selectable fields (metadata.name and metadata.namespace included).
    pub fields: fn(&Object) -> Pairs,
    pub strategy: &'static Strategy,
    /// Text of a `Warning` header on every request, of a deprecated resource.
    pub deprecation: Option<&'static str>,
    /// What a custom resource has beyond that: its schema, and the rules that follow from it.
    pub custom: Option<Arc<custom::CustomKind>>,
    /// Between this version and the stored one, where their forms differ.
    pub conversion: Option<&'static Conversion>,
    /// What its `scale` subresource shows and sets, when it has one.
    pub scale: Option<scale::ScalePaths>,
    /// Deletion answers with the object (upstream's `ReturnDeletedObject`), not with a Status.
    pub returns_deleted: bool,
    /// What depends on a deleted object stays, unless the request says otherwise.
    pub orphans_by_default: bool,
}

impl ResourceDef {
    /// What most resources have in common; the definitions override what differs.
    pub const BASIC: Self = Self {
        gv: gv::CORE_V1,
        resource: "",
        singular: "",
        kind: "",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: ALL_VERBS,
        storage: "",
        storage_gv: gv::CORE_V1,
        subresources: &[],
        columns: table::DEFAULT_COLUMNS,
        row: table::default_row,
        row_conditions: |_| Vec::new(),
        selectable: &[],
        fields: meta_fields,
        strategy: &Strategy::BASIC,
        deprecation: None,
        custom: None,
        conversion: None,
        scale: None,
        returns_deleted: false,
        orphans_by_default: false,
    };

    /// The subresource of that name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Errors of a new object.
    pub fn validate(&self, object: &Object) -> Vec<FieldError> {
        match &self.custom {
            Some(custom) => custom.validate(object),
            None => (self.strategy.validate)(object),
        }
    }

    /// Errors of an update, each once.
    pub fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        if let Some(custom) = &self.custom {
            return custom.validate_update(new, old);
        }
        let mut errors = (self.strategy.validate_update)(new, old);
        for error in (self.strategy.validate)(new) {
            if !errors.contains(&error) {
                errors.push(error);
            }
        }
        errors
    }

    pub fn validate_status(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        match &self.custom {
            Some(custom) => custom.validate_update(new, old),
            None => (self.strategy.validate_status)(new, old),
        }
    }

    /// Values of all selectable fields.
    pub fn fields_of(&self, object: &Object) -> Pairs {
        match &self.custom {
            Some(custom) => custom.fields(object),
            None => (self.fields)(object),
        }
    }

    /// The kind of a list of these.
    pub fn list_kind(&self) -> String {
        match &self.custom {
            Some(custom) => custom.list_kind.to_owned(),
            None => format!("{}List", self.kind),
        }
    }

    /// Whether a fieldSelector may name that field.
    pub fn is_selectable(&self, field: &str) -> bool {
        field == "metadata.name"
            || (field == "metadata.namespace" && self.namespaced)
            || self.selectable.contains(&field)
    }
}

/// How a served version's form becomes the stored one, and the reverse.
#[derive(Debug)]
pub struct Conversion {
    pub to_storage: fn(Object) -> Object,
    pub to_served: fn(Object) -> Object,
}

/// A subresource as discovery and the router see it.
pub struct Subresource {
    pub name: &'static str,
    /// Kind of its body (`Pod` for status, `Binding`, `Scale`, `PodExecOptions`, …) and that kind's group version.
    pub kind: &'static str,
    pub gv: GroupVersion,
    pub verbs: &'static [&'static str],
}

impl Subresource {
    /// One whose body is a core/v1 kind.
    pub const fn core(name: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> Self {
        Self { name, kind, gv: gv::CORE_V1, verbs }
    }
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
    /// Errors of a new object, metadata included.
    pub validate: fn(&Object) -> Vec<FieldError>,
    /// Errors of an update that `validate` of the new object does not report (immutable fields), metadata included.
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

impl Strategy {
    /// A namespaced kind without defaults or status, whose metadata alone has rules, deleted at once.
    pub const BASIC: Self = Self {
        default: |_| (),
        prepare_create: |_| (),
        prepare_update: |_, _| (),
        prepare_status: value::keep_all_but_status,
        validate: meta::validate_namespaced,
        validate_update: meta::validate_update,
        validate_status: meta::validate_update,
        warnings: |_, _| Vec::new(),
        grace: None,
        allow_create_on_update: false,
        allow_unconditional_update: true,
        validate_name: names::dns1123_subdomain,
    };
}

/// The verbs of a resource that can do everything.
pub const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// The verbs of what is only asked.
pub const CREATE_ONLY: &[&str] = &["create"];
/// The verbs of a `/status` subresource.
pub const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

/// All definitions, groups in discovery order, a group's preferred version first, resources sorted within a version.
static ALL: [ResourceDef; 68] = [
    core::binding::DEF,
    core::componentstatus::DEF,
    core::configmap::DEF,
    core::endpoints::DEF,
    core::event::DEF,
    core::limitrange::DEF,
    core::namespace::DEF,
    core::node::DEF,
    core::persistentvolumeclaim::DEF,
    core::persistentvolume::DEF,
    core::pod::DEF,
    core::podtemplate::DEF,
    core::replicationcontroller::DEF,
    core::resourcequota::DEF,
    core::secret::DEF,
    core::serviceaccount::DEF,
    core::service::DEF,
    apiregistration::apiservice::DEF,
    apps::controllerrevision::DEF,
    apps::daemonset::DEF,
    apps::deployment::DEF,
    apps::replicaset::DEF,
    apps::statefulset::DEF,
    events::event::DEF,
    authentication::SELF_SUBJECT_REVIEW,
    authentication::TOKEN_REVIEW,
    authorization::LOCAL_SUBJECT_ACCESS_REVIEW,
    authorization::SELF_SUBJECT_ACCESS_REVIEW,
    authorization::SELF_SUBJECT_RULES_REVIEW,
    authorization::SUBJECT_ACCESS_REVIEW,
    autoscaling::horizontalpodautoscaler::V2,
    autoscaling::horizontalpodautoscaler::V1,
    batch::cronjob::DEF,
    batch::job::DEF,
    certificates::certificatesigningrequest::DEF,
    networking::ingressclass::DEF,
    networking::ingress::DEF,
    networking::ipaddress::DEF,
    networking::networkpolicy::DEF,
    networking::servicecidr::DEF,
    policy::poddisruptionbudget::DEF,
    rbac::binding::CLUSTER_ROLE_BINDING,
    rbac::role::CLUSTER_ROLE,
    rbac::binding::ROLE_BINDING,
    rbac::role::ROLE,
    storage::csidriver::DEF,
    storage::csinode::DEF,
    storage::csistoragecapacity::DEF,
    storage::storageclass::DEF,
    storage::volumeattachment::DEF,
    storage::volumeattributesclass::DEF,
    admissionregistration::policies::MUTATING,
    admissionregistration::policies::MUTATING_BINDING,
    admissionregistration::webhooks::MUTATING,
    admissionregistration::policies::VALIDATING,
    admissionregistration::policies::VALIDATING_BINDING,
    admissionregistration::webhooks::VALIDATING,
    apiextensions::customresourcedefinition::DEF,
    scheduling::priorityclass::DEF,
    coordination::lease::DEF,
    node::runtimeclass::DEF,
    discovery::endpointslice::DEF,
    resource::deviceclass::DEF,
    resource::resourceclaim::DEF,
    resource::resourceclaimtemplate::DEF,
    resource::resourceslice::DEF,
    flowcontrol::flowschema::DEF,
    flowcontrol::prioritylevelconfiguration::DEF,
];

/// The definition served at that path.
pub fn find(group: &str, version: &str, resource: &str) -> Option<&'static ResourceDef> {
    ALL.iter().find(|d| d.resource == resource && d.gv.group == group && d.gv.version == version)
}

/// All definitions, in discovery order.
pub fn all() -> &'static [ResourceDef] {
    &ALL
}

/// The two fields that every kind can be selected by.
pub fn meta_fields(object: &Object) -> Pairs {
    let mut pairs = Pairs::new();
    pairs.insert("metadata.name".into(), object.name().into());
    if !object.namespace().is_empty() {
        pairs.insert("metadata.namespace".into(), object.namespace().into());
    }
    pairs
}

#[cfg(test)]
mod tests;
