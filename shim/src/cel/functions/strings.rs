//! Strings: cel-go's string extension, and Kubernetes' regular expressions.

use super::fail;
use crate::cel::eval::Evaluated;
use crate::cel::value::Val;
use crate::registry::custom::format;
use crate::registry::names;
use regex::Regex;

/// Characters that one call may make: replacing must not outgrow the budget.
const MAX_CHARS: usize = 1 << 20;

pub(super) fn call<'v>(name: &str, member: bool, args: &[Val<'v>]) -> Option<Evaluated<'v>> {
    if let ("validate", [Val::Format(format), Val::String(text)]) = (name, args) {
        let errors = violations(format, text);
        let list = |errors: Vec<String>| Val::list(errors.into_iter().map(Val::string).collect());
        return Some(Ok(Val::Optional((!errors.is_empty()).then(|| Box::new(list(errors))))));
    }
    let text = args.first()?.as_str()?;
    let argument = |at: usize| args.get(at).and_then(Val::as_str);
    let number = |at: usize| match args.get(at) {
        Some(Val::Int(number)) => Some(*number),
        _ => None,
    };
    Some(Ok(match (name, args.len()) {
        ("contains", 2) => Val::Bool(text.contains(argument(1)?)),
        ("startsWith", 2) => Val::Bool(text.starts_with(argument(1)?)),
        ("endsWith", 2) => Val::Bool(text.ends_with(argument(1)?)),
        ("matches", 2) => match Regex::new(argument(1)?) {
            Ok(regex) => Val::Bool(regex.is_match(text)),
            Err(error) => return fail(format!("error parsing regexp: {error}")),
        },
        ("find", 2) => match Regex::new(argument(1)?) {
            Ok(regex) => Val::string(regex.find(text).map_or("", |found| found.as_str())),
            Err(error) => return fail(format!("Illegal regex: {error}")),
        },
        ("findAll", 2 | 3) => match Regex::new(argument(1)?) {
            Ok(regex) => {
                let most = number(2).and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
                Val::list(regex.find_iter(text).take(most).map(|found| Val::string(found.as_str())).collect())
            }
            Err(error) => return fail(format!("Illegal regex: {error}")),
        },
        ("charAt", 2) => {
            let at = usize::try_from(number(1)?).unwrap_or(usize::MAX);
            match (text.chars().nth(at), text.chars().count()) {
                (Some(c), _) => Val::string(c),
                (None, length) if length == at => Val::string(""),
                (None, _) => return fail(format!("index out of range: {at}")),
            }
        }
        ("indexOf", 2 | 3) => index_of(text, argument(1)?, number(2).unwrap_or(0)),
        ("lastIndexOf", 2) => char_index(text, text.rfind(argument(1)?)),
        ("lastIndexOf", 3) => {
            let until = usize::try_from(number(2)?).unwrap_or(0);
            let wanted = argument(1)?;
            let end = text.char_indices().nth(until).map_or(text.len(), |(at, _)| at);
            let end = (end + wanted.len()).min(text.len());
            char_index(text, text.get(..end).and_then(|start| start.rfind(wanted)))
        }
        ("lowerAscii", 1) => Val::string(text.to_ascii_lowercase()),
        ("upperAscii", 1) => Val::string(text.to_ascii_uppercase()),
        ("trim", 1) => Val::string(text.trim()),
        ("reverse", 1) => Val::string(text.chars().rev().collect::<String>()),
        ("replace", 3 | 4) => {
            let (old, new) = (argument(1)?, argument(2)?);
            let most = number(3).unwrap_or(-1);
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let times = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() }.min(most);
            if text.len() + times.saturating_mul(new.len()) > MAX_CHARS {
                return Some(Err(crate::cel::EvalError::Cost));
            }
            Val::string(text.replacen(old, new, times))
        }
        ("split", 2) => Val::list(split(text, argument(1)?, -1)),
        ("split", 3) => Val::list(split(text, argument(1)?, number(2)?)),
        ("substring", 2 | 3) => return substring(text, number(1)?, number(2)),
        ("format", 2) => return Some(formatted(text, &args[1].items()?)),
        ("strings.quote", 1) => Val::string(quote(text)),
        ("quote", 1) if !member => Val::string(quote(text)),
        _ => return None,
    }))
}

/// What a text has against a named format.
fn violations(name: &str, text: &str) -> Vec<String> {
    match name {
        "dns1123Label" => names::dns1123_label(text, false),
        "dns1123LabelPrefix" => names::dns1123_label(text, true),
        "dns1123Subdomain" => names::dns1123_subdomain(text, false),
        "dns1123SubdomainPrefix" => names::dns1123_subdomain(text, true),
        "dns1035Label" => names::dns1035_label(text, false),
        "dns1035LabelPrefix" => names::dns1035_label(text, true),
        "qualifiedName" => names::qualified_name(text),
        "labelValue" => names::label_value(text),
        other if format::is_valid(other, text) => Vec::new(),
        "uri" => vec!["invalid URI".to_owned()],
        "uuid" => vec!["does not match the UUID format".to_owned()],
        "byte" => vec!["invalid base64".to_owned()],
        "date" => vec!["invalid date".to_owned()],
        _ => vec!["invalid datetime".to_owned()],
    }
}

