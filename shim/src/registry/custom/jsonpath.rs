//! The JSONPath of printer columns and selectable fields, as client-go's `util/jsonpath` reads `{.a.b}`.

use serde_json::Value;
use std::cmp::Ordering;

/// A parsed path.
#[derive(Clone, PartialEq, Debug)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, PartialEq, Debug)]
enum Step {
    Field(Box<str>),
    Every,
    /// `..`: everything at any depth.
    Descend,
    /// `[start:end:step]`; `[n]` is from n to the one after.
    Slice {
        start: Option<i64>,
        end: Option<i64>,
        step: i64,
    },
    Filter(Operand, Comparison, Operand),
}

#[derive(Clone, PartialEq, Debug)]
enum Operand {
    Path(JsonPath),
    Literal(Value),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Comparison {
    Exists,
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Paths within filters within filters end here.
const MAX_DEPTH: usize = 8;

impl JsonPath {
    /// Reads `.spec.replicas`, `.status.conditions[?(@.type=="Ready")].status`, `.metadata.labels['a/b']`, …
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::parse_within(text, MAX_DEPTH)
    }

    fn parse_within(text: &str, depth: usize) -> Result<Self, String> {
        let mut parser = Parser { text, at: 0, depth };
        let mut steps = Vec::new();
        while parser.at < text.len() {
            parser.step(&mut steps)?;
        }
        Ok(Self(steps))
    }

    /// Everything that the path leads to, in order.
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        self.0.iter().fold(vec![value], |found, step| found.into_iter().flat_map(|value| step.apply(value)).collect())
    }

    /// The names of a path that has nothing else.
    pub fn fields(&self) -> Option<Vec<&str>> {
        let names = self.0.iter().map(|step| match step {
            Step::Field(name) => Some(&**name),
            Step::Every | Step::Descend | Step::Slice { .. } | Step::Filter(..) => None,
        });
        names.collect()
    }
}

impl Step {
    fn apply<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        match (self, value) {
            (Step::Field(name), Value::Object(map)) => map.get(&**name).into_iter().collect(),
            (Step::Every, Value::Array(items)) => items.iter().collect(),
            (Step::Every, Value::Object(map)) => map.values().collect(),
            (Step::Descend, value) => {
                let mut all = Vec::new();
                descend(value, &mut all);
                all
            }
            (Step::Slice { start, end, step }, Value::Array(items)) => slice(items, *start, *end, *step),
            (Step::Filter(left, comparison, right), Value::Array(items)) => {
                items.iter().filter(|item| comparison.holds(left, right, item)).collect()
            }
            (Step::Field(_) | Step::Every | Step::Slice { .. } | Step::Filter(..), _) => Vec::new(),
        }
    }
}

fn descend<'v>(value: &'v Value, all: &mut Vec<&'v Value>) {
    all.push(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| descend(item, all)),
        Value::Object(map) => map.values().for_each(|item| descend(item, all)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn slice(items: &[Value], start: Option<i64>, end: Option<i64>, step: i64) -> Vec<&Value> {
    let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
    let from_end = |at: i64| if at < 0 { at + length } else { at };
    let (start, end) = (from_end(start.unwrap_or(0)), from_end(end.unwrap_or(length)).min(length));
    let (Ok(start), Ok(end), Ok(step)) = (usize::try_from(start), usize::try_from(end), usize::try_from(step)) else {
        return Vec::new();
    };
    items.get(start..end).unwrap_or_default().iter().step_by(step.max(1)).collect()
}

impl Operand {
    fn values<'v>(&'v self, item: &'v Value) -> Vec<&'v Value> {
        match self {
            Self::Path(path) => path.find(item),
            Self::Literal(value) => vec![value],
        }
    }
}

impl Comparison {
    fn holds(self, left: &Operand, right: &Operand, item: &Value) -> bool {
        let left = left.values(item);
        if self == Self::Exists {
            return !left.is_empty();
        }
        let right = right.values(item);
        let (Some(left), Some(right)) = (left.first(), right.first()) else { return false };
        let order = match (left, right) {
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            _ => None,
        };
        match self {
            Self::Exists => true,
            Self::Equal => order == Some(Ordering::Equal),
            Self::Unequal => order != Some(Ordering::Equal),
            Self::Less => order == Some(Ordering::Less),
            Self::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Self::Greater => order == Some(Ordering::Greater),
            Self::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        }
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
}

impl<'t> Parser<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn step(&mut self, steps: &mut Vec<Step>) -> Result<(), String> {
        if self.rest().starts_with("..") {
            self.at += 2;
            steps.push(Step::Descend);
            return if self.rest().starts_with('[') { Ok(()) } else { self.name(steps) };
        }
        if self.rest().starts_with('.') {
            self.at += 1;
            // A path may be the whole object, and a dot may come before a bracket.
            return if self.rest().is_empty() || self.rest().starts_with('[') { Ok(()) } else { self.name(steps) };
        }
        if self.rest().starts_with('[') {
            return self.bracket(steps);
        }
        if self.at == 0 && !self.text.starts_with(['$', '@']) {
            return self.name(steps);
        }
        if self.at == 0 {
            self.at = 1;
            return Ok(());
        }
        Err(format!("unrecognized character in action: {:?}", self.rest().chars().next().unwrap_or(' ')))
    }

    fn name(&mut self, steps: &mut Vec<Step>) -> Result<(), String> {
        let mut name = String::new();
        let mut chars = self.rest().char_indices();
        let mut end = self.rest().len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => name.extend(chars.next().map(|(_, escaped)| escaped)),
                '.' | '[' | ' ' | '=' | '!' | '<' | '>' | ')' => {
                    end = at;
                    break;
                }
                c => name.push(c),
            }
        }
        self.at += end;
        match name.as_str() {
            "" => return Err("unexpected empty field name".to_owned()),
            "*" => steps.push(Step::Every),
            name => steps.push(Step::Field(name.into())),
        }
        Ok(())
    }

    fn bracket(&mut self, steps: &mut Vec<Step>) -> Result<(), String> {
        let inner = self.until_close()?;
        if let Some(filter) = inner.strip_prefix("?(").and_then(|text| text.strip_suffix(')')) {
            steps.push(self.filter(filter)?);
        } else if let Some(name) = quoted(inner) {
            steps.push(Step::Field(name.into()));
        } else if inner == "*" {
            steps.push(Step::Every);
        } else {
            steps.push(range(inner)?);
        }
        Ok(())
    }

    /// What is between this bracket and the one that closes it, quotes and inner brackets respected.
    fn until_close(&mut self) -> Result<&'t str, String> {
        let (mut open, mut quote) = (0, None);
        let mut escaped = false;
        for (at, c) in self.rest().char_indices() {
            match (quote, c) {
                _ if escaped => escaped = false,
                (Some(_), '\\') => escaped = true,
                (Some(q), c) if c == q => quote = None,
                (Some(_), _) => {}
                (None, '\'' | '"') => quote = Some(c),
                (None, '[') => open += 1,
                (None, ']') => {
                    open -= 1;
                    if open == 0 {
                        let inner = &self.rest()[1..at];
                        self.at += at + 1;
                        return Ok(inner.trim());
                    }
                }
                (None, _) => {}
            }
        }
        Err("unterminated array".to_owned())
    }

    fn filter(&self, text: &str) -> Result<Step, String> {
        const OPERATORS: [(&str, Comparison); 6] = [
            ("==", Comparison::Equal),
            ("!=", Comparison::Unequal),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        let depth = self.depth.checked_sub(1).ok_or("filters are nested too deeply")?;
        let operand = |text: &str| -> Result<Operand, String> {
            let text = text.trim();
            if let Some(path) = text.strip_prefix('@') {
                return Ok(Operand::Path(JsonPath::parse_within(path, depth)?));
            }
            if let Some(text) = quoted(text) {
                return Ok(Operand::Literal(Value::from(text)));
            }
            match serde_json::from_str(text) {
                Ok(value @ (Value::Bool(_) | Value::Number(_))) => Ok(Operand::Literal(value)),
                _ => Err(format!("unrecognized filter operand {text:?}")),
            }
        };
        let found = text.char_indices().find_map(|(at, _)| {
            let (name, comparison) = OPERATORS.iter().find(|(name, _)| text[at..].starts_with(name))?;
            Some((at, at + name.len(), *comparison))
        });
        match found {
            Some((end, start, comparison)) => {
                Ok(Step::Filter(operand(&text[..end])?, comparison, operand(&text[start..])?))
            }
            None => Ok(Step::Filter(operand(text)?, Comparison::Exists, Operand::Literal(Value::Null))),
        }
    }
}

