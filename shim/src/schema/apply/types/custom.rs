//! Types of custom resources as an applier sees them: their structural schema says it.

use super::{AnyType, Entry, Form, Scalar, Typed};
use crate::gvr::GroupVersion;
use crate::schema::Schema;
use crate::schema::structural::{Additional, ListType, Structural, Type};
use serde_json::Value;

/// A node of a custom resource's schema.
#[derive(Clone, Copy, Debug)]
pub enum Custom<'s> {
    /// A whole object: it has a kind and metadata, whatever its schema says.
    Object(&'s Structural),
    Node(&'s Structural),
    /// `kind` and `apiVersion`.
    Text,
    /// Nothing is known.
    Anything,
}

impl<'s> Custom<'s> {
    fn node(schema: &'s Structural) -> Self {
        if schema.embedded { Self::Object(schema) } else { Self::Node(schema) }
    }

    fn schema(self) -> Option<&'s Structural> {
        match self {
            Self::Object(schema) | Self::Node(schema) => Some(schema),
            Self::Text | Self::Anything => None,
        }
    }

    pub(super) fn form(self) -> Form<'s, AnyType<'s>> {
        let schema = match self {
            Self::Text => return Form::Scalar(Scalar::String),
            Self::Anything => return Form::Deduced,
            Self::Object(schema) | Self::Node(schema) => schema,
        };
        if schema.int_or_string {
            return Form::Scalar(Scalar::Any);
        }
        match schema.ty {
            Type::String => Form::Scalar(Scalar::String),
            Type::Integer | Type::Number => Form::Scalar(Scalar::Number),
            Type::Boolean => Form::Scalar(Scalar::Bool),
            Type::Any => Form::Deduced,
            Type::Object if schema.atomic_map => Form::AtomicMap,
            Type::Object => Form::Map,
            Type::Array => {
                let item = AnyType::Custom(schema.items.as_deref().map_or(Self::Anything, Self::node));
                match &schema.list {
                    ListType::Atomic => Form::AtomicList(item),
                    ListType::Set => Form::Set(item),
                    ListType::Map(keys) => Form::Keyed(keys, item),
                }
            }
        }
    }

    pub(super) fn entry(self, name: &str) -> Option<Entry<AnyType<'s>>> {
        let declared = |of| Some(Entry { of, declared: true });
        if let Self::Object(_) = self {
            match name {
                "kind" | "apiVersion" => return declared(AnyType::Custom(Self::Text)),
                "metadata" => return declared(metadata()),
                _ => {}
            }
        }
        let Some(schema) = self.schema() else {
            return Some(Entry { of: AnyType::Custom(Self::Anything), declared: false });
        };
        if let Some(property) = schema.property(name) {
            return declared(AnyType::Custom(Self::node(property)));
        }
        let free = schema.preserve || matches!(schema.additional, Additional::Any) || schema.properties().len() == 0;
        let of = match &schema.additional {
            Additional::Each(value) => Self::node(value),
            Additional::Any | Additional::None if free => Self::Anything,
            Additional::Any | Additional::None => return None,
        };
        Some(Entry { of: AnyType::Custom(of), declared: false })
    }

    pub(super) fn key_default(self, key: &str) -> Option<Value> {
        self.schema()?.property(key)?.default.as_deref().cloned()
    }
}

/// ObjectMeta, the same for all.
fn metadata() -> AnyType<'static> {
    let bare = Schema::builtin(GroupVersion { group: "meta.k8s.io", version: "v1" }, "PartialObjectMetadata");
    let entry = bare.and_then(|schema| schema.typed().entry("metadata"));
    entry.map_or(AnyType::Custom(Custom::Anything), |entry| AnyType::Builtin(entry.of))
}
