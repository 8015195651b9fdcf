//! The device manager: takes plugins, follows what they have, and gives devices to containers. What there is and who
//! holds it is in `decide::devices`; this makes the calls and keeps the checkpoint.

mod report;
#[cfg(test)]
mod tests;

use crate::clock;
use crate::decide::cpus::unexpected;
use crate::decide::devices::{Book, Claim, Ids, Lack, Offer, is_extended_resource};
use crate::decide::topology::{Hints, NumaMask};
use crate::ids::PodUid;
use crate::metrics::catalog;
use crate::model::devices::{Advertised, Devices, Edits};
use crate::model::memory::Rejection;
use crate::plugins::PluginError;
use crate::plugins::device::registration::{self, Registrar};
use crate::plugins::device::{DevicePlugin, VERSION, checkpoint};
use crate::plugins::proto::device::RegisterRequest;
use crate::stats;
use crate::supervisor::Supervisor;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

pub use report::PodResources;

/// Its socket in the folder of device plugins.
const SOCKET: &str = "kubelet.sock";

/// Why a plugin is not taken; the words are the kubelet's.
#[derive(Debug, thiserror::Error)]
enum RegisterError {
    #[error("requested API version {requested:?} is not supported by kubelet. Supported version is [{VERSION:?}]")]
    Version { requested: String },
    #[error("the ResourceName {0:?} is invalid")]
    Name(String),
    #[error("failed to get device plugin options: {0}")]
    Options(#[from] PluginError),
}

/// Why a container does not get its devices.
#[derive(Debug, thiserror::Error)]
enum AllocateError {
    #[error(transparent)]
    Lack(#[from] Lack),
    #[error("endpoint not found in cache for a registered resource: {0}")]
    Unknown(String),
    #[error("endpoint {0} has been stopped")]
    Stopped(String),
    #[error("device plugin GetPreferredAllocation rpc failed with err: {0}")]
    Preferred(#[source] PluginError),
    #[error("{0}")]
    Refused(#[source] PluginError),
    /// Go prints the response, which is empty, at the end.
    #[error("no containers return in allocation response ")]
    Empty,
}

/// Tells where a container's devices could come from, of these NUMA nodes.
pub type DeviceHints<'a> = &'a dyn Fn(&BTreeSet<u32>) -> Vec<Hints>;

/// Talks to the device manager; cheap to clone.
#[derive(Clone)]
pub struct DevicesHandle(Arc<Manager>);

struct Manager {
    dir: PathBuf,
    is_new: bool,
    booted: SystemTime,
    tasks: Supervisor,
    book: Mutex<Book>,
    plugins: Mutex<BTreeMap<String, Connected>>,
    /// One allocation at a time: between a look at what is free and the note of what was given lies a call.
    allocating: tokio::sync::Mutex<()>,
    /// One write of the checkpoint at a time, each of the newest book.
    saving: Arc<tokio::sync::Mutex<()>>,
    changes: watch::Sender<()>,
}

/// A plugin that has registered.
struct Connected {
    plugin: DevicePlugin,
    socket: PathBuf,
    /// Ends with the plugin's lists, or when another registers for its resource.
    following: Supervisor,
    /// Its lists have ended: it is called no more.
    stopped: bool,
    /// Tells it from the one that registered before for the same resource.
    number: u64,
}

/// Nothing is in that folder; one that cannot be looked into may hold something.
fn is_empty(dir: &Path) -> bool {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

// A poisoned lock still holds what was noted before: each change is one insertion or removal.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DevicesHandle {
    /// Goes on from the checkpoint below `root_dir`; connections live in `tasks`.
    pub fn new(root_dir: &Path, tasks: Supervisor) -> Self {
        let dir = root_dir.join("device-plugins");
        let booted = SystemTime::from(stats::boot_time());
        let book = checkpoint::read(&dir, booted, clock::now().mono).unwrap_or_else(|error| {
            tracing::error!(%error, "device checkpoint not used: devices of running pods may be given out again");
            Book::default()
        });
        Self(Arc::new(Manager {
            is_new: is_empty(&dir),
            dir,
            booted,
            tasks,
            book: Mutex::new(book),
            plugins: Mutex::default(),
            allocating: tokio::sync::Mutex::default(),
            saving: Arc::default(),
            changes: watch::Sender::default(),
        }))
    }

    /// No device manager was on this machine before: what the API has of extended resources is of a node that was made
    /// anew (`ShouldResetExtendedResourceCapacity`).
    pub fn is_new(&self) -> bool {
        self.0.is_new
    }

    /// Listens for registrations; what is returned serves them until it is dropped. Sockets of plugins go first, by
    /// which they see that they must register.
    pub fn listen(self) -> impl Future<Output = ()> + Send + 'static {
        let socket = self.0.dir.join(SOCKET);
        let listener = registration::remove_sockets(&self.0.dir).and_then(|()| crate::plugins::listen(&socket));
        async move {
            let served = match listener {
                Ok(listener) => registration::serve(listener, Arc::new(self)).await.map_err(std::io::Error::other),
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                tracing::error!(socket = %socket.display(), %error, "device plugins cannot register");
            }
        }
    }

    /// Takes a plugin that asks for it.
    async fn taken(&self, request: RegisterRequest) -> Result<(), RegisterError> {
        let resource = request.resource_name;
        catalog::DEVICE_REGISTRATIONS.inc([resource.clone()]);
        if request.version != VERSION {
            return Err(RegisterError::Version { requested: request.version });
        }
        if !is_extended_resource(&resource) {
            return Err(RegisterError::Name(resource));
        }
        Ok(self.connect(&resource, &self.0.dir.join(&request.endpoint)).await?)
    }

    /// Takes the plugin of `resource` that listens at `socket`, in place of one that was there before.
    pub async fn connect(&self, resource: &str, socket: &Path) -> Result<(), PluginError> {
        let plugin = DevicePlugin::connect(socket).await?;
        let following = self.0.tasks.child();
        let number = {
            let mut plugins = lock(&self.0.plugins);
            let before = plugins.get(resource);
            if let Some(before) = before {
                before.following.cancel();
            }
            let number = before.map_or(0, |before| before.number + 1);
            let connected = Connected {
                plugin: plugin.clone(),
                socket: socket.to_owned(),
                following: following.clone(),
                stopped: false,
                number,
            };
            plugins.insert(resource.to_owned(), connected);
            lock(&self.0.book).connected(resource);
            number
        };
        tracing::info!(resource, socket = %socket.display(), "device plugin registered");
        let (devices, resource) = (self.clone(), resource.to_owned());
        following.spawn("device_plugin", async move { devices.follow(resource, number, plugin).await });
        Ok(())
    }

    /// Lets the plugin at `socket` go, unless another came in its place.
    pub async fn disconnect(&self, resource: &str, socket: &Path) {
        let number = {
            let plugins = lock(&self.0.plugins);
            let connected = plugins.get(resource).filter(|connected| connected.socket == socket);
            connected.inspect(|connected| connected.following.cancel()).map(|connected| connected.number)
        };
        if let Some(number) = number {
            self.stopped(resource, number).await;
        }
    }

    /// Follows what a plugin has, until it ends.
    async fn follow(self, resource: String, number: u64, plugin: DevicePlugin) {
        let ended = async {
            let mut lists = plugin.lists().await?;
            while let Some(devices) = lists.next().await? {
                self.listed(&resource, number, devices).await;
            }
            Ok::<_, PluginError>(())
        };
        match ended.await {
            Ok(()) => tracing::warn!(resource, "device plugin ended its list"),
            Err(error) => tracing::warn!(resource, %error, "device plugin is gone"),
        }
        self.stopped(&resource, number).await;
    }

    async fn listed(&self, resource: &str, number: u64, devices: Devices) {
        let changed = self.change(|book, plugins| {
            if plugins.get(resource).is_some_and(|connected| connected.number == number && !connected.stopped) {
                book.listed(resource, devices);
            }
        });
        if changed {
            self.save().await;
        }
    }

    async fn stopped(&self, resource: &str, number: u64) {
        self.change(|book, plugins| {
            if let Some(connected) = plugins.get_mut(resource).filter(|connected| connected.number == number) {
                connected.stopped = true;
                book.disconnected(resource, clock::now().mono);
            }
        });
        self.save().await;
    }

    /// Changes the book, and tells those who show what there is if that is other than before.
    fn change(&self, change: impl FnOnce(&mut Book, &mut BTreeMap<String, Connected>)) -> bool {
        let mut plugins = lock(&self.0.plugins);
        let mut book = lock(&self.0.book);
        let before = (book.advertised(), book.registered());
        change(&mut book, &mut plugins);
        let after = (book.advertised(), book.registered());
        let changed = before != after;
        if changed {
            self.0.changes.send_replace(());
        }
        changed
    }

    /// Marked when the node has other resources than before, or the health of a device changed.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changes.subscribe()
    }

    /// What the node has; resources whose plugins are gone for too long are dropped from it first.
    pub async fn advertised(&self) -> Advertised {
        let (expired, advertised) = {
            let mut book = lock(&self.0.book);
            (book.expire(clock::now().mono), book.advertised())
        };
        if expired {
            self.save().await;
        }
        advertised
    }

    /// Pods that hold devices.
    pub fn holders(&self) -> Vec<PodUid> {
        lock(&self.0.book).holders().cloned().collect()
    }

    /// Shows the health of a pod's devices with the containers that hold them.
    pub fn show(&self, uid: &PodUid, status: &mut PodStatus) {
        let book = lock(&self.0.book);
        for container in status.container_statuses.iter_mut().flatten() {
            let health = book.health(uid, &container.name);
            container.allocated_resources_status = (!health.is_empty()).then_some(health);
        }
    }

    /// Gives every container of a pod that is being taken its devices; returns how much of each resource is given out
    /// then. `active`: the pods that may hold any, once all are known. `place` is asked for each container first: it
    /// may look where the devices could come from, and says from which nodes they should.
    pub async fn admit(
        &self,
        pod: &Pod,
        uid: &PodUid,
        active: impl FnOnce() -> Option<BTreeSet<PodUid>>,
        mut place: impl FnMut(&Container, DeviceHints<'_>) -> Result<Option<NumaMask>, Rejection>,
    ) -> Result<BTreeMap<String, usize>, Rejection> {
        let spec = pod.spec.iter();
        let containers: Vec<&Container> =
            spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers)).collect();
        let wants_any = {
            let book = lock(&self.0.book);
            !book.is_empty() && !containers.iter().all(|container| book.wants(container).is_empty())
        };
        let active = if wants_any { active() } else { None };
        if let Some(active) = &active {
            lock(&self.0.book).release(active);
        }
        let mut given = false;
        for container in containers {
            let nodes = place(container, &|nodes| lock(&self.0.book).hints(pod, uid, container, nodes));
            let gave = match nodes {
                Ok(nodes) if wants_any => {
                    self.allocate(pod, uid, container, nodes).await.map_err(|error| unexpected(&error))
                }
                Ok(_) => Ok(false),
                Err(rejection) => Err(rejection),
            };
            match gave {
                Ok(gave) => given |= gave,
                Err(rejection) => {
                    lock(&self.0.book).forget(uid);
                    return Err(rejection);
                }
            }
        }
        if !wants_any {
            return Ok(BTreeMap::new());
        }
        if given {
            self.save().await;
        }
        Ok(lock(&self.0.book).given_out(uid))
    }

