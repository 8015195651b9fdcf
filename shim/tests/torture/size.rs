//! Endless updates of few keys: the file stays as big as the history that is kept.

use crate::child::{self, FILE};
use bytes::Bytes;
use futures::StreamExt;
use skiff_shim::store::{Class, Expect, Store, Write};
use std::fs;
use std::path::Path;

const KEYS: usize = 1000;
/// A small object's JSON.
const VALUE: usize = 600;
/// Writes under way at once.
const AT_ONCE: usize = 256;
/// What the default history (50,000 revisions, about 40 MiB with these values) and the log may need together.
const BOUND: u64 = 96 << 20;

pub fn run(updates: usize) -> String {
    let dir = tempfile::tempdir().unwrap();
    let store = child::open(dir.path());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let value = Bytes::from("x".repeat(VALUE));
    let peak = runtime.block_on(async {
        let mut peak = 0;
        for begin in (0..updates).step_by(10_000) {
            let write = |n: usize| {
                let key = child::key(&format!("k{}", n % KEYS));
                let class = if n.is_multiple_of(100) { Class::Ordinary } else { Class::Lazy };
                store.commit(Write { key, expect: Expect::Any, put: Some(value.clone()), ttl: None, class })
            };
            let writes = futures::stream::iter(begin..(begin + 10_000).min(updates)).map(write);
            writes
                .buffer_unordered(AT_ONCE)
                .for_each(|result| async move { assert!(result.is_ok(), "{result:?}") })
                .await;
            peak = peak.max(size(dir.path()));
        }
        let page = store.list("/registry/", None, None, 0).await.unwrap();
        assert_eq!(page.items.len(), KEYS.min(updates));
        store.close().await.unwrap();
        peak
    });
    let closed = size(dir.path());
    assert!(peak < BOUND, "{peak} bytes");
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    format!(
        "{updates} updates of {KEYS} keys of {VALUE} bytes: at most {:.1} MiB on disk, {:.1} MiB when closed",
        mib(peak),
        mib(closed)
    )
}

/// Bytes of the file and its log.
fn size(dir: &Path) -> u64 {
    [FILE.to_owned(), format!("{FILE}-wal")]
        .iter()
        .map(|name| fs::metadata(dir.join(name)).map_or(0, |m| m.len()))
        .sum()
}
