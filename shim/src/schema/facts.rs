//! The facts of the built-in types: fields in Go's declared order with shapes, zero rules, protobuf numbers and merge keys,
//! read once from the generated `facts/types.txt` (see `facts/generate.py` for the format and the sources).

use super::Schema;
use crate::gvr::GroupVersion;
use std::collections::HashMap;
use std::sync::LazyLock;

static TABLE: &str = include_str!("facts/types.txt");
static FACTS: LazyLock<Facts> = LazyLock::new(|| Facts::parse(TABLE));

/// The table; the first caller pays for reading it (about a millisecond).
pub(super) fn facts() -> &'static Facts {
    &FACTS
}

/// Index of a struct type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TypeId(u16);

/// Index of a shape; equal shapes share one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ShapeId(u16);

/// What a JSON value must look like and how it travels. `go` is the name that Go's errors call it by.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    String {
        go: &'static str,
    },
    Bool,
    Int32 {
        go: &'static str,
    },
    Int64 {
        go: &'static str,
    },
    Float64,
    /// base64 in JSON.
    Bytes,
    Quantity,
    Time,
    MicroTime,
    Duration,
    IntOrString,
    /// Any JSON: a RawExtension, a table cell.
    Raw,
    FieldsV1,
    Struct(TypeId),
    /// apiextensions' JSON unions: a JSONSchemaProps, or what `other` says in its place.
    SchemaOr {
        schema: TypeId,
        other: Alternative,
    },
    /// `named` is a list type with a Go name of its own, which protobuf wraps in a message.
    List {
        item: ShapeId,
        named: Option<&'static str>,
    },
    Map {
        item: ShapeId,
        named: Option<&'static str>,
    },
}

/// What may stand in the place of a schema.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Alternative {
    Bool,
    Schemas,
    Strings,
}

/// When a field is written (DESIGN decision 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rule {
    /// A pointer with omitempty: written when set, even when zero.
    Keep,
    /// A pointer without omitempty: `null` when not set.
    Null,
    /// A value with omitempty: left out when zero; Go writes structs all the same.
    Drop,
    /// Always written.
    Always,
    /// Left out when the zero struct.
    DropZero,
}

/// How an applier owns the value of a field, where that is not as its type says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ownership {
    /// Maps by entry, lists whole.
    ByType,
    Whole,
    /// By entry, though its type says whole.
    Granular,
    Set,
    /// A list of maps known by these fields.
    Keyed(Box<[Box<str>]>),
}

/// One JSON field of a struct, inlined structs resolved.
#[derive(Debug)]
pub(super) struct Field {
    pub name: &'static str,
    pub shape: ShapeId,
    pub rule: Rule,
    /// Protobuf number; 0 when the field does not travel.
    pub number: u16,
    /// Protobuf numbers of the inlined messages around it, outermost first; 0 for none.
    pub via: [u16; 2],
    pub merge_key: Option<&'static str>,
    /// Strategic merge: lists merge by key or as sets.
    pub merges: bool,
    /// Strategic merge: the value is replaced whole.
    pub replaces: bool,
    /// Static default, as JSON.
    pub default: Option<&'static str>,
    pub ownership: Ownership,
}

impl Field {
    /// The numbers that lead to it on the wire, outermost message first, padded with its own.
    pub(super) fn wire_path(&self) -> [u16; 3] {
        let or_own = |via: u16| if via == 0 { self.number } else { via };
        [or_own(self.via[0]), or_own(self.via[1]), self.number]
    }

    /// How many inlined messages lie around it.
    pub(super) fn depth(&self) -> usize {
        self.via.iter().filter(|via| **via != 0).count()
    }
}

/// A struct type.
#[derive(Debug)]
pub(super) struct Struct {
    /// Package and name: `core/v1.Pod`.
    pub name: &'static str,
    /// Its component in OpenAPI: `io.k8s.api.core.v1.Pod`.
    pub openapi: &'static str,
    pub fields: Vec<Field>,
    /// Positions in `fields`, ordered by name.
    by_name: Vec<u16>,
    /// Positions in `fields`, ordered as protobuf writes them.
    pub by_number: Vec<u16>,
    /// Owned whole by an applier.
    pub atomic: bool,
    /// Whether it or anything below has a static default.
    pub has_defaults: bool,
}

