//! Sets of fields in the form that `managedFields` stores them in (fieldsV1): a tree of path elements.
//!
//! A node `{}` is a member, `{".": {}, …}` a member with members below, `{…}` only leads to members. No node is empty
//! and no member: operations drop what leads nowhere.

use super::element;
use serde_json::{Map, Value};
use std::sync::LazyLock;

const SELF: &str = ".";

/// A set of fields of an object.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Set(Map<String, Value>);

/// What a set says of one path element: whether it is a member, and what is below.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Node {
    pub member: bool,
    pub below: Set,
}

impl Node {
    /// A member without members below.
    pub(super) fn leaf() -> Node {
        Node { member: true, below: Set::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }

    fn read(value: &Value) -> Node {
        let Some(map) = value.as_object() else { return Node::default() };
        let mut below = map.clone();
        let member = below.remove(SELF).is_some() || map.is_empty();
        Node { member, below: Set(below) }
    }

    fn write(self) -> Value {
        let mut map = self.below.0;
        if self.member && !map.is_empty() {
            map.insert(SELF.to_owned(), Value::Object(Map::new()));
        }
        Value::Object(map)
    }
}

/// The members below a node; not all of the map's keys: one may be the node's own mark.
fn children(map: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    map.iter().filter(|(key, _)| *key != SELF)
}

fn is_member(node: &Value) -> bool {
    node.as_object().is_some_and(|map| map.is_empty() || map.contains_key(SELF))
}

static NOTHING: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

fn below(node: &Value) -> &Map<String, Value> {
    node.as_object().unwrap_or(&NOTHING)
}

impl Set {
    /// Reads fieldsV1. Elements are brought into the one spelling that sets are compared by.
    ///
    /// # Errors
    /// With the text of what is no set.
    pub fn read(fields: &Value) -> Result<Set, String> {
        let Some(map) = fields.as_object() else { return Err("fieldsV1 is not an object".to_owned()) };
        let mut set = Map::new();
        for (key, value) in map {
            let key = if key == SELF { key.clone() } else { element::canonical(key)? };
            set.insert(key, Value::Object(Set::read(value)?.0));
        }
        Ok(Set(set))
    }

    /// As fieldsV1.
    pub fn write(self) -> Value {
        Value::Object(self.0)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The set of one path and nothing else.
    pub fn path(path: &[&str]) -> Set {
        let mut set = Set::default();
        if let [first, rest @ ..] = path {
            let node = if rest.is_empty() { Node::leaf() } else { Node { member: false, below: Set::path(rest) } };
            set.put(element::field(first), node);
        }
        set
    }

    /// Sets what is known of an element; nothing is kept of a node that is empty.
    pub(super) fn put(&mut self, element: String, node: Node) {
        if !node.is_empty() {
            self.0.insert(element, node.write());
        }
    }

    /// What is below an element.
    pub(super) fn under(&self, element: &str) -> Set {
        self.0.get(element).map(|node| Node::read(node).below).unwrap_or_default()
    }

    pub(super) fn has(&self, element: &str) -> bool {
        self.0.get(element).is_some_and(is_member)
    }

    /// The elements, with what is known of each.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&str, Node)> {
        children(&self.0).map(|(element, node)| (element.as_str(), Node::read(node)))
    }

    pub fn union(&self, other: &Set) -> Set {
        let mut out = self.clone();
        join(&mut out.0, &other.0);
        out
    }

    /// The members that are in both.
    pub fn intersection(&self, other: &Set) -> Set {
        Set(common(&self.0, &other.0))
    }

    /// The members that are not in the other; a member below one that is removed stays.
    pub fn difference(&self, other: &Set) -> Set {
        Set(without(&self.0, &other.0, false))
    }

    /// The members that are neither in the other nor below one of its members.
    pub fn recursive_difference(&self, other: &Set) -> Set {
        Set(without(&self.0, &other.0, true))
    }

    /// Every member's path as Kubernetes writes it (`.spec.ports[port=80,protocol="TCP"]`), parents first.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect("", &mut out);
        out
    }

    fn collect(&self, prefix: &str, out: &mut Vec<String>) {
        let shown = |element: &str| format!("{prefix}{}", element::shown(element));
        out.extend(children(&self.0).filter(|(_, node)| is_member(node)).map(|(element, _)| shown(element)));
        for (element, node) in self.nodes().filter(|(_, node)| !node.below.is_empty()) {
            node.below.collect(&shown(element), out);
        }
    }
}

