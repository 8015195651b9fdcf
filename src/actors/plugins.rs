//! Plugins that make themselves known by a socket in `<root-dir>/plugins_registry`: registered while it is there.

use crate::actors::csi_node::CsiNode;
use crate::actors::devices::DevicesHandle;
use crate::cluster::Cluster;
use crate::decide::devices::is_extended_resource;
use crate::plugins::csi::Drivers;
use crate::plugins::device;
use crate::plugins::registry::{Applicant, PluginInfo};
use crate::supervisor::Supervisor;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Everything is looked at again this often, whatever inotify says.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// A plugin that could not be registered is asked again so soon, then ever later (the kubelet's exponential back-off).
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(122);

/// A driver whose limit does not change is asked that often whether it does by now.
const LOOK_FOR_PERIOD: Duration = Duration::from_secs(600);

/// The actor; `run` it under the supervisor.
pub struct PluginsTask {
    pub root_dir: PathBuf,
    pub node_name: String,
    pub cluster: Arc<dyn Cluster>,
    pub drivers: Drivers,
    pub devices: DevicesHandle,
    pub tasks: Supervisor,
}

/// The sorts of plugins that this node takes, by the name that they give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Csi,
    Device,
}

impl Kind {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "CSIPlugin" => Some(Self::Csi),
            "DevicePlugin" => Some(Self::Device),
            _ => None,
        }
    }
}

/// What tells one socket from another that came in its place.
type Identity = (u64, u64, i64, i64);

/// A socket that was seen.
struct Seen {
    identity: Identity,
    /// Its registration, and what it came to.
    task: Supervisor,
    registered: Arc<Mutex<Option<(Kind, PluginInfo)>>>,
}

