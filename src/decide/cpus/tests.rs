//! Tables of the static policy on machines of one and two sockets, with and without threads and NUMA nodes.

use super::*;
use crate::model::topology::{CpuPlace, NumaNode};
use serde_json::json;

/// As Linux numbers them: first threads of all cores, then second threads.
fn machine(sockets: u32, nodes_per_socket: u32, cores_per_node: u32, threads: u32) -> Topology {
    let cores = sockets * nodes_per_socket * cores_per_node;
    let place = |cpu: u32| {
        let core = cpu % cores;
        let numa = core / cores_per_node;
        CpuPlace { core, socket: numa / nodes_per_socket, numa, uncore: core / 2 }
    };
    let numa = (0..sockets * nodes_per_socket).map(|node| (node, NumaNode::default())).collect();
    Topology { cpus: (0..cores * threads).map(|cpu| (cpu, place(cpu))).collect(), numa }
}

fn set(text: &str) -> CpuSet {
    text.parse().unwrap()
}

#[test]
fn whole_sockets_then_whole_cores_then_threads_are_taken() {
    let (flat, smt) = (machine(1, 1, 4, 1), machine(2, 1, 3, 2));
    let numa = machine(2, 2, 2, 2);
    for (machine, free, count, expected) in [
        (&flat, "0-3", 1, "0"),
        (&flat, "1-3", 2, "1-2"),
        (&flat, "0-3", 0, ""),
        // Cores of the first socket are 0/6 1/7 2/8, of the second 3/9 4/10 5/11.
        (&smt, "0-11", 1, "0"),
        (&smt, "0-11", 2, "0,6"),
        (&smt, "0-11", 5, "0-2,6-7"),
        (&smt, "0-11", 6, "0-2,6-8"),
        (&smt, "0-11", 8, "0-3,6-9"),
        // A broken core is filled up by an odd CPU.
        (&smt, "1-11", 1, "6"),
        (&smt, "1-11", 2, "1,7"),
        (&smt, "1-11", 3, "1,6-7"),
        // Whole sockets first, even if others are broken.
        (&smt, "1-11", 6, "3-5,9-11"),
        // The socket with fewer free CPUs is used up first.
        (&smt, "0-2,5-8,11", 2, "5,11"),
        // Four nodes of 0-1/8-9, 2-3/10-11, 4-5/12-13, 6-7/14-15 in two sockets.
        (&numa, "0-15", 8, "0-3,8-11"),
        (&numa, "0-15", 4, "0-1,8-9"),
        (&numa, "1-15", 4, "2-3,10-11"),
    ] {
        assert_eq!(
            take::packed(machine, &set(free), count, Packing::default()).unwrap().to_string(),
            expected,
            "{free} {count}"
        );
    }
    let error = take::packed(&flat, &set("0-1"), 3, Packing::default()).unwrap_err();
    assert_eq!(error.to_string(), "not enough cpus available to satisfy request: requested=3, available=2");
}

#[test]
fn cpus_are_spread_evenly_over_numa_nodes_where_one_does_not_hold_them() {
    let numa = machine(2, 1, 4, 2);
    for (free, count, group, expected) in [
        ("0-15", 4, 1, "0-1,8-9"),
        ("0-15", 8, 1, "0-3,8-11"),
        ("0-15", 10, 1, "0-2,4-6,8-9,12-13"),
        ("0-15", 12, 2, "0-2,4-6,8-10,12-14"),
        // Not in whole groups: packed.
        ("0-15", 9, 2, "0-4,8-11"),
        ("0-3,8-12", 9, 1, "0-3,8-12"),
    ] {
        let taken = take::distributed(&numa, &set(free), count, group, Packing::default()).unwrap();
        assert_eq!(taken.to_string(), expected, "{free} {count} {group}");
    }
}

#[test]
fn cpus_come_from_one_last_level_cache_where_preferred() {
    // Caches of two cores: 0-1/8-9, 2-3/10-11, …
    let numa = machine(1, 1, 8, 2);
    for (free, count, plain, aligned) in
        [("1-15", 4, "1-2,9-10", "2-3,10-11"), ("1-15", 3, "1,8-9", "1,8-9"), ("0-15", 6, "0-2,8-10", "0-2,8-10")]
    {
        let by_uncore = Packing { by_uncore: true, ..Packing::default() };
        for (packing, expected) in [(Packing::default(), plain), (by_uncore, aligned)] {
            let taken = take::packed(&numa, &set(free), count, packing).unwrap();
            assert_eq!(taken.to_string(), expected, "{free} {count}");
        }
    }
}

