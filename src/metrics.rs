//! What the agent counts, under the kubelet's names: counters and histograms that any module adds to, `/metrics` reads.
//!
//! One set for the process, as in any Prometheus client: a counter is no decision, and passing it through every
//! signature would hide what the signatures say. `prometheus-client` does not serve here: it writes OpenMetrics only,
//! where each counter must end in `_total`, which `kubelet_evictions` does not.

pub mod catalog;
pub mod slis;
pub mod text;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use text::{Kind, Text};

/// `prometheus.DefBuckets`.
pub const DEFAULT_BUCKETS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

type Labels<const L: usize> = [Cow<'static, str>; L];

/// A family that writes itself into a scrape.
pub trait Family: Sync {
    fn write(&self, text: &mut Text);
}

/// A counter for each combination of label values; callers take these from small closed sets.
pub struct Counter<const L: usize> {
    name: &'static str,
    help: &'static str,
    labels: [&'static str; L],
    values: Mutex<BTreeMap<Labels<L>, u64>>,
}

impl<const L: usize> Counter<L> {
    const fn new(name: &'static str, help: &'static str, labels: [&'static str; L]) -> Self {
        Self { name, help, labels, values: Mutex::new(BTreeMap::new()) }
    }

    pub fn inc(&self, labels: [impl Into<Cow<'static, str>>; L]) {
        *lock(&self.values).entry(labels.map(Into::into)).or_default() += 1;
    }

    /// How often so far.
    pub fn get(&self, labels: [impl Into<Cow<'static, str>>; L]) -> u64 {
        lock(&self.values).get(&labels.map(Into::into)).copied().unwrap_or(0)
    }
}

impl Counter<0> {
    pub fn add_one(&self) {
        *lock(&self.values).entry([]).or_default() += 1;
    }
}

impl<const L: usize> Family for Counter<L> {
    fn write(&self, text: &mut Text) {
        let values = lock(&self.values);
        text.family(self.name, self.help, Kind::Counter);
        if L == 0 && values.is_empty() {
            text.sample("", &[], 0.0);
        }
        for (labels, value) in values.iter() {
            text.sample("", &pairs(&self.labels, labels), *value as f64);
        }
    }
}

/// A histogram for each combination of label values.
pub struct Histogram<const L: usize> {
    name: &'static str,
    help: &'static str,
    labels: [&'static str; L],
    buckets: &'static [f64],
    values: Mutex<BTreeMap<Labels<L>, Distribution>>,
}

impl<const L: usize> Histogram<L> {
    const fn new(name: &'static str, help: &'static str, labels: [&'static str; L], buckets: &'static [f64]) -> Self {
        Self { name, help, labels, buckets, values: Mutex::new(BTreeMap::new()) }
    }

    /// In seconds.
    pub fn observe(&self, labels: [impl Into<Cow<'static, str>>; L], took: Duration) {
        lock(&self.values).entry(labels.map(Into::into)).or_default().observe(self.buckets, took.as_secs_f64());
    }
}

impl Histogram<0> {
    /// In seconds.
    pub fn observe_one(&self, took: Duration) {
        lock(&self.values).entry([]).or_default().observe(self.buckets, took.as_secs_f64());
    }

    /// In whole milliseconds, for the one that counts these.
    pub fn observe_millis(&self, took: Duration) {
        lock(&self.values).entry([]).or_default().observe(self.buckets, took.as_millis() as f64);
    }
}

impl<const L: usize> Family for Histogram<L> {
    fn write(&self, text: &mut Text) {
        let values = lock(&self.values);
        text.family(self.name, self.help, Kind::Histogram);
        if L == 0 && values.is_empty() {
            Distribution::default().write(text, self.buckets, &[]);
        }
        for (labels, value) in values.iter() {
            value.write(text, self.buckets, &pairs(&self.labels, labels));
        }
    }
}

/// A value that is set, for each combination of label values; absent until it was.
pub struct Gauge<const L: usize = 0> {
    name: &'static str,
    help: &'static str,
    labels: [&'static str; L],
    values: Mutex<BTreeMap<Labels<L>, f64>>,
}

impl<const L: usize> Gauge<L> {
    const fn labelled(name: &'static str, help: &'static str, labels: [&'static str; L]) -> Self {
        Self { name, help, labels, values: Mutex::new(BTreeMap::new()) }
    }

    pub fn set_for(&self, labels: [impl Into<Cow<'static, str>>; L], value: f64) {
        lock(&self.values).insert(labels.map(Into::into), value);
    }
}

impl Gauge {
    const fn new(name: &'static str, help: &'static str) -> Self {
        Self::labelled(name, help, [])
    }

    pub fn set(&self, value: f64) {
        lock(&self.values).insert([], value);
    }
}

impl<const L: usize> Family for Gauge<L> {
    fn write(&self, text: &mut Text) {
        text.family(self.name, self.help, Kind::Gauge);
        for (labels, value) in lock(&self.values).iter() {
            text.sample("", &pairs(&self.labels, labels), *value);
        }
    }
}

/// How often values fell into each bucket, and their sum.
#[derive(Clone, Debug, Default)]
pub struct Distribution {
    /// By bucket, not cumulated; empty before the first.
    counts: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Distribution {
    pub fn observe(&mut self, buckets: &[f64], value: f64) {
        self.counts.resize(buckets.len(), 0);
        if let Some(count) = buckets.iter().position(|bound| value <= *bound).and_then(|at| self.counts.get_mut(at)) {
            *count += 1;
        }
        self.count += 1;
        self.sum += value;
    }

    /// The series of one combination of labels.
    pub fn write(&self, text: &mut Text, buckets: &[f64], labels: &[(&str, &str)]) {
        let mut below = 0;
        let mut bucket = |bound: &str, count: u64| {
            text.sample("_bucket", &[labels, &[("le", bound)]].concat(), count as f64);
        };
        for (at, bound) in buckets.iter().enumerate() {
            below += self.counts.get(at).copied().unwrap_or(0);
            bucket(&text::number(*bound), below);
        }
        bucket("+Inf", self.count);
        text.sample("_sum", labels, self.sum);
        text.sample("_count", labels, self.count as f64);
    }
}

fn pairs<'a, const L: usize>(names: &[&'static str; L], values: &'a Labels<L>) -> [(&'static str, &'a str); L] {
    std::array::from_fn(|at| (names[at], &*values[at]))
}

/// Every value is whole at any moment: a poisoned lock holds what was counted.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn families_are_written_as_prometheus_reads_them() {
        let counter = Counter::new("things_total", "Things.", ["kind"]);
        counter.inc(["b"]);
        counter.inc(["a\"\\\n"]);
        counter.inc(["b"]);
        let histogram = Histogram::<0>::new("waits_seconds", "Waits.", [], &[0.1, 1.0]);
        for millis in [50, 100, 500, 2000] {
            histogram.observe_one(Duration::from_millis(millis));
        }
        let none = Counter::<0>::new("none_total", "None.", []);
        let gauge = Gauge::new("level", "A level.");
        let mut text = Text::default();
        gauge.write(&mut text);
        gauge.set(1.5);
        for family in [&counter as &dyn Family, &histogram, &none, &gauge] {
            family.write(&mut text);
        }
        expect![[r#"
            # HELP things_total Things.
            # TYPE things_total counter
            things_total{kind="a\"\\\n"} 1
            things_total{kind="b"} 2
            # HELP waits_seconds Waits.
            # TYPE waits_seconds histogram
            waits_seconds_bucket{le="0.1"} 2
            waits_seconds_bucket{le="1"} 3
            waits_seconds_bucket{le="+Inf"} 4
            waits_seconds_sum 2.65
            waits_seconds_count 4
            # HELP none_total None.
            # TYPE none_total counter
            none_total 0
            # HELP level A level.
            # TYPE level gauge
            level 1.5
        "#]]
        .assert_eq(text.as_str());
    }
}