/// The text between quotes of either kind, escapes resolved.
fn quoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next()),
            c if c == quote => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

fn range(text: &str) -> Result<Step, String> {
    let number = |text: &str| match text.trim() {
        "" => Ok(None),
        text => text.parse::<i64>().map(Some).map_err(|_| format!("invalid array index {text}")),
    };
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        [index] => {
            let start = number(index)?.ok_or("invalid array index")?;
            let end = if start == -1 { None } else { Some(start + 1) };
            Ok(Step::Slice { start: Some(start), end, step: 1 })
        }
        [start, end] => Ok(Step::Slice { start: number(start)?, end: number(end)?, step: 1 }),
        [start, end, step] => {
            Ok(Step::Slice { start: number(start)?, end: number(end)?, step: number(step)?.unwrap_or(1).max(1) })
        }
        _ => Err(format!("invalid array index {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_lead_to_what_client_go_finds() {
        let object = json!({
            "spec": {"n": 5, "l": ["a", "b", "c"], "deep": {"n": 7}},
            "metadata": {"labels": {"a.b/c": "dotted"}},
            "status": {"conditions": [
                {"type": "Ready", "status": "True", "count": 2},
                {"type": "Other", "status": "False"},
            ]},
        });
        for (path, wanted) in [
            (".spec.n", json!([5])),
            ("spec.n", json!([5])),
            (".spec.none", json!([])),
            (".spec.l", json!([["a", "b", "c"]])),
            (".spec.l[0]", json!(["a"])),
            (".spec.l[-1]", json!(["c"])),
            (".spec.l[1:]", json!(["b", "c"])),
            (".spec.l[*]", json!(["a", "b", "c"])),
            (".spec.l[9]", json!([])),
            (r".metadata.labels['a.b/c']", json!(["dotted"])),
            (r".metadata.labels.a\.b/c", json!(["dotted"])),
            (r#".status.conditions[?(@.type=="Ready")].status"#, json!(["True"])),
            (r#".status.conditions[?(@.type == 'Other')].status"#, json!(["False"])),
            (r".status.conditions[?(@.count>1)].type", json!(["Ready"])),
            (r".status.conditions[?(@.count)].type", json!(["Ready"])),
            ("..n", json!([5, 7])),
        ] {
            let found = JsonPath::parse(path).map(|path| json!(path.find(&object)));
            assert_eq!(found, Ok(wanted), "{path}");
        }
        for path in [".a[", ".a[x]", ".", "..", ".a..", ".a[?(@.b==x)]"] {
            // No panic; what upstream refuses is refused.
            let _ = JsonPath::parse(path);
        }
        assert!(JsonPath::parse(".a[").is_err());
        assert!(JsonPath::parse(".a[x]").is_err());
    }
}