#[test]
fn cpus_are_spread_over_cores_where_asked() {
    let two = machine(2, 1, 4, 2);
    let across_cores = Packing { across_cores: true, ..Packing::default() };
    for (free, count, expected) in [
        ("0-15", 2, "0-1"),
        ("0-15", 5, "0-3,8"),
        // Whole sockets all the same, and the rest from the other one.
        ("0-15", 10, "0-5,8-11"),
        // The socket with the fewest free CPUs first.
        ("0-7,12-15", 2, "0-1"),
        ("1-3,8-11,4-7,12-15", 3, "1-3"),
    ] {
        let taken = take::packed(&two, &set(free), count, across_cores).unwrap();
        assert_eq!(taken.to_string(), expected, "{free} {count}");
    }
}

fn guaranteed(uid: &str, init: &[(&str, &str)], containers: &[(&str, &str)]) -> Pod {
    let list = |containers: &[(&str, &str)]| -> Vec<serde_json::Value> {
        let of = |(name, cpu): &(&str, &str)| {
            let resources = json!({"cpu": cpu, "memory": "1Gi"});
            let policy = name.starts_with("sidecar").then_some("Always");
            json!({"name": name, "restartPolicy": policy, "resources": {"requests": resources, "limits": resources}})
        };
        containers.iter().map(of).collect()
    };
    let spec = json!({"initContainers": list(init), "containers": list(containers)});
    serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": spec})).unwrap()
}

fn policy(topology: Topology, reserved: &str, options: Options) -> (StaticCpus, CpuState) {
    let policy = StaticCpus { topology, reserved: set(reserved), options };
    let state = policy.begin(CpuState::default()).unwrap();
    (policy, state)
}

fn allocate(policy: &StaticCpus, state: &mut CpuState, pod: &Pod) -> Result<(), Refused> {
    let spec = pod.spec.as_ref().unwrap();
    let mut containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    containers.try_for_each(|container| policy.allocate(state, pod, container, None))
}

fn shown(state: &CpuState) -> String {
    let own =
        state.own.iter().flat_map(|(uid, own)| own.iter().map(move |(name, cpus)| format!(" {uid}/{name}={cpus}")));
    format!("{}{}", state.shared, own.collect::<String>())
}

#[test]
fn whole_cpus_of_guaranteed_pods_leave_the_shared_pool_and_come_back() {
    let (policy, mut state) = policy(machine(1, 1, 4, 2), "0,4", Options::default());
    assert_eq!(shown(&state), "0-7");
    for (pod, expected) in [
        (guaranteed("a", &[], &[("c", "2")]), "0,2-4,6-7 a/c=1,5"),
        // Again: nothing changes.
        (guaranteed("a", &[], &[("c", "2")]), "0,2-4,6-7 a/c=1,5"),
        (guaranteed("b", &[], &[("c", "1500m")]), "0,2-4,6-7 a/c=1,5"),
        // What an init container had its successors get; what a sidecar has stays its own.
        (
            guaranteed("i", &[("one", "2"), ("sidecar", "1")], &[("c", "1")]),
            "0,3-4,7 a/c=1,5 i/c=6 i/one=2,6 i/sidecar=2",
        ),
    ] {
        allocate(&policy, &mut state, &pod).unwrap();
        assert_eq!(shown(&state), expected);
    }
    let error = allocate(&policy, &mut state, &guaranteed("z", &[], &[("c", "3")])).unwrap_err();
    let rejection = Rejection::from(error);
    assert_eq!(rejection.reason, "UnexpectedAdmissionError");
    assert_eq!(
        rejection.message,
        "Allocate failed due to not enough cpus available to satisfy request: requested=3, available=2, which is unexpected"
    );
    assert_eq!((state.of("a", "c").to_string(), state.of("b", "c").to_string()), ("1,5".into(), "0,3-4,7".into()));
    assert!(state.release(|uid| uid == "a"));
    assert_eq!(shown(&state), "0,2-4,6-7 a/c=1,5");
    assert!(!state.release(|uid| uid == "a"));
}

#[test]
fn only_whole_cores_are_given_where_asked() {
    let options = Options { full_cores_only: true, ..Options::default() };
    let (policy, mut state) = policy(machine(1, 1, 4, 2), "0", options);
    for (count, expected) in [
        ("1", "SMT Alignment Error: requested 1 cpus not multiple cpus per core = 2"),
        (
            "8",
            "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = 6, requested CPUs = 8, CPUs per core = 2",
        ),
    ] {
        let error = allocate(&policy, &mut state, &guaranteed("a", &[], &[("c", count)])).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(Rejection::from(error).reason, "SMTAlignmentError");
    }
    allocate(&policy, &mut state, &guaranteed("a", &[], &[("c", "6")])).unwrap();
    assert_eq!(shown(&state), "0,4 a/c=1-3,5-7");
}

#[test]
fn strictly_reserved_cpus_are_not_shared() {
    let options = Options { strict_reservation: true, ..Options::default() };
    let (policy, state) = policy(machine(1, 1, 4, 1), "0-1", options);
    assert_eq!(shown(&state), "2-3");
    let kept = CpuState { shared: set("1-3"), own: BTreeMap::new() };
    let error = policy.begin(kept).unwrap_err().to_string();
    assert_eq!(error, "some of strictly reserved cpus: \"1\" are present in defaultCpuSet: \"1-3\"");
}