    /// Frees what a pod was given that is refused for another reason.
    pub async fn take_back(&self, uid: &PodUid) {
        let held = {
            let mut book = lock(&self.0.book);
            let held = book.holders().any(|holder| holder == uid);
            book.forget(uid);
            held
        };
        if held {
            self.save().await;
        }
    }

    /// Where the devices of a pod as a whole could come from.
    pub fn pod_hints(&self, pod: &Pod, uid: &PodUid, nodes: &BTreeSet<u32>) -> Vec<Hints> {
        lock(&self.0.book).pod_hints(pod, uid, nodes)
    }

    /// What a container that is about to start is given with its devices; its plugins are told if they want to know.
    pub async fn prepare(&self, pod: &Pod, uid: &PodUid, container: &Container) -> Result<Edits, String> {
        let wanted = {
            let book = lock(&self.0.book);
            if book.is_empty() { Vec::new() } else { book.wants(container) }
        };
        if wanted.iter().all(|(_, count)| *count == 0) {
            return Ok(Edits::default());
        }
        // After a restart without a checkpoint it may hold nothing yet.
        if self.allocate(pod, uid, container, None).await.map_err(|error| error.to_string())? {
            self.save().await;
        }
        lock(&self.0.book).ready(uid, &container.name).map_err(|lack| lack.to_string())?;
        for (resource, _) in wanted {
            let ids = lock(&self.0.book).held(uid, &container.name).and_then(|held| Some(held.get(&resource)?.ids()));
            // A plugin that is away was not asked to be told, as far as is known.
            let plugin = self.plugin(&resource).ok();
            if let (Some(ids), Some(plugin)) = (ids, plugin) {
                let told = plugin.pre_start(ids.into_iter().collect()).await;
                told.map_err(|error| format!("device plugin PreStartContainer rpc failed with err: {error}"))?;
            }
        }
        Ok(lock(&self.0.book).edits(uid, &container.name))
    }