impl Struct {
    /// A field's position by its JSON name, case-sensitively.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        let at = self.by_name.binary_search_by(|at| self.fields[usize::from(*at)].name.cmp(name)).ok()?;
        Some(usize::from(self.by_name[at]))
    }

    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        self.position(name).map(|at| &self.fields[at])
    }

    /// The bare Go name, as in `Go struct field PodSpec.…`.
    pub(super) fn go_name(&self) -> &'static str {
        self.name.rsplit_once('.').map_or(self.name, |(_, name)| name)
    }

    /// Package and name as Go's reflection prints them: `v1.Pod`.
    fn spoken(&self) -> &'static str {
        self.name.rsplit_once('/').map_or(self.name, |(_, name)| name)
    }
}

/// Everything known of the built-in types.
pub(super) struct Facts {
    shapes: Vec<Shape>,
    types: Vec<Struct>,
    kinds: Vec<Schema>,
}

impl Facts {
    pub(super) fn shape(&self, id: ShapeId) -> Shape {
        self.shapes[usize::from(id.0)]
    }

    pub(super) fn ty(&self, id: TypeId) -> &Struct {
        &self.types[usize::from(id.0)]
    }

    pub(super) fn kinds(&self) -> &[Schema] {
        &self.kinds
    }

    /// A struct by its OpenAPI name.
    #[cfg(test)]
    pub(super) fn type_named(&self, openapi: &str) -> Option<&Struct> {
        self.types.iter().find(|ty| ty.openapi == openapi)
    }

    /// The kind in exactly that group version.
    pub(super) fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&Schema> {
        let wanted = (group, version, kind);
        let at = self.kinds.binary_search_by(|s| (s.gv.group, s.gv.version, s.kind).cmp(&wanted)).ok()?;
        Some(&self.kinds[at])
    }

    /// A shape's Go type as error texts spell it: `[]v1.Container`, `map[string]string`.
    pub(super) fn go_type(&self, shape: Shape) -> String {
        match shape {
            Shape::String { go } | Shape::Int32 { go } | Shape::Int64 { go } => go.to_owned(),
            Shape::Bool => "bool".to_owned(),
            Shape::Float64 => "float64".to_owned(),
            Shape::Bytes => "[]uint8".to_owned(),
            Shape::Quantity => "resource.Quantity".to_owned(),
            Shape::Time => "v1.Time".to_owned(),
            Shape::MicroTime => "v1.MicroTime".to_owned(),
            Shape::Duration => "v1.Duration".to_owned(),
            Shape::IntOrString => "intstr.IntOrString".to_owned(),
            Shape::Raw => "runtime.RawExtension".to_owned(),
            Shape::FieldsV1 => "v1.FieldsV1".to_owned(),
            Shape::Struct(id) => self.ty(id).spoken().to_owned(),
            Shape::SchemaOr { schema, other } => {
                let suffix = match other {
                    Alternative::Bool => "OrBool",
                    Alternative::Schemas => "OrArray",
                    Alternative::Strings => "OrStringArray",
                };
                format!("{}{suffix}", self.ty(schema).spoken())
            }
            Shape::List { named: Some(name), .. } | Shape::Map { named: Some(name), .. } => name.to_owned(),
            Shape::List { item, named: None } => format!("[]{}", self.go_type(self.shape(item))),
            Shape::Map { item, named: None } => format!("map[string]{}", self.go_type(self.shape(item))),
        }
    }

