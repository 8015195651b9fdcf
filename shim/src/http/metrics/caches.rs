//! What the watch caches count, read off them at each scrape.

use crate::pipeline::api::stored;
use crate::store::cache::{self, CacheStats};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;

pub(super) struct Caches {
    caches: cache::Caches,
}

impl Caches {
    pub(super) fn new(caches: cache::Caches) -> Self {
        Self { caches }
    }
}

impl fmt::Debug for Caches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Caches")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GroupResource {
    group: String,
    resource: String,
}

/// Upstream's older metric names the resource in one label: `leases.coordination.k8s.io`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Resource {
    resource: String,
}

/// Name, help, and what of a cache it shows.
type Metric<T> = (&'static str, &'static str, fn(&CacheStats) -> T);

const GAUGES: [Metric<usize>; 4] = [
    ("apiserver_resource_objects", "Number of stored objects at the time of last check split by kind", |s| s.objects),
    ("apiserver_watch_cache_capacity", "Total capacity of watch cache broken by resource type", |s| s.ring),
    ("apiserver_registered_watchers", "Number of currently registered watchers for a given resource", |s| s.watchers),
    (
        "apiserver_watch_cache_resource_version",
        "Current resource version of watch cache broken by resource type",
        |s| usize::try_from(s.revision.0).unwrap_or(usize::MAX),
    ),
];

const COUNTERS: [Metric<u64>; 3] = [
    (
        "apiserver_watch_cache_events_received",
        "Counter of events received in watch cache broken by resource type",
        |s| s.received,
    ),
    (
        "apiserver_watch_cache_events_dispatched",
        "Counter of events dispatched in watch cache broken by resource type",
        |s| s.dispatched,
    ),
    (
        "apiserver_terminated_watchers",
        "Counter of watchers closed due to unresponsiveness broken by resource type",
        |s| s.terminated,
    ),
];

impl Collector for Caches {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut stats: Vec<(GroupResource, CacheStats)> =
            self.caches.all().into_iter().map(|cache| (group_resource(cache.prefix()), cache.stats())).collect();
        stats.sort_by(|(a, _), (b, _)| (&a.group, &a.resource).cmp(&(&b.group, &b.resource)));
        let mut objects = encoder.encode_descriptor(
            "apiserver_storage_objects",
            "Number of stored objects at the time of last check split by kind",
            None,
            MetricType::Gauge,
        )?;
        for (GroupResource { group, resource }, stats) in &stats {
            let resource = if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") };
            ConstGauge::new(signed(stats.objects)).encode(objects.encode_family(&Resource { resource })?)?;
        }
        for (name, help, value) in GAUGES {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, stats) in &stats {
                ConstGauge::new(signed(value(stats))).encode(metric.encode_family(labels)?)?;
            }
        }
        for (name, help, value) in COUNTERS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, stats) in &stats {
                ConstCounter::new(value(stats)).encode(metric.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The resource that a storage prefix is of; a custom one's prefix says it.
fn group_resource(prefix: &str) -> GroupResource {
    if let Some(def) = stored().find(|def| def.storage == prefix) {
        return GroupResource { group: def.gv.group.into(), resource: def.resource.into() };
    }
    let (group, resource) = prefix.split_once('/').unwrap_or(("", prefix));
    GroupResource { group: group.into(), resource: resource.into() }
}