/// Keeps a node that says something.
fn keep(out: &mut Map<String, Value>, element: &str, member: bool, mut below: Map<String, Value>) {
    if !member && below.is_empty() {
        return;
    }
    if member && !below.is_empty() {
        below.insert(SELF.to_owned(), Value::Object(Map::new()));
    }
    out.insert(element.to_owned(), Value::Object(below));
}

fn common(mine: &Map<String, Value>, theirs: &Map<String, Value>) -> Map<String, Value> {
    let mut out = Map::new();
    for (element, a) in children(mine) {
        if let Some(b) = theirs.get(element) {
            keep(&mut out, element, is_member(a) && is_member(b), common(below(a), below(b)));
        }
    }
    out
}

fn without(mine: &Map<String, Value>, theirs: &Map<String, Value>, deep: bool) -> Map<String, Value> {
    let mut out = Map::new();
    for (element, a) in children(mine) {
        let Some(b) = theirs.get(element) else {
            out.insert(element.clone(), a.clone());
            continue;
        };
        let removed = is_member(b);
        let rest = if removed && deep { Map::new() } else { without(below(a), below(b), deep) };
        keep(&mut out, element, is_member(a) && !removed, rest);
    }
    out
}

/// Adds what `other` has.
fn join(into: &mut Map<String, Value>, other: &Map<String, Value>) {
    for (element, theirs) in children(other) {
        match into.get_mut(element).and_then(Value::as_object_mut) {
            None => drop(into.insert(element.clone(), theirs.clone())),
            Some(mine) => {
                let member = mine.is_empty() || mine.contains_key(SELF) || is_member(theirs);
                join(mine, below(theirs));
                if member && !mine.is_empty() {
                    mine.insert(SELF.to_owned(), Value::Object(Map::new()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(value: Value) -> Set {
        Set::read(&value).unwrap()
    }

    #[test]
    fn members_and_what_leads_to_them_are_told_apart() {
        let a = set(json!({"f:a": {"f:b": {}}, "f:c": {".": {}, "f:d": {}}}));
        assert_eq!((a.has("f:a"), a.has("f:c"), a.under("f:c").has("f:d")), (false, true, true));
        assert_eq!(a.paths(), [".c", ".a.b", ".c.d"]);
    }

    #[test]
    fn operations_are_those_of_sets_of_paths() {
        let a = || set(json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}, "f:x": {}}));
        for (name, result, wanted) in [
            (
                "parent without child",
                a().difference(&set(json!({"f:a": {"f:b": {}}}))),
                json!({"f:a": {".": {}, "f:c": {}}, "f:x": {}}),
            ),
            (
                "child without parent",
                a().difference(&set(json!({"f:a": {}}))),
                json!({"f:a": {"f:b": {}, "f:c": {}}, "f:x": {}}),
            ),
            ("recursively", a().recursive_difference(&set(json!({"f:a": {}}))), json!({"f:x": {}})),
            ("all below", a().difference(&set(json!({"f:a": {"f:b": {}, "f:c": {}}}))), json!({"f:a": {}, "f:x": {}})),
            ("nothing in common", a().difference(&set(json!({"f:z": {}}))), a().write()),
            (
                "union",
                set(json!({"f:a": {"f:b": {}}})).union(&set(json!({"f:a": {}, "f:y": {}}))),
                json!({"f:a": {".": {}, "f:b": {}}, "f:y": {}}),
            ),
            (
                "union the other way",
                set(json!({"f:a": {}})).union(&set(json!({"f:a": {"f:b": {}}}))),
                json!({"f:a": {".": {}, "f:b": {}}}),
            ),
            (
                "intersection",
                a().intersection(&set(json!({"f:a": {"f:b": {}}, "f:x": {"f:q": {}}}))),
                json!({"f:a": {"f:b": {}}}),
            ),
        ] {
            assert_eq!(result.write(), wanted, "{name}");
        }
    }

    #[test]
    fn elements_are_compared_by_one_spelling() {
        let written = set(json!({"k:{\"protocol\":\"TCP\", \"port\": 80}": {}, "v: \"a\"": {}, "i:3": {}}));
        assert_eq!(written.write(), json!({"k:{\"port\":80,\"protocol\":\"TCP\"}": {}, "v:\"a\"": {}, "i:3": {}}));
        for bad in [json!([]), json!({"x:a": {}}), json!({"k:{": {}}), json!({"f:a": 1}), json!({"i:x": {}})] {
            assert!(Set::read(&bad).is_err(), "{bad}");
        }
    }
}
