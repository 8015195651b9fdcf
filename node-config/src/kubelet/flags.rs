//! The kubelet's flags that set a field of its configuration: name, field, how the value is written.

use super::types::{MemoryReservation, Taint};
use serde_json::{Map, Value, json};

/// How a flag's text becomes a field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As it is: names, paths, durations, quantities.
    Text,
    Number,
    Bool,
    /// Separated by commas.
    List,
    /// `key=value,key=value`.
    Map,
    /// `key=true,key=false`; added to those that the file has.
    Gates,
    /// `signal<threshold,signal<threshold`.
    Thresholds,
    /// `key=value:effect,key:effect`.
    Taints,
    /// `node:kind=quantity,kind=quantity;node:…`; several times, each adding to those before.
    Reservations,
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    pub name: &'static str,
    /// Path of the field, separated by dots.
    pub field: &'static str,
    pub kind: Kind,
    /// What `--help` says; none hides it: upstream wants it in the file.
    pub help: Option<&'static str>,
}

const fn shown(name: &'static str, field: &'static str, kind: Kind, help: &'static str) -> Flag {
    Flag { name, field, kind, help: Some(help) }
}

const fn flag(name: &'static str, field: &'static str, kind: Kind) -> Flag {
    Flag { name, field, kind, help: None }
}

use Kind::{Bool, Gates, List, Map as Pairs, Number, Reservations, Taints, Text, Thresholds};

