//! What an evicted pod's status and event say (`evictionMessage`).

use super::rank::Candidate;
use crate::model::eviction::{EVICTED, IMMEDIATE_GRACE, Readings, Removal, Resource, Threshold};
use crate::units::Bytes;
use std::fmt::Write;
use std::time::Duration;

/// The pod goes because of this threshold, which the readings cross; `crossed` are all that are.
pub fn removal(
    one: &Candidate,
    crossed: &[Threshold],
    because: &Threshold,
    readings: &Readings,
    max_grace: i32,
) -> Removal {
    let resource = because.signal.resource();
    let mut message = format!("The node was low on resource: {}. ", resource.as_str());
    let first = crossed.iter().find(|threshold| threshold.signal.resource() == resource).unwrap_or(because);
    if let Some(reading) = readings.get(&first.signal) {
        let least = match &first.least {
            crate::model::eviction::Amount::Quantity(quantity) => quantity.0.clone(),
            share => first.signal.print(share.of(reading.capacity)),
        };
        let available = first.signal.print(reading.available);
        // Writing to a string cannot fail.
        let _ = write!(message, "Threshold quantity: {least}, available: {available}. ");
    }
    let (names, amounts) = consumers(one, resource, &mut message);
    // `OffendingContainersKey` and its neighbours: there where the pod's use is known.
    let known = one.used.is_some();
    let annotations = [
        ("offending_containers", names.join(",")),
        ("offending_containers_usage", amounts.join(",")),
        ("starved_resource", resource.as_str().to_owned()),
    ];
    let annotations = annotations.into_iter().filter(|_| known).map(|(key, value)| (key.to_owned(), value)).collect();
    let grace = if because.hard { IMMEDIATE_GRACE } else { soft_grace(one, max_grace) };
    Removal { reason: EVICTED, message, grace, disrupted: true, told: true, annotations }
}

/// A soft threshold leaves the pod its grace up to `evictionMaxPodGracePeriod`; a limit of 0, the default, is none, and a
/// negative one leaves it the least there is (`calculateEffectiveGracePeriod`).
fn soft_grace(one: &Candidate, max_seconds: i32) -> Duration {
    let own = one.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
    let seconds = if max_seconds == 0 { own } else { own.min(max_seconds.into()) };
    Duration::from_secs(seconds.max(0).unsigned_abs()).max(IMMEDIATE_GRACE)
}

/// Tells of the containers that use more than they asked for: their names, and what each uses.
fn consumers<'a>(one: &'a Candidate, resource: Resource, text: &mut String) -> (Vec<&'a str>, Vec<String>) {
    let (mut names, mut amounts) = (Vec::new(), Vec::new());
    let spec = one.pod.spec.iter();
    let containers = spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    for container in containers {
        let Some(used) = used_by(one, &container.name, resource) else { continue };
        let asked = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let asked = asked.and_then(|list| list.get(resource.as_str()));
        let bytes = asked.and_then(|quantity| Bytes::parse(quantity).ok()).unwrap_or_default();
        if used > bytes {
            let request = asked.map_or("0", |quantity| quantity.0.as_str());
            let amount = used.quantity(true).0;
            let _ = write!(
                text,
                "Container {} was using {amount}, request is {request}, has larger consumption of {}. ",
                container.name,
                resource.as_str()
            );
            names.push(container.name.as_str());
            amounts.push(amount);
        }
    }
    (names, amounts)
}