    fn parse(table: &'static str) -> Facts {
        let mut reader = Reader::default();
        for line in table.lines().filter(|line| line.starts_with("T ")) {
            let name = line.split(' ').nth(1).unwrap_or_default();
            reader.ids.insert(name, TypeId(reader.ids.len() as u16));
        }
        for line in table.lines() {
            reader.line(line);
        }
        let mut facts = Facts { shapes: reader.shapes, types: reader.types, kinds: reader.kinds };
        facts.kinds.sort_by_key(|s| (s.gv.group, s.gv.version, s.kind));
        for ty in &mut facts.types {
            ty.by_name = (0..ty.fields.len() as u16).collect();
            let fields = &ty.fields;
            ty.by_name.sort_by_key(|at| fields[usize::from(*at)].name);
            ty.by_number = (0..fields.len() as u16).filter(|at| fields[usize::from(*at)].number != 0).collect();
            ty.by_number.sort_by_key(|at| fields[usize::from(*at)].wire_path());
        }
        facts.spread_defaults();
        facts
    }

    /// Marks every type from which a default can be reached, so that defaulting skips the rest.
    fn spread_defaults(&mut self) {
        loop {
            let found: Vec<usize> = (0..self.types.len())
                .filter(|at| !self.types[*at].has_defaults)
                .filter(|at| {
                    self.types[*at].fields.iter().any(|f| f.default.is_some() || self.leads_to_default(f.shape))
                })
                .collect();
            if found.is_empty() {
                return;
            }
            for at in found {
                self.types[at].has_defaults = true;
            }
        }
    }

    /// Whether a value of that shape can hold something with a default.
    pub(super) fn leads_to_default(&self, shape: ShapeId) -> bool {
        match self.shape(shape) {
            Shape::Struct(id) => self.ty(id).has_defaults,
            Shape::List { item, .. } | Shape::Map { item, .. } => self.leads_to_default(item),
            _ => false,
        }
    }
}

/// Reads the generated table. It is part of the binary and covered by tests, so a bad line is a bug: it panics.
#[derive(Default)]
struct Reader {
    ids: HashMap<&'static str, TypeId>,
    shapes: Vec<Shape>,
    known: HashMap<&'static str, ShapeId>,
    types: Vec<Struct>,
    kinds: Vec<Schema>,
}

impl Reader {
    fn line(&mut self, line: &'static str) {
        if let Some(rest) = line.strip_prefix("T ") {
            let mut words = rest.split(' ');
            let mut next = || words.next().unwrap_or_default();
            let (name, openapi, atomic) = (next(), next(), next() == "atomic");
            self.types.push(Struct {
                name,
                openapi,
                atomic,
                fields: Vec::new(),
                by_name: Vec::new(),
                by_number: Vec::new(),
                has_defaults: false,
            });
        } else if let Some(rest) = line.strip_prefix("K ") {
            let mut columns = rest.split('\t');
            let mut next = || columns.next().unwrap_or_default();
            let (group, version, kind, ty) = (next(), next(), next(), next());
            self.kinds.push(Schema { gv: GroupVersion { group, version }, kind, ty: self.ids[ty] });
        } else {
            let field = self.field(line);
            if let Some(ty) = self.types.last_mut() {
                ty.fields.push(field);
            }
        }
    }

    fn field(&mut self, line: &'static str) -> Field {
        let mut columns = line.split('\t');
        let mut next = || columns.next().unwrap_or_default();
        let (name, shape, number, rule) = (next(), next(), next(), next());
        let numbers: Vec<u16> = number.split('.').map(|n| n.parse().unwrap_or(0)).collect();
        let (number, outer) = numbers.split_last().map_or((0, &[][..]), |(last, outer)| (*last, outer));
        let mut field = Field {
            name,
            shape: self.shape(shape),
            rule: match rule {
                "p" => Rule::Keep,
                "n" => Rule::Null,
                "d" => Rule::Drop,
                "z" => Rule::DropZero,
                _ => Rule::Always,
            },
            number,
            via: [outer.first().copied().unwrap_or(0), outer.get(1).copied().unwrap_or(0)],
            merge_key: None,
            merges: false,
            replaces: false,
            default: None,
            ownership: Ownership::ByType,
        };
        for extra in columns {
            match extra.split_once('=') {
                Some(("m", key)) => field.merge_key = Some(key),
                Some(("S", strategy)) => {
                    field.merges = strategy.contains("merge");
                    field.replaces = strategy == "replace";
                }
                Some(("D", json)) => field.default = Some(json),
                Some(("L" | "M", "atomic")) => field.ownership = Ownership::Whole,
                Some(("M", "granular")) => field.ownership = Ownership::Granular,
                Some(("L", "set")) => field.ownership = Ownership::Set,
                Some(("k", keys)) => field.ownership = Ownership::Keyed(keys.split(',').map(Into::into).collect()),
                _ => {}
            }
        }
        field
    }

