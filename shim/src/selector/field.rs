//! The field selector grammar (apimachinery `fields.ParseSelector`).

use super::FieldSelector;

/// Longest operators first: `a==b` is not `a` = `=b`.
const OPERATORS: [&str; 3] = ["!=", "==", "="];

pub(super) fn parse(text: &str) -> Result<FieldSelector, String> {
    let mut parts = split_terms(text);
    parts.sort_unstable();
    let mut terms = Vec::new();
    for part in parts.into_iter().filter(|p| !p.is_empty()) {
        let Some((field, operator, value)) = split_term(part) else {
            return Err(format!("invalid selector: '{text}'; can't understand '{part}'"));
        };
        terms.push((field.into(), operator != "!=", unescape(value)?.into()));
    }
    Ok(FieldSelector { terms })
}

/// Cuts at commas that no backslash escapes.
fn split_terms(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn split_term(term: &str) -> Option<(&str, &str, &str)> {
    term.char_indices().find_map(|(i, _)| {
        let rest = &term[i..];
        let operator = OPERATORS.iter().find(|o| rest.starts_with(**o))?;
        Some((&term[..i], *operator, &rest[operator.len()..]))
    })
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut escaped = false;
    for c in value.chars() {
        match (escaped, c) {
            (true, '\\' | ',' | '=') => {
                out.push(c);
                escaped = false;
            }
            (true, other) => return Err(format!("invalid field selector: invalid escape sequence: \\{other}")),
            (false, '\\') => escaped = true,
            // Go prints the rune as its number.
            (false, ',' | '=') => {
                return Err(format!("invalid field selector: unescaped character in value: {}", u32::from(c)));
            }
            (false, other) => out.push(other),
        }
    }
    if escaped {
        return Err("invalid field selector: invalid escape sequence: \\".to_owned());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use crate::selector::{FieldSelector, Pairs};

    fn terms(text: &str) -> Result<Vec<(String, bool, String)>, String> {
        FieldSelector::parse(text)
            .map(|s| s.terms.into_iter().map(|(f, e, v)| (f.into_string(), e, v.into_string())).collect())
    }
    fn t(field: &str, equal: bool, value: &str) -> (String, bool, String) {
        (field.to_owned(), equal, value.to_owned())
    }

    #[test]
    fn parses_operators_escapes_and_empty_terms() {
        for (text, want) in [
            ("", vec![]),
            (",", vec![]),
            ("metadata.name=one", vec![t("metadata.name", true, "one")]),
            ("b==x,a!=y", vec![t("a", false, "y"), t("b", true, "x")]),
            ("spec.nodeName=", vec![t("spec.nodeName", true, "")]),
            (r"a=x\,y\=z\\", vec![t("a", true, r"x,y=z\")]),
            ("a=b,,c=d", vec![t("a", true, "b"), t("c", true, "d")]),
        ] {
            assert_eq!(terms(text).as_deref(), Ok(&want[..]), "{text}");
        }
    }

    #[test]
    fn refuses_in_upstreams_words() {
        for (text, want) in [
            ("metadata.name", "invalid selector: 'metadata.name'; can't understand 'metadata.name'"),
            (r"a=b\x", r"invalid field selector: invalid escape sequence: \x"),
            ("a=b\\", "invalid field selector: invalid escape sequence: \\"),
            ("a=b=c", "invalid field selector: unescaped character in value: 61"),
        ] {
            assert_eq!(terms(text), Err(want.to_owned()), "{text}");
        }
    }

    #[test]
    fn an_absent_field_reads_as_empty() {
        let fields: Pairs = [("metadata.name".into(), "one".into())].into();
        for (text, want) in [
            ("metadata.name=one", true),
            ("metadata.name!=one", false),
            ("spec.nodeName=", true),
            ("spec.nodeName!=x", true),
            ("spec.nodeName=x", false),
        ] {
            assert_eq!(FieldSelector::parse(text).unwrap().matches(&fields), want, "{text}");
        }
        assert_eq!(FieldSelector::parse("b!=2,a=1").unwrap().exact("a"), Some("1"));
        assert_eq!(FieldSelector::parse("b!=2,a=1").unwrap().exact("b"), None);
    }
}
