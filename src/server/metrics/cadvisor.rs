//! `/metrics/cadvisor`: every cgroup's figures under cadvisor's names, with the labels that the kubelet gives them.
//!
//! Written family by family in pieces of bounded size: a hundred pods are megabytes of text, which are never in memory
//! at once.

use crate::metrics::text::{Kind, Text, label_list};
use crate::model::node::Machine;
use crate::model::stats::{FsUse, InterfaceUse, IoUse, Pressure, Stall};
use crate::stats::{Group, Owner};
use std::sync::Arc;

/// A piece is sent when it is this long: what a TLS connection writes in a few records.
const PIECE_BYTES: usize = 64 * 1024;

/// Gives a sample's further labels (already written) and its value.
type Emit<'a> = &'a mut dyn FnMut(&str, f64);
type Samples = fn(&Shown, Emit);

struct Metric(&'static str, &'static str, Kind, Samples);

/// A cgroup with what is the same for all its samples.
pub(super) struct Shown {
    labels: String,
    group: Arc<Group>,
    /// Its block devices' names.
    devices: Vec<(String, IoUse)>,
    /// The root only: file systems by device.
    disks: Vec<(String, FsUse)>,
}

use Kind::{Counter, Gauge};

const METRICS: &[Metric] = &[
    Metric("container_blkio_device_usage_total", "Blkio Device bytes usage", Counter, |shown, emit| {
        for (device, (name, io)) in shown.group.figures.io.keys().zip(&shown.devices) {
            for (operation, value) in [("Read", io.read_bytes), ("Write", io.write_bytes)] {
                let mut labels = String::new();
                let (major, minor) = (device.major.to_string(), device.minor.to_string());
                let all = [("device", &**name), ("major", &major), ("minor", &minor), ("operation", operation)];
                label_list(&mut labels, &all);
                emit(&labels, value as f64);
            }
        }
    }),
    Metric(
        "container_cpu_cfs_periods_total",
        "Number of elapsed enforcement period intervals.",
        Counter,
        |shown, emit| limited(shown, emit, shown.group.figures.cpu.periods as f64),
    ),
    Metric(
        "container_cpu_cfs_throttled_periods_total",
        "Number of throttled period intervals.",
        Counter,
        |shown, emit| limited(shown, emit, shown.group.figures.cpu.throttled_periods as f64),
    ),
    Metric(
        "container_cpu_cfs_throttled_seconds_total",
        "Total time duration the container has been throttled.",
        Counter,
        |shown, emit| limited(shown, emit, seconds(shown.group.figures.cpu.throttled)),
    ),
    Metric(
        "container_cpu_load_average_10s",
        "Value of container cpu load average over the last 10 seconds.",
        Gauge,
        |shown, emit| detailed(shown, emit, 0.0),
    ),
    Metric(
        "container_cpu_system_seconds_total",
        "Cumulative system cpu time consumed in seconds.",
        Counter,
        |shown, emit| detailed(shown, emit, seconds(shown.group.figures.cpu.system)),
    ),
    Metric("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", Counter, |shown, emit| {
        emit("cpu=\"total\"", seconds(shown.group.figures.cpu.total));
    }),
    Metric(
        "container_cpu_user_seconds_total",
        "Cumulative user cpu time consumed in seconds.",
        Counter,
        |shown, emit| {
            detailed(shown, emit, seconds(shown.group.figures.cpu.user));
        },
    ),
    Metric("container_file_descriptors", "Number of open file descriptors for the container.", Gauge, |shown, emit| {
        detailed(shown, emit, shown.group.figures.pids.files as f64);
    }),
    Metric("container_fs_inodes_free", "Number of available Inodes", Gauge, |shown, emit| {
        disks(shown, emit, |fs| fs.inodes_free);
    }),
    Metric("container_fs_inodes_total", "Number of Inodes", Gauge, |shown, emit| disks(shown, emit, |fs| fs.inodes)),
    Metric(
        "container_fs_limit_bytes",
        "Number of bytes that can be consumed by the container on this filesystem.",
        Gauge,
        |shown, emit| disks(shown, emit, |fs| fs.capacity),
    ),
    Metric("container_fs_reads_bytes_total", "Cumulative count of bytes read", Counter, |shown, emit| {
        io(shown, emit, |io| io.read_bytes);
    }),
    Metric("container_fs_reads_total", "Cumulative count of reads completed", Counter, |shown, emit| {
        io(shown, emit, |io| io.reads);
    }),
    Metric(
        "container_fs_usage_bytes",
        "Number of bytes that are consumed by the container on this filesystem.",
        Gauge,
        |shown, emit| disks(shown, emit, |fs| fs.used),
    ),
    Metric("container_fs_writes_bytes_total", "Cumulative count of bytes written", Counter, |shown, emit| {
        io(shown, emit, |io| io.write_bytes);
    }),
    Metric("container_fs_writes_total", "Cumulative count of writes completed", Counter, |shown, emit| {
        io(shown, emit, |io| io.writes);
    }),
    Metric("container_last_seen", "Last time a container was seen by the exporter", Gauge, |shown, emit| {
        emit("", shown.group.figures.at.as_second() as f64);
    }),
    Metric("container_memory_cache", "Number of bytes of page cache memory.", Gauge, |shown, emit| {
        emit("", shown.group.figures.memory.cache as f64);
    }),
    Metric("container_memory_failcnt", "Number of memory usage hits limits", Counter, |shown, emit| {
        detailed(shown, emit, shown.group.figures.memory.failures as f64);
    }),
    Metric(
        "container_memory_failures_total",
        "Cumulative count of memory allocation failures.",
        Counter,
        |shown, emit| {
            let memory = &shown.group.figures.memory;
            emit("failure_type=\"pgfault\",scope=\"container\"", memory.page_faults.all as f64);
            emit("failure_type=\"pgmajfault\",scope=\"container\"", memory.page_faults.major as f64);
            emit("failure_type=\"pgfault\",scope=\"hierarchy\"", memory.tree_page_faults.all as f64);
            emit("failure_type=\"pgmajfault\",scope=\"hierarchy\"", memory.tree_page_faults.major as f64);
        },
    ),
    Metric("container_memory_mapped_file", "Size of memory mapped files in bytes.", Gauge, |shown, emit| {
        emit("", shown.group.figures.memory.mapped_file as f64);
    }),
    Metric("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes", Gauge, |shown, emit| {
        detailed(shown, emit, shown.group.figures.memory.max_usage as f64);
    }),
    Metric("container_memory_rss", "Size of RSS in bytes.", Gauge, |shown, emit| {
        emit("", shown.group.figures.memory.rss as f64);
    }),
    Metric("container_memory_swap", "Container swap usage in bytes.", Gauge, |shown, emit| {
        emit("", shown.group.figures.memory.swap as f64);
    }),
    Metric(
        "container_memory_usage_bytes",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        Gauge,
        |shown, emit| emit("", shown.group.figures.memory.usage as f64),
    ),
    Metric("container_memory_working_set_bytes", "Current working set in bytes.", Gauge, |shown, emit| {
        emit("", shown.group.figures.memory.working_set as f64);
    }),
    Metric("container_network_receive_bytes_total", "Cumulative count of bytes received", Counter, |shown, emit| {
        network(shown, emit, |on| on.receive.bytes);
    }),
    Metric(
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving",
        Counter,
        |shown, emit| network(shown, emit, |on| on.receive.errors),
    ),
    Metric(
        "container_network_receive_packets_dropped_total",
        "Cumulative count of packets dropped while receiving",
        Counter,
        |shown, emit| network(shown, emit, |on| on.receive.dropped),
    ),
    Metric(
        "container_network_receive_packets_total",
        "Cumulative count of packets received",
        Counter,
        |shown, emit| {
            network(shown, emit, |on| on.receive.packets);
        },
    ),
    Metric(
        "container_network_transmit_bytes_total",
        "Cumulative count of bytes transmitted",
        Counter,
        |shown, emit| {
            network(shown, emit, |on| on.transmit.bytes);
        },
    ),
    Metric(
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting",
        Counter,
        |shown, emit| network(shown, emit, |on| on.transmit.errors),
    ),
    Metric(
        "container_network_transmit_packets_dropped_total",
        "Cumulative count of packets dropped while transmitting",
        Counter,
        |shown, emit| network(shown, emit, |on| on.transmit.dropped),
    ),
    Metric(
        "container_network_transmit_packets_total",
        "Cumulative count of packets transmitted",
        Counter,
        |shown, emit| network(shown, emit, |on| on.transmit.packets),
    ),
    Metric(
        "container_oom_events_total",
        "Count of out of memory events observed for the container",
        Counter,
        |shown, emit| {
            detailed(shown, emit, shown.group.figures.memory.oom_kills as f64);
        },
    ),
    Metric(
        "container_pressure_cpu_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to CPU congestion.",
        Counter,
        |shown, emit| stalled(emit, shown.group.figures.pressure.cpu, |pressure| pressure.full),
    ),
    Metric(
        "container_pressure_cpu_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to CPU congestion.",
        Counter,
        |shown, emit| stalled(emit, shown.group.figures.pressure.cpu, |pressure| pressure.some),
    ),
    Metric(
        "container_pressure_io_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to IO congestion.",
        Counter,
        |shown, emit| stalled(emit, shown.group.figures.pressure.io, |pressure| pressure.full),
    ),
    Metric(
        "container_pressure_io_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to IO congestion.",
        Counter,
        |shown, emit| stalled(emit, shown.group.figures.pressure.io, |pressure| pressure.some),
    ),
    Metric(
        "container_pressure_memory_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to memory congestion.",
        Counter,
        |shown, emit| stalled(emit, shown.group.figures.pressure.memory, |pressure| pressure.full),
    ),
    Metric(
        "container_pressure_memory_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to memory congestion.",
        Counter,
        |shown, emit| stalled(emit, shown.group.figures.pressure.memory, |pressure| pressure.some),
    ),
    Metric("container_processes", "Number of processes running inside the container.", Gauge, |shown, emit| {
        detailed(shown, emit, shown.group.figures.pids.processes as f64);
    }),
    Metric("container_sockets", "Number of open sockets for the container.", Gauge, |shown, emit| {
        detailed(shown, emit, shown.group.figures.pids.sockets as f64);
    }),
    Metric("container_spec_cpu_period", "CPU period of the container.", Gauge, |shown, emit| {
        present(emit, shown.group.figures.spec.cpu_period);
    }),
    Metric("container_spec_cpu_quota", "CPU quota of the container.", Gauge, |shown, emit| {
        present(emit, shown.group.figures.spec.cpu_quota);
    }),
    Metric("container_spec_cpu_shares", "CPU share of the container.", Gauge, |shown, emit| {
        emit("", shown.group.figures.spec.cpu_shares as f64);
    }),
    Metric("container_spec_memory_limit_bytes", "Memory limit for the container.", Gauge, |shown, emit| {
        emit("", shown.group.figures.spec.memory_limit as f64);
    }),
    Metric(
        "container_spec_memory_reservation_limit_bytes",
        "Memory reservation limit for the container.",
        Gauge,
        |shown, emit| emit("", shown.group.figures.spec.memory_reservation as f64),
    ),
    Metric("container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", Gauge, |shown, emit| {
        emit("", shown.group.figures.spec.swap_limit as f64);
    }),
    Metric(
        "container_start_time_seconds",
        "Start time of the container since unix epoch in seconds.",
        Gauge,
        |shown, emit| emit("", shown.group.started_at.as_second() as f64),
    ),
    Metric("container_threads", "Number of threads running inside the container", Gauge, |shown, emit| {
        emit("", shown.group.figures.pids.threads as f64);
    }),
    Metric(
        "container_threads_max",
        "Maximum number of threads allowed inside the container, infinity if value is zero",
        Gauge,
        |shown, emit| emit("", shown.group.figures.pids.threads_max as f64),
    ),
];

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// Throttling is shown of cgroups that have a quota.
fn limited(shown: &Shown, emit: Emit, value: f64) {
    if shown.group.figures.spec.cpu_quota > 0 {
        emit("", value);
    }
}

