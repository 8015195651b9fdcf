//! An applied object merged into the live one.

use super::types::{Form, Typed, elements, items};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// `live` with everything that `applied` says.
pub fn merge<'s, T: Typed<'s>>(of: T, live: &Value, applied: &Value) -> Value {
    node(of, Some(live), Some(applied)).unwrap_or(Value::Null)
}

/// `None`: nothing is left.
fn node<'s, T: Typed<'s>>(of: T, live: Option<&Value>, applied: Option<&Value>) -> Option<Value> {
    let applied_wins = || applied.or(live).cloned();
    match of.form().of(live, applied) {
        Form::Scalar(_) | Form::AtomicList(_) | Form::AtomicMap | Form::Opaque | Form::Deduced => applied_wins(),
        Form::Map => {
            let (old, new) = (entries(live), entries(applied));
            if old.is_none() && new.is_none() {
                return applied_wins();
            }
            let names: BTreeSet<&String> = old.into_iter().chain(new).flat_map(Map::keys).collect();
            let mut out = Map::new();
            for name in names {
                let (old, new) = (old.and_then(|old| old.get(name)), new.and_then(|new| new.get(name)));
                let merged = match of.entry(name) {
                    Some(entry) => node(entry.of, old, new),
                    None => new.or(old).cloned(),
                };
                if let Some(merged) = merged {
                    out.insert(name.clone(), merged);
                }
            }
            (!out.is_empty()).then_some(Value::Object(out))
        }
        Form::Set(_) | Form::Keyed(..) if items(live).is_empty() && items(applied).is_empty() => applied_wins(),
        Form::Set(item) => list(None, item, items(live), items(applied)),
        Form::Keyed(keys, item) => list(Some(keys), item, items(live), items(applied)),
    }
}

fn entries(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object).filter(|map| !map.is_empty())
}

/// Items that both have take the applied order; those of the live list alone stay before what followed them.
fn list<'s, T: Typed<'s>>(keys: Option<&[Box<str>]>, of: T, live: &[Value], applied: &[Value]) -> Option<Value> {
    // Of items that share an element the first is merged; the live list's others stay beside it.
    let mut old = elements(keys, of, live);
    let mut doubles: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    let mut met = BTreeSet::new();
    old.retain(|(element, item)| {
        let first = met.insert(element.clone());
        if !first {
            doubles.entry(element.clone()).or_default().push(item);
        }
        first
    });
    let new = elements(keys, of, applied);
    let in_new: BTreeMap<&str, &Value> = new.iter().map(|(element, item)| (element.as_str(), *item)).collect();
    let in_old: BTreeMap<&str, &Value> = old.iter().map(|(element, item)| (element.as_str(), *item)).collect();
    let mut shared: VecDeque<&str> = new.iter().map(|(e, _)| e.as_str()).filter(|e| in_old.contains_key(e)).collect();

    let mut out = Vec::with_capacity(old.len() + new.len());
    let (mut left, mut right) = (old.iter().peekable(), new.iter().peekable());
    loop {
        if let Some((element, item)) = left.peek() {
            if !in_new.contains_key(element.as_str()) {
                out.extend(node(of, Some(item), None));
                out.extend(doubles.remove(element).into_iter().flatten().cloned());
                left.next();
                continue;
            }
            // A shared item whose turn has not come is taken when the applied list comes to it.
            if right.peek().is_none() || shared.front() != Some(&element.as_str()) {
                left.next();
                continue;
            }
        }
        let Some((element, item)) = right.next() else { break };
        out.extend(node(of, in_old.get(element.as_str()).copied(), Some(item)));
        if shared.front() == Some(&element.as_str()) {
            shared.pop_front();
        }
        if left.peek().is_some_and(|(other, _)| other == element) {
            left.next();
        }
    }
    (!out.is_empty()).then_some(Value::Array(out))
}
