//! Strategic merge patch with all its directives, as apimachinery's strategicpatch applies it.

use super::facts::{Facts, Field, Shape, facts};
use super::{Schema, SchemaError};
use serde_json::{Map, Value};

type Object = Map<String, Value>;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

/// `original` patched.
pub(super) fn strategic(schema: &Schema, original: &Value, patch: &Value) -> Result<Value, SchemaError> {
    let (Value::Object(original), Value::Object(patch)) = (original, patch) else {
        let found = match patch {
            Value::Array(_) => "array",
            Value::String(_) => "string",
            Value::Number(_) => "number",
            Value::Bool(_) => "bool",
            Value::Null | Value::Object(_) => return Ok(original.clone()),
        };
        let text = format!(
            "error decoding patch: json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"
        );
        return Err(SchemaError::Decode(text));
    };
    let merger = Merger { facts: facts() };
    merger.objects(original.clone(), patch.clone(), Shape::Struct(schema.ty)).map(Value::Object)
}

struct Merger {
    facts: &'static Facts,
}

impl Merger {
    /// The struct field that a key names; `None` in maps and in what the schema does not know.
    fn field(&self, shape: Shape, key: &str) -> Option<&'static Field> {
        match shape {
            Shape::Struct(id) => self.facts.ty(id).field(key),
            _ => None,
        }
    }

    fn shape_below(&self, shape: Shape, key: &str) -> Shape {
        match shape {
            Shape::Struct(id) => self.facts.ty(id).field(key).map_or(Shape::Raw, |field| self.facts.shape(field.shape)),
            Shape::Map { item, .. } => self.facts.shape(item),
            _ => Shape::Raw,
        }
    }

    fn objects(&self, mut original: Object, mut patch: Object, shape: Shape) -> Result<Object, SchemaError> {
        match patch.remove(DIRECTIVE) {
            None => {}
            Some(Value::String(directive)) if directive == "replace" => return Ok(patch),
            Some(Value::String(directive)) if directive == "delete" => return Ok(Object::new()),
            Some(directive) => return Err(bad_directive(&directive, &patch)),
        }
        retain_keys(&mut original, &mut patch)?;
        self.ordered_lists(&mut original, &mut patch, shape)?;
        for (key, value) in patch {
            if let Some(name) = key.strip_prefix(DELETE_PRIMITIVES) {
                let removed = value
                    .as_array()
                    .ok_or_else(|| SchemaError::Decode("invalid patch format of primitive list".to_owned()))?;
                if let Some(Value::Array(items)) = original.get_mut(name) {
                    items.retain(|item| !removed.contains(item));
                }
                continue;
            }
            let merged = match (original.remove(&key), value) {
                (_, Value::Null) => continue,
                (Some(Value::Object(old)), Value::Object(new))
                    if !self.field(shape, &key).is_some_and(|f| f.replaces) =>
                {
                    Value::Object(self.objects(old, new, self.shape_below(shape, &key))?)
                }
                (Some(Value::Array(old)), Value::Array(new)) => match self.field(shape, &key) {
                    Some(field) if field.merges => Value::Array(self.lists(old, new, field)?),
                    _ => clean(Value::Array(new)),
                },
                (_, new) => clean(new),
            };
            original.insert(key, merged);
        }
        Ok(original)
    }

    /// Handles `$setElementOrder/x` together with `x` itself.
    fn ordered_lists(&self, original: &mut Object, patch: &mut Object, shape: Shape) -> Result<(), SchemaError> {
        let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
        for directive in directives {
            let name = &directive[SET_ORDER.len()..];
            let Some(Value::Array(order)) = patch.remove(&directive) else {
                return Err(SchemaError::Decode("invalid patch format of setElementOrder list".to_owned()));
            };
            let key = self.field(shape, name).and_then(|field| field.merge_key);
            let deleted = match patch.remove(&format!("{DELETE_PRIMITIVES}{name}")) {
                Some(Value::Array(deleted)) => deleted,
                _ => Vec::new(),
            };
            let old = match original.remove(name) {
                Some(Value::Array(old)) => Some(old),
                Some(other) => {
                    original.insert(name.to_owned(), other);
                    continue;
                }
                None => None,
            };
            let server_order = old.clone().unwrap_or_default();
            let merged = match (old, patch.get(name)) {
                // A null deletes the list: leave it to the ordinary rules.
                (_, Some(Value::Null)) => continue,
                (Some(old), Some(Value::Array(new))) => {
                    check_order(new, &order, key)?;
                    match self.field(shape, name) {
                        Some(field) if field.merges => self.lists(old, new.clone(), field)?,
                        _ => new.clone(),
                    }
                }
                (Some(old), _) => old,
                (None, Some(Value::Array(new))) => {
                    new.iter().filter(|item| item.get(DIRECTIVE).is_none()).cloned().map(clean).collect()
                }
                (None, _) => continue,
            };
            let kept = merged.into_iter().filter(|item| !deleted.contains(item)).collect();
            let sorted = arrange(kept, &order, &server_order, key);
            original.insert(name.to_owned(), Value::Array(sorted));
            patch.remove(name);
        }
        Ok(())
    }

    /// Merges a list by its merge key, or as a set of scalars.
    fn lists(&self, mut original: Vec<Value>, patch: Vec<Value>, field: &Field) -> Result<Vec<Value>, SchemaError> {
        let server_order = original.clone();
        let Some(key) = field.merge_key else {
            for item in &patch {
                if !original.contains(item) {
                    original.push(item.clone());
                }
            }
            return Ok(arrange(original, &patch, &server_order, None));
        };
        let shape = match self.facts.shape(field.shape) {
            Shape::List { item, .. } => self.facts.shape(item),
            other => other,
        };
        let (mut ordinary, mut replaces) = (Vec::with_capacity(patch.len()), false);
        for item in patch {
            let Value::Object(item) = item else { return Err(bad_element(field.name)) };
            match item.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or_default()) {
                None => ordinary.push(item),
                Some("delete") => {
                    let value = item.get(key).ok_or_else(|| no_merge_key(&item, key))?;
                    original.retain(|old| old.get(key) != Some(value));
                }
                Some("replace") => replaces = true,
                Some("merge") => {
                    return Err(SchemaError::Unmergeable(
                        "merging lists cannot yet be specified in the patch".to_owned(),
                    ));
                }
                Some(_) => return Err(bad_directive(&item[DIRECTIVE].clone(), &item)),
            }
        }
        if replaces {
            return Ok(ordinary.into_iter().map(|item| clean(Value::Object(item))).collect());
        }
        let order: Vec<Value> = ordinary.iter().cloned().map(Value::Object).collect();
        for item in ordinary {
            let value = item.get(key).ok_or_else(|| no_merge_key(&item, key))?;
            match original.iter_mut().find(|old| old.get(key) == Some(value)) {
                Some(Value::Object(old)) => *old = self.objects(std::mem::take(old), item, shape)?,
                _ => original.push(clean(Value::Object(item))),
            }
        }
        Ok(arrange(original, &order, &server_order, Some(key)))
    }
}

