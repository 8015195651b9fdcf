//! Field errors: a path, a reason and a text, worded as apimachinery's `field.Error`.

use serde_json::Value;
use std::fmt;

/// `causes[].reason` of an Invalid status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
    TypeInvalid,
}

impl Cause {
    /// As `Status.details.causes[].reason` has it.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

/// One field's error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldError {
    pub cause: Cause,
    /// `spec.containers[0].name`.
    pub field: String,
    /// The text as `Status.details.causes[].message` has it: `Required value: …`, `Invalid value: "x": …`.
    pub message: String,
}

impl fmt::Display for FieldError {
    /// As the message of the Invalid status lists it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// The errors found so far.
pub type Errors = Vec<FieldError>;

/// The path of a field, which also words the errors about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Path(String);

impl Path {
    /// A top-level field.
    pub fn new(field: &str) -> Self {
        Self(field.to_owned())
    }
    pub fn child(&self, field: &str) -> Self {
        Self(if self.0.is_empty() { field.to_owned() } else { format!("{}.{field}", self.0) })
    }
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
    /// A map entry: `labels[a]`.
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn error(&self, cause: Cause, head: String, detail: &str) -> FieldError {
        let message = if detail.is_empty() { head } else { format!("{head}: {detail}") };
        FieldError { cause, field: self.0.clone(), message }
    }
    pub fn required(&self, detail: &str) -> FieldError {
        self.error(Cause::Required, "Required value".to_owned(), detail)
    }
    pub fn forbidden(&self, detail: &str) -> FieldError {
        self.error(Cause::Forbidden, "Forbidden".to_owned(), detail)
    }
    pub fn invalid(&self, value: impl Into<Value>, detail: &str) -> FieldError {
        self.error(Cause::Invalid, format!("Invalid value: {}", shown(&value.into())), detail)
    }
    /// An Invalid whose value is left out (`field.OmitValueType`).
    pub fn invalid_omitted(&self, detail: &str) -> FieldError {
        self.error(Cause::Invalid, "Invalid value".to_owned(), detail)
    }
    pub fn duplicate(&self, value: impl Into<Value>) -> FieldError {
        self.error(Cause::Duplicate, format!("Duplicate value: {}", shown(&value.into())), "")
    }
    pub fn not_found(&self, value: impl Into<Value>) -> FieldError {
        self.error(Cause::NotFound, format!("Not found: {}", shown(&value.into())), "")
    }
    pub fn not_supported(&self, value: impl Into<Value>, supported: &[&str]) -> FieldError {
        let list: Vec<String> = supported.iter().map(|s| quoted(s)).collect();
        let detail = if list.is_empty() { String::new() } else { format!("supported values: {}", list.join(", ")) };
        self.error(Cause::NotSupported, format!("Unsupported value: {}", shown(&value.into())), &detail)
    }
    pub fn too_long(&self, max_bytes: usize) -> FieldError {
        self.error(Cause::TooLong, "Too long".to_owned(), &format!("may not be more than {max_bytes} bytes"))
    }
    pub fn too_many(&self, actual: usize, max: usize) -> FieldError {
        let items = if max == 1 { "item" } else { "items" };
        self.error(Cause::TooMany, format!("Too many: {actual}"), &format!("must have at most {max} {items}"))
    }
    /// One Invalid for each text of a name rule.
    pub fn all_invalid(&self, value: &str, texts: Vec<String>) -> impl Iterator<Item = FieldError> {
        texts.into_iter().map(move |text| self.invalid(value, &text))
    }
}

/// A value as `field.Error` shows it: strings quoted, the rest as JSON.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        other => other.to_string(),
    }
}

/// Go's `%q`.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn errors_read_as_upstream_words_them() {
        let path = Path::new("spec").child("containers").index(0).child("name");
        for (error, want) in [
            (path.required(""), "spec.containers[0].name: Required value"),
            (path.invalid("a\"b\n", "no"), r#"spec.containers[0].name: Invalid value: "a\"b\n": no"#),
            (path.invalid(json!({"a": 1}), "no"), r#"spec.containers[0].name: Invalid value: {"a":1}: no"#),
            (path.invalid_omitted("no"), "spec.containers[0].name: Invalid value: no"),
            (path.duplicate("x"), r#"spec.containers[0].name: Duplicate value: "x""#),
            (
                path.not_supported("x", &["A", "B"]),
                r#"spec.containers[0].name: Unsupported value: "x": supported values: "A", "B""#,
            ),
            (path.too_long(9), "spec.containers[0].name: Too long: may not be more than 9 bytes"),
            (path.too_many(2, 1), "spec.containers[0].name: Too many: 2: must have at most 1 item"),
        ] {
            assert_eq!(error.to_string(), want);
        }
    }
}
