//! Wiring of the agent: the only file that knows all actors.

use crate::actors::certificates::{Certificates, ReloadTask};
use crate::actors::content::ContentTask;
use crate::actors::devices::{DevicesHandle, PodResources};
use crate::actors::eviction::EvictionTask;
use crate::actors::housekeeping::{DEFAULT_LOG_PERIOD, Housekeeping};
use crate::actors::image_gc::{self, ImageGc};
use crate::actors::images::{ImagesHandle, PullLimits};
use crate::actors::mirrors::MirrorsTask;
use crate::actors::node::{self, NodeDeps, NodeError, NodeHandle};
use crate::actors::pinning::PinningTask;
use crate::actors::plugins::PluginsTask;
use crate::actors::pod_worker::{SandboxPace, WorkerContext, WorkerPaths};
use crate::actors::pods::{Inputs, PodsHandle, PodsTask};
use crate::actors::probes::ProbesHandle;
use crate::actors::runtime_watch::runtime_watch;
use crate::actors::shutdown::ShutdownTask;
use crate::actors::static_pods::{ManifestUrl, StaticPods, StaticPodsTask};
use crate::actors::status::StatusHandle;

use crate::cgroups::{CgroupError, CgroupResources, Cgroups};
use crate::clock;
use crate::cluster::{Cluster, ClusterError, Connection, KnownPods, KubeCluster, Recorder};
use crate::decide::backoff::Delays;
use crate::decide::dns::parse_resolv_conf;
use crate::decide::shutdown;
use crate::decide::static_pod::MirrorView;
use crate::ids::PodUid;
use crate::images::Images;
use crate::images::credential::CredentialProviders;
use crate::images::pulls::{PullRecords, Verification};
use crate::logind::Logind;
use crate::managers::{ManagerError, Managers};
use crate::model::dns::{Dns, NodeDns};
use crate::model::eviction::Distress;
use crate::model::node::NodeFacts;
use crate::model::observed::ContainerState;
use crate::runtime::cri::CriRuntime;
use crate::runtime::translate::{CPU_PERIOD_MICROSECONDS, HostFacts, cpu_shares};
use crate::runtime::{Runtime, RuntimeError, RuntimeInfo};
use crate::server::{self, ServeError};
use crate::stats::Stats;
use crate::supervisor::Supervisor;
use crate::units::{Bytes, Millicores};
use crate::volumes::{CsiState, IdSettings, Volumes};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use node_config::agent::AgentConfig;
use node_config::credential_provider::CredentialConfigError;
use node_config::kubelet::KubeletConfiguration;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// The runtime may still be starting beside us.
const RUNTIME_WAIT: Duration = Duration::from_secs(60);
const RUNTIME_RETRY: Duration = Duration::from_millis(100);
/// Pod changes waiting for the pods actor, which waits at most for one look at its Node: a burst of 100 pods fits.
const POD_CHANGES: usize = 128;
/// Pods to evict waiting for the pods actor; a full channel makes the measuring wait.
const EVICTIONS: usize = 16;
/// `stop` with pods: each gets its own grace, but not more than this together.
const STOP_PODS_GRACE: Duration = Duration::from_secs(5);

/// A running agent.
pub struct Agent {
    tasks: Supervisor,
    node: NodeHandle,
    runtime: Arc<dyn Runtime>,
    pods: PodsHandle,
    cgroups: Cgroups,
    volumes: Volumes,
}

