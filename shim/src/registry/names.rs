//! Name validators and their texts: apimachinery's `validation` and `api/validation` name functions.

/// A name rule: the error texts for a name, or for a `generateName` when `prefix` is true.
pub type NameRule = fn(name: &str, prefix: bool) -> Vec<String>;

const LABEL_MAX_LENGTH_CHARS: usize = 63;
const SUBDOMAIN_MAX_LENGTH_CHARS: usize = 253;

const LABEL_PATTERN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const SUBDOMAIN_PATTERN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const LABEL_1035_PATTERN: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const LABEL_1035_TEXT: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
const QUALIFIED_PATTERN: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_TEXT: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const LABEL_VALUE_PATTERN: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const LABEL_VALUE_TEXT: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// `must be no more than N characters`, also of bytes where upstream says so.
pub fn max_length_text(max: usize) -> String {
    format!("must be no more than {max} characters")
}

/// `field.RegexError`: the rule, examples and the pattern.
pub fn regex_text(message: &str, pattern: &str, examples: &[&str]) -> String {
    let examples: String =
        examples.iter().enumerate().map(|(i, e)| format!("{}'{e}', ", if i == 0 { "" } else { " or " })).collect();
    if examples.is_empty() {
        format!("{message} (regex used for validation is '{pattern}')")
    } else {
        format!("{message} (e.g. {examples}regex used for validation is '{pattern}')")
    }
}

/// A generated name ends in five random characters, so a prefix may end where a name may not: in `-`.
fn masked(name: &str, prefix: bool) -> String {
    match name.strip_suffix('-') {
        Some(head) if prefix && name.len() > 1 => format!("{head}a"),
        _ => name.to_owned(),
    }
}

fn is_lower_alphanumeric(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && is_lower_alphanumeric(bytes[0])
        && is_lower_alphanumeric(bytes[bytes.len() - 1])
        && bytes.iter().all(|&c| is_lower_alphanumeric(c) || c == b'-')
}

fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes[0].is_ascii_alphanumeric()
        && bytes[bytes.len() - 1].is_ascii_alphanumeric()
        && bytes.iter().all(|&c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

const WILDCARD_TEXT: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
const WILDCARD_PATTERN: &str = r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";

/// `IsDNS1123Label`: names of namespaces, containers, volumes.
pub fn dns1123_label(name: &str, prefix: bool) -> Vec<String> {
    let name = &masked(name, prefix);
    let mut errors = Vec::new();
    if name.len() > LABEL_MAX_LENGTH_CHARS {
        errors.push(max_length_text(LABEL_MAX_LENGTH_CHARS));
    }
    if !is_label(name) {
        if is_subdomain(name) {
            errors.push("must not contain dots".to_owned());
        } else {
            errors.push(regex_text(LABEL_TEXT, LABEL_PATTERN, &["my-name", "123-abc"]));
        }
    }
    errors
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

/// `IsDNS1123Subdomain`: the rule of most names.
pub fn dns1123_subdomain(name: &str, prefix: bool) -> Vec<String> {
    let name = &masked(name, prefix);
    let mut errors = Vec::new();
    if name.len() > SUBDOMAIN_MAX_LENGTH_CHARS {
        errors.push(max_length_text(SUBDOMAIN_MAX_LENGTH_CHARS));
    }
    if !is_subdomain(name) {
        errors.push(regex_text(SUBDOMAIN_TEXT, SUBDOMAIN_PATTERN, &["example.com"]));
    }
    errors
}

/// `IsWildcardDNS1123Subdomain`: `*.` before a subdomain.
pub fn wildcard_dns1123_subdomain(name: &str) -> Vec<String> {
    let fine = name.strip_prefix("*.").is_some_and(is_subdomain) && name.len() <= SUBDOMAIN_MAX_LENGTH_CHARS;
    if fine { Vec::new() } else { vec![regex_text(WILDCARD_TEXT, WILDCARD_PATTERN, &["*.example.com"])] }
}

/// `IsDNS1035Label`: names of services.
pub fn dns1035_label(name: &str, prefix: bool) -> Vec<String> {
    let name = &masked(name, prefix);
    let mut errors = Vec::new();
    if name.len() > LABEL_MAX_LENGTH_CHARS {
        errors.push(max_length_text(LABEL_MAX_LENGTH_CHARS));
    }
    if !is_label(name) || !name.as_bytes()[0].is_ascii_lowercase() {
        errors.push(regex_text(LABEL_1035_TEXT, LABEL_1035_PATTERN, &["my-name", "abc-123"]));
    }
    errors
}

/// `path.ValidatePathSegmentName`: names that must only fit into a URL path.
pub fn path_segment(name: &str, prefix: bool) -> Vec<String> {
    if !prefix && matches!(name, "." | "..") {
        return vec![format!("may not be '{name}'")];
    }
    let mut errors = Vec::new();
    for forbidden in ['/', '%'] {
        if name.contains(forbidden) {
            errors.push(format!("may not contain '{forbidden}'"));
        }
    }
    errors
}

/// `IsQualifiedName`: label keys, taint keys, resource names: `[subdomain/]name`.
pub fn qualified_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(dns1123_subdomain(prefix, false).into_iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
        _ => {
            let text = regex_text(QUALIFIED_TEXT, QUALIFIED_PATTERN, &["MyName", "my.name", "123-abc"]);
            return vec![format!(
                "a qualified name {text} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX_LENGTH_CHARS {
        errors.push(format!("name part must be no more than {LABEL_MAX_LENGTH_CHARS} bytes"));
    }
    if !is_qualified(name) {
        let text = regex_text(QUALIFIED_TEXT, QUALIFIED_PATTERN, &["MyName", "my.name", "123-abc"]);
        errors.push(format!("name part {text}"));
    }
    errors
}

/// `IsValidLabelValue`.
pub fn label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX_LENGTH_CHARS {
        errors.push(format!("must be no more than {LABEL_MAX_LENGTH_CHARS} bytes"));
    }
    if !value.is_empty() && !is_qualified(value) {
        errors.push(regex_text(LABEL_VALUE_TEXT, LABEL_VALUE_PATTERN, &["MyValue", "my_value", "12345"]));
    }
    errors
}

/// `IsConfigMapKey`: keys of config maps and secrets.
pub fn config_map_key(key: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if key.len() > SUBDOMAIN_MAX_LENGTH_CHARS {
        errors.push(max_length_text(SUBDOMAIN_MAX_LENGTH_CHARS));
    }
    if key.is_empty() || !key.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.')) {
        errors.push(regex_text(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    errors.extend(dots(key));
    errors
}

fn dots(text: &str) -> Option<String> {
    if text == "." {
        Some("must not be '.'".to_owned())
    } else if text == ".." {
        Some("must not be '..'".to_owned())
    } else if text.starts_with("..") {
        Some("must not start with '..'".to_owned())
    } else {
        None
    }
}

/// `IsRelaxedEnvVarName`: names of environment variables: any printable ASCII but `=`.
pub fn env_var_name(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if !name.bytes().all(|c| (b' '..=b'~').contains(&c) && c != b'=') {
        let text = "a valid environment variable name must consist only of printable ASCII characters other than '='";
        return vec![text.to_owned()];
    }
    Vec::new()
}

/// `IsHTTPHeaderName`.
pub fn http_header_name(name: &str) -> Vec<String> {
    if !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
        return Vec::new();
    }
    vec![regex_text(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// `IsValidPortName`: IANA service names.
pub fn port_name(name: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if name.len() > 15 {
        errors.push(max_length_text(15));
    }
    if !name.bytes().all(|c| is_lower_alphanumeric(c) || c == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !name.bytes().any(|c| c.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if !name.is_empty() && (name.starts_with('-') || name.ends_with('-')) {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// `IsValidPortNum`.
pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec!["must be between 1 and 65535, inclusive".to_owned()] }
}

/// `IsCIdentifier`-free check used where a fully qualified `domain/path` is wanted (`IsDomainPrefixedPath`).
pub fn is_fully_qualified_domain(name: &str) -> bool {
    is_subdomain(name) && name.contains('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generate_name_may_end_in_a_dash() {
        assert!(dns1123_label("web-", true).is_empty());
        assert_eq!(dns1123_label("web-", false).len(), 1);
        assert_eq!(dns1123_subdomain("-", true).len(), 1);
    }

    #[test]
    fn texts_show_examples_and_the_pattern() {
        assert_eq!(
            dns1123_subdomain("A", false),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(
            qualified_name("/a!"),
            [
                "prefix part must be non-empty",
                "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
            ]
        );
    }
}