/// `$retainKeys`: of the original only the listed keys survive.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), SchemaError> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let malformed = || SchemaError::Decode("invalid patch format of retain keys".to_owned());
    let keys = directive.as_array().ok_or_else(malformed)?;
    let listed = |key: &str| keys.iter().any(|listed| listed.as_str() == Some(key));
    if !patch.keys().all(|key| key.starts_with('$') || listed(key)) {
        return Err(malformed());
    }
    original.retain(|key, _| listed(key));
    Ok(())
}

/// Whether two elements stand for the same one.
fn same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        None => a == b,
    }
}

/// Every ordinary element of the patch must appear in `$setElementOrder`, in that order.
fn check_order(patch: &[Value], order: &[Value], key: Option<&str>) -> Result<(), SchemaError> {
    let mut rest = order.iter();
    for item in patch.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        if !rest.any(|ordered| same(ordered, item, key)) {
            let text = "The order in patch list:\n%v\n doesn't match $setElementOrder list:\n%v\n";
            let lists = [Value::from(patch), Value::from(order)].map(|list| go_value(&list));
            return Err(SchemaError::Unmergeable(text.replacen("%v", &lists[0], 1).replacen("%v", &lists[1], 1)));
        }
    }
    Ok(())
}

/// Elements that the patch names follow its order, the server's own keep theirs; where both sides know each other's
/// place the server's order decides, else the patch's element goes first.
fn arrange(items: Vec<Value>, patch_order: &[Value], server_order: &[Value], key: Option<&str>) -> Vec<Value> {
    let place = |list: &[Value], item: &Value| list.iter().position(|other| same(other, item, key));
    let (mut patched, mut own): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| place(patch_order, item).is_some());
    patched.sort_by_key(|item| place(patch_order, item));
    own.sort_by_key(|item| place(server_order, item).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(patched.len() + own.len());
    let (mut patched, mut own) = (patched.into_iter().peekable(), own.into_iter().peekable());
    while let (Some(left), Some(right)) = (own.peek(), patched.peek()) {
        let left_first = match (place(server_order, left), place(server_order, right)) {
            (Some(left), Some(right)) => left < right,
            _ => false,
        };
        out.extend(if left_first { own.next() } else { patched.next() });
    }
    out.extend(own);
    out.extend(patched);
    out
}

/// A patch's value as it enters the object: without directives, and without the nulls that would have deleted something.
fn clean(value: Value) -> Value {
    match value {
        Value::Object(map) if map.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") => Value::Object(Map::new()),
        Value::Object(map) => Value::Object(
            map.into_iter()
                .filter(|(key, value)| !value.is_null() && !is_directive(key))
                .map(|(key, value)| (key, clean(value)))
                .collect(),
        ),
        Value::Array(items) => {
            let deleted = |item: &Value| item.get(DIRECTIVE).is_some();
            Value::Array(items.into_iter().filter(|item| !deleted(item)).map(clean).collect())
        }
        other => other,
    }
}

