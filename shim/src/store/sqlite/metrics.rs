//! What the engine counts of itself, under etcd's and kube-apiserver's names, so that their dashboards and alerts fit.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Which storage a size is of (kube-apiserver counts several).
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cluster {
    storage_cluster_id: &'static str,
}

/// Updated by the writer; clones share their values.
#[derive(Debug)]
pub(super) struct Metrics {
    /// Seconds from the commit's begin until it is on disk; its count is the number of synced commits.
    pub(super) synced: Histogram,
    /// Seconds of commits that leave the sync to later.
    pub(super) unsynced: Histogram,
    pub(super) puts: Counter,
    pub(super) deletes: Counter,
    pub(super) size_bytes: Gauge,
    pub(super) in_use_bytes: Gauge,
    pub(super) current: Gauge,
    pub(super) compacted: Gauge,
    quota_bytes: Gauge,
    size: Family<Cluster, Gauge>,
}

impl Metrics {
    pub(super) fn new(quota_bytes: u64) -> Self {
        // Seconds; etcd's buckets: 1 ms doubling to 8 s.
        let seconds = || Histogram::new((0..14).map(|n| 0.001 * f64::from(1 << n)));
        let metrics = Self {
            synced: seconds(),
            unsynced: seconds(),
            puts: Counter::default(),
            deletes: Counter::default(),
            size_bytes: Gauge::default(),
            in_use_bytes: Gauge::default(),
            current: Gauge::default(),
            compacted: Gauge::default(),
            quota_bytes: Gauge::default(),
            size: Family::default(),
        };
        set(&metrics.quota_bytes, quota_bytes);
        metrics
    }

    /// The file's size and how much of it holds data.
    pub(super) fn sized(&self, size: u64, in_use: u64) {
        set(&self.size_bytes, size);
        set(&self.in_use_bytes, in_use);
        set(&self.size.get_or_create(&Cluster { storage_cluster_id: "sqlite-0" }), size);
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let histograms = [
            ("etcd_disk_wal_fsync_duration_seconds", "The latency distributions of fsync called by WAL", &self.synced),
            (
                "etcd_disk_backend_commit_duration_seconds",
                "The latency distributions of commit called by backend (synced later)",
                &self.unsynced,
            ),
        ];
        for (name, help, histogram) in histograms {
            registry.register(name, help, histogram.clone());
        }
        registry.register("etcd_mvcc_put", "Total number of puts seen by this member", self.puts.clone());
        registry.register("etcd_mvcc_delete", "Total number of deletes seen by this member", self.deletes.clone());
        let gauges = [
            (
                "etcd_mvcc_db_total_size_in_bytes",
                "Total size of the underlying database physically allocated in bytes",
                &self.size_bytes,
            ),
            (
                "etcd_mvcc_db_total_size_in_use_in_bytes",
                "Total size of the underlying database logically in use in bytes",
                &self.in_use_bytes,
            ),
            ("etcd_server_quota_backend_bytes", "Current backend storage quota size in bytes", &self.quota_bytes),
            ("etcd_debugging_mvcc_current_revision", "The current revision of store", &self.current),
            ("etcd_debugging_mvcc_compact_revision", "The revision of the last compaction in store", &self.compacted),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        registry.register(
            "apiserver_storage_size_bytes",
            "Size of the storage database file physically allocated in bytes",
            self.size.clone(),
        );
    }
}

/// Gauges are signed; no revision or size gets near the end of either.
pub(super) fn set(gauge: &Gauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}
