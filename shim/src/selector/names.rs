//! Syntax of label keys and values, with apimachinery's own error texts (`util/validation`).

const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// Longest name part of a label key, and longest label value, in bytes.
const MAX_NAME_BYTES: usize = 63;
/// Longest DNS subdomain, in bytes.
const MAX_SUBDOMAIN_BYTES: usize = 253;

/// Upstream counts label parts in bytes and subdomains in characters; both are ASCII.
fn too_long(bytes: usize) -> String {
    format!("must be no more than {bytes} bytes")
}

/// `([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]`
fn is_name(text: &str) -> bool {
    let b = text.as_bytes();
    let (Some(first), Some(last)) = (b.first(), b.last()) else { return false };
    first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && b.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

fn is_subdomain(text: &str) -> bool {
    let edge = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.split('.').map(str::as_bytes).all(|label| {
        label.first().is_some_and(edge) && label.last().is_some_and(edge) && label.iter().all(|c| edge(c) || *c == b'-')
    })
}

/// Errors of a DNS-1123 subdomain.
pub fn subdomain_errors(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > MAX_SUBDOMAIN_BYTES {
        errors.push(format!("must be no more than {MAX_SUBDOMAIN_BYTES} characters"));
    }
    if !is_subdomain(text) {
        errors.push(SUBDOMAIN.to_owned());
    }
    errors
}

/// Errors of a label (or annotation, or finalizer) key: `[subdomain/]name`.
pub fn qualified_name_errors(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(subdomain_errors(prefix).into_iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a qualified name {QUALIFIED} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > MAX_NAME_BYTES {
        errors.push(format!("name part {}", too_long(MAX_NAME_BYTES)));
    }
    if !is_name(name) {
        errors.push(format!("name part {QUALIFIED}"));
    }
    errors
}

/// Errors of a label value.
pub fn label_value_errors(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > MAX_NAME_BYTES {
        errors.push(too_long(MAX_NAME_BYTES));
    }
    if !text.is_empty() && !is_name(text) {
        errors.push(LABEL_VALUE.to_owned());
    }
    errors
}
