//! How deep an expression nests, told from its text: what parses it, walks it, evaluates it and drops it is recursive,
//! and chains of operators nest as brackets do.

/// Operators and brackets, one within the other, that an expression may have (cel-go's limit is 250 of its rules, of which
/// an operator is several).
pub(super) const LIMIT: usize = 300;

/// Whether any part of the expression is within more than that.
pub(super) fn is_too_deep(source: &str) -> bool {
    // Operators seen at each level of brackets; what is beyond a comma does not nest in what is before it.
    let (mut levels, mut sum) = (vec![0usize], 0usize);
    let mut rest = source.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match first {
            b'\'' | b'"' => rest = after_text(*first, rest),
            b'(' | b'[' | b'{' => {
                levels.push(1);
                sum += 1;
            }
            b')' | b']' | b'}' => {
                if levels.len() > 1 {
                    sum -= levels.pop().unwrap_or(0);
                }
                // `a[0][0]`: what follows is about what was closed.
                count(&mut levels, &mut sum);
            }
            b',' => {
                if let Some(level) = levels.last_mut() {
                    sum -= std::mem::replace(level, 1);
                    sum += 1;
                }
            }
            b'&' | b'|' | b'=' | b'<' | b'>' => {
                rest = rest.strip_prefix(&[*first]).or_else(|| rest.strip_prefix(b"=")).unwrap_or(rest);
                count(&mut levels, &mut sum);
            }
            b'.' | b'+' | b'-' | b'*' | b'/' | b'%' | b'!' | b'?' | b':' => count(&mut levels, &mut sum),
            // `in` is a word: counted with the blanks around any.
            b'i' if rest.starts_with(b"n ") => count(&mut levels, &mut sum),
            _ => {}
        }
        if sum > LIMIT {
            return true;
        }
    }
    false
}

fn count(levels: &mut [usize], sum: &mut usize) {
    if let Some(level) = levels.last_mut() {
        *level += 1;
        *sum += 1;
    }
}

/// What follows the closing quote. An escaped one does not close (nor in a raw text, where it might: then less is skipped
/// than could be, never more).
fn after_text(quote: u8, text: &[u8]) -> &[u8] {
    let mut at = 0;
    while at < text.len() && text[at] != quote {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    text.get(at + 1..).unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_and_brackets_nest_and_lists_do_not() {
        let many = |text: &str| text.repeat(LIMIT + 1);
        for deep in
            [many("("), many("!"), format!("a{}", many(".b")), format!("1{}", many("+1")), format!("a{}", many("[0]"))]
        {
            assert!(is_too_deep(&deep), "{deep}");
        }
        for flat in
            [format!("[{}]", many("a.b, ")), format!("'{}'", many(".")), many("f(x.y), "), "a == b && c.d()".into()]
        {
            assert!(!is_too_deep(&flat), "{flat}");
        }
    }
}
