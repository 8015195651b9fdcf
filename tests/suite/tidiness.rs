//! What every file owes its reader: a first sentence, a place in the module tree, no leftovers, a size to be read.

use crate::source::{self, Source, root};
use std::fs;
use std::path::Path;

const LINES_MAX: usize = 800;
/// Directories of Rust code.
const ROOMS: [&str; 5] = ["src", "shim", "node-config", "tests", "benches"];

fn all() -> Vec<Source> {
    ROOMS.iter().flat_map(|room| source::under(room)).collect()
}

/// Fails with every file for which `wrong` has something to say.
fn check(files: &[Source], wrong: impl Fn(&Source) -> Option<String>) {
    let wrong: Vec<String> =
        files.iter().filter_map(|file| wrong(file).map(|what| format!("{}: {what}", file.path))).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_file_opens_with_what_it_owns() {
    check(&all(), |file| (!file.text.starts_with("//! ")).then(|| "does not begin with `//! `".to_owned()));
}

#[test]
fn no_file_is_too_long_to_read() {
    check(&all(), |file| {
        let lines = file.text.lines().count();
        (lines > LINES_MAX).then(|| format!("{lines} lines: split it"))
    });
}

#[test]
fn modules_have_names_of_their_own() {
    check(&all(), |file| file.path.ends_with("/mod.rs").then(|| "foo.rs + foo/ instead of mod.rs".to_owned()));
}

#[test]
fn nothing_is_left_to_be_done() {
    let words = ["todo!(", "unimplemented!(", "dbg!("];
    check(&all(), |file| {
        let code = file.code();
        words.iter().find(|word| code.contains(**word)).map(|word| format!("has {word}…)"))
    });
}

#[test]
fn only_the_command_line_prints() {
    let products: Vec<Source> =
        ["src", "shim/src", "node-config/src"].iter().flat_map(|room| source::under(room)).collect();
    check(&products, |file| {
        let may = file.path.starts_with("src/cli/") || file.path == "src/cli.rs" || file.is_test();
        let code = file.product_code();
        let prints = ["println!(", "print!(", "eprint!("].iter().any(|word| code.contains(word));
        (prints && !may).then(|| "prints: return it, or log it".to_owned())
    });
}

#[test]
fn every_file_is_reached_from_its_crate() {
    let crates = [
        ("src", &["src/lib.rs", "src/main.rs"][..]),
        ("shim/src", &["shim/src/lib.rs"]),
        ("node-config/src", &["node-config/src/lib.rs"]),
    ];
    for (room, roots) in crates {
        let files = source::under(room);
        let mut reached: Vec<String> = roots.iter().map(|path| (*path).to_owned()).collect();
        let mut next = 0;
        while let Some(path) = reached.get(next).cloned() {
            next += 1;
            let Some(file) = files.iter().find(|file| file.path == path) else { continue };
            reached.extend(declared(file));
        }
        check(&files, |file| (!reached.contains(&file.path)).then(|| "no `mod` leads here".to_owned()));
    }
}

/// Files of the modules that a file declares.
fn declared(file: &Source) -> Vec<String> {
    let path = Path::new(&file.path);
    let is_root = path.file_name().is_some_and(|name| name == "lib.rs" || name == "main.rs");
    let base = if is_root { path.parent().unwrap_or(path).to_owned() } else { path.with_extension("") };
    let mut files = Vec::new();
    for line in file.code().lines() {
        let words: Vec<&str> = line.trim().trim_end_matches(';').split_whitespace().collect();
        if let ([.., "mod", name], true) = (&words[..], line.trim_end().ends_with(';')) {
            files.push(base.join(format!("{name}.rs")).display().to_string());
        }
    }
    files
}

#[test]
fn the_readme_is_one_page() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let lines = readme.lines().count();
    assert!(lines <= 70, "README.md has {lines} lines");
    for command in ["make up", "make test"] {
        assert!(readme.contains(command), "README.md does not name {command}");
    }
}
