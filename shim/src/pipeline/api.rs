//! What every request works on: the store, the watch caches above it, and the server's settings.

use crate::admission::policy::Programs;
use crate::authn::token::Tokens;
use crate::error::ApiError;
use crate::registry::core::service::allocate::ServiceRange;
use crate::registry::{self, Catalog, ResourceDef};
use crate::store::Store;
use crate::store::cache::{CacheSpec, Caches, ResourceCache};
use crate::task::Tasks;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Settings that requests depend on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where Services get their addresses.
    pub service_range: ServiceRange,
    /// Other servers may write to the store: what this one's own locks guard is guarded against them too.
    pub shared_store: bool,
    /// A watch without `timeoutSeconds` ends between this and twice this (`--min-request-timeout`).
    pub min_request_timeout: Duration,
    /// How long the store may take to answer a health check (`--etcd-healthcheck-timeout`).
    pub etcd_healthcheck_timeout: Duration,
}

/// The field of a resource whose watchers each want one value of it: agents follow the pods of their node.
const INDEXED: [(&str, &str); 1] = [("pods", "spec.nodeName")];

/// The API below HTTP; shared by the listener and the in-process clients.
pub struct Api {
    pub store: Arc<dyn Store>,
    /// What is served: the built-in resources and the custom ones.
    pub catalog: Catalog,
    pub caches: Caches,
    pub settings: Settings,
    pub tokens: Option<Tokens>,
    /// The expressions of admission policies, compiled.
    pub(super) programs: Programs,
    /// Held while a Service gets its addresses and ports: what is free is read off the cache. (Other servers on the
    /// same store are kept off by claims in it.)
    pub(super) allocation: tokio::sync::Mutex<()>,
    /// Set once the bootstrap objects exist.
    pub ready: AtomicBool,
    /// Set when the server is asked to stop: readyz fails.
    pub draining: AtomicBool,
    /// Set when the server stops: watches end.
    pub stopping: CancellationToken,
}

impl Api {
    /// Starts the watch cache of every stored resource.
    pub fn start(
        store: Arc<dyn Store>,
        settings: Settings,
        tokens: Option<Tokens>,
        tasks: &Tasks,
        stopping: CancellationToken,
    ) -> Arc<Self> {
        let specs = stored().map(|def| {
            let index = Arc::new(move |object: &serde_json::Value| (labels(object), def.fields_of(object)));
            let indexed = INDEXED.iter().find(|(storage, _)| *storage == def.storage).map(|(_, field)| *field);
            CacheSpec { prefix: def.storage.into(), index, indexed }
        });
        let (caches, follow) = Caches::start(store.clone(), specs.collect());
        tasks.spawn("watch-cache", follow);
        Arc::new(Self {
            store,
            catalog: Catalog::default(),
            caches,
            settings,
            tokens,
            programs: Programs::default(),
            allocation: tokio::sync::Mutex::new(()),
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            stopping,
        })
    }

    /// The cache of a storage prefix.
    ///
    /// # Errors
    /// For a resource that is not stored.
    pub fn cache(&self, storage: &str) -> Result<ResourceCache, ApiError> {
        self.caches.of(storage).ok_or(ApiError::MethodNotAllowed)
    }

    pub(super) fn cache_of(&self, def: &ResourceDef) -> Result<ResourceCache, ApiError> {
        self.cache(def.storage)
    }
}

/// One definition for each storage prefix: of those that share one, that whose form is stored.
pub fn stored() -> impl Iterator<Item = &'static ResourceDef> {
    registry::all().iter().filter(|d| d.gv == d.storage_gv && d.verbs.contains(&"list"))
}

pub(super) fn labels(object: &serde_json::Value) -> crate::selector::Pairs {
    use crate::meta::Meta;
    object
        .labels()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.as_str().into(), value.as_str()?.into())))
        .collect()
}
