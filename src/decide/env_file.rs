//! Environment files: the text behind `fileKeyRef`.

/// Reads `KEY='value'` lines (KEP-3721, `ParseEnv`) up to the first of that name: values in single quotes and taken
/// literally, over several lines too; blank lines and lines of comment count for nothing; with white space after `=` the
/// value is empty, as in a shell.
pub(crate) fn value(text: &str, key: &str) -> Result<Option<String>, String> {
    let mut lines = text.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        let invalid = |why: &str| format!("invalid environment variable format at line {number}: {why}");
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').ok_or_else(|| invalid("no '='"))?;
        if name.is_empty() || name.ends_with([' ', '\t']) {
            return Err(invalid("a name without white space must stand before '='"));
        }
        let value = if value.starts_with([' ', '\t']) {
            String::new()
        } else {
            let first = value.strip_prefix('\'').ok_or_else(|| invalid("the value must be in single quotes"))?;
            quoted(first, &mut lines).map_err(invalid)?
        };
        if name == key {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// What stands before the closing quote, on this line or one that follows.
fn quoted<'a>(first: &'a str, more: &mut impl Iterator<Item = (&'a str, usize)>) -> Result<String, &'static str> {
    let mut value = String::new();
    let mut line = first;
    loop {
        if let Some((end, after)) = line.split_once('\'') {
            value.push_str(end);
            let after = after.trim_start_matches([' ', '\t']);
            let is_over = after.is_empty() || after.starts_with('#');
            return if is_over { Ok(value) } else { Err("text after the closing quote") };
        }
        value.push_str(line);
        value.push('\n');
        (line, _) = more.next().ok_or("the closing quote is missing")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_in_single_quotes_and_are_taken_literally() {
        let text = "# first\nA='from file'\n\n  B='2' # two\nC='a\n# b'\nA='later'\nD=''\nE= 'spaced'\nF='$A\\n'";
        for (key, expected) in [
            ("A", Some("from file")),
            ("B", Some("2")),
            ("C", Some("a\n# b")),
            ("D", Some("")),
            ("E", Some("")),
            ("F", Some("$A\\n")),
            ("# first", None),
            ("Z", None),
        ] {
            assert_eq!(value(text, key).unwrap().as_deref(), expected, "{key}");
        }
        assert_eq!(value("A='1'\nnonsense", "A").unwrap().as_deref(), Some("1"), "what follows is not read");
    }

    #[test]
    fn what_is_no_environment_file_is_refused_by_line() {
        for (text, line) in [
            ("B='1'\nA", 2),
            ("A=1", 1),
            ("A='1", 1),
            ("B='x\ny'\nA=\"2\"", 3),
            ("A ='1'", 1),
            ("A='1'2", 1),
            ("='1'", 1),
        ] {
            let why = value(text, "A").unwrap_err();
            assert!(
                why.starts_with(&format!("invalid environment variable format at line {line}: ")),
                "{text:?}: {why}"
            );
        }
    }
}
