//! Why a text is not JSON, in the words of Go's scanner. Asked only after the real parser has refused.

/// serde_json's own limit; Go's is 10000, with the same words.
pub(super) const MAX_DEPTH: usize = 127;

/// Go's text for the first thing wrong with `json`; `None` when nothing is.
pub(super) fn refusal(json: &[u8]) -> Option<String> {
    Scanner { json, at: 0, open: Vec::new() }.run().err()
}

struct Scanner<'a> {
    json: &'a [u8],
    at: usize,
    /// The open brackets, innermost last.
    open: Vec<u8>,
}

impl Scanner<'_> {
    fn run(mut self) -> Result<(), String> {
        loop {
            self.value()?;
            // A value has ended: close what it ends, or go on to the next one.
            loop {
                let byte = match (self.skip_space(), self.open.last()) {
                    (None, None) => return Ok(()),
                    (Some(_), None) => return self.bad("after top-level value"),
                    (None, Some(_)) => return end(),
                    (Some(byte), Some(_)) => byte,
                };
                let object = self.open.last() == Some(&b'{');
                self.at += 1;
                match byte {
                    b',' if object => {
                        self.key()?;
                        break;
                    }
                    b',' => break,
                    b'}' if object => drop(self.open.pop()),
                    b']' if !object => drop(self.open.pop()),
                    _ => {
                        self.at -= 1;
                        return self.bad(if object { "after object key:value pair" } else { "after array element" });
                    }
                }
            }
        }
    }

    /// Reads up to the end of a scalar or of an empty container; enters a container that is not empty.
    fn value(&mut self) -> Result<(), String> {
        loop {
            let Some(byte) = self.skip_space() else { return end() };
            match byte {
                b'{' | b'[' => {
                    if self.open.len() >= MAX_DEPTH {
                        return self.bad("exceeded max depth");
                    }
                    self.open.push(byte);
                    self.at += 1;
                    match (byte, self.skip_space()) {
                        (_, None) => return end(),
                        (b'{', Some(b'}')) | (b'[', Some(b']')) => {
                            self.open.pop();
                            self.at += 1;
                            return Ok(());
                        }
                        (b'{', Some(_)) => self.key()?,
                        _ => {}
                    }
                }
                b'"' => return self.string(),
                b'-' | b'0'..=b'9' => return self.number(),
                b't' => return self.literal("true"),
                b'f' => return self.literal("false"),
                b'n' => return self.literal("null"),
                _ => return self.bad("looking for beginning of value"),
            }
        }
    }

    fn key(&mut self) -> Result<(), String> {
        match self.skip_space() {
            None => return end(),
            Some(b'"') => self.string()?,
            Some(_) => return self.bad("looking for beginning of object key string"),
        }
        match self.skip_space() {
            None => end(),
            Some(b':') => {
                self.at += 1;
                Ok(())
            }
            Some(_) => self.bad("after object key"),
        }
    }

    fn string(&mut self) -> Result<(), String> {
        self.at += 1;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => self.escape()?,
                0..=0x1f => return self.bad("in string literal"),
                _ => self.at += 1,
            }
        }
        end()
    }

    fn escape(&mut self) -> Result<(), String> {
        self.at += 1;
        match self.peek() {
            None => end(),
            Some(b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"') => {
                self.at += 1;
                Ok(())
            }
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    match self.peek() {
                        None => return end(),
                        Some(byte) if byte.is_ascii_hexdigit() => self.at += 1,
                        Some(_) => return self.bad("in \\u hexadecimal character escape"),
                    }
                }
                Ok(())
            }
            Some(_) => self.bad("in string escape code"),
        }
    }

    fn number(&mut self) -> Result<(), String> {
        if self.peek() == Some(b'-') {
            self.at += 1;
            self.first_digit("in numeric literal")?;
            self.at -= 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits();
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.first_digit("after decimal point in numeric literal")?;
            self.digits();
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.first_digit("in exponent of numeric literal")?;
            self.digits();
        }
        Ok(())
    }

    fn first_digit(&mut self, context: &str) -> Result<(), String> {
        match self.peek() {
            None => end(),
            Some(b'0'..=b'9') => {
                self.at += 1;
                Ok(())
            }
            Some(_) => self.bad(context),
        }
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), String> {
        for expected in word.bytes() {
            match self.peek() {
                None => return end(),
                Some(byte) if byte == expected => self.at += 1,
                Some(_) => return self.bad(&format!("in literal {word} (expecting '{}')", char::from(expected))),
            }
        }
        Ok(())
    }

    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    fn skip_space(&mut self) -> Option<u8> {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        self.peek()
    }

    fn bad(&self, context: &str) -> Result<(), String> {
        let byte = self.peek().unwrap_or_default();
        let shown = match byte {
            b'\'' => "\\'".to_owned(),
            b'\n' => "\\n".to_owned(),
            b'\r' => "\\r".to_owned(),
            b'\t' => "\\t".to_owned(),
            b'\\' => "\\\\".to_owned(),
            0..=0x1f | 0x7f => format!("\\x{byte:02x}"),
            0x80..=0xa0 | 0xad => format!("\\u{:04x}", u32::from(byte)),
            _ => char::from(byte).to_string(),
        };
        Err(format!("invalid character '{shown}' {context}"))
    }
}

fn end() -> Result<(), String> {
    Err("unexpected end of JSON input".to_owned())
}

#[cfg(test)]
mod tests {
    use super::refusal;

    #[test]
    fn words_are_those_of_gos_scanner() {
        for (json, text) in [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("{} t", "invalid character 't' after top-level value"),
            ("{b}", "invalid character 'b' looking for beginning of object key string"),
            (r#"{"a" 1}"#, "invalid character '1' after object key"),
            (r#"{"a":1 "b"}"#, "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("tru!", "invalid character '!' in literal true (expecting 'e')"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\n\"", "invalid character '\\n' in string literal"),
            ("[1.x]", "invalid character 'x' after decimal point in numeric literal"),
            ("[-]", "invalid character ']' in numeric literal"),
        ] {
            assert_eq!(refusal(json.as_bytes()).as_deref(), Some(text), "{json}");
        }
        assert_eq!(refusal(br#" {"a":[1,{"b":null}],"c":{},"d":-0.5e+3} "#), None);
        let deep = "[".repeat(200);
        assert_eq!(refusal(deep.as_bytes()).as_deref(), Some("invalid character '[' exceeded max depth"));
    }
}