fn used_by(one: &Candidate, container: &str, resource: Resource) -> Option<Bytes> {
    let used = one.used.as_ref()?;
    let bytes = match resource {
        Resource::Memory => {
            let found = used.containers.iter().find(|known| known.name.as_str() == container)?;
            found.cgroup.as_ref()?.memory.working_set
        }
        Resource::EphemeralStorage => used.disk.as_ref()?.container(container)?,
        Resource::Inodes | Resource::Pids => return None,
    };
    i64::try_from(bytes).ok().map(Bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ContainerId, ContainerName, PodKey, PodUid};
    use crate::model::eviction::{Amount, Reading, Signal};
    use crate::model::stats::{CgroupUse, ContainerUse, PodDisk, PodUse, TreeUse};
    use serde_json::json;
    use std::sync::Arc;

    fn threshold(signal: Signal, least: &str, hard: bool) -> Threshold {
        Threshold { signal, least: Amount::parse(least).unwrap(), grace: Duration::ZERO, hard, reclaim: None }
    }

    fn candidate() -> Candidate {
        let pod = serde_json::from_value(json!({"spec": {"terminationGracePeriodSeconds": 60, "containers": [
            {"name": "hog", "resources": {"requests": {"memory": "10Mi"}}}, {"name": "calm"}]}}));
        let mut cgroup = CgroupUse::default();
        cgroup.memory.working_set = 300 << 20;
        let hog = ContainerUse {
            name: ContainerName::new("hog"),
            id: ContainerId::new("1"),
            started_at: Default::default(),
            cgroup: Some(cgroup),
        };
        let tree = |bytes| [(ContainerName::new("hog"), TreeUse { bytes, inodes: 1 })].into();
        let disk = PodDisk { logs: tree(1 << 20), layers: tree(2 << 20), ..Default::default() };
        let used = PodUse {
            uid: PodUid::new("u"),
            key: PodKey::new("d", "p"),
            cgroup: None,
            containers: vec![hog],
            network: Vec::new(),
            disk: Some(disk),
        };
        Candidate { pod: Arc::new(pod.unwrap()), used: Some(Arc::new(used)) }
    }

    #[test]
    fn the_message_names_threshold_and_consumer() {
        let reading = |available| Reading { available, capacity: 1 << 30 };
        for (signal, least, available, expected) in [
            (
                Signal::Memory,
                "100Mi",
                50 << 20,
                "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. \
                 Container hog was using 300Mi, request is 10Mi, has larger consumption of memory. ",
            ),
            (
                Signal::NodeFs,
                "10%",
                12345,
                "The node was low on resource: ephemeral-storage. Threshold quantity: 107374184, available: 12345. \
                 Container hog was using 3Mi, request is 0, has larger consumption of ephemeral-storage. ",
            ),
            (
                Signal::NodeFsInodes,
                "5k",
                4000,
                "The node was low on resource: inodes. Threshold quantity: 5k, available: 4k. ",
            ),
            (Signal::Pids, "100", 7, "The node was low on resource: pids. Threshold quantity: 100, available: 7. "),
        ] {
            let threshold = threshold(signal, least, true);
            let readings = [(signal, reading(available))].into();
            let all = [threshold.clone()];
            let removal = removal(&candidate(), &all, &threshold, &readings, 0);
            assert_eq!(removal.message, expected);
            assert!(removal.disrupted && removal.grace == IMMEDIATE_GRACE);
        }
    }

    #[test]
    fn a_soft_threshold_leaves_grace_up_to_its_limit() {
        let grace = |hard, max: i32| {
            let threshold = threshold(Signal::Memory, "1Mi", hard);
            let all = [threshold.clone()];
            removal(&candidate(), &all, &threshold, &Readings::new(), max).grace.as_secs()
        };
        for (hard, max, seconds) in [(true, 30, 1), (false, 30, 30), (false, 90, 60), (false, 0, 60), (false, -1, 1)] {
            assert_eq!(grace(hard, max), seconds, "{hard} {max}");
        }
    }

    #[test]
    fn the_event_names_who_used_what_for_programs_too() {
        let told = |one: &Candidate, signal| {
            let threshold = threshold(signal, "1Mi", true);
            let all = [threshold.clone()];
            removal(one, &all, &threshold, &Readings::new(), 0).annotations.into_values().collect::<Vec<_>>()
        };
        assert_eq!(told(&candidate(), Signal::Memory), ["hog", "300Mi", "memory"]);
        assert_eq!(told(&candidate(), Signal::Pids), ["", "", "pids"]);
        let mut starting = candidate();
        let pod = serde_json::from_value(json!({"spec": {"containers": [], "initContainers": [{"name": "hog"}]}}));
        starting.pod = Arc::new(pod.unwrap());
        assert_eq!(told(&starting, Signal::NodeFs), ["hog", "3Mi", "ephemeral-storage"]);
        let unknown = Candidate { used: None, ..candidate() };
        assert_eq!(told(&unknown, Signal::Memory), Vec::<String>::new());
    }
}
