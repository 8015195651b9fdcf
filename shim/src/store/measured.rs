//! A store whose calls are timed, under the names by which kube-apiserver times its etcd.

use super::key::StoreKey;
use super::{Expect, KeyValue, Page, Store, StoreError, WatchStream, Write};
use crate::clock;
use crate::revision::Revision;
use async_trait::async_trait;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::future::Future;
use std::sync::Arc;

/// What was asked, and of which resource (its storage prefix; empty where it is of none).
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
    r#type: String,
}

/// Times the calls of another store.
pub struct Measured {
    inner: Arc<dyn Store>,
    seconds: Family<Operation, Histogram, fn() -> Histogram>,
    requests: Family<Operation, Counter>,
    errors: Family<Operation, Counter>,
}

impl Measured {
    pub fn new(inner: Arc<dyn Store>) -> Self {
        // Seconds; a subset of upstream's buckets.
        let seconds: fn() -> Histogram =
            || Histogram::new([0.0005, 0.001, 0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 2.0, 5.0, 10.0, 30.0]);
        Self {
            inner,
            seconds: Family::new_with_constructor(seconds),
            requests: Family::default(),
            errors: Family::default(),
        }
    }

    async fn timed<T>(
        &self,
        operation: &'static str,
        of: &str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let begun = clock::now().mono;
        let result = call.await;
        let label = Operation { operation, r#type: kind_of(of) };
        self.seconds.get_or_create(&label).observe(begun.elapsed().as_secs_f64());
        self.requests.get_or_create(&label).inc();
        // A lost race is an answer.
        if !matches!(result, Ok(_) | Err(StoreError::Lost(_))) {
            self.errors.get_or_create(&label).inc();
        }
        result
    }
}

/// `/registry/services/specs/ns/name` → `services/specs`. Which of the segments are the resource's only the resource
/// knows; two that upstream's prefixes begin with say it for the rest.
fn kind_of(key: &str) -> String {
    let mut segments = key.strip_prefix("/registry/").unwrap_or("").split('/');
    let first = segments.next().unwrap_or("");
    let two = first == "services" || first.contains('.');
    match segments.next().filter(|second| two && !second.is_empty()) {
        Some(second) => format!("{first}/{second}"),
        None => first.to_owned(),
    }
}

#[async_trait]
impl Store for Measured {
    async fn get(&self, key: &StoreKey) -> Result<(Revision, Option<KeyValue>), StoreError> {
        self.timed("get", key.as_str(), self.inner.get(key)).await
    }

    async fn list(
        &self,
        prefix: &str,
        at: Option<Revision>,
        after: Option<&StoreKey>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        self.timed("list", prefix, self.inner.list(prefix, at, after, limit)).await
    }

    async fn commit(&self, write: Write) -> Result<Revision, StoreError> {
        let operation = match (&write.put, write.expect) {
            (None, _) => "delete",
            (Some(_), Expect::Absent) => "create",
            (Some(_), Expect::At(_) | Expect::Any) => "update",
        };
        let key = write.key.clone();
        self.timed(operation, key.as_str(), self.inner.commit(write)).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn WatchStream>, StoreError> {
        self.inner.watch(prefix, after).await
    }

    async fn compact(&self, below: Revision) -> Result<(), StoreError> {
        self.timed("compact", "", self.inner.compact(below)).await
    }

    async fn current(&self) -> Result<Revision, StoreError> {
        // Once for every read: where it is free, timing it would be most of its cost.
        self.inner.current().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
    }

    fn lost(&self, at: Revision) -> Option<Revision> {
        self.inner.lost(at)
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "etcd_request_duration_seconds",
            "Etcd request latency in seconds for each operation and object type",
            self.seconds.clone(),
        );
        registry.register(
            "etcd_requests",
            "Etcd request counts for each operation and object type",
            self.requests.clone(),
        );
        registry.register(
            "etcd_request_errors",
            "Etcd failed request counts for each operation and object type",
            self.errors.clone(),
        );
        self.inner.register(registry);
    }
}

#[cfg(test)]
mod tests {
    use super::kind_of;

    #[test]
    fn a_key_says_what_it_is_of() {
        for (key, wanted) in [
            ("/registry/pods/d/a", "pods"),
            ("/registry/services/specs/d/a", "services/specs"),
            ("/registry/example.com/things/d/a", "example.com/things"),
            ("/registry/", ""),
            ("compact_rev_key", ""),
        ] {
            assert_eq!(kind_of(key), wanted, "{key}");
        }
    }
}
