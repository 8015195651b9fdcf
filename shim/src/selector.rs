//! Label and field selectors: parsed once, matched against an entry's labels and fields.

mod field;
mod label;
pub mod names;

use std::collections::BTreeMap;

/// Labels or selectable fields of one object.
pub type Pairs = BTreeMap<Box<str>, Box<str>>;

/// Where a selector looks names up: `Pairs`, or the compact form that the watch cache keeps.
pub trait Lookup {
    fn value(&self, name: &str) -> Option<&str>;
}

impl Lookup for Pairs {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(|value| &**value)
    }
}

/// A parsed `labelSelector` (all requirements hold), sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    pub requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: Box<str>,
    pub op: Op,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    In(Vec<Box<str>>),
    NotIn(Vec<Box<str>>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

impl LabelSelector {
    /// Parses the query-string grammar (`a=b,c in (d,e),!f`); the error is the text kube-apiserver puts in its 400.
    pub fn parse(text: &str) -> Result<Self, String> {
        label::parse(text)
    }
    pub fn matches(&self, labels: &impl Lookup) -> bool {
        self.requirements.iter().all(|r| r.matches(labels))
    }
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }
}

impl Requirement {
    /// An absent key satisfies `NotIn` and `DoesNotExist`, and nothing else.
    pub fn matches(&self, labels: &impl Lookup) -> bool {
        let value = labels.value(&self.key);
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.op {
            Op::In(values) => value.is_some_and(|v| values.iter().any(|wanted| **wanted == *v)),
            Op::NotIn(values) => value.is_none_or(|v| values.iter().all(|refused| **refused != *v)),
            Op::Exists => value.is_some(),
            Op::DoesNotExist => value.is_none(),
            Op::GreaterThan(bound) => number().is_some_and(|n| n > *bound),
            Op::LessThan(bound) => number().is_some_and(|n| n < *bound),
        }
    }
}

/// A parsed `fieldSelector`: `field=value`, `field==value`, `field!=value`, comma separated; `\` escapes `,` `=` `\`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// (field, wanted equal, value)
    pub terms: Vec<(Box<str>, bool, Box<str>)>,
}

impl FieldSelector {
    /// Parses; whether each field may be selected on is the resource's own table (`registry`).
    pub fn parse(text: &str) -> Result<Self, String> {
        field::parse(text)
    }
    /// A field the object does not have reads as the empty string.
    pub fn matches(&self, fields: &impl Lookup) -> bool {
        self.terms.iter().all(|(field, equal, value)| (fields.value(field).unwrap_or("") == &**value) == *equal)
    }
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }
    /// The value that `field` must equal, when a term says so (a list of one name reads one key).
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|(f, equal, _)| &**f == field && *equal).map(|(_, _, v)| &**v)
    }
}