    fn shape(&mut self, text: &'static str) -> ShapeId {
        if let Some(id) = self.known.get(text) {
            return *id;
        }
        let (head, name) = text.split_once(':').map_or((text, None), |(head, name)| (head, Some(name)));
        let shape = if let Some(ty) = text.strip_prefix('#') {
            Shape::Struct(self.ids[ty])
        } else if let Some((other, ty)) = text.strip_prefix('|').and_then(|rest| rest.split_once('#')) {
            let other = match other {
                "b" => Alternative::Bool,
                "a" => Alternative::Schemas,
                _ => Alternative::Strings,
            };
            Shape::SchemaOr { schema: self.ids[ty], other }
        } else if let Some(rest) = text.strip_prefix("![:") {
            let (name, item) = rest.split_once(']').unwrap_or((rest, "s"));
            Shape::List { item: self.shape(item), named: Some(name) }
        } else if let Some(rest) = text.strip_prefix("{:") {
            let (name, item) = rest.split_once('}').unwrap_or((rest, "s"));
            Shape::Map { item: self.shape(item), named: Some(name) }
        } else if let Some(item) = text.strip_prefix("[]") {
            Shape::List { item: self.shape(item), named: None }
        } else if let Some(item) = text.strip_prefix("{}") {
            Shape::Map { item: self.shape(item), named: None }
        } else {
            match head {
                "s" => Shape::String { go: name.unwrap_or("string") },
                "b" => Shape::Bool,
                "i" => Shape::Int32 { go: name.unwrap_or("int32") },
                "l" => Shape::Int64 { go: name.unwrap_or("int64") },
                "f" => Shape::Float64,
                "y" => Shape::Bytes,
                "q" => Shape::Quantity,
                "t" => Shape::Time,
                "u" => Shape::MicroTime,
                "d" => Shape::Duration,
                "o" => Shape::IntOrString,
                "F" => Shape::FieldsV1,
                _ => Shape::Raw,
            }
        };
        let id = ShapeId(self.shapes.len() as u16);
        self.shapes.push(shape);
        self.known.insert(text, id);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_fields_with_their_shapes_rules_and_numbers() {
        let facts = facts();
        let pod = facts.kind("", "v1", "Pod").unwrap();
        let ty = facts.ty(pod.ty);
        assert_eq!(
            ty.fields.iter().map(|f| f.name).collect::<Vec<_>>(),
            ["kind", "apiVersion", "metadata", "spec", "status"]
        );
        let Shape::Struct(spec) = facts.shape(ty.field("spec").unwrap().shape) else { panic!("spec is a struct") };
        let containers = facts.ty(spec).field("containers").unwrap();
        assert_eq!(facts.go_type(facts.shape(containers.shape)), "[]v1.Container");
        assert_eq!((containers.merge_key, containers.merges, containers.number), (Some("name"), true, 2));
        assert!(ty.has_defaults, "container ports default their protocol");
    }

    #[test]
    fn every_shape_and_kind_resolves() {
        let facts = facts();
        assert!(facts.kinds().len() > 100);
        assert!(facts.kind("", "v1", "Nothing").is_none());
        // The decoder keeps the fields it has met in the bits of a u64.
        assert!(facts.types.iter().all(|ty| ty.fields.len() == ty.by_name.len() && ty.fields.len() <= 64));
    }
}
