//! What a write changed: the fields it added or modified, and those it removed.

use super::element;
use super::set::{Node, Set};
use super::types::{Form, Typed, elements, items};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The difference between two objects of one type.
#[derive(Clone, Debug, Default)]
pub struct Diff {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

impl Diff {
    /// What the writer now owns.
    pub(super) fn taken(&self) -> Set {
        self.added.union(&self.modified)
    }

    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Without everything in `fields` and below.
    pub fn ignoring(self, fields: &Set) -> Diff {
        if fields.is_empty() {
            return self;
        }
        Diff {
            added: self.added.recursive_difference(fields),
            modified: self.modified.recursive_difference(fields),
            removed: self.removed.recursive_difference(fields),
        }
    }
}

/// The difference of one node.
#[derive(Default)]
struct Change {
    added: Node,
    modified: Node,
    removed: Node,
}

/// From `old` to `new`.
pub fn compare<'s, T: Typed<'s>>(of: T, old: &Value, new: &Value) -> Diff {
    let change = node(of, Some(old), Some(new));
    Diff { added: change.added.below, modified: change.modified.below, removed: change.removed.below }
}

fn node<'s, T: Typed<'s>>(of: T, old: Option<&Value>, new: Option<&Value>) -> Change {
    let mut change = Change::default();
    // Most of an object stays as it was.
    if old == new {
        return change;
    }
    match of.form().of(old, new) {
        Form::Map => {
            let (before, after) = (entries(old), entries(new));
            if before.is_none_or(Map::is_empty) && after.is_none_or(Map::is_empty) {
                return leaf(old, new);
            }
            map(of, before, after, &mut change);
        }
        Form::Set(_) | Form::Keyed(..) if items(old).is_empty() && items(new).is_empty() => return leaf(old, new),
        Form::Set(item) => list(None, item, items(old), items(new), &mut change),
        Form::Keyed(keys, item) => list(Some(keys), item, items(old), items(new), &mut change),
        Form::Scalar(_) | Form::AtomicList(_) | Form::AtomicMap | Form::Opaque | Form::Deduced => {
            return leaf(old, new);
        }
    }
    change.added.member = old.is_none();
    change.removed.member = new.is_none();
    change
}

/// A field that is owned whole.
fn leaf(old: Option<&Value>, new: Option<&Value>) -> Change {
    let mut change = Change::default();
    match (old, new) {
        (None, Some(_)) => change.added = Node::leaf(),
        (Some(_), None) => change.removed = Node::leaf(),
        (Some(_), Some(_)) => change.modified = Node::leaf(),
        (None, None) => {}
    }
    change
}

fn entries(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

impl Change {
    fn put(&mut self, element: impl FnOnce() -> String, below: Change) {
        let (added, modified, removed) = (below.added, below.modified, below.removed);
        if [&added, &modified, &removed].iter().all(|node| node.is_empty()) {
            return;
        }
        let element = element();
        self.added.below.put(element.clone(), added);
        self.modified.below.put(element.clone(), modified);
        self.removed.below.put(element, removed);
    }
}

fn map<'s, T: Typed<'s>>(
    of: T,
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
    change: &mut Change,
) {
    for (name, before) in old.into_iter().flatten() {
        if let Some(entry) = of.entry(name) {
            let below = node(entry.of, Some(before), new.and_then(|new| new.get(name)));
            change.put(|| element::field(name), below);
        }
    }
    for (name, after) in new.into_iter().flatten() {
        if old.is_none_or(|old| !old.contains_key(name))
            && let Some(entry) = of.entry(name)
        {
            change.put(|| element::field(name), node(entry.of, None, Some(after)));
        }
    }
}

fn list<'s, T: Typed<'s>>(keys: Option<&[Box<str>]>, of: T, old: &[Value], new: &[Value], change: &mut Change) {
    let mut by_element: BTreeMap<String, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for (element, item) in elements(keys, of, old) {
        by_element.entry(element).or_default().0.push(item);
    }
    for (element, item) in elements(keys, of, new) {
        by_element.entry(element).or_default().1.push(item);
    }
    for (element, (before, after)) in by_element {
        let below = match (&before[..], &after[..]) {
            (before @ ([] | [_]), after @ ([] | [_])) => node(of, before.first().copied(), after.first().copied()),
            // Elements that share a key are owned together, as one.
            ([_, _, ..], [_, _, ..]) if before == after => Change::default(),
            ([_, _, ..], [_, _, ..]) => Change { modified: Node::leaf(), ..Change::default() },
            ([_, _, ..], after) => {
                let rest = after.first().map(|item| node(of, None, Some(item))).unwrap_or_default();
                Change { removed: Node::leaf(), ..rest }
            }
            (before, [_, _, ..]) => {
                let rest = before.first().map(|item| node(of, Some(item), None)).unwrap_or_default();
                Change { added: Node::leaf(), ..rest }
            }
        };
        change.put(|| element, below);
    }
}
