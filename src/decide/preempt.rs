//! Which pods make room for one that the node must have (`pkg/kubelet/preemption`).

use super::admit::{self, Lack};
use super::evict::is_critical;
use crate::model::memory::Rejection;
use crate::model::node::NodeFacts;
use crate::model::qos::QosClass;
use crate::model::resources::pod_requests;
use k8s_openapi::api::core::v1::Pod;
use std::sync::Arc;
use std::time::Duration;

/// What is still to be found, by resource.
type Needs = Vec<(String, i64)>;

/// Of a pod that the node refuses: the pods that have to leave so that it fits, or why it stays refused.
pub fn make_room(
    pod: &Pod,
    others: &[Arc<Pod>],
    node: &NodeFacts,
    rejection: Rejection,
) -> Result<Vec<Arc<Pod>>, Rejection> {
    let lacks = pod.spec.as_ref().map(|spec| admit::lacks(spec, others, node)).unwrap_or_default();
    if lacks.is_empty() || !is_critical(pod) {
        return Err(rejection);
    }
    let leaving = victims(pod, others, &lacks).map_err(|why| Rejection {
        reason: "UnexpectedAdmissionError".into(),
        message: format!(
            "Unexpected error while attempting to recover from admission failure: \
             preemption: error finding a set of pods to preempt: {why}"
        ),
    })?;
    let staying: Vec<_> = others.iter().filter(|other| !contains(&leaving, other)).cloned().collect();
    // Room is all that it may lack.
    admit::admit(pod, &staying, node)?;
    Ok(leaving)
}

/// How long such a pod waits for others to end whose longest grace this is (`killPodNow`): half as long again, for the
/// runtime to do its part, and ten seconds at least.
pub fn patience(grace: Duration) -> Duration {
    (grace + grace / 2).max(Duration::from_secs(10))
}

/// As few as possible, and rather those of a lower class: guaranteed ones only where all others are not enough.
fn victims(pod: &Pod, others: &[Arc<Pod>], lacks: &[Lack]) -> Result<Vec<Arc<Pod>>, String> {
    let needs: Needs = lacks.iter().map(|lack| (lack.name.clone(), lack.missing())).collect();
    let of_class = |class: QosClass| -> Vec<Arc<Pod>> {
        let may_go = others.iter().filter(|other| gives_way(pod, other) && QosClass::of(other) == class);
        may_go.cloned().collect()
    };
    let best_effort = of_class(QosClass::BestEffort);
    let (burstable, guaranteed) = (of_class(QosClass::Burstable), of_class(QosClass::Guaranteed));
    let unmet = without(&needs, best_effort.iter().chain(&burstable).chain(&guaranteed));
    if !unmet.is_empty() {
        return Err(none_found(&unmet));
    }
    let guaranteed = nearest(guaranteed, without(&needs, best_effort.iter().chain(&burstable)))?;
    let burstable = nearest(burstable, without(&needs, best_effort.iter().chain(&guaranteed)))?;
    let best_effort = nearest(best_effort, without(&needs, burstable.iter().chain(&guaranteed)))?;
    Ok([best_effort, burstable, guaranteed].concat())
}

/// `kubetypes.Preemptable`.
fn gives_way(to: &Pod, pod: &Pod) -> bool {
    let priority = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.priority);
    !is_critical(pod) || matches!((priority(to), priority(pod)), (Some(to), Some(own)) if to > own)
}

/// Takes the pod that comes nearest to what is needed, the smaller of two alike, until nothing is needed any more.
fn nearest(mut pods: Vec<Arc<Pod>>, mut needs: Needs) -> Result<Vec<Arc<Pod>>, String> {
    let mut taken = Vec::new();
    while !needs.is_empty() {
        let best = (0..pods.len()).reduce(|best, index| {
            let (found, known) = (distance(&needs, &pods[index]), distance(&needs, &pods[best]));
            if found < known || (found == known && is_smaller(&pods[index], &pods[best])) { index } else { best }
        });
        let best = best.ok_or_else(|| none_found(&needs))?;
        let pod = pods.swap_remove(best);
        needs = without(&needs, std::iter::once(&pod));
        taken.push(pod);
    }
    Ok(taken)
}

/// The sum of the squares of what each need would still lack, as a part of it.
fn distance(needs: &Needs, pod: &Pod) -> f64 {
    let left = needs.iter().map(|(name, amount)| (amount - request(pod, name), amount));
    left.filter(|(left, _)| *left > 0).map(|(left, amount)| (left as f64 / *amount as f64).powi(2)).sum()
}

/// Memory first, then CPU (`smallerResourceRequest`).
fn is_smaller(pod: &Pod, than: &Pod) -> bool {
    let asks = |pod: &Pod| (request(pod, "memory"), request(pod, "cpu"));
    asks(pod) < asks(than)
}