/// Every flag of kubelet 1.36 that stands for a field.
pub const FLAGS: &[Flag] = &[
    shown(
        "address",
        "address",
        Text,
        "Address on which the agent serves logs, exec and port-forward [default: 0.0.0.0]",
    ),
    shown("port", "port", Number, "Port on which the agent serves logs, exec and port-forward [default: 10250]"),
    shown(
        "healthz-bind-address",
        "healthzBindAddress",
        Text,
        "Address of the agent's health endpoint [default: 127.0.0.1]",
    ),
    shown("healthz-port", "healthzPort", Number, "Port of the agent's health endpoint; 0 is none [default: 10248]"),
    shown("pod-logs-dir", "podLogsDir", Text, "Directory of the containers' logs [default: /var/log/pods]"),
    shown("cgroup-root", "cgroupRoot", Text, "Cgroup under which the pods' cgroups are made [default: /]"),
    shown("cgroup-driver", "cgroupDriver", Text, "cgroupfs or systemd; what the runtime says wins"),
    shown("max-pods", "maxPods", Number, "How many pods the node takes [default: 110]"),
    shown(
        "eviction-hard",
        "evictionHard",
        Thresholds,
        "When the node is under pressure, as in memory.available<100Mi,nodefs.available<10%; '' is never",
    ),
    shown("register-with-taints", "registerWithTaints", Taints, "Taints at registration, as in key=value:NoSchedule"),
    shown("cluster-dns", "clusterDNS", List, "DNS servers of pods with policy ClusterFirst"),
    shown("cluster-domain", "clusterDomain", Text, "DNS domain of the cluster"),
    shown(
        "resolv-conf",
        "resolvConf",
        Text,
        "DNS configuration that pods inherit; '' is none [default: /etc/resolv.conf]",
    ),
    shown("kube-reserved", "kubeReserved", Pairs, "Resources kept for Kubernetes, as in cpu=100m,memory=256Mi"),
    shown("system-reserved", "systemReserved", Pairs, "Resources kept for the system, as in cpu=100m,memory=256Mi"),
    shown("provider-id", "providerID", Text, "The cloud's name of the node"),
    shown("feature-gates", "featureGates", Gates, "Features switched on or off, as in Name=true"),
    flag("allowed-unsafe-sysctls", "allowedUnsafeSysctls", List),
    flag("anonymous-auth", "authentication.anonymous.enabled", Bool),
    flag("authentication-token-webhook", "authentication.webhook.enabled", Bool),
    flag("authentication-token-webhook-cache-ttl", "authentication.webhook.cacheTTL", Text),
    flag("authorization-mode", "authorization.mode", Text),
    flag("authorization-webhook-cache-authorized-ttl", "authorization.webhook.cacheAuthorizedTTL", Text),
    flag("authorization-webhook-cache-unauthorized-ttl", "authorization.webhook.cacheUnauthorizedTTL", Text),
    flag("cgroups-per-qos", "cgroupsPerQOS", Bool),
    flag("client-ca-file", "authentication.x509.clientCAFile", Text),
    flag("config-map-and-secret-change-detection-strategy", "configMapAndSecretChangeDetectionStrategy", Text),
    flag("container-log-max-files", "containerLogMaxFiles", Number),
    flag("container-log-max-size", "containerLogMaxSize", Text),
    flag("contention-profiling", "enableContentionProfiling", Bool),
    flag("cpu-cfs-quota", "cpuCFSQuota", Bool),
    flag("cpu-cfs-quota-period", "cpuCFSQuotaPeriod", Text),
    flag("cpu-manager-policy", "cpuManagerPolicy", Text),
    flag("cpu-manager-policy-options", "cpuManagerPolicyOptions", Pairs),
    flag("cpu-manager-reconcile-period", "cpuManagerReconcilePeriod", Text),
    flag("enable-controller-attach-detach", "enableControllerAttachDetach", Bool),
    flag("enable-debugging-handlers", "enableDebuggingHandlers", Bool),
    flag("enable-server", "enableServer", Bool),
    flag("enforce-node-allocatable", "enforceNodeAllocatable", List),
    flag("event-burst", "eventBurst", Number),
    flag("event-qps", "eventRecordQPS", Number),
    flag("eviction-max-pod-grace-period", "evictionMaxPodGracePeriod", Number),
    flag("eviction-minimum-reclaim", "evictionMinimumReclaim", Pairs),
    flag("eviction-pressure-transition-period", "evictionPressureTransitionPeriod", Text),
    flag("eviction-soft", "evictionSoft", Thresholds),
    flag("eviction-soft-grace-period", "evictionSoftGracePeriod", Pairs),
    flag("fail-cgroupv1", "failCgroupV1", Bool),
    flag("fail-swap-on", "failSwapOn", Bool),
    flag("file-check-frequency", "fileCheckFrequency", Text),
    flag("hairpin-mode", "hairpinMode", Text),
    flag("http-check-frequency", "httpCheckFrequency", Text),
    flag("image-gc-high-threshold", "imageGCHighThresholdPercent", Number),
    flag("image-gc-low-threshold", "imageGCLowThresholdPercent", Number),
    flag("image-service-endpoint", "imageServiceEndpoint", Text),
    flag("iptables-drop-bit", "iptablesDropBit", Number),
    flag("iptables-masquerade-bit", "iptablesMasqueradeBit", Number),
    flag("kernel-memcg-notification", "kernelMemcgNotification", Bool),
    flag("kube-api-burst", "kubeAPIBurst", Number),
    flag("kube-api-content-type", "contentType", Text),
    flag("kube-api-qps", "kubeAPIQPS", Number),
    flag("kube-reserved-cgroup", "kubeReservedCgroup", Text),
    flag("kubelet-cgroups", "kubeletCgroups", Text),
    flag("local-storage-capacity-isolation", "localStorageCapacityIsolation", Bool),
    flag("make-iptables-util-chains", "makeIPTablesUtilChains", Bool),
    flag("manifest-url", "staticPodURL", Text),
    flag("max-open-files", "maxOpenFiles", Number),
    flag("memory-manager-policy", "memoryManagerPolicy", Text),
    flag("minimum-image-ttl-duration", "imageMinimumGCAge", Text),
    flag("node-status-max-images", "nodeStatusMaxImages", Number),
    flag("node-status-update-frequency", "nodeStatusUpdateFrequency", Text),
    flag("oom-score-adj", "oomScoreAdj", Number),
    flag("pod-manifest-path", "staticPodPath", Text),
    flag("pod-max-pids", "podPidsLimit", Number),
    flag("pods-per-core", "podsPerCore", Number),
    flag("protect-kernel-defaults", "protectKernelDefaults", Bool),
    flag("qos-reserved", "qosReserved", Pairs),
    flag("read-only-port", "readOnlyPort", Number),
    flag("register-node", "registerNode", Bool),
    flag("registry-burst", "registryBurst", Number),
    flag("registry-qps", "registryPullQPS", Number),
    flag("reserved-cpus", "reservedSystemCPUs", Text),
    flag("reserved-memory", "reservedMemory", Reservations),
    flag("rotate-certificates", "rotateCertificates", Bool),
    flag("rotate-server-certificates", "serverTLSBootstrap", Bool),
    flag("runtime-request-timeout", "runtimeRequestTimeout", Text),
    flag("seccomp-default", "seccompDefault", Bool),
    flag("serialize-image-pulls", "serializeImagePulls", Bool),
    flag("streaming-connection-idle-timeout", "streamingConnectionIdleTimeout", Text),
    flag("sync-frequency", "syncFrequency", Text),
    flag("system-cgroups", "systemCgroups", Text),
    flag("system-reserved-cgroup", "systemReservedCgroup", Text),
    flag("tls-cert-file", "tlsCertFile", Text),
    flag("tls-cipher-suites", "tlsCipherSuites", List),
    flag("tls-min-version", "tlsMinVersion", Text),
    flag("tls-private-key-file", "tlsPrivateKeyFile", Text),
    flag("topology-manager-policy", "topologyManagerPolicy", Text),
    flag("topology-manager-policy-options", "topologyManagerPolicyOptions", Pairs),
    flag("topology-manager-scope", "topologyManagerScope", Text),
    flag("volume-plugin-dir", "volumePluginDir", Text),
    flag("volume-stats-agg-period", "volumeStatsAggPeriod", Text),
];

