//! JSON as YAML, laid out as yaml.v2's emitter lays it out: keys in natural order, lists not indented below their key,
//! long texts folded at 80 columns.

use super::scalar;
use serde_json::{Map, Number, Value};
use std::cmp::Ordering;

/// Columns after which a text is folded at its next space.
const BEST_WIDTH: usize = 80;
/// A longer key is no simple key: it gets a `? ` in front.
const MAX_SIMPLE_KEY_BYTES: usize = 128;

/// The document, with a line end after it.
pub fn from_json(value: &Value) -> String {
    let mut writer = Writer { out: String::with_capacity(1024), line_start: 0 };
    writer.node(value, 0, Place::Start);
    writer.out.push('\n');
    writer.out
}

/// What stands on the line before a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing, or `- `: a container begins on this line.
    Start,
    /// `key:`
    AfterKey,
}

struct Writer {
    out: String,
    /// Where the current line begins in `out`.
    line_start: usize,
}

impl Writer {
    fn column(&self) -> usize {
        self.out[self.line_start..].chars().count()
    }

    fn line(&mut self, indent: usize) {
        self.out.push('\n');
        self.line_start = self.out.len();
        self.out.extend(std::iter::repeat_n(' ', indent));
    }

    /// A node whose block lines begin at column `indent`.
    fn node(&mut self, value: &Value, indent: usize, place: Place) {
        if place == Place::AfterKey && !is_block(value) {
            self.out.push(' ');
        }
        match value {
            Value::Object(map) if map.is_empty() => self.out.push_str("{}"),
            Value::Array(items) if items.is_empty() => self.out.push_str("[]"),
            Value::Object(map) => self.map(map, if place == Place::AfterKey { indent + 2 } else { indent }, place),
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    if at > 0 || place == Place::AfterKey {
                        self.line(indent);
                    }
                    self.out.push_str("- ");
                    self.node(item, indent + 2, Place::Start);
                }
            }
            Value::Null => self.out.push_str("null"),
            Value::Bool(value) => self.out.push_str(if *value { "true" } else { "false" }),
            Value::Number(number) => self.out.push_str(&number_text(number)),
            Value::String(text) => self.text(text, if place == Place::AfterKey { indent + 2 } else { indent.max(2) }),
        }
    }

    fn map(&mut self, map: &Map<String, Value>, indent: usize, place: Place) {
        let mut keys: Vec<&String> = map.keys().collect();
        keys.sort_by(|a, b| natural(a, b));
        for (at, key) in keys.into_iter().enumerate() {
            if at > 0 || place == Place::AfterKey {
                self.line(indent);
            }
            if key.len() > MAX_SIMPLE_KEY_BYTES || key.contains('\n') {
                self.out.push_str("? ");
                self.text(key, indent + 2);
                self.line(indent);
                self.out.push_str(": ");
                self.node(&map[key], indent + 2, Place::Start);
            } else {
                self.key(key);
                self.out.push(':');
                self.node(&map[key], indent, Place::AfterKey);
            }
        }
    }

    fn key(&mut self, key: &str) {
        let found = Analysis::of(key);
        match (!scalar::needs_quotes(key), found) {
            (true, Analysis { plain: true, .. }) => self.out.push_str(key),
            (true, Analysis { single_quoted: true, .. }) => {
                let quoted = key.replace('\'', "''");
                self.out.extend(["'", &quoted, "'"]);
            }
            _ => self.double_quoted(key, None),
        }
    }

    /// A text; lines that it needs begin at column `indent`.
    fn text(&mut self, text: &str, indent: usize) {
        let found = Analysis::of(text);
        if text.contains('\n') && found.block {
            self.literal(text, indent);
        } else if scalar::needs_quotes(text) || text.contains('\n') {
            self.double_quoted(text, Some(indent));
        } else if found.plain {
            self.folded(text, indent, false);
        } else if found.single_quoted {
            self.out.push('\'');
            self.folded(&text.replace('\'', "''"), indent, true);
            self.out.push('\'');
        } else {
            self.double_quoted(text, Some(indent));
        }
    }

    /// A text that may be broken at its single spaces.
    fn folded(&mut self, text: &str, indent: usize, quoted: bool) {
        let chars: Vec<char> = text.chars().collect();
        let mut previous_space = false;
        for (at, char) in chars.iter().enumerate() {
            let inner = !quoted || (at > 0 && at + 1 < chars.len());
            let next_space = chars.get(at + 1) == Some(&' ');
            if *char == ' ' && !previous_space && inner && !next_space && self.column() > BEST_WIDTH {
                self.line(indent);
            } else {
                self.out.push(*char);
            }
            previous_space = *char == ' ';
        }
    }

    fn literal(&mut self, text: &str, indent: usize) {
        self.out.push('|');
        if text.starts_with([' ', '\n']) {
            self.out.push('2');
        }
        match (text.ends_with("\n\n") || text == "\n", text.ends_with('\n')) {
            (true, _) => self.out.push('+'),
            (false, true) => {}
            (false, false) => self.out.push('-'),
        }
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            self.line(if line.is_empty() { 0 } else { indent });
            self.out.push_str(line);
        }
    }

    fn double_quoted(&mut self, text: &str, indent: Option<usize>) {
        self.out.push('"');
        let chars: Vec<char> = text.chars().collect();
        let mut previous_space = false;
        for (at, char) in chars.iter().enumerate() {
            let inner = at > 0 && at + 1 < chars.len();
            match (char, indent) {
                (' ', Some(indent)) if inner && !previous_space && self.column() > BEST_WIDTH => {
                    self.line(indent);
                    if chars.get(at + 1) == Some(&' ') {
                        self.out.push('\\');
                    }
                    previous_space = true;
                    continue;
                }
                ('"', _) => self.out.push_str("\\\""),
                ('\\', _) => self.out.push_str("\\\\"),
                ('\0', _) => self.out.push_str("\\0"),
                ('\x07', _) => self.out.push_str("\\a"),
                ('\x08', _) => self.out.push_str("\\b"),
                ('\t', _) => self.out.push_str("\\t"),
                ('\n', _) => self.out.push_str("\\n"),
                ('\x0b', _) => self.out.push_str("\\v"),
                ('\x0c', _) => self.out.push_str("\\f"),
                ('\r', _) => self.out.push_str("\\r"),
                ('\x1b', _) => self.out.push_str("\\e"),
                ('\u{85}', _) => self.out.push_str("\\N"),
                ('\u{a0}', _) => self.out.push_str("\\_"),
                ('\u{2028}', _) => self.out.push_str("\\L"),
                ('\u{2029}', _) => self.out.push_str("\\P"),
                (char, _) if is_printable(*char) => self.out.push(*char),
                (char, _) => {
                    let code = u32::from(*char);
                    self.out.push_str(&match code {
                        0..=0xff => format!("\\x{code:02X}"),
                        0x100..=0xffff => format!("\\u{code:04X}"),
                        _ => format!("\\U{code:08X}"),
                    });
                }
            }
            previous_space = *char == ' ';
        }
        self.out.push('"');
    }
}

