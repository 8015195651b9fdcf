//! Path elements as fieldsV1 spells them: `f:name`, `k:{"name":"a"}`, `v:"a"`, `i:0`.

use serde_json::{Map, Value};

/// A struct's field or a map's key.
pub(super) fn field(name: &str) -> String {
    format!("f:{name}")
}

/// The element's name, when it is a field.
pub(super) fn as_field(element: &str) -> Option<&str> {
    element.strip_prefix("f:")
}

/// Whether it is an element of a list with keys.
pub(super) fn is_key(element: &str) -> bool {
    element.starts_with("k:")
}

/// An element of a list of maps, by its keys.
pub(super) fn key(keys: Map<String, Value>) -> String {
    // serde_json's map is sorted: one spelling for one key.
    format!("k:{}", Value::Object(keys))
}

/// An element of a set, by its value.
pub(super) fn value(value: &Value) -> String {
    format!("v:{value}")
}

/// An element of a list that is owned whole, by its place (in error texts only).
pub(super) fn index(at: usize) -> String {
    format!("i:{at}")
}

/// The one spelling of an element that a client wrote.
pub(super) fn canonical(element: &str) -> Result<String, String> {
    let (kind, rest) = element.split_at_checked(2).unwrap_or((element, ""));
    let parsed = |rest: &str| serde_json::from_str::<Value>(rest).map_err(|e| format!("path element {element:?}: {e}"));
    match kind {
        "f:" => Ok(element.to_owned()),
        "v:" => Ok(value(&parsed(rest)?)),
        "k:" => match parsed(rest)? {
            Value::Object(keys) => Ok(key(keys)),
            _ => Err(format!("path element {element:?}: its key is not an object")),
        },
        "i:" => match rest.parse::<i64>() {
            Ok(index) => Ok(format!("i:{index}")),
            Err(_) => Err(format!("path element {element:?}: its index is not a number")),
        },
        _ => Err(format!("path element {element:?}: unknown kind")),
    }
}

/// As Kubernetes writes it in paths: `.name`, `[name="a",port=80]`, `[="a"]`, `[0]`.
pub(super) fn shown(element: &str) -> String {
    let (kind, rest) = element.split_at_checked(2).unwrap_or((element, ""));
    match (kind, serde_json::from_str::<Value>(rest)) {
        ("k:", Ok(Value::Object(keys))) => {
            let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
        ("v:", _) => format!("[={rest}]"),
        ("i:", _) => format!("[{rest}]"),
        _ => format!(".{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_show_as_paths_write_them() {
        for (element, text) in [
            ("f:spec", ".spec"),
            (r#"k:{"name":"a"}"#, r#"[name="a"]"#),
            (r#"k:{"port":80,"protocol":"TCP"}"#, r#"[port=80,protocol="TCP"]"#),
            (r#"v:"x""#, r#"[="x"]"#),
            ("i:3", "[3]"),
            ("f:kubernetes.io/os", ".kubernetes.io/os"),
        ] {
            assert_eq!(shown(element), text);
        }
    }
}