impl Flag {
    /// The field's value; the error says how it is written.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        let items = || text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let wrong = |item: &str, form: &str| format!("{item:?} is not of the form {form}");
        match self.kind {
            Kind::Text => Ok(json!(text)),
            Kind::Number => text.parse::<i64>().map(Value::from).map_err(|_| format!("{text:?} is not a number")),
            Kind::Bool => boolean(text).map(Value::from),
            Kind::List => Ok(items().collect()),
            Kind::Map => object(items(), |item| {
                let (key, value) = item.split_once('=').ok_or_else(|| wrong(item, "key=value"))?;
                Ok((key.to_owned(), json!(value)))
            }),
            Kind::Gates => object(items(), |item| {
                let (key, value) = item.split_once('=').ok_or_else(|| wrong(item, "Name=true"))?;
                Ok((key.to_owned(), json!(boolean(value)?)))
            }),
            Kind::Thresholds => object(items(), |item| {
                let (key, value) = item.split_once('<').ok_or_else(|| wrong(item, "memory.available<100Mi"))?;
                Ok((key.to_owned(), json!(value)))
            }),
            Kind::Taints => items().map(|item| taint(item).ok_or_else(|| wrong(item, "key=value:effect"))).collect(),
            Kind::Reservations => {
                let nodes = text.split(';').filter(|node| !node.is_empty());
                let wrong = |node| format!("{node:?} is not of the form 0:memory=1Gi,hugepages-2Mi=1Gi");
                nodes.map(|node| reservation(node).ok_or_else(|| wrong(node))).collect()
            }
        }
    }
}

/// Go's `strconv.ParseBool`.
fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

fn object<'a>(
    items: impl Iterator<Item = &'a str>,
    parse: impl Fn(&str) -> Result<(String, Value), String>,
) -> Result<Value, String> {
    items.map(parse).collect::<Result<Map<String, Value>, String>>().map(Value::Object)
}

fn taint(text: &str) -> Option<Value> {
    let (key, effect) = text.rsplit_once(':')?;
    let (key, value) = key.split_once('=').unwrap_or((key, ""));
    let taint = Taint { key: key.to_owned(), value: value.to_owned(), effect: effect.to_owned(), time_added: None };
    serde_json::to_value(taint).ok()
}

fn reservation(text: &str) -> Option<Value> {
    let (node, limits) = text.split_once(':')?;
    let pair = |limit: &str| limit.split_once('=').map(|(kind, amount)| (kind.to_owned(), amount.to_owned()));
    let limits = limits.split(',').map(pair).collect::<Option<_>>()?;
    serde_json::to_value(MemoryReservation { numa_node: node.parse().ok()?, limits }).ok()
}

/// Sets what the flags say (path → value): a flag replaces its field, feature gates are added to the file's.
pub(super) fn apply(fields: &mut Value, said: &Map<String, Value>) {
    for (path, value) in said {
        let mut slot = &mut *fields;
        for part in path.split('.') {
            // A parent that is no object is the file's error; the flag's value replaces it.
            if !slot.is_object() {
                *slot = Value::Object(Map::new());
            }
            slot = &mut slot[part];
        }
        match (slot, value) {
            (Value::Object(gates), Value::Object(more)) if path == "featureGates" => gates.extend(more.clone()),
            (slot, value) => *slot = value.clone(),
        }
    }
}