#[test]
fn a_kept_state_must_fit_the_machine() {
    let (policy, _) = policy(machine(1, 1, 4, 1), "0", Options::default());
    let kept = |shared: &str, own: &str| CpuState {
        shared: set(shared),
        own: if own.is_empty() { BTreeMap::new() } else { [("p".into(), [("c".into(), set(own))].into())].into() },
    };
    for (kept, expected) in [
        (kept("0,2-3", "1"), "0,2-3 p/c=1"),
        (kept("", ""), "0-3"),
        (kept("", "1"), "default cpuset cannot be empty"),
        (kept("1-3", ""), "not all reserved cpus: \"0\" are present in defaultCpuSet: \"1-3\""),
        (kept("0-3", "1"), "pod: p, container: c cpuset: \"1\" overlaps with default cpuset \"0-3\""),
        (kept("0-2", ""), "current set of available CPUs \"0-3\" doesn't match with CPUs in state \"0-2\""),
    ] {
        let answer = policy.begin(kept).map_or_else(|error| error.to_string(), |state| shown(&state));
        assert_eq!(answer, expected);
    }
}

#[test]
fn hints_name_the_nodes_that_could_hold_a_container() {
    let (policy, mut state) = policy(machine(2, 1, 4, 1), "0", Options::default());
    let text = |hints: Hints| {
        let one = |hint: Hint| {
            let nodes = hint.affinity.map(|mask| mask.nodes().iter().map(u32::to_string).collect::<String>());
            format!("{}{}", if hint.preferred { "+" } else { "-" }, nodes.unwrap_or_default())
        };
        hints.map_or("none".to_owned(), |hints| hints.into_iter().map(one).collect::<Vec<_>>().join(" "))
    };
    for (cpus, expected) in [("3", "+0 +1 -01"), ("4", "+1 -01"), ("5", "+01"), ("8", ""), ("500m", "none")] {
        let pod = guaranteed("a", &[], &[("c", cpus)]);
        assert_eq!(text(policy.hints(&state, &pod, &pod.spec.as_ref().unwrap().containers[0])), expected, "{cpus}");
        assert_eq!(text(policy.pod_hints(&state, &pod)), expected, "{cpus}");
    }
    // CPUs of the second node, although the first has some.
    let pod = guaranteed("a", &[], &[("c", "2")]);
    let container = &pod.spec.as_ref().unwrap().containers[0];
    policy.allocate(&mut state, &pod, container, Some(NumaMask::of([1]))).unwrap();
    assert_eq!(shown(&state), "0-3,6-7 a/c=4-5");
    // One that has its CPUs already names where they are.
    assert_eq!(text(policy.hints(&state, &pod, container)), "+1 -01");
}

#[test]
fn options_are_known_and_go_together() {
    let parse = |options: &[(&str, &str)], alpha| {
        let owned: BTreeMap<String, String> = options.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Options::parse(&owned, alpha).map_err(|error| error.to_string())
    };
    let aligned = Options { align_by_socket: true, ..Options::default() };
    for (options, alpha, expected) in [
        (vec![("full-pcpus-only", "true")], false, Ok(Options { full_cores_only: true, ..Options::default() })),
        (vec![("align-by-socket", "true")], true, Ok(aligned)),
        (
            vec![("align-by-socket", "true")],
            false,
            Err("CPU Manager Policy Alpha-level Options not enabled, but option \"align-by-socket\" provided"),
        ),
        (vec![("fast", "true")], true, Err("unknown CPU Manager Policy option: \"fast\"")),
        (
            vec![("full-pcpus-only", "yes")],
            false,
            Err("bad value for option \"full-pcpus-only\": strconv.ParseBool: parsing \"yes\": invalid syntax"),
        ),
        (
            vec![("distribute-cpus-across-cores", "true")],
            true,
            Ok(Options { packing: Packing { across_cores: true, ..Packing::default() }, ..Options::default() }),
        ),
        (
            vec![("distribute-cpus-across-cores", "true"), ("full-pcpus-only", "true")],
            true,
            Err(
                "static policy options full-pcpus-only and distribute-cpus-across-cores can not be used at the same time",
            ),
        ),
        (
            vec![("distribute-cpus-across-numa", "1"), ("prefer-align-cpus-by-uncorecache", "t")],
            false,
            Err(
                "static policy options prefer-align-cpus-by-uncorecache and distribute-cpus-across-numa can not be used at the same time",
            ),
        ),
    ] {
        assert_eq!(parse(&options, alpha), expected.map_err(str::to_owned));
    }
    assert_eq!(aligned.check(&machine(1, 2, 2, 1), true), Err(BadOption::SocketInNode));
    assert_eq!(aligned.check(&machine(1, 2, 2, 1), false), Ok(()));
}
