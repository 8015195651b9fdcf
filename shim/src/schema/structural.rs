//! Structural schemas: `openAPIV3Schema` of a CustomResourceDefinition as a compact tree, and what follows from it alone:
//! pruning and defaulting. Value rules and CEL rules are kept in it for the registry, which words their errors.

mod default;
mod parse;
mod prune;
#[cfg(test)]
mod tests;

use serde_json::{Number, Value};

/// `type`; what may be anything has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Type {
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Type {
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// `additionalProperties`.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum Additional {
    #[default]
    None,
    /// `true`: any key, nothing known of its value.
    Any,
    Each(Box<Structural>),
}

/// `x-kubernetes-list-type`.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum ListType {
    #[default]
    Atomic,
    Set,
    /// By these keys.
    Map(Box<[Box<str>]>),
}

/// One node of a schema. Nodes are many (thousands in large definitions): what most do not have is boxed.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Structural {
    pub ty: Type,
    pub nullable: bool,
    pub int_or_string: bool,
    /// `x-kubernetes-preserve-unknown-fields`
    pub preserve: bool,
    /// `x-kubernetes-embedded-resource`
    pub embedded: bool,
    /// `x-kubernetes-map-type: atomic`
    pub atomic_map: bool,
    /// By name, sorted.
    properties: Box<[(Box<str>, Structural)]>,
    pub additional: Additional,
    pub items: Option<Box<Structural>>,
    pub list: ListType,
    pub default: Option<Box<Value>>,
    pub checks: Option<Box<Checks>>,
    pub rules: Box<[Rule]>,
}

/// Value validations of a node.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Checks {
    pub required: Box<[Box<str>]>,
    pub allowed: Box<[Value]>,
    pub maximum: Option<Bound>,
    pub minimum: Option<Bound>,
    pub multiple_of: Option<Number>,
    pub max_length: Option<usize>,
    pub min_length: Option<usize>,
    pub pattern: Option<Box<str>>,
    pub format: Option<Box<str>>,
    pub max_items: Option<usize>,
    pub min_items: Option<usize>,
    pub unique_items: bool,
    pub max_properties: Option<usize>,
    pub min_properties: Option<usize>,
    pub all_of: Box<[Structural]>,
    pub any_of: Box<[Structural]>,
    pub one_of: Box<[Structural]>,
    pub not: Option<Box<Structural>>,
}

/// `maximum` or `minimum` with its `exclusive…`.
#[derive(Clone, PartialEq, Debug)]
pub struct Bound {
    pub value: Number,
    pub exclusive: bool,
}

/// One of `x-kubernetes-validations`, as written.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rule {
    pub rule: Box<str>,
    pub message: Box<str>,
    pub message_expression: Box<str>,
    /// `FieldValueInvalid`, …; empty is that one.
    pub reason: Box<str>,
    pub field_path: Box<str>,
    pub optional_old_self: bool,
}

impl Structural {
    /// Reads `openAPIV3Schema`; parts that are no schema are left out (the registry has refused them).
    pub fn parse(schema: &Value) -> Self {
        parse::node(schema)
    }

    /// What the schema is when nothing is known: everything is kept.
    pub fn anything() -> Self {
        Self { ty: Type::Object, preserve: true, ..Self::default() }
    }

    /// The schema of a declared property.
    pub fn property(&self, name: &str) -> Option<&Structural> {
        let at = self.properties.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        Some(&self.properties[at].1)
    }

    /// Declared properties, sorted by name.
    pub fn properties(&self) -> impl ExactSizeIterator<Item = (&str, &Structural)> {
        self.properties.iter().map(|(name, schema)| (&**name, schema))
    }

    /// The schema of a key that no property declares.
    pub fn additional(&self) -> Option<&Structural> {
        match &self.additional {
            Additional::Each(schema) => Some(schema),
            Additional::None | Additional::Any => None,
        }
    }

    /// The schema of any key.
    pub fn entry(&self, name: &str) -> Option<&Structural> {
        self.property(name).or_else(|| self.additional())
    }

    /// Removes the fields that the schema does not declare; their paths, sorted.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        prune::prune(self, object)
    }

    /// Fills in the defaults.
    pub fn fill(&self, object: &mut Value) {
        default::fill(self, object, true);
    }

    /// Drops nulls where they are not allowed and no default takes their place.
    pub fn drop_nulls(&self, object: &mut Value) {
        default::drop_nulls(self, object, true);
    }

    /// This node and all below, nested value validations left out.
    pub fn any_node(&self, test: &dyn Fn(&Structural) -> bool) -> bool {
        test(self)
            || self.properties.iter().any(|(_, node)| node.any_node(test))
            || self.additional().is_some_and(|node| node.any_node(test))
            || self.items.as_ref().is_some_and(|node| node.any_node(test))
    }
}

/// The three fields that every resource has whatever its schema says.
pub fn is_type_field(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata")
}