fn without<'a>(needs: &Needs, pods: impl Iterator<Item = &'a Arc<Pod>> + Clone) -> Needs {
    let left = |(name, amount): &(String, i64)| {
        let given: i64 = pods.clone().map(|pod| request(pod, name)).sum();
        (name.clone(), amount - given)
    };
    needs.iter().map(left).filter(|(_, left)| *left > 0).collect()
}

fn request(pod: &Pod, name: &str) -> i64 {
    match (name, &pod.spec) {
        ("pods", _) => 1,
        (name, Some(spec)) => pod_requests(spec, true).ok().and_then(|all| all.get(name).copied()).unwrap_or(0),
        (_, None) => 0,
    }
}

fn none_found(needs: &Needs) -> String {
    let list: String = needs.iter().map(|(name, amount)| format!("(res: {name}, q: {amount}), ")).collect();
    format!("no set of running pods found to reclaim resources: [{list}]")
}

fn contains(list: &[Arc<Pod>], pod: &Pod) -> bool {
    list.iter().any(|listed| listed.metadata.uid == pod.metadata.uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use serde_json::{Value, json};

    fn pod(name: &str, priority: i32, resources: Value) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": name, "uid": name}, "spec":
            {"priority": priority, "containers": [{"name": "c", "resources": resources}]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn burstable(name: &str, memory: &str) -> Arc<Pod> {
        pod(name, 0, json!({"requests": {"cpu": "100m", "memory": memory}}))
    }

    fn guaranteed(name: &str, memory: &str) -> Arc<Pod> {
        let list = json!({"cpu": "100m", "memory": memory});
        pod(name, 0, json!({"requests": list, "limits": list}))
    }

    /// On a node of 1 GiB, one core and five pods.
    fn check(wanted: &Arc<Pod>, others: &[Arc<Pod>], expected: &str) {
        let node = NodeFacts {
            allocatable: [("cpu", "1"), ("memory", "1Gi"), ("pods", "5")]
                .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
                .into(),
            ..Default::default()
        };
        let rejection = admit::admit(wanted, others, &node).unwrap_err();
        let answer = match make_room(wanted, others, &node, rejection) {
            Ok(leaving) => leaving.iter().filter_map(|pod| pod.metadata.name.clone()).collect::<Vec<_>>().join(" "),
            Err(rejection) => format!("{}: {}", rejection.reason, rejection.message),
        };
        assert_eq!(answer, expected);
    }

    #[test]
    fn the_fewest_and_smallest_of_the_lowest_class_make_room() {
        let critical = |memory: &str| pod("critical", 2_000_000_000, json!({"requests": {"memory": memory}}));
        let all = [
            burstable("small", "100Mi"),
            burstable("large", "300Mi"),
            guaranteed("few", "100Mi"),
            guaranteed("much", "300Mi"),
        ];
        check(&critical("250Mi"), &all, "small");
        check(&critical("400Mi"), &all, "large");
        check(&critical("600Mi"), &all, "large small");
        check(&critical("700Mi"), &all, "large small few");
        check(&critical("900Mi"), &all, "large small much");
        check(
            &critical("2Gi"),
            &all,
            "UnexpectedAdmissionError: Unexpected error while attempting to recover from admission failure: preemption: \
             error finding a set of pods to preempt: no set of running pods found to reclaim resources: \
             [(res: memory, q: 1073741824), ]",
        );
        let full: Vec<_> = (0..5).map(|number| pod(&format!("p{number}"), 0, json!({}))).collect();
        check(&critical("1Mi"), &full, "p0");
    }

    #[test]
    fn it_waits_half_as_long_again_as_the_others_may_take() {
        for (grace, expected) in [(0, 10), (6, 10), (30, 45), (600, 900)] {
            assert_eq!(patience(Duration::from_secs(grace)), Duration::from_secs(expected), "{grace}");
        }
    }

    #[test]
    fn only_for_critical_pods_and_only_where_room_is_all_they_lack() {
        let others = [burstable("b", "900Mi")];
        let words = "OutOfmemory: Node didn't have enough resource: memory, requested: 209715200, used: 943718400, \
                     capacity: 1073741824";
        check(&pod("usual", 1, json!({"requests": {"memory": "200Mi"}})), &others, words);
        let mut elsewhere = Pod::clone(&pod("critical", 2_000_000_000, json!({"requests": {"memory": "200Mi"}})));
        elsewhere.spec.as_mut().unwrap().node_selector = Some([("a".to_owned(), "b".to_owned())].into());
        let words = "NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        check(&Arc::new(elsewhere), &others, words);
        let equals = [pod("equal", 2_000_000_000, json!({"requests": {"memory": "900Mi"}}))];
        let lower = [pod("lower", 2_000_000_000, json!({"requests": {"memory": "900Mi"}}))];
        let of = |priority| pod("critical", priority, json!({"requests": {"memory": "200Mi"}}));
        let none = "UnexpectedAdmissionError: Unexpected error while attempting to recover from admission failure: \
                    preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: \
                    [(res: memory, q: 79691776), ]";
        check(&of(2_000_000_000), &equals, none);
        check(&of(2_000_001_000), &lower, "lower");
    }
}
