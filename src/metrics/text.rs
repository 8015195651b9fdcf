//! Prometheus' text format (`text/plain; version=0.0.4`), written.

use std::fmt::Write;

/// `Content-Type` of a scrape, as the kubelet's handler sends it.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=values";

/// What a family's samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A scrape as it grows: a family, then its samples, then the next family.
#[derive(Debug, Default)]
pub struct Text {
    out: String,
    name: &'static str,
    /// Head of a family that has no sample yet.
    head: Option<(&'static str, Kind)>,
}

impl Text {
    /// Begins a family; one that gets no samples leaves no trace.
    pub fn family(&mut self, name: &'static str, help: &'static str, kind: Kind) {
        self.name = name;
        self.head = Some((help, kind));
    }

    /// One sample of the family begun last; `suffix` is `_bucket`, `_sum`, `_count` or nothing.
    pub fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) {
        self.start(suffix);
        if !labels.is_empty() {
            self.out.push('{');
            label_list(&mut self.out, labels);
            self.out.push('}');
        }
        self.out.push(' ');
        push_number(&mut self.out, value);
        self.out.push('\n');
    }

    /// One sample with its own time; `labels` are already written (`label_list`), which spares them a hundred times over.
    pub fn sample_at(&mut self, labels: &str, more: &str, value: f64, millis: i64) {
        self.start("");
        if !(labels.is_empty() && more.is_empty()) {
            self.out.push('{');
            self.out.push_str(labels);
            if !labels.is_empty() && !more.is_empty() {
                self.out.push(',');
            }
            self.out.push_str(more);
            self.out.push('}');
        }
        self.out.push(' ');
        push_number(&mut self.out, value);
        self.out.push(' ');
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "{millis}");
    }

    fn start(&mut self, suffix: &str) {
        if let Some((help, kind)) = self.head.take() {
            let _ = writeln!(self.out, "# HELP {0} {help}\n# TYPE {0} {1}", self.name, kind.as_str());
        }
        self.out.push_str(self.name);
        self.out.push_str(suffix);
    }

    pub fn as_str(&self) -> &str {
        &self.out
    }

    /// What was written so far; the family goes on.
    pub fn take(&mut self) -> String {
        std::mem::take(&mut self.out)
    }
}

/// `a="x",b="y"`, escaped.
pub fn label_list(out: &mut String, labels: &[(&str, &str)]) {
    for (at, (name, value)) in labels.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str(name);
        out.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                other => out.push(other),
            }
        }
        out.push('"');
    }
}

/// A number as this format writes it.
pub fn number(value: f64) -> String {
    let mut out = String::new();
    push_number(&mut out, value);
    out
}

/// Below this every whole `f64` is written faster as an integer, with the same digits.
const EXACT: f64 = 9_007_199_254_740_992.0;

fn push_number(out: &mut String, value: f64) {
    let _ = match value {
        whole if whole.fract() == 0.0 && whole.abs() < EXACT => write!(out, "{}", whole as i64),
        infinite if infinite.is_infinite() => out.write_str(if infinite > 0.0 { "+Inf" } else { "-Inf" }),
        other => write!(out, "{other}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_with_all_their_digits() {
        for (value, text) in
            [(0.0, "0"), (1.5, "1.5"), (-3.0, "-3"), (1e-9, "0.000000001"), (f64::INFINITY, "+Inf"), (f64::NAN, "NaN")]
        {
            assert_eq!(number(value), text);
        }
        assert_eq!(number(123_456_789_012.0), "123456789012");
    }

    #[test]
    fn a_family_without_samples_leaves_no_trace() {
        let mut text = Text::default();
        text.family("a", "A.", Kind::Gauge);
        text.family("b", "B.", Kind::Gauge);
        text.sample_at("id=\"/\"", "cpu=\"total\"", 2.0, 1500);
        assert_eq!(text.as_str(), "# HELP b B.\n# TYPE b gauge\nb{id=\"/\",cpu=\"total\"} 2 1500\n");
    }
}
