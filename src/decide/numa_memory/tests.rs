//! Tables of the static policy on machines of two and four NUMA nodes of 8 Gi each, of which 1 Gi of node 0 is reserved.

use super::*;
use crate::model::topology::NumaNode;
use serde_json::json;

const GIB: u64 = 1 << 30;

fn policy(nodes: u32) -> (StaticMemory, MemoryState) {
    let node = NumaNode { memory_bytes: 8 * GIB, huge_pages: [(2 << 20, GIB)].into(), distances: vec![10] };
    let topology = Topology { numa: (0..nodes).map(|id| (id, node.clone())).collect(), ..Topology::default() };
    let policy = StaticMemory::new(&topology, &[(0, [("memory".to_owned(), GIB)].into())].into());
    let state = policy.begin(MemoryState::default()).unwrap();
    (policy, state)
}

/// A pod of containers that ask for so many Gi of memory; the first `init` of them are init containers.
fn pod(uid: &str, init: usize, sizes: &[u64]) -> Pod {
    let container = |(i, size): (usize, &u64)| {
        let resources = json!({"cpu": "1", "memory": format!("{size}Gi")});
        json!({"name": format!("c{i}"), "resources": {"requests": resources, "limits": resources}})
    };
    let all: Vec<_> = sizes.iter().enumerate().map(container).collect();
    let spec = json!({"initContainers": all[..init], "containers": all[init..]});
    serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": spec})).unwrap()
}

fn allocate(policy: &StaticMemory, state: &mut MemoryState, pod: &Pod, hint: Option<Hint>) -> Result<(), NoMemory> {
    let spec = pod.spec.as_ref().unwrap();
    let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
    all.try_for_each(|container| policy.allocate(state, pod, container, hint))
}

/// `free Gi of each node; pod/container=nodes:Gi`.
fn shown(state: &MemoryState) -> String {
    let free = state.nodes.values().map(|node| (node.memory_map["memory"].free / GIB).to_string()).collect::<Vec<_>>();
    let blocks = state.own.iter().flat_map(|(uid, own)| {
        own.iter().flat_map(move |(name, blocks)| {
            let nodes = |block: &Block| block.numa_affinity.iter().map(u32::to_string).collect::<String>();
            blocks.iter().map(move |block| format!("; {uid}/{name}={}:{}", nodes(block), block.size / GIB))
        })
    });
    format!("{}{}", free.join(" "), blocks.collect::<String>())
}

#[test]
fn memory_comes_from_as_few_nodes_as_hold_it_and_goes_back() {
    let (policy, mut state) = policy(2);
    assert_eq!(shown(&state), "6 7");
    for (pod, expected) in [
        (pod("a", 0, &[4]), "2 7; a/c0=0:4"),
        // Again: nothing changes.
        (pod("a", 0, &[4]), "2 7; a/c0=0:4"),
        (pod("b", 0, &[5]), "2 2; a/c0=0:4; b/c0=1:5"),
    ] {
        allocate(&policy, &mut state, &pod, None).unwrap();
        assert_eq!(shown(&state), expected);
    }
    // Both nodes serve containers alone: none spans them.
    assert_eq!(allocate(&policy, &mut state, &pod("c", 0, &[4]), None), Err(NoMemory::NoNodes));
    assert_eq!(policy.begin(state.clone()), Ok(state.clone()));
    assert_eq!(state.nodes_of("b", "c0"), BTreeSet::from([1]));
    assert!(state.release(|_| false) && !state.release(|_| false));
    assert_eq!(shown(&state), "6 7");
    allocate(&policy, &mut state, &pod("c", 0, &[10]), None).unwrap();
    assert_eq!(shown(&state), "0 3; c/c0=01:10");
    assert_eq!(state.nodes[&1].cells, [0, 1]);
    state.release(|_| false);
    assert_eq!(state.nodes, policy.empty);
}

#[test]
fn an_init_containers_memory_is_used_again() {
    let (policy, mut state) = policy(2);
    allocate(&policy, &mut state, &pod("i", 2, &[2, 3, 4]), None).unwrap();
    assert_eq!(shown(&state), "2 7; i/c0=0:0; i/c1=0:0; i/c2=0:4");
    assert_eq!(policy.begin(state.clone()), Ok(state));
}

