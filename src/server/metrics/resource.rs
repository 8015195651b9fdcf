//! `/metrics/resource`: what metrics-server and `kubectl top` read.

use crate::metrics::text::{Kind, Text};
use crate::model::stats::{CgroupUse, NodeUse, PodUse};
use jiff::Timestamp;

/// One sample of a family: labels, value, time.
type Sample<'a> = (Vec<(&'a str, &'a str)>, f64, Timestamp);

/// The scrape; without figures when they could not be read, which it says.
pub(super) fn write(figures: Option<(&NodeUse, &[PodUse])>) -> String {
    let mut text = Text::default();
    if let Some((node, pods)) = figures {
        containers(&mut text, pods);
        machine(&mut text, node);
        whole_pods(&mut text, pods);
    }
    let failed = if figures.is_some() { 0.0 } else { 1.0 };
    let help = "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise";
    text.family("resource_scrape_error", help, Kind::Gauge);
    text.sample("", &[], failed);
    let help = "[ALPHA] (Deprecated since 1.29.0) 1 if there was an error while getting container metrics, 0 otherwise";
    text.family("scrape_error", help, Kind::Gauge);
    text.sample("", &[], failed);
    text.take()
}

fn family(text: &mut Text, name: &'static str, help: &'static str, kind: Kind, samples: Vec<Sample<'_>>) {
    text.family(name, help, kind);
    for (labels, value, at) in samples {
        let mut list = String::new();
        crate::metrics::text::label_list(&mut list, &labels);
        text.sample_at(&list, "", value, at.as_millisecond());
    }
}

fn containers(text: &mut Text, pods: &[PodUse]) {
    let all = |value: fn(&CgroupUse) -> f64| -> Vec<Sample<'_>> {
        let all = pods.iter().flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)));
        all.filter_map(|(pod, container)| {
            let figures = container.cgroup.as_ref()?;
            let labels = vec![
                ("container", container.name.as_str()),
                ("namespace", &*pod.key.namespace),
                ("pod", &*pod.key.name),
            ];
            Some((labels, value(figures), figures.at))
        })
        .collect()
    };
    family(
        text,
        "container_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
        Kind::Counter,
        all(cpu),
    );
    family(
        text,
        "container_memory_working_set_bytes",
        "[STABLE] Current working set of the container in bytes",
        Kind::Gauge,
        all(memory),
    );
    let starts = pods.iter().flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)));
    text.family(
        "container_start_time_seconds",
        "[STABLE] Start time of the container since unix epoch in seconds",
        Kind::Gauge,
    );
    for (pod, container) in starts {
        let labels =
            [("container", container.name.as_str()), ("namespace", &*pod.key.namespace), ("pod", &*pod.key.name)];
        text.sample("", &labels, container.started_at.as_millisecond() as f64 / 1000.0);
    }
    family(
        text,
        "container_swap_usage_bytes",
        "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
        Kind::Gauge,
        all(swap),
    );
}

fn machine(text: &mut Text, node: &NodeUse) {
    let one = |value: f64| vec![(Vec::new(), value, node.root.at)];
    family(
        text,
        "node_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
        Kind::Counter,
        one(cpu(&node.root)),
    );
    family(
        text,
        "node_memory_working_set_bytes",
        "[STABLE] Current working set of the node in bytes",
        Kind::Gauge,
        one(memory(&node.root)),
    );
    family(
        text,
        "node_swap_usage_bytes",
        "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
        Kind::Gauge,
        one(swap(&node.root)),
    );
}

fn whole_pods(text: &mut Text, pods: &[PodUse]) {
    let all = |value: fn(&CgroupUse) -> f64| -> Vec<Sample<'_>> {
        let sample = |pod: &'_ PodUse| pod.cgroup.as_ref().map(|figures| (value(figures), figures.at));
        let all = pods.iter().filter_map(|pod| Some((pod, sample(pod)?)));
        all.map(|(pod, (value, at))| (vec![("namespace", &*pod.key.namespace), ("pod", &*pod.key.name)], value, at))
            .collect()
    };
    family(
        text,
        "pod_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
        Kind::Counter,
        all(cpu),
    );
    family(
        text,
        "pod_memory_working_set_bytes",
        "[STABLE] Current working set of the pod in bytes",
        Kind::Gauge,
        all(memory),
    );
    family(
        text,
        "pod_swap_usage_bytes",
        "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
        Kind::Gauge,
        all(swap),
    );
}

fn cpu(figures: &CgroupUse) -> f64 {
    figures.cpu.total as f64 / 1e9
}

fn memory(figures: &CgroupUse) -> f64 {
    figures.memory.working_set as f64
}

fn swap(figures: &CgroupUse) -> f64 {
    figures.memory.swap as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ContainerId, ContainerName, PodKey, PodUid};
    use crate::model::stats::ContainerUse;
    use expect_test::expect;

    #[test]
    fn node_pods_and_containers_are_told_with_the_time_they_were_read() {
        let at = Timestamp::from_millisecond(1_700_000_000_500).unwrap();
        let mut figures = CgroupUse { at, ..CgroupUse::default() };
        figures.cpu.total = 1_500_000_000;
        figures.memory.working_set = 4096;
        let container = ContainerUse {
            name: ContainerName::new("c"),
            id: ContainerId::new("1"),
            started_at: Timestamp::from_second(1_600_000_000).unwrap(),
            cgroup: Some(figures.clone()),
        };
        let pod = PodUse {
            uid: PodUid::new("u"),
            key: PodKey::new("ns", "p"),
            cgroup: Some(figures.clone()),
            containers: vec![container],
            network: Vec::new(),
            disk: None,
        };
        let node = NodeUse { root: figures, ..NodeUse::default() };
        let text = write(Some((&node, &[pod])));
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        expect![[r#"
            container_cpu_usage_seconds_total{container="c",namespace="ns",pod="p"} 1.5 1700000000500
            container_memory_working_set_bytes{container="c",namespace="ns",pod="p"} 4096 1700000000500
            container_start_time_seconds{container="c",namespace="ns",pod="p"} 1600000000
            container_swap_usage_bytes{container="c",namespace="ns",pod="p"} 0 1700000000500
            node_cpu_usage_seconds_total 1.5 1700000000500
            node_memory_working_set_bytes 4096 1700000000500
            node_swap_usage_bytes 0 1700000000500
            pod_cpu_usage_seconds_total{namespace="ns",pod="p"} 1.5 1700000000500
            pod_memory_working_set_bytes{namespace="ns",pod="p"} 4096 1700000000500
            pod_swap_usage_bytes{namespace="ns",pod="p"} 0 1700000000500
            resource_scrape_error 0
            scrape_error 0"#]]
        .assert_eq(&samples.join("\n"));
        assert_eq!(
            write(None).lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join(" "),
            "resource_scrape_error 1 scrape_error 1"
        );
    }
}
