//! Environment files: the text behind `fileKeyRef`.

/// Reads `KEY='value'` lines (KEP-3721): values in single quotes and taken literally, over several lines too; blank lines
/// and lines of comment count for nothing. The last of a name wins.
pub(crate) fn value(text: &str, key: &str) -> Result<Option<String>, String> {
    let mut found = None;
    let mut rest = text;
    let mut line = 0;
    while !rest.is_empty() {
        line += 1;
        let (first, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let trimmed = first.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            rest = after;
            continue;
        }
        let invalid = |why: &str| format!("invalid environment variable format at line {line}: {why}");
        let (name, value) = rest.trim_start().split_once('=').ok_or_else(|| invalid("no '='"))?;
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(invalid("a name without white space must stand before '='"));
        }
        let value = value.strip_prefix('\'').ok_or_else(|| invalid("the value must be in single quotes"))?;
        let (value, after) = value.split_once('\'').ok_or_else(|| invalid("the closing quote is missing"))?;
        let (end, after) = after.split_once('\n').unwrap_or((after, ""));
        if !end.trim().is_empty() && !end.trim_start().starts_with('#') {
            return Err(invalid("text after the closing quote"));
        }
        if name == key {
            found = Some(value.to_owned());
        }
        line += value.matches('\n').count();
        rest = after;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_in_single_quotes_and_are_taken_literally() {
        let text = "# first\nA='from file'\n\nB='2' # two\nC='a\n# b'\nA='later'\nD=''";
        for (key, expected) in [
            ("A", Some("later")),
            ("B", Some("2")),
            ("C", Some("a\n# b")),
            ("D", Some("")),
            ("# first", None),
            ("Z", None),
        ] {
            assert_eq!(value(text, key).unwrap().as_deref(), expected, "{key}");
        }
    }

    #[test]
    fn what_is_no_environment_file_is_refused_by_line() {
        for (text, line) in [
            ("A='1'\nB", 2),
            ("A=1", 1),
            ("A='1", 1),
            ("A='x\ny'\nB=\"2\"", 3),
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