    /// Gives one container its devices; whether it got any that it did not have.
    async fn allocate(
        &self,
        pod: &Pod,
        uid: &PodUid,
        container: &Container,
        nodes: Option<NumaMask>,
    ) -> Result<bool, AllocateError> {
        let wanted = lock(&self.0.book).wants(container);
        if wanted.is_empty() {
            return Ok(false);
        }
        let claim = |(resource, count)| Claim { pod, uid, container: &container.name, resource, count, nodes };
        let claims: Vec<Claim<'_>> =
            wanted.iter().map(|(resource, count)| claim((resource.as_str(), *count))).collect();
        let holds_all = {
            let book = lock(&self.0.book);
            claims.iter().all(|claim| matches!(book.offer(claim), Ok(Offer::Held)))
        };
        if holds_all {
            // Not behind another's plugin, which may take its time.
            return Ok(false);
        }
        let _alone = self.0.allocating.lock().await;
        let mut given = false;
        for claim in &claims {
            let resource = claim.resource;
            let offer = lock(&self.0.book).offer(claim)?;
            let chosen = match offer {
                Offer::Held => continue,
                Offer::Settled(ids) => ids,
                Offer::Open(open) => {
                    let (available, certain) = (open.available(), open.taken.clone());
                    let plugin = self.plugin(resource)?;
                    let preferred = plugin
                        .preferred(available.into_iter().collect(), certain.into_iter().collect(), open.count)
                        .await
                        .map_err(AllocateError::Preferred)?;
                    open.settle(&preferred.into_iter().collect())
                }
            };
            let edits = self.call_allocate(resource, &chosen).await?;
            lock(&self.0.book).grant(claim, chosen, edits);
            given = true;
        }
        Ok(given)
    }

