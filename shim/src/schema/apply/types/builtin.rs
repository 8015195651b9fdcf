//! Built-in types as an applier sees them: the facts say it.

use super::{Entry, Form, Scalar, Typed};
use crate::schema::facts::{Field, Ownership, Rule, Shape, TypeId, facts};
use serde_json::Value;

/// A built-in's type, or one of its fields'.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    shape: Shape,
    /// What its field says, when it is a struct's.
    field: Option<&'static Field>,
}

impl Builtin {
    pub(in crate::schema) fn of(id: TypeId) -> Builtin {
        Builtin { shape: Shape::Struct(id), field: None }
    }
}

impl Typed<'static> for Builtin {
    fn form(self) -> Form<'static, Self> {
        let ownership = self.field.map_or(&Ownership::ByType, |field| &field.ownership);
        match self.shape {
            Shape::String { .. } | Shape::Bytes | Shape::Time | Shape::MicroTime | Shape::Duration => {
                Form::Scalar(Scalar::String)
            }
            Shape::Bool => Form::Scalar(Scalar::Bool),
            Shape::Int32 { .. } | Shape::Int64 { .. } | Shape::Float64 => Form::Scalar(Scalar::Number),
            Shape::Quantity | Shape::IntOrString => Form::Scalar(Scalar::Any),
            Shape::Raw | Shape::FieldsV1 | Shape::SchemaOr { .. } => Form::Opaque,
            Shape::List { item, .. } => {
                let item = Builtin { shape: facts().shape(item), field: None };
                match ownership {
                    Ownership::Set => Form::Set(item),
                    Ownership::Keyed(keys) => Form::Keyed(keys, item),
                    Ownership::ByType | Ownership::Whole | Ownership::Granular => Form::AtomicList(item),
                }
            }
            Shape::Map { .. } if *ownership == Ownership::Whole => Form::AtomicMap,
            Shape::Map { .. } => Form::Map,
            Shape::Struct(id) => {
                let whole = facts().ty(id).atomic && *ownership != Ownership::Granular;
                if whole || *ownership == Ownership::Whole { Form::AtomicMap } else { Form::Map }
            }
        }
    }

    fn entry(self, name: &str) -> Option<Entry<Self>> {
        match self.shape {
            Shape::Struct(id) => {
                let field = facts().ty(id).field(name)?;
                let of = Builtin { shape: facts().shape(field.shape), field: Some(field) };
                Some(Entry { of, declared: true })
            }
            Shape::Map { item, .. } => {
                let of = Builtin { shape: facts().shape(item), field: None };
                Some(Entry { of, declared: false })
            }
            _ => None,
        }
    }

    fn key_default(self, key: &str) -> Option<Value> {
        let Shape::Struct(id) = self.shape else { return None };
        let field = facts().ty(id).field(key)?;
        match (field.default, field.rule, facts().shape(field.shape)) {
            (Some(default), ..) => serde_json::from_str(default).ok(),
            // OpenAPI gives what is always written its zero value as the default.
            (None, Rule::Always, Shape::String { .. }) => Some(Value::from("")),
            (None, Rule::Always, Shape::Int32 { .. } | Shape::Int64 { .. }) => Some(Value::from(0)),
            _ => None,
        }
    }
}
