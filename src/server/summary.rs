//! `/stats/summary`: the node, its pods and containers as `k8s.io/kubelet/pkg/apis/stats/v1alpha1` shows them.

use super::{Deps, Reply, json, text};
use crate::model::stats::{CgroupUse, FsUse, InterfaceUse, NodeUse, PodDisk, PodUse, Pressure, Stall, TreeUse};
use crate::stats::{Depth, StatsError};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

pub(super) async fn serve(deps: &Deps, only_cpu_and_memory: bool) -> Reply {
    match collect(deps, only_cpu_and_memory).await {
        Ok(summary) => json(&summary),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn collect(deps: &Deps, brief: bool) -> Result<Value, StatsError> {
    let subjects = deps.subjects();
    let depth = if brief { Depth::Usage } else { Depth::Limits };
    let stats = &deps.stats;
    let (kubepods, mut pods) = tokio::try_join!(stats.cgroup(stats.kubepods()), stats.pods(subjects.clone(), depth))?;
    let node = if brief { stats.machine().await? } else { stats.node().await? };
    let host = if brief { Vec::new() } else { stats.host_network().await? };
    if !brief {
        // Volumes and logs are walked that often at most; with a negative period never.
        let period = deps.kubelet.volume_stats_agg_period;
        let measured = if period < node_config::duration::Duration::ZERO { &[][..] } else { &subjects };
        let mut disks = stats.disks(measured, period.to_std()).await?;
        for pod in &mut pods {
            pod.disk = disks.remove(&pod.uid);
        }
    }
    let view = View { brief, containerfs: node.containerfs, nodefs: node.nodefs, swap: node.swap_capacity };
    let started = stats.booted();
    Ok(json!({
        "node": view.node(deps, &node, &host, kubepods.as_ref(), started),
        "pods": pods.iter().filter(|pod| !pod.containers.is_empty()).map(|pod| view.pod(deps, pod)).collect::<Vec<_>>(),
    }))
}

/// What every part of the summary needs.
struct View {
    brief: bool,
    containerfs: Option<FsUse>,
    nodefs: FsUse,
    swap: u64,
}

impl View {
    fn node(
        &self,
        deps: &Deps,
        node: &NodeUse,
        host: &[InterfaceUse],
        kubepods: Option<&CgroupUse>,
        started: Timestamp,
    ) -> Value {
        let mut system = Vec::new();
        if let Some(figures) = kubepods {
            let mut pods =
                Map::from_iter([("name".to_owned(), json!("pods")), ("startTime".to_owned(), time(started))]);
            self.usage(&mut pods, figures, None);
            system.push(Value::Object(pods));
        }
        let mut out = Map::new();
        out.insert("nodeName".into(), json!(&*deps.node_name));
        out.insert("systemContainers".into(), json!(system));
        out.insert("startTime".into(), time(started));
        self.usage(&mut out, &node.root, Some(node.memory_available()));
        if self.brief {
            return Value::Object(out);
        }
        let at = node.root.at;
        out.insert("network".into(), network(at, host));
        out.insert("fs".into(), filesystem(at, &node.nodefs));
        let of = |fs: Option<FsUse>| fs.map(|fs| filesystem(at, &fs));
        let runtime = [("imageFs", of(node.imagefs)), ("containerFs", of(node.containerfs))];
        let runtime: Map<_, _> = runtime.into_iter().filter_map(|(name, fs)| Some((name.to_owned(), fs?))).collect();
        out.insert("runtime".into(), Value::Object(runtime));
        let rlimit = json!({"time": time(at), "maxpid": node.max_pids, "curproc": node.current_pids});
        out.insert("rlimit".into(), rlimit);
        Value::Object(out)
    }

    fn pod(&self, deps: &Deps, pod: &PodUse) -> Value {
        let mut out = Map::new();
        let reference = json!({"name": &*pod.key.name, "namespace": &*pod.key.namespace, "uid": pod.uid.as_str()});
        out.insert("podRef".into(), reference);
        let seen = deps.pods.observed(&pod.uid);
        let created = seen.and_then(|seen| seen.sandboxes.first().map(|sandbox| sandbox.created_at));
        out.insert("startTime".into(), time(created.unwrap_or_else(|| deps.stats.booted())));
        let containers = pod.containers.iter().map(|container| {
            let mut one = Map::from_iter([
                ("name".to_owned(), json!(container.name.as_str())),
                ("startTime".to_owned(), time(container.started_at)),
            ]);
            if let Some(figures) = &container.cgroup {
                let limit = Some(figures.spec.memory_limit).filter(|limit| *limit > 0);
                self.usage(&mut one, figures, limit.map(|limit| limit.saturating_sub(figures.memory.working_set)));
                if let Some(disk) = &pod.disk {
                    let layer = disk.layers.get(&container.name).copied().unwrap_or_default();
                    let logs = disk.logs.get(&container.name).copied().unwrap_or_default();
                    one.insert("rootfs".into(), tree(figures.at, &self.containerfs.unwrap_or(self.nodefs), layer));
                    one.insert("logs".into(), tree(figures.at, &self.nodefs, logs));
                }
            }
            Value::Object(one)
        });
        out.insert("containers".into(), containers.collect());
        let Some(figures) = &pod.cgroup else { return Value::Object(out) };
        self.usage(&mut out, figures, None);
        if self.brief {
            return Value::Object(out);
        }
        if !pod.network.is_empty() {
            out.insert("network".into(), network(figures.at, &pod.network));
        }
        if let Some(disk) = &pod.disk {
            out.insert("volume".into(), volumes(figures.at, pod, disk));
            out.insert("ephemeral-storage".into(), tree(figures.at, &self.nodefs, disk.ephemeral()));
        }
        out.insert("process_stats".into(), json!({"process_count": figures.pids.threads}));
        Value::Object(out)
    }

    /// `cpu`, `memory` and, where the machine has any, `swap`.
    fn usage(&self, out: &mut Map<String, Value>, figures: &CgroupUse, available: Option<u64>) {
        let at = time(figures.at);
        let (cpu, memory) = (&figures.cpu, &figures.memory);
        let mut cpu = json!({"time": at, "usageNanoCores": cpu.rate, "usageCoreNanoSeconds": cpu.total});
        let pressure = &figures.pressure;
        add_pressure(&mut cpu, pressure.cpu);
        out.insert("cpu".into(), cpu);
        let mut shown = json!({
            "time": at,
            "usageBytes": memory.usage,
            "workingSetBytes": memory.working_set,
            "rssBytes": memory.rss,
            "pageFaults": memory.tree_page_faults.all,
            "majorPageFaults": memory.tree_page_faults.major,
        });
        if let Some(available) = available {
            shown["availableBytes"] = json!(available);
        }
        add_pressure(&mut shown, pressure.memory);
        out.insert("memory".into(), shown);
        if pressure.io.is_some() {
            let mut io = json!({"time": at});
            add_pressure(&mut io, pressure.io);
            out.insert("io".into(), io);
        }
        if self.swap > 0 {
            let available = self.swap.saturating_sub(memory.swap);
            out.insert(
                "swap".into(),
                json!({"time": at, "swapAvailableBytes": available, "swapUsageBytes": memory.swap}),
            );
        }
    }
}

/// `psi`, where the kernel keeps it.
fn add_pressure(out: &mut Value, pressure: Option<Pressure>) {
    let stall = |stall: Stall| json!({"total": stall.total, "avg10": stall.avg10, "avg60": stall.avg60, "avg300": stall.avg300});
    if let Some(pressure) = pressure {
        out["psi"] = json!({"full": stall(pressure.full), "some": stall(pressure.some)});
    }
}

fn volumes(at: Timestamp, pod: &PodUse, disk: &PodDisk) -> Value {
    let volumes = disk.volumes.iter().map(|(name, volume)| {
        let mut out = filesystem(at, &volume.fs);
        out["name"] = json!(name);
        if let Some(claim) = &volume.claim {
            out["pvcRef"] = json!({"name": claim, "namespace": &*pod.key.namespace});
        }
        if let Some(abnormal) = volume.abnormal {
            out["volumeHealthStats"] = json!({"abnormal": abnormal});
        }
        out
    });
    volumes.collect()
}

/// A file system, of which a tree uses a part.
fn tree(at: Timestamp, fs: &FsUse, used: TreeUse) -> Value {
    filesystem(at, &FsUse { used: used.bytes, inodes_used: used.inodes, ..*fs })
}

fn filesystem(at: Timestamp, fs: &FsUse) -> Value {
    json!({
        "time": time(at),
        "availableBytes": fs.available,
        "capacityBytes": fs.capacity,
        "usedBytes": fs.used,
        "inodesFree": fs.inodes_free,
        "inodes": fs.inodes,
        "inodesUsed": fs.inodes_used,
    })
}

/// The default interface (`eth0`, else the first) stands for the whole, beside the list of all.
fn network(at: Timestamp, interfaces: &[InterfaceUse]) -> Value {
    let one = |on: &InterfaceUse| {
        json!({
            "name": on.name,
            "rxBytes": on.receive.bytes,
            "rxErrors": on.receive.errors,
            "txBytes": on.transmit.bytes,
            "txErrors": on.transmit.errors,
        })
    };
    let default = interfaces.iter().find(|on| on.name == "eth0").or_else(|| interfaces.first());
    let mut out = default.map_or_else(|| json!({"name": ""}), one);
    out["time"] = time(at);
    out["interfaces"] = interfaces.iter().map(one).collect();
    out
}

/// `metav1.Time`: whole seconds.
fn time(at: Timestamp) -> Value {
    let seconds = Timestamp::from_second(at.as_second()).unwrap_or(at);
    json!(seconds.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::stats::Traffic;

    #[test]
    fn pressure_is_shown_where_the_kernel_keeps_it() {
        let view = View { brief: false, containerfs: None, nodefs: FsUse::default(), swap: 0 };
        let shown = |figures: &CgroupUse| {
            let mut out = Map::new();
            view.usage(&mut out, figures, None);
            Value::Object(out)
        };
        let mut figures = CgroupUse::default();
        assert!(shown(&figures)["cpu"].get("psi").is_none() && shown(&figures).get("io").is_none());
        let some = Stall { total: 9, avg10: 1.5, avg60: 0.0, avg300: 0.0 };
        let pressure = Some(Pressure { some, full: Stall::default() });
        (figures.pressure.cpu, figures.pressure.io) = (pressure, pressure);
        let shown = shown(&figures);
        let expected = json!({
            "full": {"total": 0, "avg10": 0.0, "avg60": 0.0, "avg300": 0.0},
            "some": {"total": 9, "avg10": 1.5, "avg60": 0.0, "avg300": 0.0},
        });
        assert_eq!((&shown["cpu"]["psi"], &shown["io"]["psi"]), (&expected, &expected));
        assert!(shown["memory"].get("psi").is_none());
    }

    #[test]
    fn the_default_interface_stands_for_a_pods_network() {
        let on = |name: &str, bytes| InterfaceUse {
            name: name.into(),
            receive: Traffic { bytes, ..Traffic::default() },
            transmit: Traffic::default(),
        };
        let at = Timestamp::from_millisecond(1500).unwrap();
        let shown = network(at, &[on("cbr0", 1), on("eth0", 2)]);
        assert_eq!((&shown["name"], &shown["rxBytes"]), (&json!("eth0"), &json!(2)));
        assert_eq!(shown["interfaces"].as_array().unwrap().len(), 2);
        assert_eq!(shown["time"], json!("1970-01-01T00:00:01Z"));
    }
}