/// A byte position as one in characters; -1 for none.
fn char_index<'v>(text: &str, at: Option<usize>) -> Val<'v> {
    Val::Int(at.map_or(-1, |at| text[..at].chars().count() as i64))
}

fn index_of<'v>(text: &str, wanted: &str, from: i64) -> Val<'v> {
    let from = usize::try_from(from).unwrap_or(0);
    let start = text.char_indices().nth(from).map_or(text.len(), |(at, _)| at);
    char_index(text, text[start..].find(wanted).map(|at| start + at))
}

fn split<'v>(text: &str, separator: &str, limit: i64) -> Vec<Val<'v>> {
    let val = |part: &str| Val::string(part);
    match usize::try_from(limit) {
        Ok(0) => Vec::new(),
        _ if separator.is_empty() => {
            let most = usize::try_from(limit).unwrap_or(usize::MAX);
            let mut parts: Vec<String> = text.chars().map(String::from).collect();
            if parts.len() > most {
                let rest = parts.split_off(most - 1).concat();
                parts.push(rest);
            }
            parts.into_iter().map(Val::string).collect()
        }
        Ok(limit) => text.splitn(limit, separator).map(val).collect(),
        Err(_) => text.split(separator).map(val).collect(),
    }
}

fn substring<'v>(text: &str, start: i64, end: Option<i64>) -> Option<Evaluated<'v>> {
    let length = text.chars().count();
    let (from, to) = (usize::try_from(start).ok(), end.map_or(Some(length), |end| usize::try_from(end).ok()));
    match (from, to) {
        (Some(from), Some(to)) if from <= to && to <= length => {
            Some(Ok(Val::string(text.chars().skip(from).take(to - from).collect::<String>())))
        }
        (Some(from), Some(to)) if from > to => {
            fail(format!("invalid substring range. start: {start}, end: {}", end.unwrap_or(length as i64)))
        }
        _ => fail(format!("index out of range: {}", end.filter(|end| *end > length as i64).unwrap_or(start))),
    }
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out + "\""
}

/// `"%s is %d".format([…])`: `%s %d %f %e %b %x %X %o %%`, precision with `%.3f`.
fn formatted<'v>(pattern: &str, args: &[Val<'v>]) -> Evaluated<'v> {
    let failed = |text: String| crate::cel::EvalError::failed(text);
    let mut out = String::new();
    let mut args = args.iter();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut precision = None;
        let mut verb = chars.next();
        if verb == Some('%') {
            out.push('%');
            continue;
        }
        if verb == Some('.') {
            let mut digits = String::new();
            verb = chars.next();
            while let Some(digit) = verb.filter(char::is_ascii_digit) {
                digits.push(digit);
                verb = chars.next();
            }
            precision = digits.parse::<usize>().ok();
        }
        let verb = verb.ok_or_else(|| failed("unexpected end of string".into()))?;
        let arg = args.next().ok_or_else(|| failed("index 0 out of range".into()))?;
        let precision = precision.unwrap_or(6).min(308);
        match (verb, arg) {
            ('s', value) => out.push_str(&shown(value)),
            ('d', Val::Int(_) | Val::UInt(_) | Val::Double(_)) => out.push_str(&arg.to_string()),
            ('f', Val::Double(number)) => out.push_str(&format!("{number:.precision$}")),
            ('f', Val::Int(number)) => out.push_str(&format!("{:.precision$}", *number as f64)),
            ('e', Val::Double(number)) => out.push_str(&format!("{number:.precision$e}")),
            ('b', Val::Int(number)) => out.push_str(&format!("{number:b}")),
            ('b', Val::Bool(value)) => out.push_str(if *value { "1" } else { "0" }),
            ('o', Val::Int(number)) => out.push_str(&format!("{number:o}")),
            ('x', Val::Int(number)) => out.push_str(&format!("{number:x}")),
            ('X', Val::Int(number)) => out.push_str(&format!("{number:X}")),
            ('x', Val::String(text)) => out.extend(text.bytes().map(|b| format!("{b:02x}"))),
            ('X', Val::String(text)) => out.extend(text.bytes().map(|b| format!("{b:02X}"))),
            (verb, value) => {
                return Err(failed(format!(
                    "error during formatting: '{verb}' clause cannot be used on {}",
                    value.type_of().0
                )));
            }
        }
        if out.len() > MAX_CHARS {
            return Err(crate::cel::EvalError::Cost);
        }
    }
    Ok(Val::string(out))
}

/// As `%s` shows values: lists in brackets, maps in braces.
fn shown(value: &Val<'_>) -> String {
    if let Some(items) = value.items() {
        return format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", "));
    }
    let keys = value.keys();
    if keys.is_empty() {
        return value.to_string();
    }
    let entry = |key: &crate::cel::value::Key| {
        format!("{key}: {}", value.entry(key).map_or_else(String::new, |value| shown(&value)))
    };
    format!("{{{}}}", keys.iter().map(entry).collect::<Vec<_>>().join(", "))
}