#[test]
fn the_topology_managers_nodes_are_taken_and_widened_where_they_do_not_hold_it() {
    let (policy, mut state) = policy(2);
    let on = |node: u32, preferred| Some(Hint { affinity: Some(NumaMask::of([node])), preferred });
    allocate(&policy, &mut state, &pod("a", 0, &[2]), on(1, true)).unwrap();
    assert_eq!(shown(&state), "6 5; a/c0=1:2");
    state.release(|_| false);
    allocate(&policy, &mut state, &pod("b", 0, &[9]), on(1, false)).unwrap();
    assert_eq!(shown(&state), "0 4; b/c0=01:9");
    assert_eq!(allocate(&policy, &mut state, &pod("c", 0, &[1]), on(0, true)), Err(NoMemory::ExtendedNotPreferred));
    assert_eq!(allocate(&policy, &mut state, &pod("c", 0, &[1]), on(1, true)), Err(NoMemory::Mixed));
}

#[test]
fn hints_name_the_nodes_that_could_hold_it() {
    let (policy, mut state) = policy(2);
    let text = |state: &MemoryState, pod: &Pod| {
        let hints = policy.hints(state, pod, &pod.spec.as_ref().unwrap().containers[0]);
        assert_eq!(hints, policy.pod_hints(state, pod));
        let one = |hint: Hint| {
            let nodes = hint.affinity.map(|mask| mask.nodes().iter().map(u32::to_string).collect::<String>());
            format!("{}{}", if hint.preferred { "+" } else { "-" }, nodes.unwrap_or_default())
        };
        let shown = |(kind, hints): (String, Vec<Hint>)| {
            format!("{kind}: {}", hints.into_iter().map(one).collect::<Vec<_>>().join(" "))
        };
        hints.map_or("none".to_owned(), |hints| hints.into_iter().map(shown).collect::<String>())
    };
    for (size, expected) in [(6, "memory: +0 +1 -01"), (7, "memory: +1 -01"), (9, "memory: +01"), (14, "")] {
        assert_eq!(text(&state, &pod("a", 0, &[size])), expected, "{size}");
    }
    allocate(&policy, &mut state, &pod("a", 0, &[2]), None).unwrap();
    assert_eq!(text(&state, &pod("a", 0, &[2])), "memory: +0");
    assert_eq!(text(&state, &pod("b", 0, &[5])), "memory: +1");
    let burstable: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [{"name": "c",
        "resources": {"requests": {"memory": "1Gi"}}}]}}))
    .unwrap();
    assert_eq!(text(&state, &burstable), "none");
}

#[test]
fn a_kept_state_must_fit_the_machine() {
    let (policy, mut state) = policy(2);
    allocate(&policy, &mut state, &pod("a", 0, &[2]), None).unwrap();
    let changed = |change: &dyn Fn(&mut MemoryState)| {
        let mut kept = state.clone();
        change(&mut kept);
        policy.begin(kept).map(drop).map_err(|error| error.to_string())
    };
    let block = |state: &mut MemoryState, change: &dyn Fn(&mut Block)| {
        change(&mut state.own.get_mut("a").unwrap().get_mut("c0").unwrap()[0]);
    };
    let differs = "[memorymanager] the expected machine state is different from the real one";
    assert_eq!(changed(&|_| {}), Ok(()));
    for (error, expected) in [
        (
            changed(&|state| state.nodes.clear()),
            "[memorymanager] machine state can not be empty when it has memory assignments",
        ),
        (
            changed(&|state| block(state, &|block| block.numa_affinity = vec![5])),
            "[memorymanager] (pod: a, container: c0) the memory assignment uses the NUMA that does not exist",
        ),
        (
            changed(&|state| block(state, &|block| block.kind = "hugepages-1Gi".into())),
            "[memorymanager] (pod: a, container: c0) the memory assignment uses memory resource that does not exist",
        ),
        (changed(&|state| block(state, &|block| block.size = GIB)), differs),
        (changed(&|state| state.nodes.get_mut(&1).unwrap().memory_map.get_mut("memory").unwrap().total = 1), differs),
    ] {
        assert_eq!(error.unwrap_err(), expected);
    }
}

#[test]
fn what_containers_may_have_is_listed_by_node_and_kind() {
    let (policy, mut state) = policy(2);
    let shown = |state: &MemoryState| {
        let block = |block: Block| format!("{}:{}={}", block.numa_affinity[0], block.kind, block.size / GIB);
        state.allocatable().into_iter().map(block).collect::<Vec<_>>().join(" ")
    };
    let all = "0:hugepages-2Mi=1 0:memory=6 1:hugepages-2Mi=1 1:memory=7";
    assert_eq!(shown(&state), all);
    allocate(&policy, &mut state, &pod("a", 0, &[4]), None).unwrap();
    assert_eq!(shown(&state), all, "what is held counts too");
}
