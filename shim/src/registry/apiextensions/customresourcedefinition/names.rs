//! Names of definitions: their rules, which of them are accepted beside those of others, and the conditions that say so.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::names::dns1035_label;
use crate::registry::value::{items, text};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Rules of `spec.names` and `status.acceptedNames`; empty names are the caller's business.
pub(super) fn rules(names: &Value, path: &Path, errors: &mut Errors) {
    let (kind, list_kind) = (text(&names["kind"]), text(&names["listKind"]));
    for field in ["plural", "singular"] {
        let name = text(&names[field]);
        let wrong = dns1035_label(name, false);
        if !name.is_empty() && !wrong.is_empty() {
            errors.push(path.child(field).invalid(name, &wrong.join(",")));
        }
    }
    for (field, name) in [("kind", kind), ("listKind", list_kind)] {
        let wrong = dns1035_label(&name.to_lowercase(), false);
        if !name.is_empty() && !wrong.is_empty() {
            let text = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
            errors.push(path.child(field).invalid(name, &text));
        }
    }
    for field in ["shortNames", "categories"] {
        for (index, name) in items(&names[field]).iter().map(text).enumerate() {
            let wrong = dns1035_label(name, false);
            if !wrong.is_empty() {
                errors.push(path.child(field).index(index).invalid(name, &wrong.join(",")));
            }
        }
    }
    if !kind.is_empty() && kind == list_kind {
        errors.push(path.child("listKind").invalid(list_kind, "kind and listKind may not be the same"));
    }
}

/// The definition's condition of that type.
pub fn condition<'v>(definition: &'v Object, name: &str) -> Option<&'v Value> {
    items(&definition["status"]["conditions"]).iter().find(|condition| condition["type"] == name)
}

/// Whether the condition holds.
pub fn is_true(definition: &Object, name: &str) -> bool {
    condition(definition, name).is_some_and(|condition| condition["status"] == "True")
}

/// A condition to be set; its time is the caller's.
#[derive(Clone, Copy, Debug)]
pub struct Condition<'a> {
    pub name: &'a str,
    pub holds: bool,
    pub reason: &'a str,
    pub message: &'a str,
}

/// Sets a condition; its time moves only when its status does. Whether anything changed.
pub fn set_condition(definition: &mut Object, condition: Condition<'_>, now: &str) -> bool {
    let status = if condition.holds { "True" } else { "False" };
    let mut new = json!({
        "type": condition.name, "status": status, "lastTransitionTime": now, "reason": condition.reason, "message": condition.message,
    });
    let list = &mut definition["status"]["conditions"];
    if !list.is_array() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else { return false };
    match list.iter_mut().find(|known| known["type"] == condition.name) {
        Some(known) => {
            if known["status"] == status {
                new["lastTransitionTime"] = known["lastTransitionTime"].clone();
            }
            let changed = *known != new;
            *known = new;
            changed
        }
        None => {
            list.push(new);
            true
        }
    }
}

/// Names in use in a group: resources (plural, singular, short) and kinds (kind, list kind).
#[derive(Default)]
struct Taken<'a> {
    resources: BTreeSet<&'a str>,
    kinds: BTreeSet<&'a str>,
}

/// What the naming controller writes: the names accepted beside those of `others` (the other definitions of the group),
/// and whether all are. The definition comes back when something changed.
pub fn settle<'a>(definition: &Object, others: impl Iterator<Item = &'a Object>, now: &str) -> Option<Object> {
    let mut taken = Taken::default();
    for other in others {
        let names = &other["status"]["acceptedNames"];
        let short = items(&names["shortNames"]).iter().map(text);
        taken.resources.extend([text(&names["plural"]), text(&names["singular"])].into_iter().chain(short));
        taken.kinds.extend([text(&names["kind"]), text(&names["listKind"])]);
    }
    let (wanted, had) = (&definition["spec"]["names"], &definition["status"]["acceptedNames"]);
    let mut accepted = Map::new();
    let mut conflict: Option<(&str, String)> = None;
    let mut consider = |field: &'static str, reason: &'static str, taken: &BTreeSet<&str>| {
        let name = text(&wanted[field]);
        if taken.contains(name) && !name.is_empty() {
            conflict = Some((reason, format!("{name:?} is already in use")));
            accepted.insert(field.into(), had[field].clone());
        } else {
            accepted.insert(field.into(), name.into());
        }
    };
    consider("plural", "PluralConflict", &taken.resources);
    consider("singular", "SingularConflict", &taken.resources);
    let clashes: Vec<String> = items(&wanted["shortNames"])
        .iter()
        .map(text)
        .filter(|name| taken.resources.contains(name))
        .map(|name| format!("{name:?} is already in use"))
        .collect();
    let short = if clashes.is_empty() { &wanted["shortNames"] } else { &had["shortNames"] };
    let short = short.clone();
    consider("kind", "KindConflict", &taken.kinds);
    consider("listKind", "ListKindConflict", &taken.kinds);
    if !clashes.is_empty() {
        let text = match &clashes[..] {
            [only] => only.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        conflict.get_or_insert(("ShortNamesConflict", text));
    }
    accepted.insert("shortNames".into(), short);
    accepted.insert("categories".into(), wanted["categories"].clone());
    accepted.retain(|field, value| {
        let always = matches!(field.as_str(), "plural" | "kind");
        let empty = value.is_null() || value == "" || value.as_array().is_some_and(Vec::is_empty);
        if always && value.is_null() {
            *value = "".into();
        }
        always || !empty
    });
    let mut new = definition.clone();
    let mut changed = new["status"]["acceptedNames"] != Value::Object(accepted.clone());
    new["status"]["acceptedNames"] = Value::Object(accepted);
    let verdict = match &conflict {
        Some((reason, message)) => Condition { name: "NamesAccepted", holds: false, reason, message },
        None => Condition { name: "NamesAccepted", holds: true, reason: "NoConflicts", message: "no conflicts found" },
    };
    changed |= set_condition(&mut new, verdict, now);
    // Once established, a definition stays so whatever becomes of its names.
    if !is_true(definition, "Established") {
        let established = Condition {
            name: "Established",
            holds: conflict.is_none(),
            reason: "NotAccepted",
            message: "not all names are accepted",
        };
        let established = match conflict {
            None => Condition {
                reason: "InitialNamesAccepted",
                message: "the initial names have been accepted",
                ..established
            },
            Some(_) => established,
        };
        changed |= set_condition(&mut new, established, now);
    }
    changed.then_some(new)
}

/// Whether its resources are served.
pub fn is_served(definition: &Object) -> bool {
    is_true(definition, "Established") && !definition.name().is_empty()
}
