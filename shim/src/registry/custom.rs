//! Custom resources: what the versions of a CustomResourceDefinition become as served resources, and the rules of their
//! objects.

pub mod columns;
pub(crate) mod format;
pub mod jsonpath;
mod lists;
pub mod rules;
#[cfg(test)]
mod tests;
mod validate;

use super::field::{Cause, Errors};
use super::scale::{SCALE, ScalePaths};
use super::value::{bump_generation, carry_over, items, keep_all_but_status, root, text, truth};
use super::{ResourceDef, STATUS_VERBS, Strategy, Subresource, meta, names};
use crate::gvr::{GroupVersion, intern, intern_all};
use crate::meta::{Meta, Object};
use crate::schema::structural::Structural;
use crate::schema::{CustomSchema, PublishedKind};
use crate::selector::Pairs;
use columns::PrinterColumn;
use jsonpath::JsonPath;
use rules::Rules;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// As upstream's discovery lists the verbs of a custom resource.
const VERBS: &[&str] = &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];

/// What a custom resource has beyond what every resource has.
#[derive(Debug)]
pub struct CustomKind {
    /// The schema of this version.
    pub schema: Arc<CustomSchema>,
    /// The schema of the version that is stored.
    pub stored: Arc<CustomSchema>,
    pub list_kind: &'static str,
    /// The state of the definition that this was made of.
    pub edition: Box<str>,
    /// The definition is being deleted: nothing new is made.
    pub terminating: bool,
    namespaced: bool,
    /// Objects may have been written when the schema was another: they are read as it is now.
    changed: bool,
    /// The CEL rules of the stored version.
    rules: Arc<Rules>,
    columns: Vec<PrinterColumn>,
    selectable: Vec<(&'static str, JsonPath)>,
}

/// What a definition serves: one resource for each served version. Names are those accepted.
pub fn resources(definition: &Object) -> Vec<ResourceDef> {
    let (spec, accepted) = (&definition["spec"], &definition["status"]["acceptedNames"]);
    let (group, plural, kind) = (text(&spec["group"]), text(&accepted["plural"]), intern(text(&accepted["kind"])));
    let versions = items(&spec["versions"]);
    let schemas: Vec<Arc<CustomSchema>> = versions.iter().map(|v| Arc::new(schema(group, kind, v))).collect();
    let Some(at) = versions.iter().position(|version| truth(&version["storage"])) else { return Vec::new() };
    let stored = &schemas[at];
    let rules = Arc::new(Rules::of(&stored.root));
    let served = versions.iter().zip(&schemas).filter(|(version, _)| truth(&version["served"]));
    let list = |value: &Value| intern_all(items(value).iter().map(text));
    served
        .map(|(version, schema)| {
            let status = version["subresources"]["status"].is_object();
            let scale = scale_paths(&version["subresources"]["scale"]);
            let selectable: Vec<(&'static str, JsonPath)> = items(&version["selectableFields"])
                .iter()
                .filter_map(|field| {
                    let path = text(&field["jsonPath"]);
                    Some((intern(path.trim_start_matches('.')), JsonPath::parse(path).ok()?))
                })
                .collect();
            let namespaced = spec["scope"] == "Namespaced";
            let custom = CustomKind {
                schema: schema.clone(),
                stored: stored.clone(),
                list_kind: intern(text(&accepted["listKind"])),
                edition: format!("{}/{}", definition.uid(), definition["metadata"]["generation"]).into(),
                terminating: definition.deletion_timestamp().is_some(),
                namespaced,
                rules: rules.clone(),
                changed: definition["metadata"]["generation"].as_i64().unwrap_or(1) > 1,
                columns: columns::of(version),
                selectable,
            };
            ResourceDef {
                gv: schema.gv,
                resource: intern(plural),
                singular: intern(text(&accepted["singular"])),
                kind,
                short_names: list(&accepted["shortNames"]),
                categories: list(&accepted["categories"]),
                namespaced,
                verbs: VERBS,
                storage: intern(&format!("{group}/{plural}")),
                storage_gv: stored.gv,
                subresources: subresources(schema.gv, kind, status, scale.is_some()),
                scale,
                selectable: intern_all(custom.selectable.iter().map(|(name, _)| *name)),
                strategy: if status { &WITH_STATUS } else { &PLAIN },
                deprecation: deprecation(version, schema),
                custom: Some(Arc::new(custom)),
                ..ResourceDef::BASIC
            }
        })
        .collect()
}

/// What a definition publishes in OpenAPI: its served versions.
pub fn published(definition: &Object) -> Vec<PublishedKind> {
    let (spec, accepted) = (&definition["spec"], &definition["status"]["acceptedNames"]);
    let served = items(&spec["versions"]).iter().filter(|version| truth(&version["served"]));
    served
        .map(|version| PublishedKind {
            gv: GroupVersion::interned(text(&spec["group"]), text(&version["name"])),
            kind: intern(text(&accepted["kind"])),
            list_kind: intern(text(&accepted["listKind"])),
            schema: version["schema"]["openAPIV3Schema"].clone(),
        })
        .collect()
}

fn schema(group: &str, kind: &'static str, version: &Value) -> CustomSchema {
    let schema = &version["schema"]["openAPIV3Schema"];
    CustomSchema {
        gv: GroupVersion::interned(group, text(&version["name"])),
        kind,
        root: if schema.is_object() { Structural::parse(schema) } else { Structural::anything() },
    }
}

fn deprecation(version: &Value, schema: &CustomSchema) -> Option<&'static str> {
    match (truth(&version["deprecated"]), version["deprecationWarning"].as_str()) {
        (false, _) => None,
        (true, Some(text)) => Some(intern(text)),
        (true, None) => Some(intern(&format!("{} {} is deprecated", schema.gv, schema.kind))),
    }
}

/// Where a `Scale` finds its numbers, when there is one.
fn scale_paths(scale: &Value) -> Option<ScalePaths> {
    let path = |field: &str| scale[field].as_str().filter(|path| !path.is_empty()).map(intern);
    Some(ScalePaths {
        spec_replicas: path("specReplicasPath")?,
        status_replicas: path("statusReplicasPath")?,
        selector: path("labelSelectorPath"),
    })
}

/// The one copy of each list of subresources that custom resources have.
fn subresources(gv: GroupVersion, kind: &'static str, status: bool, scale: bool) -> &'static [Subresource] {
    type Key = (GroupVersion, &'static str, bool, bool);
    static KNOWN: Mutex<BTreeMap<Key, &'static [Subresource]>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.entry((gv, kind, status, scale)).or_insert_with(|| {
        let own = status.then_some(Subresource { name: "status", kind, gv, verbs: STATUS_VERBS });
        let list: Vec<Subresource> = own.into_iter().chain(scale.then_some(SCALE)).collect();
        Box::leak(list.into())
    })
}

/// Custom resources without a status subresource: every change outside the metadata counts.
const PLAIN: Strategy = Strategy {
    prepare_create: |new| {
        new.meta_mut().insert("generation".into(), 1.into());
    },
    prepare_update: |new, old| {
        let changed = differs(new, old, &["metadata"]);
        bump_generation(new, old, changed);
    },
    allow_unconditional_update: false,
    validate_name: names::dns1123_subdomain,
    ..Strategy::BASIC
};

/// Those with one: the main resource leaves the status alone, and it does not count.
const WITH_STATUS: Strategy = Strategy {
    prepare_create: |new| {
        root(new).remove("status");
        new.meta_mut().insert("generation".into(), 1.into());
    },
    prepare_update: |new, old| {
        carry_over(new, old, "status");
        let changed = differs(new, old, &["metadata", "status"]);
        bump_generation(new, old, changed);
    },
    prepare_status: |new, old| {
        keep_all_but_status(new, old);
        let managed = new["metadata"]["managedFields"].clone();
        carry_over(new, old, "metadata");
        match managed {
            Value::Null => new.meta_mut().remove("managedFields"),
            managed => new.meta_mut().insert("managedFields".into(), managed),
        };
    },
    ..PLAIN
};

fn differs(new: &Object, old: &Object, except: &[&str]) -> bool {
    let content = |object: &Object| -> BTreeMap<String, Value> {
        let fields = object.as_object().into_iter().flatten();
        let counted = fields.filter(|(name, _)| !except.contains(&name.as_str()) && *name != "apiVersion");
        counted.map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    content(new) != content(old)
}

impl CustomKind {
    /// Whether stored bytes are what this version serves.
    pub fn reads_as_stored(&self) -> bool {
        self.schema.gv == self.stored.gv && !self.changed
    }

    /// What was read in this version, as it is stored.
    pub fn to_storage(&self, object: Object) -> Object {
        if self.schema.gv == self.stored.gv { object } else { self.stored.reshape(object) }
    }

    /// A stored object as this version shows it: read with the storage version's schema as it is now, then renamed.
    pub fn to_served(&self, object: Object) -> Object {
        if self.reads_as_stored() {
            return object;
        }
        let mut object = self.stored.reshape(object);
        object["apiVersion"] = self.schema.api_version().into();
        object
    }

    /// The columns of its tables and the cells of one row.
    pub fn columns(&self) -> &[PrinterColumn] {
        &self.columns
    }

    /// The values of the selectable fields of a stored object.
    pub fn fields(&self, object: &Object) -> Pairs {
        let mut pairs = super::meta_fields(object);
        for (name, path) in &self.selectable {
            let value = match path.find(object).first() {
                Some(Value::String(text)) => text.clone(),
                Some(scalar @ (Value::Bool(_) | Value::Number(_))) => scalar.to_string(),
                _ => String::new(),
            };
            pairs.insert((*name).into(), value.as_str().into());
        }
        pairs
    }

    /// Errors of a new object.
    pub fn validate(&self, object: &Object) -> Errors {
        self.check(object, None)
    }

    /// Errors of an update: what has not changed is not held against it.
    pub fn validate_update(&self, new: &Object, old: &Object) -> Errors {
        let mut errors = meta::validate_update(new, old);
        errors.extend(self.check(new, Some(old)));
        errors
    }

    fn check(&self, object: &Object, old: Option<&Object>) -> Errors {
        let mut errors = match old {
            None => meta::validate(object, self.namespaced, names::dns1123_subdomain),
            Some(_) => Errors::new(),
        };
        let schema = &self.stored.root;
        validate::validate(schema, object, old, &mut errors);
        validate::embedded(schema, object, &mut errors);
        lists::validate(schema, object, old, &mut errors);
        if !self.rules.is_empty() {
            if errors.iter().any(|error| is_blocking(error.cause)) {
                errors.push(rules::not_checked());
            } else {
                self.rules.validate(schema, object, old, &mut errors);
            }
        }
        errors
    }
}

/// What a value has against its schema, paths from itself on.
pub fn value_errors(schema: &Structural, value: &Value) -> Errors {
    let mut errors = Errors::new();
    validate::validate(schema, value, None, &mut errors);
    lists::validate(schema, value, None, &mut errors);
    errors
}

/// Errors after which CEL rules are not evaluated: the object is not of the type that they expect.
fn is_blocking(cause: Cause) -> bool {
    matches!(cause, Cause::Required | Cause::TooLong | Cause::TooMany | Cause::TypeInvalid)
}
