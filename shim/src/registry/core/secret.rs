//! Secrets.

use crate::meta::{Meta, Object};
use crate::registry::core::configmap::{MAX_DATA_BYTES, decoded_len, immutable};
use crate::registry::field::{Errors, Path};
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::{carry_over, default_text, entries, object_entry, root, text};
use crate::registry::{Column, ResourceDef, Strategy, meta, meta_fields, names};
use crate::selector::Pairs;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    resource: "secrets",
    singular: "secret",
    kind: "Secret",
    storage: "secrets",
    columns: COLUMNS,
    row,
    selectable: &["type"],
    fields,
    strategy: &Strategy { default, prepare_update, validate, validate_update, warnings, ..Strategy::BASIC },
    ..ResourceDef::BASIC
};

/// `stringData` is written over `data`, in base64, and never kept.
fn default(secret: &mut Object) {
    let map = root(secret);
    if let Some(Value::Object(plain)) = map.remove("stringData")
        && !plain.is_empty()
    {
        let data = object_entry(map, "data");
        for (key, value) in plain {
            data.insert(key, BASE64.encode(text(&value)).into());
        }
    }
    default_text(map, "type", "Opaque");
}

/// An update that names no type means the old one; the type is checked for a change afterwards.
fn prepare_update(new: &mut Object, old: &Object) {
    if text(&new["type"]).is_empty() {
        carry_over(new, old, "type");
    }
}

/// Keys that a secret of a known type must have.
fn required(kind: &str) -> &'static [&'static str] {
    match kind {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    }
}

fn validate(secret: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(secret);
    let path = Path::new("data");
    let mut total = 0;
    for (key, value) in entries(&secret["data"]) {
        errors.extend(path.key(key).all_invalid(key, names::config_map_key(key)));
        total += decoded_len(text(value));
    }
    if total > MAX_DATA_BYTES {
        errors.push(path.too_long(MAX_DATA_BYTES));
    }
    let kind = text(&secret["type"]);
    let data = &secret["data"];
    for key in required(kind).iter().filter(|key| data.get(**key).is_none()) {
        errors.push(path.key(key).required(""));
    }
    if let Some(key) = required(kind).first().filter(|_| kind.starts_with("kubernetes.io/dockerc"))
        && let Some(value) = data.get(*key)
    {
        let json = BASE64.decode(text(value)).unwrap_or_default();
        if let Some(detail) = json_error(&json) {
            errors.push(path.key(key).invalid("<secret contents redacted>", &detail));
        }
    }
    // Either will do.
    if kind == "kubernetes.io/basic-auth" && data.get("username").is_none() && data.get("password").is_none() {
        errors.push(path.key("username").required(""));
        errors.push(path.key("password").required(""));
    }
    const ACCOUNT: &str = "kubernetes.io/service-account.name";
    if kind == "kubernetes.io/service-account-token" && text(&secret["metadata"]["annotations"][ACCOUNT]).is_empty() {
        errors.push(Path::new("metadata").child("annotations").key(ACCOUNT).required(""));
    }
    errors
}

/// Why bytes are no JSON object, near to how Go says it.
fn json_error(bytes: &[u8]) -> Option<String> {
    match serde_json::from_slice::<serde_json::Map<String, Value>>(bytes) {
        Ok(_) => None,
        Err(_) => Some(match bytes.iter().find(|b| !b.is_ascii_whitespace()) {
            None => "unexpected end of JSON input".to_owned(),
            Some(b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => "invalid JSON object".to_owned(),
            Some(byte) => format!("invalid character '{}' looking for beginning of value", char::from(*byte)),
        }),
    }
}

fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    meta::immutable(&new["type"], &old["type"], &Path::new("type"), &mut errors);
    immutable(new, old, &["data"], &mut errors);
    errors
}

/// What Go's TLS would say of a pair that is none (`warningsForSecret`); whether key and certificate fit is not asked.
fn warnings(secret: &Object, _old: Option<&Object>) -> Vec<String> {
    if text(&secret["type"]) != "kubernetes.io/tls" {
        return Vec::new();
    }
    let has_pem = |key: &str| {
        let bytes = BASE64.decode(text(&secret["data"][key])).unwrap_or_default();
        String::from_utf8_lossy(&bytes).contains("-----BEGIN ")
    };
    let without = [("tls.crt", "certificate"), ("tls.key", "key")].into_iter().find(|(key, _)| !has_pem(key));
    without.map(|(_, what)| format!("tls: failed to find any PEM data in {what} input")).into_iter().collect()
}

fn fields(secret: &Object) -> Pairs {
    let mut pairs = meta_fields(secret);
    pairs.insert("type".into(), text(&secret["type"]).into());
    pairs
}

fn row(secret: &Object, now: i64) -> Vec<Value> {
    let entries = secret["data"].as_object().map_or(0, |map| map.len());
    vec![secret.name().into(), text(&secret["type"]).into(), entries.into(), age(secret, now)]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column(
        "Type",
        "Used to facilitate programmatic handling of secret data. More info: https://kubernetes.io/docs/concepts/configuration/secret/#secret-types",
    ),
    text_column(
        "Data",
        "Data contains the secret data. Each key must consist of alphanumeric characters, '-', '_' or '.'. The serialized form of the secret data is a base64 encoded string, representing the arbitrary (possibly non-string) data value here. Described in https://tools.ietf.org/html/rfc4648#section-4",
    ),
    AGE,
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pair_that_is_none_is_warned_of() {
        let pem = BASE64.encode("-----BEGIN CERTIFICATE-----");
        for (kind, certificate, key, wanted) in [
            ("Opaque", "", "", vec![]),
            ("kubernetes.io/tls", "", "", vec!["tls: failed to find any PEM data in certificate input"]),
            ("kubernetes.io/tls", pem.as_str(), "", vec!["tls: failed to find any PEM data in key input"]),
            ("kubernetes.io/tls", pem.as_str(), pem.as_str(), vec![]),
        ] {
            let secret = json!({"type": kind, "data": {"tls.crt": certificate, "tls.key": key}});
            assert_eq!(warnings(&secret, None), wanted, "{kind} {certificate} {key}");
        }
    }
}