/// Whether it begins on lines of its own below its key.
fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Go's `FormatFloat(f, 'g', -1, 64)` for what is no integer.
fn number_text(number: &Number) -> String {
    let Some(float) = number.as_f64().filter(|_| number.is_f64()) else { return number.to_string() };
    let scientific = format!("{float:e}");
    let exponent: i32 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return format!("{float}");
    }
    let mantissa = scientific.split('e').next().unwrap_or_default();
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// yaml.v2's order of keys: digits by their number, before letters.
fn natural(a: &str, b: &str) -> Ordering {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let Some(at) = a.iter().zip(&b).position(|(a, b)| a != b) else { return a.len().cmp(&b.len()) };
    match (a[at].is_alphabetic(), b[at].is_alphabetic()) {
        (true, true) => return a[at].cmp(&b[at]),
        (true, false) => return Ordering::Greater,
        (false, true) => return Ordering::Less,
        (false, false) => {}
    }
    let digits =
        |text: &[char]| -> Vec<u64> { text[at..].iter().map_while(|c| c.to_digit(10)).map(u64::from).collect() };
    let value = |digits: &[u64], start: u64| {
        digits.iter().fold(start, |number, digit| number.saturating_mul(10).saturating_add(*digit))
    };
    // A zero counts only after another digit.
    let zero = a[at] == '0' || b[at] == '0';
    let before = a[..at].iter().rev().take_while(|c| c.is_ascii_digit()).any(|c| *c != '0');
    let start = u64::from(zero && before);
    let (x, y) = (digits(&a), digits(&b));
    value(&x, start).cmp(&value(&y, start)).then(x.len().cmp(&y.len())).then(a[at].cmp(&b[at]))
}

