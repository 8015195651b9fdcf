//! A strict reader of Prometheus' text format: what `promtool check metrics` and a scraping Prometheus insist on.

use std::collections::{BTreeMap, BTreeSet};

/// What a scrape holds.
#[derive(Debug, Default)]
pub struct Scrape {
    /// Type of each family.
    pub families: BTreeMap<String, String>,
    pub samples: Vec<Sample>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Scrape {
    /// Whether there is a series of that name whose labels hold these.
    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.all(name, labels).next().is_some()
    }

    pub fn all<'a>(&'a self, name: &'a str, labels: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = &'a Sample> {
        let holds = move |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|found| found == value))
        };
        self.samples.iter().filter(holds)
    }
}

/// Reads a scrape; the error names the line.
pub fn parse(text: &str) -> Result<Scrape, String> {
    let mut scrape = Scrape::default();
    let mut current: Option<String> = None;
    let mut helped = BTreeSet::new();
    let mut seen = BTreeSet::new();
    if !text.ends_with('\n') {
        return Err("the last line does not end".to_owned());
    }
    for line in text.lines() {
        let wrong = |why: &str| Err(format!("{why}: {line:?}"));
        if let Some(help) = line.strip_prefix("# HELP ") {
            let name = help.split(' ').next().unwrap_or_default();
            if !is_name(name) || !helped.insert(name.to_owned()) {
                return wrong("a second HELP, or of no name");
            }
        } else if let Some(of) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = of.split_once(' ') else { return wrong("no type") };
            if !matches!(kind, "counter" | "gauge" | "histogram" | "summary" | "untyped") {
                return wrong("no type that there is");
            }
            if scrape.families.insert(name.to_owned(), kind.to_owned()).is_some() {
                return wrong("a family in two places");
            }
            if !helped.contains(name) {
                return wrong("a family without help");
            }
            current = Some(name.to_owned());
        } else if line.is_empty() || line.starts_with('#') {
            return wrong("an empty line or a comment");
        } else {
            let sample = sample(line).map_err(|why| format!("{why}: {line:?}"))?;
            let Some(family) = &current else { return wrong("a sample before its family") };
            let suffixes: &[&str] =
                if scrape.families[family] == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            if !suffixes.iter().any(|suffix| sample.name == format!("{family}{suffix}")) {
                return wrong("a sample of another family");
            }
            if scrape.families[family] == "counter" && (sample.value < 0.0 || sample.value.is_nan()) {
                return wrong("a counter below zero");
            }
            if !seen.insert(format!("{}{:?}", sample.name, sample.labels)) {
                return wrong("a series twice");
            }
            scrape.samples.push(sample);
        }
    }
    histograms(&scrape)?;
    Ok(scrape)
}

/// Buckets grow, and the last is the count.
fn histograms(scrape: &Scrape) -> Result<(), String> {
    for (family, _) in scrape.families.iter().filter(|(_, kind)| *kind == "histogram") {
        let counts = format!("{family}_count");
        for count in scrape.samples.iter().filter(|sample| sample.name == counts) {
            let own = |sample: &&Sample| {
                let mut labels = sample.labels.clone();
                labels.remove("le");
                sample.name == format!("{family}_bucket") && labels == count.labels
            };
            let bound = |sample: &Sample| match sample.labels["le"].as_str() {
                "+Inf" => Ok(f64::INFINITY),
                number => number.parse::<f64>().map_err(|error| format!("{family}: le={number}: {error}")),
            };
            let mut last = (f64::NEG_INFINITY, 0.0);
            for bucket in scrape.samples.iter().filter(own) {
                let next = (bound(bucket)?, bucket.value);
                if next.0 <= last.0 || next.1 < last.1 {
                    return Err(format!("{family}: buckets do not grow: {last:?} {next:?}"));
                }
                last = next;
            }
            if last != (f64::INFINITY, count.value) {
                return Err(format!("{family}: the last bucket is not the count: {last:?} {count:?}"));
            }
        }
    }
    Ok(())
}

/// `name{label="value",…} value [milliseconds]`
fn sample(line: &str) -> Result<Sample, String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name) {
        return Err("no name".to_owned());
    }
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (key, after) = rest.split_once("=\"").ok_or("no label value")?;
            if !is_name(key) || key.contains(':') {
                return Err(format!("no label name: {key}"));
            }
            let (value, after) = quoted(after)?;
            if labels.insert(key.to_owned(), value).is_some() {
                return Err(format!("label {key} twice"));
            }
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let mut words = rest.strip_prefix(' ').ok_or("no blank before the value")?.split(' ');
    let value = words.next().unwrap_or_default().parse().map_err(|error| format!("value: {error}"))?;
    if let Some(time) = words.next() {
        time.parse::<i64>().map_err(|error| format!("time: {error}"))?;
    }
    match words.next() {
        Some(more) => Err(format!("something after the time: {more}")),
        None => Ok(Sample { name: name.to_owned(), labels, value }),
    }
}

/// Up to the closing quote, unescaped, and what is behind it.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((out, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n')) => out.push('\n'),
                Some((_, c @ ('"' | '\\'))) => out.push(c),
                other => return Err(format!("an escape that there is not: {other:?}")),
            },
            other => out.push(other),
        }
    }
    Err("a quote that does not end".to_owned())
}

fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_' || c == ':')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

#[test]
fn the_reader_refuses_what_prometheus_refuses() {
    let head = "# HELP a A.\n# TYPE a counter\n";
    let good = format!("{head}a{{b=\"x\\\"\\\\\\n\",c=\"\"}} 1.5 1700000000000\na 2\n");
    let scrape = parse(&good).expect("a good scrape");
    assert!(scrape.has("a", &[("b", "x\"\\\n")]) && scrape.has("a", &[]));
    for bad in [
        "a 1\n".to_owned(),
        format!("{head}a 1"),
        format!("{head}a 1\na 2\n"),
        format!("{head}b 1\n"),
        format!("{head}a -1\n"),
        format!("{head}a one\n"),
        format!("{head}a{{b=\"x}} 1\n"),
        format!("{head}a{{b=\"x\",b=\"y\"}} 1\n"),
        format!("{head}a 1\n# TYPE a counter\n"),
        "# HELP h H.\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 3\nh_sum 1\nh_count 4\n"
            .to_owned(),
        "# HELP h H.\n# TYPE h histogram\nh_bucket{le=\"1\"} 4\nh_bucket{le=\"+Inf\"} 3\nh_sum 1\nh_count 3\n"
            .to_owned(),
    ] {
        assert!(parse(&bad).is_err(), "{bad}");
    }
}