    async fn call_allocate(&self, resource: &str, ids: &Ids) -> Result<Edits, AllocateError> {
        let plugin = self.plugin(resource)?;
        let begun = clock::now().mono;
        let answer = plugin.allocate(ids.iter().cloned().collect()).await;
        catalog::DEVICE_ALLOCATION.observe([resource.to_owned()], begun.elapsed());
        answer.map_err(AllocateError::Refused)?.ok_or(AllocateError::Empty)
    }

    fn plugin(&self, resource: &str) -> Result<DevicePlugin, AllocateError> {
        match lock(&self.0.plugins).get(resource) {
            None => Err(AllocateError::Unknown(resource.to_owned())),
            Some(connected) if connected.stopped => Err(AllocateError::Stopped(resource.to_owned())),
            Some(connected) => Ok(connected.plugin.clone()),
        }
    }

    /// Writes the checkpoint; also when who asks goes away meanwhile, so that no older one comes after a newer.
    async fn save(&self) {
        let manager = self.0.clone();
        let alone = manager.saving.clone().lock_owned().await;
        let written = tokio::task::spawn_blocking(move || {
            let _alone = alone;
            let (encoded, of_before) = {
                let book = lock(&manager.book);
                (checkpoint::encode(&book), book.grants().any(|(.., grant)| grant.before_boot))
            };
            let dated = of_before.then(|| manager.booted - Duration::from_secs(1));
            checkpoint::write(&manager.dir, &encoded.map_err(std::io::Error::other)?, dated)
        });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "device checkpoint not written"),
            Err(panic) => tracing::error!(%panic, "device checkpoint not written"),
        }
    }
}

#[async_trait]
impl Registrar for DevicesHandle {
    async fn register(&self, request: RegisterRequest) -> Result<(), String> {
        let resource = request.resource_name.clone();
        self.taken(request).await.map_err(|error| {
            tracing::warn!(resource, %error, "device plugin not taken");
            error.to_string()
        })
    }
}