/// Shown of cgroups that were looked at closely.
fn detailed(shown: &Shown, emit: Emit, value: f64) {
    if shown.group.is_detailed() {
        emit("", value);
    }
}

/// Shown where the kernel keeps it.
fn stalled(emit: Emit, pressure: Option<Pressure>, part: fn(Pressure) -> Stall) {
    if let Some(pressure) = pressure {
        emit("", part(pressure).total as f64 / 1e6);
    }
}

fn present(emit: Emit, value: u64) {
    if value > 0 {
        emit("", value as f64);
    }
}

fn io(shown: &Shown, emit: Emit, value: fn(&IoUse) -> u64) {
    for (name, io) in &shown.devices {
        emit(&format!("device=\"{name}\""), value(io) as f64);
    }
}

fn disks(shown: &Shown, emit: Emit, value: fn(&FsUse) -> u64) {
    for (name, fs) in &shown.disks {
        emit(&format!("device=\"{name}\""), value(fs) as f64);
    }
}

fn network(shown: &Shown, emit: Emit, value: fn(&InterfaceUse) -> u64) {
    for interface in &shown.group.network {
        emit(&format!("interface=\"{}\"", interface.name), value(interface) as f64);
    }
}

/// The kubelet's labels: who the cgroup is, empty where it is nobody's.
fn labels(group: &Group) -> String {
    let empty = String::new();
    let (pod, name, image, container) = match &group.owner {
        Owner::Node => (None, "", "", ""),
        Owner::Pod(pod) => (Some(pod), "", "", ""),
        Owner::Sandbox(pod, id) => (Some(pod), id.as_str(), "", ""),
        Owner::Container(pod, id, container, image) => (Some(pod), id.as_str(), image.as_str(), container.as_str()),
    };
    let meta = |field: fn(&k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> &Option<String>| {
        pod.and_then(|pod| field(&pod.metadata).as_ref()).unwrap_or(&empty).as_str()
    };
    let mut out = String::with_capacity(256);
    let labels = [
        ("container", container),
        ("id", &group.id),
        ("image", image),
        ("name", name),
        ("namespace", meta(|meta| &meta.namespace)),
        ("pod", meta(|meta| &meta.name)),
    ];
    label_list(&mut out, &labels);
    out
}

/// A cgroup as it is shown; `device` names block devices.
pub(super) fn show(
    group: Arc<Group>,
    device: impl Fn(crate::model::stats::Device) -> String,
    disks: Vec<(String, FsUse)>,
) -> Shown {
    let devices = group.figures.io.iter().map(|(number, io)| (device(*number), *io)).collect();
    Shown { labels: labels(&group), group, devices, disks }
}

/// The scrape, in pieces.
pub(super) fn pieces(shown: Vec<Shown>, machine: &Machine) -> impl Iterator<Item = String> + Send + 'static {
    let mut text = Text::default();
    machine_families(&mut text, machine);
    let mut next = 0;
    std::iter::from_fn(move || {
        while next < METRICS.len() {
            family(&mut text, &METRICS[next], &shown);
            next += 1;
            if text.as_str().len() >= PIECE_BYTES {
                return Some(text.take());
            }
        }
        Some(text.take()).filter(|rest| !rest.is_empty())
    })
}

