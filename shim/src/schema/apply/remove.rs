//! Taking fields out of an object, and the members that a set has only by name.

use super::element;
use super::set::{Node, Set};
use super::types::{Form, Typed, item_element};
use serde_json::{Map, Value};

/// The object without the set's fields. A map or list that loses everything becomes null.
pub fn remove<'s, T: Typed<'s>>(of: T, object: &Value, fields: &Set) -> Value {
    match of.form().of(Some(object), Some(object)) {
        Form::Scalar(_) => object.clone(),
        // What is owned whole is removed by its owner's name or not at all.
        Form::AtomicList(_) | Form::AtomicMap | Form::Opaque | Form::Deduced => Value::Null,
        Form::Map => {
            let mut out = Map::new();
            for (name, value) in object.as_object().into_iter().flatten() {
                let element = element::field(name);
                if fields.has(&element) {
                    continue;
                }
                let below = fields.under(&element);
                let kept = match of.entry(name) {
                    Some(entry) if !below.is_empty() => remove(entry.of, value, &below),
                    _ => value.clone(),
                };
                out.insert(name.clone(), kept);
            }
            if out.is_empty() { Value::Null } else { Value::Object(out) }
        }
        Form::Set(item) => list(None, item, object, fields),
        Form::Keyed(keys, item) => list(Some(keys), item, object, fields),
    }
}

fn list<'s, T: Typed<'s>>(keys: Option<&[Box<str>]>, of: T, list: &Value, fields: &Set) -> Value {
    let mut out = Vec::new();
    for item in list.as_array().into_iter().flatten() {
        let Ok(element) = item_element(keys, of, item) else {
            out.push(item.clone());
            continue;
        };
        if fields.has(&element) {
            continue;
        }
        let below = fields.under(&element);
        out.push(if below.is_empty() { item.clone() } else { remove(of, item, &below) });
    }
    if out.is_empty() { Value::Null } else { Value::Array(out) }
}

/// The set with every field that the schema names and below which it has members: `spec` where it has `spec.replicas`.
pub fn with_named<'s, T: Typed<'s>>(of: T, fields: &Set) -> Set {
    named(Some(of), fields)
}

fn named<'s, T: Typed<'s>>(of: Option<T>, fields: &Set) -> Set {
    let mut out = Set::default();
    for (element, node) in fields.nodes() {
        let form = of.map(Typed::form);
        let entry = match (element::as_field(element), form) {
            (Some(name), Some(Form::Map | Form::AtomicMap)) => of.and_then(|of| of.entry(name)),
            _ => None,
        };
        let declared = entry.as_ref().is_some_and(|entry| entry.declared);
        let below_of = match form {
            Some(Form::Keyed(_, item)) if element::is_key(element) => Some(item),
            _ => entry.map(|entry| entry.of),
        };
        let leads = !node.below.is_empty();
        let node = Node { member: node.member || (declared && leads), below: named(below_of, &node.below) };
        out.put(element.to_owned(), node);
    }
    out
}

/// A set as the schema is now: where a type became atomic, its fields are owned as one, and the reverse.
pub fn reconcile<'s, T: Typed<'s>>(of: T, fields: &Set, live: &Value) -> Set {
    let mut out = Set::default();
    for (element, node) in fields.nodes() {
        let below = match (element::as_field(element), of.form()) {
            (Some(name), Form::Map) => of.entry(name).map(|entry| (entry.of, live.get(name))),
            (_, Form::Set(item)) => Some((item, None)),
            (_, Form::Keyed(keys, item)) => {
                let found = super::types::items(Some(live))
                    .iter()
                    .find(|value| item_element(Some(keys), item, value).is_ok_and(|e| e == element));
                Some((item, found))
            }
            _ => None,
        };
        let node = match below {
            Some((of, live)) => reconcile_node(of, node, live),
            None => node,
        };
        out.put(element.to_owned(), node);
    }
    out
}

fn reconcile_node<'s, T: Typed<'s>>(of: T, node: Node, live: Option<&Value>) -> Node {
    let whole = node.member && node.below.is_empty();
    let live = live.unwrap_or(&Value::Null);
    match of.form() {
        Form::AtomicList(_) | Form::AtomicMap if !node.below.is_empty() => Node::leaf(),
        // What was owned whole is owned by its parts now, and is named itself.
        Form::Map | Form::Set(_) | Form::Keyed(..) if whole => Node { member: true, below: super::fields(of, live) },
        Form::Map | Form::Set(_) | Form::Keyed(..) => {
            Node { member: node.member, below: reconcile(of, &node.below, live) }
        }
        Form::Scalar(_) | Form::AtomicList(_) | Form::AtomicMap | Form::Opaque | Form::Deduced => node,
    }
}