impl PluginsTask {
    pub async fn run(self) {
        let folder = self.root_dir.join("plugins_registry");
        let handlers = Handlers {
            csi: CsiNode { node_name: self.node_name.clone(), cluster: self.cluster.clone() },
            drivers: self.drivers.clone(),
            devices: self.devices.clone(),
        };
        let handlers = Arc::new(handlers);
        let changed = Arc::new(Notify::new());
        let mut watcher = None;
        let mut seen: BTreeMap<PathBuf, Seen> = BTreeMap::new();
        loop {
            if watcher.is_none() {
                watcher = follow(&folder, changed.clone());
            }
            match sockets(&folder) {
                Ok(found) => self.compare(found, &mut seen, &handlers).await,
                // Could not look: who is registered stays so.
                Err(error) => tracing::warn!(folder = %folder.display(), %error, "plugins not looked for"),
            }
            // Both arms are cancel-safe: a notification is kept until it is taken.
            tokio::select! {
                () = changed.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Lets go whose socket is gone or another's now, and begins with those that are new.
    async fn compare(
        &self,
        found: BTreeMap<PathBuf, Identity>,
        seen: &mut BTreeMap<PathBuf, Seen>,
        handlers: &Arc<Handlers>,
    ) {
        let stays = |socket: &PathBuf, known: &Seen| found.get(socket) == Some(&known.identity);
        let gone: Vec<PathBuf> =
            seen.iter().filter(|(socket, known)| !stays(socket, known)).map(|(socket, _)| socket.clone()).collect();
        for socket in gone {
            let Some(known) = seen.remove(&socket) else { continue };
            known.task.cancel();
            let registered = known.registered.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((kind, info)) = registered {
                tracing::info!(socket = %socket.display(), plugin = info.name, "plugin gone");
                handlers.deregister(kind, &info).await;
            }
        }
        for (socket, identity) in found {
            if seen.contains_key(&socket) {
                continue;
            }
            let known = Seen { identity, task: self.tasks.child(), registered: Arc::default() };
            known.task.spawn("plugin", register(socket.clone(), handlers.clone(), known.registered.clone()));
            seen.insert(socket, known);
        }
    }
}

/// Until it is registered; each failure is told to the plugin, as far as it listens.
async fn register(socket: PathBuf, handlers: Arc<Handlers>, registered: Arc<Mutex<Option<(Kind, PluginInfo)>>>) {
    let mut retry = RETRY_FIRST;
    loop {
        match register_once(&socket, &handlers, &registered).await {
            Ok(info) => {
                tracing::info!(socket = %socket.display(), plugin = info.name, kind = info.kind, "plugin registered");
                return match Kind::parse(&info.kind) {
                    Some(Kind::Csi) => handlers.follow_limit(&info.name).await,
                    Some(Kind::Device) | None => {}
                };
            }
            Err(error) => tracing::warn!(socket = %socket.display(), error, "plugin not registered"),
        }
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(RETRY_LAST);
    }
}

/// The texts are the kubelet's (`GenerateRegisterPluginFunc`).
async fn register_once(
    socket: &Path,
    handlers: &Handlers,
    registered: &Mutex<Option<(Kind, PluginInfo)>>,
) -> Result<PluginInfo, String> {
    let place = socket.display();
    let applicant = Applicant::meet(socket).await.map_err(|error| {
        format!("RegisterPlugin error -- failed to get plugin info using RPC GetInfo at socket {place}, err: {error}")
    })?;
    let info = applicant.info.clone();
    let outcome = match Kind::parse(&info.kind) {
        None => {
            let kind = &info.kind;
            Err(format!("RegisterPlugin error -- no handler registered for plugin type: {kind} at socket {place}"))
        }
        Some(kind) => match handlers.validate(kind, &info) {
            Err(error) => Err(format!("RegisterPlugin error -- plugin validation failed with err: {error}")),
            Ok(()) => {
                // First, so that who dies half registered is let go of.
                *registered.lock().unwrap_or_else(PoisonError::into_inner) = Some((kind, info.clone()));
                let taken = handlers.register(kind, &info).await;
                taken.map_err(|error| format!("RegisterPlugin error -- plugin registration failed with err: {error}"))
            }
        },
    };
    let told = applicant.tell(outcome.clone()).await;
    outcome?;
    told.map_err(|error| {
        format!("RegisterPlugin error -- failed to send registration status at socket {place}, err: {error}")
    })?;
    Ok(info)
}

/// Who takes which sort of plugin.
struct Handlers {
    csi: CsiNode,
    drivers: Drivers,
    devices: DevicesHandle,
}

impl Handlers {
    fn validate(&self, kind: Kind, info: &PluginInfo) -> Result<(), String> {
        match kind {
            Kind::Csi => check_versions(info),
            Kind::Device => check_device(info),
        }
    }

    async fn register(&self, kind: Kind, info: &PluginInfo) -> Result<(), String> {
        match kind {
            Kind::Csi => {
                let driver = self.drivers.add(&info.name, &info.endpoint);
                let known = async {
                    let node = driver.node_info().await.map_err(|error| error.to_string())?;
                    self.csi.install(&info.name, &node).await
                };
                known.await.inspect_err(|_| {
                    self.drivers.remove(&info.name, &info.endpoint);
                })
            }
            Kind::Device => self.devices.connect(&info.name, &info.endpoint).await.map_err(|error| error.to_string()),
        }
    }

    /// Keeps the limit of a driver's volumes current, where the driver says that it changes; until it is gone.
    async fn follow_limit(&self, driver: &str) {
        loop {
            let period = self.csi.limit_period(driver).await.unwrap_or_else(|error| {
                tracing::debug!(driver, %error, "not known how often the driver's limit is to be looked at");
                None
            });
            tokio::time::sleep(period.unwrap_or(LOOK_FOR_PERIOD)).await;
            if period.is_some()
                && let Err(error) = self.look_at_limit(driver).await
            {
                tracing::warn!(driver, error, "limit of the driver's volumes not looked at");
            }
        }
    }

    async fn look_at_limit(&self, driver: &str) -> Result<(), String> {
        let known = self.drivers.get(driver).map_err(|error| error.to_string())?;
        let info = known.node_info().await.map_err(|error| error.to_string())?;
        self.csi.show_limit(driver, &info).await.map_err(|error| error.to_string())
    }

    async fn deregister(&self, kind: Kind, info: &PluginInfo) {
        match kind {
            Kind::Csi => {
                // Its successor listens at another socket already: what the node shows is that one's.
                if !self.drivers.remove(&info.name, &info.endpoint) {
                    return;
                }
                if let Err(error) = self.csi.uninstall(&info.name).await {
                    tracing::warn!(driver = info.name, error, "driver not removed from the node");
                }
            }
            Kind::Device => self.devices.disconnect(&info.name, &info.endpoint).await,
        }
    }
}

/// We speak version 1 of the interface.
fn check_versions(info: &PluginInfo) -> Result<(), String> {
    let (name, versions) = (&info.name, &info.versions);
    let failed = format!("kubernetes.io/csi: RegisterPlugin for CSI driver {name:?} failed.");
    if versions.is_empty() {
        return Err(format!("{failed} Plugin returned an empty list for supported versions"));
    }
    let major = |version: &String| {
        let number = version.trim_start_matches('v').split('.').next().unwrap_or_default();
        number.parse::<u32>().ok()
    };
    if versions.iter().any(|version| major(version) == Some(1)) {
        return Ok(());
    }
    Err(format!(
        "{failed} None of the versions specified {versions:?} are supported. err=none of the CSI versions reported by \
         this driver are supported"
    ))
}

/// The texts are the device manager's (`ValidatePlugin`).
fn check_device(info: &PluginInfo) -> Result<(), String> {
    if !info.versions.iter().any(|version| version == device::VERSION) {
        let (ours, theirs) = (device::VERSION, info.versions.join(" "));
        return Err(format!("manager version, {ours}, is not among plugin supported versions [{theirs}]"));
    }
    if !is_extended_resource(&info.name) {
        return Err(format!("invalid name of device plugin socket: the ResourceName {:?} is invalid", info.name));
    }
    Ok(())
}

/// Makes the folder and watches it and what is below. `None`: it cannot be watched, and is only looked at.
fn follow(folder: &Path, changed: Arc<Notify>) -> Option<RecommendedWatcher> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o750).create(folder).map_err(notify::Error::io);
    let tell = move |event: notify::Result<notify::Event>| {
        // Not of opening and reading: who looks would wake itself.
        if event.is_ok_and(|event| event.kind.is_create() || event.kind.is_remove() || event.kind.is_modify()) {
            changed.notify_one();
        }
    };
    let watcher = made.and_then(|()| notify::recommended_watcher(tell)).and_then(|mut watcher| {
        watcher.watch(folder, RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    watcher.inspect_err(|error| tracing::warn!(folder = %folder.display(), %error, "plugins not watched")).ok()
}

/// The sockets in that folder and below; names that begin with a dot are not looked at.
fn sockets(folder: &Path) -> io::Result<BTreeMap<PathBuf, Identity>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let meta = match entry.metadata() {
                // Gone since the folder was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                meta => meta?,
            };
            if meta.is_dir() {
                folders.push(entry.path());
            } else if meta.file_type().is_socket() {
                found.insert(entry.path(), (meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec()));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