fn family(text: &mut Text, metric: &Metric, shown: &[Shown]) {
    let Metric(name, help, kind, samples) = metric;
    text.family(name, help, *kind);
    for one in shown {
        let millis = one.group.figures.at.as_millisecond();
        samples(one, &mut |more, value| text.sample_at(&one.labels, more, value, millis));
    }
}

fn machine_families(text: &mut Text, machine: &Machine) {
    text.family(
        "cadvisor_version_info",
        "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & \
         cadvisor revision.",
        Gauge,
    );
    let versions = [
        ("cadvisorRevision", ""),
        ("cadvisorVersion", ""),
        ("dockerVersion", ""),
        ("kernelVersion", machine.kernel_version.as_str()),
        ("osVersion", machine.os_image.as_str()),
    ];
    text.sample("", &versions, 1.0);
    text.family(
        "container_scrape_error",
        "1 if there was an error while getting container metrics, 0 otherwise",
        Gauge,
    );
    text.sample("", &[], 0.0);
    let labels = [
        ("boot_id", machine.boot_id.as_str()),
        ("machine_id", machine.machine_id.as_str()),
        ("system_uuid", machine.system_uuid.as_str()),
    ];
    let mut one = |name, help, value: f64| {
        text.family(name, help, Gauge);
        text.sample("", &labels, value);
    };
    one("machine_cpu_cores", "Number of logical CPU cores.", f64::from(machine.cpus));
    one("machine_memory_bytes", "Amount of memory installed on the machine.", machine.memory_bytes as f64);
    one("machine_swap_bytes", "Amount of swap memory available on the machine.", machine.swap_bytes as f64);
    text.family("machine_scrape_error", "1 if there was an error while getting machine metrics, 0 otherwise.", Gauge);
    text.sample("", &[], 0.0);
}