/// Why the agent could not start; each names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("no container runtime answers at {}: {source}; start containerd, or set --container-runtime-endpoint", endpoint.display())]
    Runtime { endpoint: PathBuf, source: RuntimeError },
    #[error("{0}; set --kubeconfig")]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Cgroups(#[from] CgroupError),
    #[error("credential providers: {0}")]
    Credentials(#[from] CredentialConfigError),
    #[error(transparent)]
    Managers(#[from] ManagerError),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl Agent {
    /// Starts everything, for the API server of the kubeconfig; returns once the tasks run (readiness: `ready`).
    pub async fn start(config: AgentConfig) -> Result<Self, AgentError> {
        let connection = Arc::new(Connection::open(&config.kubeconfig).await?);
        let reload = ReloadTask::new(connection.clone(), &config.kubeconfig, &config.cert_dir);
        let agent = Self::start_with(config, connection).await?;
        agent.tasks.spawn("kubeconfig", reload.run());
        Ok(agent)
    }

    /// As `start`, for the API server at the other end of a connection that nobody needs to renew.
    pub async fn start_with(config: AgentConfig, connection: Arc<Connection>) -> Result<Self, AgentError> {
        let config = Arc::new(config);
        let managers = Managers::start(&config)?;
        let tasks = Supervisor::new();
        let providers = match &config.credential_providers {
            Some(sources) => CredentialProviders::load(sources)?,
            None => CredentialProviders::default(),
        };
        let owned_cpus = managers.as_ref().is_some_and(|managers| managers.lifts_quotas());
        let (runtime, info) = connect_runtime(&config, owned_cpus).await?;
        let pulls = Verification::new(&config.kubelet)
            .map(|verification| Arc::new(PullRecords::new(&config.root_dir, verification)));
        if let Some(pulls) = &pulls {
            pulls.recover(&*runtime).await;
        }
        let cluster = KubeCluster::over(connection.clone(), &config.node_name).limited(api_limit(&config.kubelet));
        let cluster: Arc<dyn Cluster> = Arc::new(cluster);
        let pace = SandboxPace::new(std::thread::available_parallelism().map_or(1, NonZeroUsize::get));
        let (recorder, recording) = Recorder::new(
            cluster.clone(),
            &config.node_name,
            config.event_record_qps,
            config.event_burst,
            pace.crowd(),
        );
        tasks.spawn("recorder", recording);
        if let Some(cidr) = &config.pod_cidr
            && let Err(error) = runtime.set_pod_cidr(cidr).await
        {
            tracing::warn!(%error, cidr, "pod CIDR not set in the runtime");
        }
        let (distress, in_distress) = watch::channel(Distress::default());
        let csi = CsiState::recall(&config.root_dir).unwrap_or_else(|error| {
            tracing::warn!(%error, "volumes of the pods on disk not read");
            CsiState::default()
        });
        let devices = DevicesHandle::new(&config.root_dir, tasks.child());
        let (node, node_task) = node::new(NodeDeps {
            config: config.clone(),
            cluster: cluster.clone(),
            runtime: runtime.clone(),
            recorder: recorder.clone(),
            distress: in_distress.clone(),
            volumes_in_use: csi.in_use.subscribe(),
            devices: devices.clone(),
        })?;
        tasks.spawn("node", node_task);
        let certificates = Certificates { config: config.clone(), connection, facts: node.facts.clone() };
        if config.rotate_certificates {
            tasks.spawn("client_certificate", certificates.clone().keep_client());
        }
        if config.server_tls_bootstrap {
            tasks.spawn("serving_certificate", certificates.keep_serving());
        }
        let cgroups = cgroups(&config, &info, &node.facts).await?.with_owned_cpus(owned_cpus);
        let facts = node.facts.clone();
        let stats_period = config.kubelet.volume_stats_agg_period;
        let stats_period = (stats_period >= node_config::duration::Duration::ZERO).then(|| stats_period.to_std());
        let volumes = Volumes::new(&config.root_dir, &config.cluster_domain, cluster.clone(), facts, csi.clone())
            .with_ids(id_settings(&config))
            .with_tasks(tasks.child())
            .measured_every(stats_period)
            .with_events(recorder.clone(), config.kubelet.feature_gates.get("CSIVolumeHealth") == Some(&true));
        let (status, status_task) = StatusHandle::new(cluster.clone(), pace.crowd());
        tasks.spawn("status", status_task);
        let (dirty, runtime_events, watch_task) = runtime_watch(runtime.clone());
        tasks.spawn("runtime_watch", watch_task);
        let pods = PodsHandle::default();
        let probes = ProbesHandle::new(tasks.child(), runtime.clone(), recorder.clone(), dirty);
        let context = WorkerContext {
            images: ImagesHandle::new(runtime.clone(), cluster.clone(), recorder.clone(), PullLimits::new(&config))
                .with_providers(providers)
                .with_records(pulls.clone()),
            devices: devices.clone(),
            probes: probes.clone(),
            services: follow_services(&tasks, &cluster),
            runtime: runtime.clone(),
            cluster: cluster.clone(),
            volumes: volumes.clone(),
            cgroups: Some(cgroups.clone()),
            pace,
            recorder: recorder.clone(),
            status,
            pods: pods.clone(),
            node: node.facts.clone(),
            dns: NodeDns {
                cluster_servers: config.cluster_dns.clone(),
                cluster_domain: config.cluster_domain.clone(),
                host: host_dns(&config.resolv_conf),
            },
            paths: WorkerPaths { pod_logs: config.pod_logs_dir.clone() },
            known: KnownPods::new(&config.root_dir),
            restart_delays: restart_delays(&config),
            managers: managers.clone(),
            tasks: tasks.clone(),
        };
        if let Some(managers) = managers.clone() {
            let period = config.kubelet.cpu_manager_reconcile_period.to_std();
            let pinning = PinningTask { managers, runtime: runtime.clone(), pods: pods.clone(), period };
            tasks.spawn("pinning", pinning.run());
        }
        let changes = follow_pods(&tasks, &cluster);
        let (mirrors, view) = watch::channel(MirrorView::default());
        tasks.spawn("mirrors", MirrorsTask::new(cluster.clone(), &config.node_name, view).run());
        let static_pods = follow_manifests(&config, &tasks, recorder.clone());
        let (evict, evictions) = mpsc::channel(EVICTIONS);
        let stats =
            Stats::new(cgroups.clone(), runtime.clone(), volumes.clone(), &config.root_dir, &config.pod_logs_dir);
        let collection = image_gc::Deps {
            runtime: runtime.clone(),
            stats: stats.clone(),
            pods: pods.clone(),
            recorder: recorder.clone(),
            archives: Images::new(&config.runtime_endpoint),
            pulls,
        };
        let images = ImageGc::new(collection, &config.kubelet);
        let eviction = EvictionTask {
            runtime: runtime.clone(),
            stats,
            cgroups: cgroups.clone(),
            pods: pods.clone(),
            images: images.clone(),
            recorder: recorder.clone(),
            kubelet: config.kubelet.clone(),
            root_dir: config.root_dir.clone(),
            evictions: evict.clone(),
            distress: distress.clone(),
        };
        tasks.spawn("eviction", eviction.run());
        let groups = shutdown::groups(&config.kubelet);
        if !groups.is_empty() {
            let (logind, pods) = (Logind::system(), pods.clone());
            let guard = ShutdownTask { logind, groups, pods, recorder, removals: evict, distress };
            tasks.spawn("shutdown", guard.run());
        }
        let inputs = Inputs {
            changes,
            runtime_events,
            static_pods,
            evictions,
            mirrors,
            distress: in_distress,
            runtime_lost: node.runtime_lost.clone(),
        };
        let pods_task = PodsTask::new(Arc::new(context), tasks.child(), inputs);
        tasks.spawn("pods", pods_task.run());
        let serving = server::Deps {
            runtime: runtime.clone(),
            pods: pods.clone(),
            probes,
            tasks: tasks.child(),
            node_name: config.node_name.as_str().into(),
            kubelet: config.kubelet.clone(),
            cluster: cluster.clone(),
            config: config.clone(),
            stats: Stats::new(
                cgroups.clone(),
                runtime.clone(),
                volumes.clone(),
                &config.root_dir,
                &config.pod_logs_dir,
            ),
            machine: node.machine.clone(),
            started: clock::now(),
        };
        server::start(&config, serving).await?;
        let plugins = PluginsTask {
            root_dir: config.root_dir.clone(),
            node_name: config.node_name.clone(),
            cluster: cluster.clone(),
            drivers: csi.drivers,
            devices: devices.clone(),
            tasks: tasks.child(),
        };
        tasks.spawn("plugins", plugins.run());
        let resources = PodResources { pods: pods.clone(), devices: devices.clone(), managers };
        tasks.spawn("pod_resources", resources.listen(&config.root_dir));
        tasks.spawn("device_registration", devices.listen());
        let content = ContentTask {
            cluster: cluster.clone(),
            volumes: volumes.clone(),
            pods: pods.clone(),
            tasks: tasks.child(),
        };
        tasks.spawn("content", content.run());
        let housekeeping = Housekeeping {
            runtime: runtime.clone(),
            volumes: volumes.clone(),
            pods: pods.clone(),
            images,
            pod_logs: config.pod_logs_dir.clone(),
            log_max_bytes: config.container_log_max_size,
            log_max_files: config.container_log_max_files,
            log_workers: config
                .kubelet
                .container_log_max_workers
                .and_then(|most| usize::try_from(most).ok())
                .unwrap_or(1),
            log_period: config
                .kubelet
                .container_log_monitor_interval
                .map_or(DEFAULT_LOG_PERIOD, |period| period.to_std()),
        };
        tasks.spawn("housekeeping", housekeeping.run());
        Ok(Self { tasks, node, runtime, pods, cgroups, volumes })
    }

    /// Completes when the node has been Ready at the API server.
    pub async fn ready(&self) {
        let mut ready = self.node.ready.clone();
        // The sender lives in the node task; if that is gone the agent is stopping, and nobody waits for Ready.
        let _ = ready.wait_for(|ready| *ready).await;
    }

    /// The pods of this node, for whoever asks in-process.
    pub fn pods(&self) -> PodsHandle {
        self.pods.clone()
    }

    /// Stops the agent; pods keep running unless `stop_pods`.
    pub async fn stop(self, stop_pods: bool) {
        self.tasks.stop().await;
        if stop_pods {
            self.stop_all_pods().await;
        }
    }

    /// Stops what the runtime holds and takes back what was made for it on the host. The pods' own files stay: the API
    /// still wants these pods, and the next start runs them again.
    async fn stop_all_pods(&self) {
        let held = match self.runtime.pods().await {
            Ok(held) => held,
            Err(error) => return tracing::warn!(%error, "pods not stopped"),
        };
        futures::future::join_all(held.iter().map(|pod| async move {
            if let Err(error) = self.stop_pod(&pod.uid).await {
                tracing::warn!(pod = %pod.key, %error, "pod not stopped");
            }
        }))
        .await;
        if let Err(error) = self.take_back().await {
            tracing::warn!(error = format!("{error:#}"), "cgroups and mounts of pods not all removed");
        }
    }

    /// Cgroups and mounts of all pods: one whose sandbox was just being made has no sandbox any more, but these.
    async fn take_back(&self) -> anyhow::Result<()> {
        for uid in self.cgroups.pods().await? {
            self.cgroups.remove_pod(&uid).await?;
        }
        for uid in self.volumes.pods_on_disk()? {
            self.volumes.unmount(&uid).await?;
        }
        Ok(())
    }

    async fn stop_pod(&self, uid: &PodUid) -> Result<(), RuntimeError> {
        let seen = self.runtime.observe(uid).await?;
        let running = seen.containers.iter().filter(|c| matches!(c.state, ContainerState::Running { .. }));
        let stops = running.map(|container| self.runtime.stop_container(&container.id, STOP_PODS_GRACE));
        futures::future::join_all(stops).await.into_iter().collect::<Result<(), RuntimeError>>()?;
        for sandbox in &seen.sandboxes {
            self.runtime.stop_sandbox(&sandbox.id).await?;
        }
        Ok(())
    }
}

/// Waits for the runtime to answer, and for what it says of itself.
async fn connect_runtime(
    config: &AgentConfig,
    whole_cpus_are_owned: bool,
) -> Result<(Arc<dyn Runtime>, RuntimeInfo), AgentError> {
    let endpoint = &config.runtime_endpoint;
    let limited_swap = (config.kubelet.memory_swap.swap_behavior == "LimitedSwap").then(HostFacts::swap_bytes);
    let facts = HostFacts {
        seccomp_profiles: config.root_dir.join("seccomp"),
        seccomp_default: config.kubelet.seccomp_default.unwrap_or(false),
        cpu_cfs_quota: config.kubelet.cpu_cfs_quota != Some(false),
        cpu_period: cpu_period(&config.kubelet),
        single_process_oom_kill: config.kubelet.single_process_oom_kill == Some(true),
        limited_swap,
        whole_cpus_are_owned,
        ..HostFacts::detect()
    };
    let deadline = config.kubelet.runtime_request_timeout.to_std();
    let cri = CriRuntime::lazy(endpoint).with_facts(facts).with_deadline(deadline);
    let images = &config.kubelet.image_service_endpoint;
    let images = Path::new(images.strip_prefix("unix://").unwrap_or(images));
    let has_others = !images.as_os_str().is_empty() && images != endpoint;
    let runtime: Arc<dyn Runtime> = Arc::new(if has_others { cri.with_images_at(images) } else { cri });
    let deadline = clock::now().mono + RUNTIME_WAIT;
    loop {
        match runtime.info().await {
            Ok(info) => return Ok((runtime, info)),
            Err(source) if clock::now().mono >= deadline => {
                return Err(AgentError::Runtime { endpoint: endpoint.clone(), source });
            }
            Err(_) => tokio::time::sleep(RUNTIME_RETRY).await,
        }
    }
}

/// The cgroup tree of pods, limited to what the node can give them.
async fn cgroups(
    config: &AgentConfig,
    info: &RuntimeInfo,
    facts: &watch::Receiver<NodeFacts>,
) -> Result<Cgroups, AgentError> {
    let driver = info.cgroup_driver.as_deref().unwrap_or(&config.cgroup_driver);
    let kubelet = &config.kubelet;
    let cgroups = Cgroups::detect(Path::new("/sys/fs/cgroup"), driver)?
        .under(&config.cgroup_root)
        .with_pod_pids(kubelet.pod_pids_limit)
        .with_cpu_quota(kubelet.cpu_cfs_quota != Some(false), cpu_period(kubelet));
    let capacity = facts.borrow().capacity.clone();
    let amount = |list: &BTreeMap<String, String>, name: &str| list.get(name).map(|text| Quantity(text.clone()));
    let cpu = |quantity: &Quantity| Millicores::parse(quantity).map_or(0, |value| value.0);
    let whole = |quantity: &Quantity| Bytes::parse(quantity).map_or(0, |value| value.0);
    let reserved = |name: &str, parse: fn(&Quantity) -> i64| {
        let lists = [&config.kube_reserved, &config.system_reserved];
        lists.into_iter().filter_map(|list| amount(list, name)).map(|quantity| parse(&quantity)).sum::<i64>()
    };
    let left_cpu = capacity.get("cpu").map_or(0, cpu) - reserved("cpu", cpu);
    let left_memory = capacity.get("memory").map_or(0, whole) - reserved("memory", whole);
    let enforces = |level: &str| kubelet.enforce_node_allocatable.iter().flatten().any(|known| known == level);
    // Without a limit of memory the kernel alone decides who goes.
    let memory = if enforces("pods") { left_memory.max(0) } else { 0 };
    cgroups.create_tree(Millicores(left_cpu.max(0)), Bytes(memory), None).await?;
    for (level, path, list) in [
        ("system-reserved", &kubelet.system_reserved_cgroup, &config.system_reserved),
        ("kube-reserved", &kubelet.kube_reserved_cgroup, &config.kube_reserved),
    ] {
        if enforces(level) {
            let limits = CgroupResources {
                cpu_shares: amount(list, "cpu").map(|quantity| cpu_shares(Millicores(cpu(&quantity)))),
                memory_bytes: amount(list, "memory").map(|quantity| whole(&quantity)),
                pids: amount(list, "pid").map(|quantity| whole(&quantity)),
                ..CgroupResources::default()
            };
            cgroups.limit_reserved(path, limits).await?;
        }
    }
    Ok(cgroups)
}

/// Calls a second and at once that somebody wished for (`kubeAPIQPS`, `kubeAPIBurst`). Where nobody did, the kubelet's 50
/// and 100 do not hold: a hundred pods that start together make more, and what bounds ours is how many are under way.
fn api_limit(kubelet: &KubeletConfiguration) -> Option<(f64, f64)> {
    let written = ["kubeAPIQPS", "kubeAPIBurst"].iter().any(|field| kubelet.is_written(field));
    // client-go takes 0 for its own default.
    let or = |value: i32, default: f64| if value > 0 { f64::from(value) } else { default };
    written.then(|| (or(kubelet.kube_api_qps.unwrap_or(0), 5.0), or(kubelet.kube_api_burst, 10.0)))
}

/// `cpuCFSQuotaPeriod` in microseconds.
fn cpu_period(kubelet: &KubeletConfiguration) -> i64 {
    let period = kubelet.cpu_cfs_quota_period.map(|period| period.to_std().as_micros());
    period.and_then(|period| i64::try_from(period).ok()).unwrap_or(CPU_PERIOD_MICROSECONDS)
}

/// The size of pods' user namespaces, and how many there may be.
fn id_settings(config: &AgentConfig) -> IdSettings {
    let ids = config.kubelet.user_namespaces.as_ref().and_then(|namespaces| namespaces.ids_per_pod);
    let default = IdSettings::default();
    let per_pod = ids.and_then(|ids| u32::try_from(ids).ok()).unwrap_or(default.per_pod);
    IdSettings { per_pod, max_pods: config.max_pods }
}

/// How long containers that end again and again wait (`crashLoopBackOff`).
fn restart_delays(config: &AgentConfig) -> Delays {
    let longest = config.kubelet.crash_loop_back_off.max_container_restart_period;
    longest.map_or_else(Delays::default, |longest| Delays::up_to(longest.to_std()))
}

fn follow_services(tasks: &Supervisor, cluster: &Arc<dyn Cluster>) -> crate::actors::pod_worker::Services {
    let (sender, receiver) = watch::channel(None);
    let cluster = cluster.clone();
    tasks.spawn("services", async move { cluster.follow_services(sender).await });
    receiver
}

fn follow_manifests(config: &AgentConfig, tasks: &Supervisor, recorder: Recorder) -> watch::Receiver<StaticPods> {
    let headers = config.kubelet.static_pod_url_header.iter();
    let headers = headers.flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.clone())));
    let url = config.static_pod_url.as_ref().map(|url| ManifestUrl {
        url: url.clone(),
        headers: headers.collect(),
        period: config.http_check_frequency,
    });
    let reader = StaticPodsTask::new(config.static_pod_path.clone(), url, &config.node_name, recorder);
    let (static_pods, task) = reader.start();
    tasks.spawn("static_pods", task);
    static_pods
}