fn is_directive(key: &str) -> bool {
    key == DIRECTIVE || key == RETAIN_KEYS || key.starts_with(SET_ORDER) || key.starts_with(DELETE_PRIMITIVES)
}

fn bad_directive(directive: &Value, map: &Object) -> SchemaError {
    let (directive, map) = (go_value(directive), go_value(&Value::Object(map.clone())));
    SchemaError::Unmergeable(format!("unknown patch type: {directive} in map: {map}"))
}

fn bad_element(name: &str) -> SchemaError {
    SchemaError::Unmergeable(format!("The type of the elements of list {name} does not match"))
}

fn no_merge_key(map: &Object, key: &str) -> SchemaError {
    SchemaError::Unmergeable(format!(
        "map: {} does not contain declared merge key: {key}",
        go_value(&Value::Object(map.clone()))
    ))
}

/// As Go's `%v` prints it: `map[image:x]`, `[a b]`.
pub(super) fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_value).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let entries: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", go_value(value))).collect();
            format!("map[{}]", entries.join(" "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gvr::GroupVersion;
    use serde_json::json;

    fn check(original: Value, patch: Value, expected: Value) {
        let schema = Schema::builtin(GroupVersion { group: "", version: "v1" }, "Pod").unwrap();
        let merged = strategic(schema, &json!({ "spec": original }), &json!({ "spec": patch }));
        assert_eq!(merged, Ok(json!({ "spec": expected })), "{patch}");
    }

    #[test]
    fn lists_with_a_merge_key_merge_by_it_and_new_elements_go_first() {
        check(
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}),
            json!({"containers": [{"name": "b", "image": "2", "tty": null}, {"name": "c", "stdin": null}]}),
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c"}]}),
        );
        check(
            json!({"containers": [{"name": "a"}]}),
            json!({"containers": [{"name": "z"}]}),
            json!({"containers": [{"name": "z"}, {"name": "a"}]}),
        );
        check(
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "x"}]}]}),
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "y"}]}]}),
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "y"}]}]}),
        );
    }

    #[test]
    fn lists_without_one_are_replaced() {
        check(
            json!({"tolerations": [{"key": "a"}]}),
            json!({"tolerations": [{"key": "b"}]}),
            json!({"tolerations": [{"key": "b"}]}),
        );
    }

    #[test]
    fn patch_directives_delete_and_replace() {
        check(
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b"}]}),
        );
        check(
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
            json!({"containers": [{"name": "c"}]}),
        );
        check(
            json!({"securityContext": {"runAsUser": 1, "fsGroup": 2}}),
            json!({"securityContext": {"$patch": "replace", "runAsUser": 3}}),
            json!({"securityContext": {"runAsUser": 3}}),
        );
        check(
            json!({"securityContext": {"runAsUser": 1}}),
            json!({"securityContext": {"$patch": "delete"}}),
            json!({"securityContext": {}}),
        );
    }

    #[test]
    fn retain_keys_clears_what_is_not_listed() {
        check(
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/h"}}]}),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/h"}}]}),
        );
    }

    #[test]
    fn element_order_is_the_patchs_and_the_servers_own_elements_keep_their_place() {
        check(
            json!({"containers": [{"name": "a"}, {"name": "s"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
            json!({"containers": [{"name": "s"}, {"name": "b"}, {"name": "a"}]}),
        );
        check(
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "a"}, {"name": "n"}, {"name": "b"}], "containers": [{"name": "n"}]}),
            json!({"containers": [{"name": "a"}, {"name": "n"}, {"name": "b"}]}),
        );
    }

    #[test]
    fn primitive_lists_grow_as_sets_and_shrink_by_directive() {
        let schema = Schema::builtin(GroupVersion { group: "", version: "v1" }, "Pod").unwrap();
        let original = json!({"metadata": {"finalizers": ["a", "b"]}});
        let merged = strategic(schema, &original, &json!({"metadata": {"finalizers": ["b", "c"]}})).unwrap();
        assert_eq!(merged, json!({"metadata": {"finalizers": ["a", "b", "c"]}}));
        let patch =
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["b"]}});
        assert_eq!(strategic(schema, &original, &patch).unwrap(), json!({"metadata": {"finalizers": ["b"]}}));
    }

    #[test]
    fn refusals_are_worded_as_upstreams() {
        let schema = Schema::builtin(GroupVersion { group: "", version: "v1" }, "Pod").unwrap();
        let original = json!({"spec": {"containers": [{"name": "a"}]}});
        for (patch, text) in [
            (
                json!({"spec": {"containers": [{"image": "x"}]}}),
                "map: map[image:x] does not contain declared merge key: name",
            ),
            (
                json!([1]),
                "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}",
            ),
        ] {
            assert_eq!(strategic(schema, &original, &patch).unwrap_err().to_string(), text);
        }
    }
}
