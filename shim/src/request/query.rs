//! The query string, percent-decoded, in order.

/// Decoded name and value pairs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses `a=b&c=d`; `+` is a space, and a bad escape is kept as it is.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name, true), decode(value, true))
        });
        Self(pairs.collect())
    }
    /// The first value of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }
    /// The pairs whose name is not in `without`, encoded again.
    pub fn encode_without(&self, without: &[&str]) -> String {
        let mut out = String::new();
        for (name, value) in self.0.iter().filter(|(n, _)| !without.contains(&n.as_str())) {
            if !out.is_empty() {
                out.push('&');
            }
            encode_into(&mut out, name);
            out.push('=');
            encode_into(&mut out, value);
        }
        out
    }
    /// Go's `strconv.ParseBool` as conversion of query parameters uses it: anything but `false` and `0` is true.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).map(|v| !v.eq_ignore_ascii_case("false") && v != "0")
    }
}

/// Percent-decodes; `+` stands for a space in a query, not in a path.
pub fn decode(text: &str, plus: bool) -> String {
    if !text.contains(['%', '+']) {
        return text.into();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |b: u8| (b as char).to_digit(16);
        match bytes[at] {
            b'+' if plus => out.push(b' '),
            b'%' if at + 2 < bytes.len() => match (hex(bytes[at + 1]), hex(bytes[at + 2])) {
                (Some(high), Some(low)) => {
                    out.push((high * 16 + low) as u8);
                    at += 2;
                }
                _ => out.push(b'%'),
            },
            other => out.push(other),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Appends `text` with everything but unreserved characters escaped.
pub fn encode_into(out: &mut String, text: &str) {
    use std::fmt::Write;
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Query;

    #[test]
    fn decodes_escapes_and_keeps_repeated_names() {
        let query = Query::parse("command=ls&command=%2Ftmp%20x&a=1+2&bad=%zz&empty");
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["ls", "/tmp x"]);
        assert_eq!(query.get("a"), Some("1 2"));
        assert_eq!(query.get("bad"), Some("%zz"));
        assert_eq!(query.get("empty"), Some(""));
        assert_eq!(query.encode_without(&["a", "bad", "empty"]), "command=ls&command=%2Ftmp%20x");
    }
}