/// Which styles can carry a text (libyaml's `analyze_scalar`).
#[derive(Clone, Copy)]
struct Analysis {
    plain: bool,
    single_quoted: bool,
    block: bool,
}

impl Analysis {
    fn of(text: &str) -> Self {
        let all = Self { plain: true, single_quoted: true, block: true };
        if text.is_empty() {
            return Self { plain: false, ..all };
        }
        let chars: Vec<char> = text.chars().collect();
        let blank = |at: usize| matches!(chars.get(at), None | Some(' ' | '\t' | '\n' | '\r'));
        let mut indicators = text.starts_with("---") || text.starts_with("...");
        let (mut special, mut breaks, mut break_space, mut space_break) = (false, false, false, false);
        for (at, char) in chars.iter().enumerate() {
            indicators |= match char {
                '#' if at == 0 => true,
                ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' => at == 0,
                '?' | '-' => at == 0 && blank(at + 1),
                ':' => blank(at + 1),
                '#' => blank(at - 1),
                _ => false,
            };
            let previous = at.checked_sub(1).map(|at| chars[at]);
            let is_break = |c: char| matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
            special |= !is_printable(*char);
            breaks |= is_break(*char);
            break_space |= *char == ' ' && previous.is_some_and(is_break);
            space_break |= is_break(*char) && previous == Some(' ');
        }
        let (first, last) = (chars[0], chars[chars.len() - 1]);
        let edge = |c: char| matches!(c, ' ' | '\n');
        Self {
            plain: !(edge(first) || edge(last) || break_space || space_break || special || breaks || indicators),
            single_quoted: !(break_space || space_break || special),
            block: !(last == ' ' || space_break || special),
        }
    }
}

/// What libyaml writes without an escape.
fn is_printable(char: char) -> bool {
    matches!(char, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}') && char != '\u{feff}'
}

#[cfg(test)]
mod tests {
    use super::super::to_json;
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_are_laid_out_as_kubectl_shows_them() {
        let object = json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {"name": "p", "resourceVersion": "12", "creationTimestamp": "2024-05-06T07:08:09Z",
                "labels": {}, "annotations": {"a10": "x: y", "a9": "yes", "e": ""}},
            "spec": {"containers": [{"name": "c", "args": ["-c", "a\nb\n", "#no", "it's"], "cpu": 0.5, "command": []}], "x": [[1, 2], [{"a": null}]]},
            "status": {"message": "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found"},
        });
        let text = r#"apiVersion: v1
kind: Pod
metadata:
  annotations:
    a9: "yes"
    a10: 'x: y'
    e: ""
  creationTimestamp: "2024-05-06T07:08:09Z"
  labels: {}
  name: p
  resourceVersion: "12"
spec:
  containers:
  - args:
    - -c
    - |
      a
      b
    - '#no'
    - it's
    command: []
    cpu: 0.5
    name: c
  x:
  - - 1
    - 2
  - - a: null
status:
  message: '0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are
    available: 1 No preemption victims found'
"#;
        assert_eq!(from_json(&object), text);
        assert_eq!(to_json(text.as_bytes()).unwrap().value, object);
    }

    #[test]
    fn texts_keep_their_content_in_whatever_style() {
        for text in [
            "",
            " lead",
            "trail ",
            "a\n",
            "a\n\n",
            "\n",
            "\n\na",
            "a\n b",
            " a\nb",
            "tab\there",
            "nul\0",
            "\u{1f600}",
            "a: b",
            "- a",
            "-",
            "---",
            "? x",
            "y",
            "0x10",
            "1:30",
            "'",
            "\"",
            "a #b",
            "a#b",
            "%x",
            "{",
            "[",
            "\\",
            "\r\n",
            "ü",
            "null",
            "~",
            "a\u{a0}b",
            "\u{feff}x",
            "<<",
        ] {
            for value in [json!(text), json!([text]), json!({"k": text}), json!({text: 1})] {
                let yaml = from_json(&value);
                assert_eq!(to_json(yaml.as_bytes()).map(|read| read.value), Ok(value), "{yaml}");
            }
        }
        let long = "word ".repeat(60);
        for value in [json!({"a": {"b": long.trim()}}), json!(format!("it's: {long}x")), json!(format!("{long}\t  x"))]
        {
            assert_eq!(to_json(from_json(&value).as_bytes()).map(|read| read.value), Ok(value));
        }
    }
}
