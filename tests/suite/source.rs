//! Reads the workspace's Rust files and the paths that their code names.

use std::fs;
use std::path::{Path, PathBuf};

/// One Rust file of the workspace.
pub(crate) struct Source {
    /// Relative to the workspace's root: `src/runtime/cri.rs`.
    pub(crate) path: String,
    pub(crate) text: String,
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file under the given directory of the workspace.
pub(crate) fn under(directory: &str) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root().join(directory), &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(directory: &Path, found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            collect(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let relative = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
            found.push(Source { path: relative, text: fs::read_to_string(&path).unwrap() });
        }
    }
}

impl Source {
    /// The code with comments and string literals blanked, so that words in them count for nothing.
    pub(crate) fn code(&self) -> String {
        let (mut code, mut rest) = (String::with_capacity(self.text.len()), self.text.as_str());
        while let Some(char) = rest.chars().next() {
            let skipped = skip_comment(rest).or_else(|| skip_string(rest)).or_else(|| skip_char(rest));
            match skipped {
                Some(length) => {
                    // Lines stay lines.
                    code.extend(rest[..length].chars().filter(|char| *char == '\n'));
                    code.push(' ');
                    rest = &rest[length..];
                }
                None => {
                    code.push(char);
                    rest = &rest[char.len_utf8()..];
                }
            }
        }
        code
    }

    /// The code before its first `#[cfg(test)]`: tests may reach further.
    pub(crate) fn product_code(&self) -> String {
        let code = self.code();
        let end = code.find("#[cfg(test)]\nmod").unwrap_or(code.len());
        code[..end].to_owned()
    }

    pub(crate) fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }
}

fn skip_comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    text.starts_with("/*").then(|| text.find("*/").map_or(text.len(), |end| end + 2))
}

fn skip_string(text: &str) -> Option<usize> {
    let body = text.strip_prefix(['b', 'r']).filter(|rest| rest.starts_with(['"', '#', 'r'])).unwrap_or(text);
    let body = if body.len() < text.len() { body.strip_prefix('r').unwrap_or(body) } else { body };
    let hashes = body.len() - body.trim_start_matches('#').len();
    if !body[hashes..].starts_with('"') {
        return None;
    }
    let (prefix, open) = (text.len() - body.len(), hashes + 1);
    if text[..prefix].contains('r') {
        let close = format!("\"{}", "#".repeat(hashes));
        return Some(prefix + open + body[open..].find(&close).map_or(body.len() - open, |end| end + close.len()));
    }
    if hashes > 0 {
        return None;
    }
    let mut escaped = false;
    for (index, char) in body.char_indices().skip(1) {
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(prefix + index + 1),
            _ => {}
        }
    }
    Some(text.len())
}

/// `'"'` and the like; lifetimes are left alone.
fn skip_char(text: &str) -> Option<usize> {
    let mut chars = text.char_indices();
    if chars.next()?.1 != '\'' {
        return None;
    }
    if chars.next()?.1 == '\\' {
        return text[3..].find('\'').map(|end| end + 4);
    }
    let (end, char) = chars.next()?;
    (char == '\'').then_some(end + 1)
}

/// Every path in the code that starts with one of these roots (`crate::a::b` gives `a::b` for the root `crate`), `use`
/// groups expanded.
pub(crate) fn paths_of(code: &str, root: &str) -> Vec<String> {
    let prefix = format!("{root}::");
    let mut paths = Vec::new();
    let mut from = 0;
    while let Some(found) = code[from..].find(&prefix) {
        let start = from + found;
        let whole = !code[..start].ends_with(|char: char| char.is_alphanumeric() || char == '_' || char == ':');
        from = start + prefix.len();
        if whole {
            expand(&code[from..], String::new(), &mut paths);
        }
    }
    paths
}

/// Reads `a::b`, `a::{b, c::d}` at the start of `code`; returns how much it read.
fn expand(code: &str, so_far: String, paths: &mut Vec<String>) -> usize {
    let mut path = so_far;
    let mut at = 0;
    loop {
        let rest = &code[at..];
        let word: String = rest.chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect();
        if !word.is_empty() {
            at += word.len();
            path = if path.is_empty() { word } else { format!("{path}::{word}") };
            if code[at..].starts_with("::") {
                at += 2;
                continue;
            }
            paths.push(path);
            return at;
        }
        if !rest.starts_with('{') {
            paths.push(path);
            return at;
        }
        at += 1;
        while at < code.len() && !code[at..].starts_with('}') {
            let next = code[at..].chars().next().unwrap_or('}');
            if next.is_whitespace() || next == ',' || next == '*' {
                at += next.len_utf8();
            } else {
                let read = expand(&code[at..], path.clone(), paths);
                // A character that belongs to no path.
                at += read.max(next.len_utf8());
            }
        }
        return (at + 1).min(code.len());
    }
}

#[test]
fn words_in_comments_and_strings_are_no_code() {
    let text = "a(\"println!\"); // todo!\nlet c = '\"'; b(r#\"x\"y\"#); fn f<'a>(x: &'a str) {}";
    let code = Source { path: String::new(), text: text.to_owned() }.code();
    assert_eq!(code, "a( );  \nlet c =  ; b( ); fn f<'a>(x: &'a str) {}");
}

#[test]
fn use_groups_are_expanded() {
    let code =
        "use crate::ids::{PodKey, inner::{A, B}};\nuse crate::store;\nlet x = crate::units::Bytes(1); mycrate::no::X";
    let expected = ["ids::PodKey", "ids::inner::A", "ids::inner::B", "store", "units::Bytes"];
    assert_eq!(paths_of(code, "crate"), expected);
}
