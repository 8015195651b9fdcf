//! `url(…)`: an absolute URI or an absolute path, as Go's `url.ParseRequestURI` reads them.

use std::collections::BTreeMap;

/// A URL in its parts, undecoded where upstream shows them so.
#[derive(PartialEq, Eq, Debug)]
pub struct Url {
    pub text: String,
    pub scheme: String,
    /// Host and port.
    pub host: String,
    pub path: String,
    query: String,
}

impl Url {
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("URL parse error during conversion from string: parse {text:?}: {why}");
        if text.is_empty() {
            return Err(wrong("empty url"));
        }
        if text.chars().any(char::is_control) {
            return Err(wrong("net/url: invalid control character in URL"));
        }
        let (scheme, rest) = match scheme(text) {
            Some(Err(())) => return Err(wrong("missing protocol scheme")),
            Some(Ok((scheme, rest))) => (scheme.to_ascii_lowercase(), rest),
            None => (String::new(), text),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if scheme.is_empty() && !rest.starts_with('/') {
            return Err(wrong("invalid URI for request"));
        }
        let (host, path) = match rest.strip_prefix("//") {
            Some(after) if !scheme.is_empty() || !rest.starts_with("///") => {
                let end = after.find('/').unwrap_or(after.len());
                (&after[..end], &after[end..])
            }
            _ => ("", rest),
        };
        if !host.is_empty() {
            authority(host).map_err(wrong)?;
        }
        escapes(path).map_err(|bad| wrong(&format!("invalid URL escape {bad:?}")))?;
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        Ok(Self { text: text.into(), scheme, host: host.into(), path: path.into(), query: query.into() })
    }

    /// The host without port and brackets.
    pub fn hostname(&self) -> &str {
        if let Some(rest) = self.host.strip_prefix('[') {
            return rest.split(']').next().unwrap_or_default();
        }
        self.host.split(':').next().unwrap_or_default()
    }

    pub fn port(&self) -> &str {
        let after = self.host.rsplit_once(']').map_or(self.host.as_str(), |(_, after)| after);
        after.rsplit_once(':').map_or("", |(_, port)| port)
    }

    /// Names and values, decoded.
    pub fn query(&self) -> BTreeMap<String, Vec<String>> {
        let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in self.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if let (Some(name), Some(value)) = (decode(name), decode(value)) {
                out.entry(name).or_default().push(value);
            }
        }
        out
    }
}

/// The scheme and what follows its colon; an error when a colon comes with no scheme before it.
fn scheme(text: &str) -> Option<Result<(&str, &str), ()>> {
    for (at, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at > 0 => return Some(Ok((&text[..at], &text[at + 1..]))),
            ':' => return Some(Err(())),
            _ => return None,
        }
    }
    None
}

fn authority(text: &str) -> Result<(), &'static str> {
    let host = text.rsplit_once('@').map_or(text, |(_, host)| host);
    let port = match host.strip_prefix('[') {
        Some(rest) => {
            let (inside, after) = rest.split_once(']').ok_or("missing ']' in host")?;
            if inside.parse::<std::net::Ipv6Addr>().is_err() && !inside.contains('%') {
                return Err("invalid host");
            }
            after
        }
        None => host.find(':').map_or("", |at| &host[at..]),
    };
    let digits = port.strip_prefix(':').unwrap_or(port);
    if !port.is_empty() && (!port.starts_with(':') || !digits.bytes().all(|b| b.is_ascii_digit())) {
        return Err("invalid port after host");
    }
    let forbidden = |c: char| c == ' ' || "<>\"\\^`{|}".contains(c);
    if host.contains(forbidden) { Err("invalid character in host name") } else { Ok(()) }
}

/// The first bad percent escape.
fn escapes(text: &str) -> Result<(), String> {
    let bytes = text.as_bytes();
    for (at, _) in text.match_indices('%') {
        let hex = |i: usize| bytes.get(at + i).is_some_and(u8::is_ascii_hexdigit);
        if !hex(1) || !hex(2) {
            return Err(text.get(at..(at + 3).min(text.len())).unwrap_or("%").to_owned());
        }
    }
    Ok(())
}

fn decode(text: &str) -> Option<String> {
    escapes(text).ok()?;
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                out.push(u8::try_from(high * 16 + low).ok()?);
            }
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).ok()
}
