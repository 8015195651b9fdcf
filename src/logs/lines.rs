//! CRI log lines → what was written: `<time> <stream> <P|F> <text>`; pure.

use super::{LogOptions, LogStream};
use jiff::Timestamp;

/// The runtime splits at 16 KiB; whatever else is in a log folder must not be gathered without end.
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// Turns a file's bytes into text, line by line.
pub(super) struct Lines {
    follow: bool,
    timestamps: bool,
    stream: Option<LogStream>,
    since: Option<Timestamp>,
    /// Bytes and lines that may still be given out.
    bytes_left: Option<u64>,
    lines_left: Option<u64>,
    /// The beginning of a line whose end has not been read yet.
    pending: Vec<u8>,
    /// What was given out last ended a line: the next text gets a timestamp.
    at_line_start: bool,
}

/// One line of a log file, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    time: &'a str,
    at: Timestamp,
    stream: LogStream,
    partial: bool,
    text: &'a [u8],
}

impl Lines {
    pub(super) fn new(options: &LogOptions, since: Option<Timestamp>, lines_left: Option<u64>) -> Self {
        Self {
            follow: options.follow,
            timestamps: options.timestamps,
            stream: options.stream,
            since,
            bytes_left: options.limit_bytes,
            lines_left,
            pending: Vec::new(),
            at_line_start: true,
        }
    }

    pub(super) fn follows(&self) -> bool {
        self.follow
    }

    /// Nothing more will be given out.
    pub(super) fn is_full(&self) -> bool {
        self.bytes_left == Some(0) || self.lines_left == Some(0)
    }

    /// Takes the next bytes of the file.
    pub(super) fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            let (line, rest) = bytes.split_at(end + 1);
            bytes = rest;
            if self.pending.is_empty() {
                self.line(line, out);
            } else {
                let mut whole = std::mem::take(&mut self.pending);
                whole.extend_from_slice(line);
                self.line(&whole, out);
            }
        }
        if self.pending.len() + bytes.len() <= MAX_LINE_BYTES {
            self.pending.extend_from_slice(bytes);
        } else {
            tracing::debug!("a log line is too long and is left out");
            self.pending.clear();
        }
    }

    /// The file ends here: what is pending is a line too.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        let pending = std::mem::take(&mut self.pending);
        if !pending.is_empty() {
            self.line(&pending, out);
        }
    }

    /// One line, with its end if it has one.
    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        if self.is_full() {
            return;
        }
        let Some(line) = parse(line) else {
            tracing::debug!("a log line cannot be parsed and is left out");
            return;
        };
        if let Some(left) = &mut self.lines_left {
            *left -= 1;
        }
        if self.stream.is_none_or(|stream| stream == line.stream) && self.since.is_none_or(|since| line.at >= since) {
            if self.timestamps && self.at_line_start {
                self.give(without_trailing_zeros(line.time).as_bytes(), out);
                self.give(b" ", out);
            }
            self.give(line.text, out);
        }
        self.at_line_start = line.text.last().is_none_or(|&byte| byte == b'\n');
    }

    fn give(&mut self, text: &[u8], out: &mut Vec<u8>) {
        let length = match &mut self.bytes_left {
            None => text.len(),
            Some(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(text.len());
                *left -= length as u64;
                length
            }
        };
        out.extend_from_slice(&text[..length]);
    }
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |&byte| byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let at = time.parse().ok()?;
    let stream = match parts.next()? {
        b"stdout" => LogStream::Stdout,
        b"stderr" => LogStream::Stderr,
        _ => return None,
    };
    // Tags are separated by colons; the first tells whether the line goes on.
    let partial = parts.next()?.split(|&byte| byte == b':').next() == Some(b"P");
    let text = parts.next()?;
    let text = if partial { text.strip_suffix(b"\n").unwrap_or(text) } else { text };
    Some(Line { time, at, stream, partial, text })
}

/// `…05.120000000Z` → `…05.12Z`, as Go's RFC3339Nano prints.
fn without_trailing_zeros(time: &str) -> String {
    let Some((whole, rest)) = time.split_once('.') else { return time.to_owned() };
    let digits = rest.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    let (fraction, zone) = rest.split_at(digits);
    match fraction.trim_end_matches('0') {
        "" => format!("{whole}{zone}"),
        fraction => format!("{whole}.{fraction}{zone}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let line = parse(b"2026-01-02T03:04:05.120000000Z stdout P a b\n").unwrap();
        assert_eq!((line.stream, line.partial, line.text), (LogStream::Stdout, true, &b"a b"[..]));
        let line = parse(b"2026-01-02T03:04:05Z stderr F:x \n").unwrap();
        assert_eq!((line.stream, line.partial, line.text), (LogStream::Stderr, false, &b"\n"[..]));
        for bad in
            ["", "x", "2026-01-02T03:04:05Z stdin F x\n", "yesterday stdout F x\n", "2026-01-02T03:04:05Z stdout"]
        {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn times_are_printed_as_go_prints_them() {
        for (time, printed) in [
            ("2026-01-02T03:04:05.120000000Z", "2026-01-02T03:04:05.12Z"),
            ("2026-01-02T03:04:05.000000000Z", "2026-01-02T03:04:05Z"),
            ("2026-01-02T03:04:05.000000001+02:00", "2026-01-02T03:04:05.000000001+02:00"),
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
        ] {
            assert_eq!(without_trailing_zeros(time), printed);
        }
    }
}