fn follow_pods(tasks: &Supervisor, cluster: &Arc<dyn Cluster>) -> mpsc::Receiver<crate::cluster::PodChange> {
    let (sender, receiver) = mpsc::channel(POD_CHANGES);
    let cluster = cluster.clone();
    tasks.spawn("pod_watch", async move { cluster.follow_pods(sender).await });
    receiver
}

/// The host's resolv.conf; none where there is none.
fn host_dns(path: &Path) -> Dns {
    if path.as_os_str().is_empty() {
        return Dns::default();
    }
    match std::fs::read_to_string(path) {
        Ok(text) => parse_resolv_conf(&text),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "resolv.conf not read: pods get no host DNS");
            Dns::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_limited_where_somebody_says_so() {
        let with = |qps: Option<i32>, burst: Option<i32>| {
            let mut kubelet = KubeletConfiguration::defaulted();
            for (field, value) in [("kubeAPIQPS", qps), ("kubeAPIBurst", burst)] {
                kubelet.written.extend(value.map(|_| field.to_owned()));
            }
            kubelet.kube_api_qps = qps.or(kubelet.kube_api_qps);
            kubelet.kube_api_burst = burst.unwrap_or(kubelet.kube_api_burst);
            api_limit(&kubelet)
        };
        for (qps, burst, expected) in [
            (None, None, None),
            (Some(50), None, Some((50.0, 100.0))),
            (Some(7), Some(9), Some((7.0, 9.0))),
            (None, Some(20), Some((50.0, 20.0))),
            (Some(0), Some(0), Some((5.0, 10.0))),
        ] {
            assert_eq!(with(qps, burst), expected, "{qps:?} {burst:?}");
        }
    }

    #[test]
    fn the_quotas_period_is_in_microseconds() {
        let mut kubelet = KubeletConfiguration::defaulted();
        assert_eq!(cpu_period(&kubelet), CPU_PERIOD_MICROSECONDS);
        kubelet.cpu_cfs_quota_period = Some(node_config::duration::Duration::from_millis(10));
        assert_eq!(cpu_period(&kubelet), 10_000);
    }
}
