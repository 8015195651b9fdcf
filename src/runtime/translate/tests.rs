//! Tables of pods and the configurations they become.

use super::*;
use crate::model::resources::pod_requests;
use crate::runtime::{ContainerInput, DnsConfig, IdBlock, Mount};
use expect_test::{Expect, expect};
use serde_json::{Value, json};
use std::sync::Arc;

/// What is not the default, keys in order.
fn lean(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Bool(false) => None,
        Value::Number(n) if n.as_i64() == Some(0) => None,
        Value::String(s) if s.is_empty() => None,
        Value::Array(items) if items.is_empty() => None,
        Value::Array(items) => Some(items.into_iter().map(|v| lean(v).unwrap_or_else(|| json!({}))).collect()),
        Value::Object(map) => {
            let sorted: std::collections::BTreeMap<_, _> =
                map.into_iter().filter_map(|(k, v)| Some((k, lean(v)?))).collect();
            (!sorted.is_empty()).then(|| sorted.into_iter().collect())
        }
        other => Some(other),
    }
}

fn show(value: impl serde::Serialize) -> String {
    let value = lean(serde_json::to_value(value).unwrap()).unwrap_or(Value::Null);
    format!("{value:#}")
}

/// A healthy pod, its spec changed by `change`.
fn pod(change: impl FnOnce(&mut Value)) -> Arc<Pod> {
    let mut spec = json!({
        "securityContext": {},
        "terminationGracePeriodSeconds": 30,
        "containers": [{
            "name": "main",
            "image": "busybox:1.36",
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
        }],
    });
    change(&mut spec);
    let metadata = json!({ "name": "web", "namespace": "ns", "uid": "u-1", "labels": { "app": "web" }, "annotations": { "a": "b" } });
    Arc::new(serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap())
}

fn sandbox_input(pod: &Arc<Pod>) -> SandboxInput {
    SandboxInput {
        pod: pod.clone(),
        attempt: 1,
        log_directory: "/var/log/pods/ns_web_u-1".into(),
        hostname: "web".into(),
        dns: DnsConfig { servers: vec!["10.0.0.10".into()], searches: vec!["ns.svc".into()], options: vec![] },
        cgroup_parent: "/kubepods/besteffort/podu-1".into(),
        runtime_handler: String::new(),
        user_namespace: None,
    }
}

fn container_input(pod: &Arc<Pod>) -> ContainerInput {
    ContainerInput {
        pod: pod.clone(),
        name: "main".into(),
        attempt: 2,
        restart_count: 2,
        image_ref: "sha256:abc".into(),
        env: vec![("A".into(), "1".into())],
        command: vec!["sh".into()],
        args: vec!["-c".into(), "true".into()],
        mounts: vec![Mount {
            host_path: "/var/lib/kubelet/pods/u-1/etc-hosts".into(),
            container_path: "/etc/hosts".into(),
            read_only: false,
            propagation: Propagation::Bidirectional,
            recursive_read_only: false,
            image: None,
            image_sub_path: String::new(),
            selinux_relabel: true,
        }],
        sandbox: sandbox_input(pod),
        node_memory: 8 << 30,
        pins: Default::default(),
        target: None,
    }
}

fn sandbox(change: impl FnOnce(&mut Value)) -> pb::PodSandboxConfig {
    let pod = pod(change);
    let seen = "2026-01-02T03:04:05.5Z".parse().unwrap();
    sandbox_config(&sandbox_input(&pod), &HostFacts::default(), seen).unwrap()
}

fn container(change: impl FnOnce(&mut Value)) -> pb::ContainerConfig {
    container_config(&container_input(&pod(change)), &ContainerFacts::default(), &HostFacts::default()).unwrap()
}

fn security(change: impl FnOnce(&mut Value)) -> pb::LinuxContainerSecurityContext {
    container(change).linux.unwrap().security_context.unwrap()
}

fn resources(change: impl FnOnce(&mut Value), facts: &HostFacts) -> String {
    let input = container_input(&pod(change));
    let config = container_config(&input, &ContainerFacts::default(), facts).unwrap();
    show(config.linux.unwrap().resources.unwrap())
}

fn check(shown: String, expected: Expect) {
    expected.assert_eq(&shown);
}

#[test]
fn what_comes_with_devices_is_told_to_the_runtime_beside_the_pods_own() {
    let devices = Edits {
        nodes: vec![DeviceNode {
            container_path: "/dev/x".into(),
            host_path: "/dev/y".into(),
            permissions: "rw".into(),
        }],
        annotations: [("note", "1"), ("io.kubernetes.container.restartCount", "99")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        cdi_devices: vec!["ex.org/x=0".into()],
        ..Default::default()
    };
    let about = ContainerFacts { devices, ..Default::default() };
    let config = container_config(&container_input(&pod(|_| {})), &about, &HostFacts::default()).unwrap();
    let device = pb::Device { container_path: "/dev/x".into(), host_path: "/dev/y".into(), permissions: "rw".into() };
    assert_eq!(config.devices, [device]);
    assert_eq!(config.cdi_devices, [pb::CdiDevice { name: "ex.org/x=0".into() }]);
    assert_eq!(config.annotations["note"], "1");
    assert_ne!(config.annotations["io.kubernetes.container.restartCount"], "99", "the kubelet's own are not touched");
}

#[test]
fn a_plain_sandbox() {
    check(
        show(sandbox(|_| {})),
        expect![[r#"
        {
          "annotations": {
            "a": "b",
            "kubernetes.io/config.seen": "2026-01-02T03:04:05.5Z",
            "kubernetes.io/config.source": "api"
          },
          "dns_config": {
            "searches": [
              "ns.svc"
            ],
            "servers": [
              "10.0.0.10"
            ]
          },
          "hostname": "web",
          "labels": {
            "app": "web",
            "io.kubernetes.pod.name": "web",
            "io.kubernetes.pod.namespace": "ns",
            "io.kubernetes.pod.uid": "u-1"
          },
          "linux": {
            "cgroup_parent": "/kubepods/besteffort/podu-1",
            "resources": {
              "cpu_period": 100000,
              "cpu_shares": 2,
              "unified": {
                "memory.oom.group": "1"
              }
            },
            "security_context": {
              "namespace_options": {
                "pid": 1,
                "userns_options": {
                  "mode": 2
                }
              }
            }
          },
          "log_directory": "/var/log/pods/ns_web_u-1",
          "metadata": {
            "attempt": 1,
            "name": "web",
            "namespace": "ns",
            "uid": "u-1"
          }
        }"#]],
    );
}

#[test]
fn a_plain_container() {
    check(
        show(container(|_| {})),
        expect![[r#"
        {
          "annotations": {
            "io.kubernetes.container.hash": "42f056bf",
            "io.kubernetes.container.restartCount": "2",
            "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
            "io.kubernetes.container.terminationMessagePolicy": "File",
            "io.kubernetes.pod.terminationGracePeriod": "30"
          },
          "args": [
            "-c",
            "true"
          ],
          "command": [
            "sh"
          ],
          "envs": [
            {
              "key": "A",
              "value": "1"
            }
          ],
          "image": {
            "image": "sha256:abc",
            "user_specified_image": "busybox:1.36"
          },
          "labels": {
            "io.kubernetes.container.name": "main",
            "io.kubernetes.pod.name": "web",
            "io.kubernetes.pod.namespace": "ns",
            "io.kubernetes.pod.uid": "u-1"
          },
          "linux": {
            "resources": {
              "cpu_period": 100000,
              "cpu_shares": 2,
              "oom_score_adj": 1000,
              "unified": {
                "memory.oom.group": "1"
              }
            },
            "security_context": {
              "masked_paths": [
                "/proc/asound",
                "/proc/acpi",
                "/proc/interrupts",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/proc/sched_debug",
                "/proc/scsi",
                "/sys/firmware",
                "/sys/devices/virtual/powercap"
              ],
              "namespace_options": {
                "pid": 1,
                "userns_options": {
                  "mode": 2
                }
              },
              "readonly_paths": [
                "/proc/bus",
                "/proc/fs",
                "/proc/irq",
                "/proc/sys",
                "/proc/sysrq-trigger"
              ],
              "seccomp": {
                "profile_type": 1
              }
            }
          },
          "log_path": "main/2.log",
          "metadata": {
            "attempt": 2,
            "name": "main"
          },
          "mounts": [
            {
              "container_path": "/etc/hosts",
              "host_path": "/var/lib/kubelet/pods/u-1/etc-hosts",
              "propagation": 2,
              "selinux_relabel": true
            }
          ]
        }"#]],
    );
}

#[test]
fn a_pod_on_the_hosts_namespaces_keeps_the_hosts_name() {
    let config = sandbox(|spec| {
        spec["hostNetwork"] = json!(true);
        spec["hostPID"] = json!(true);
        spec["hostIPC"] = json!(true);
        spec["containers"][0]["securityContext"] = json!({ "privileged": true });
        spec["containers"][0]["ports"] = json!([{ "containerPort": 80, "hostPort": 80, "protocol": "TCP" }]);
    });
    assert_eq!(config.hostname, "");
    check(
        show((config.port_mappings, config.linux.unwrap().security_context)),
        expect![[r#"
        [
          [
            {
              "container_port": 80,
              "host_port": 80
            }
          ],
          {
            "namespace_options": {
              "ipc": 2,
              "network": 2,
              "pid": 2,
              "userns_options": {
                "mode": 2
              }
            },
            "privileged": true
          }
        ]"#]],
    );
}

#[test]
fn the_pods_security_context_reaches_the_sandbox() {
    let config = sandbox(|spec| {
        spec["securityContext"] = json!({
            "runAsUser": 1000, "runAsGroup": 2000, "fsGroup": 3000, "supplementalGroups": [4000],
            "supplementalGroupsPolicy": "Strict", "sysctls": [{ "name": "net.core.somaxconn", "value": "10" }],
            "seLinuxOptions": { "level": "s0:c1" },
        });
        spec["shareProcessNamespace"] = json!(true);
    });
    let linux = config.linux.unwrap();
    check(
        show((linux.sysctls, linux.security_context)),
        expect![[r#"
        [
          {
            "net.core.somaxconn": "10"
          },
          {
            "namespace_options": {
              "userns_options": {
                "mode": 2
              }
            },
            "run_as_group": {
              "value": 2000
            },
            "run_as_user": {
              "value": 1000
            },
            "selinux_options": {
              "level": "s0:c1"
            },
            "supplemental_groups": [
              3000,
              4000
            ],
            "supplemental_groups_policy": 1
          }
        ]"#]],
    );
}

#[test]
fn annotations_keep_what_the_kubelet_reads_back() {
    let config = container(|spec| {
        let c = &mut spec["containers"][0];
        c["ports"] = json!([{ "name": "http", "containerPort": 80, "hostIP": "1.2.3.4", "hostPort": 8080, "protocol": "TCP" }, { "containerPort": 53 }]);
        c["lifecycle"] = json!({ "preStop": { "exec": { "command": ["sleep", "1"] } } });
    });
    check(
        show(config.annotations),
        expect![[r#"
        {
          "io.kubernetes.container.hash": "42f056bf",
          "io.kubernetes.container.ports": "[{\"name\":\"http\",\"hostPort\":8080,\"containerPort\":80,\"protocol\":\"TCP\",\"hostIP\":\"1.2.3.4\"},{\"containerPort\":53}]",
          "io.kubernetes.container.preStopHandler": "{\"exec\":{\"command\":[\"sleep\",\"1\"]}}",
          "io.kubernetes.container.restartCount": "2",
          "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
          "io.kubernetes.container.terminationMessagePolicy": "File",
          "io.kubernetes.pod.terminationGracePeriod": "30"
        }"#]],
    );
}

#[test]
fn a_containers_own_security_context_wins_over_the_pods() {
    let context = security(|spec| {
        spec["securityContext"] = json!({
            "runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "seccompProfile": { "type": "RuntimeDefault" },
            "appArmorProfile": { "type": "RuntimeDefault" },
        });
        spec["containers"][0]["securityContext"] = json!({
            "runAsUser": 10, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "procMount": "Unmasked",
            "capabilities": { "add": ["NET_ADMIN"], "drop": ["ALL"] },
            "seccompProfile": { "type": "Localhost", "localhostProfile": "p/x.json" },
            "appArmorProfile": { "type": "Localhost", "localhostProfile": "x" },
        });
    });
    check(
        show(context),
        expect![[r#"
        {
          "apparmor": {
            "localhost_ref": "x",
            "profile_type": 2
          },
          "apparmor_profile": "localhost/x",
          "capabilities": {
            "add_capabilities": [
              "NET_ADMIN"
            ],
            "drop_capabilities": [
              "ALL"
            ]
          },
          "namespace_options": {
            "pid": 1,
            "userns_options": {
              "mode": 2
            }
          },
          "no_new_privs": true,
          "readonly_rootfs": true,
          "run_as_group": {
            "value": 2
          },
          "run_as_user": {
            "value": 10
          },
          "seccomp": {
            "localhost_ref": "/var/lib/kubelet/seccomp/p/x.json",
            "profile_type": 2
          },
          "supplemental_groups": [
            3
          ]
        }"#]],
    );
}

#[test]
fn the_images_user_is_used_where_the_pod_names_none() {
    let input = container_input(&pod(|_| {}));
    for (uid, name, expected) in
        [(Some(7), "", (Some(7), "")), (None, "nobody", (None, "nobody")), (None, "", (Some(0), ""))]
    {
        let about = ContainerFacts {
            image_uid: uid,
            image_username: name.into(),
            target_container_id: Some("t".into()),
            ..Default::default()
        };
        let config = container_config(&input, &about, &HostFacts::default()).unwrap();
        let context = config.linux.unwrap().security_context.unwrap();
        assert_eq!((context.run_as_user.map(|u| u.value), context.run_as_username.as_str()), expected);
        let namespaces = context.namespace_options.unwrap();
        assert_eq!((namespaces.pid(), namespaces.target_id.as_str()), (pb::NamespaceMode::Target, "t"));
    }
}

#[test]
fn limits_and_requests_become_cgroup_resources() {
    let limited = |spec: &mut Value| {
        spec["containers"][0]["resources"] = json!({
            "requests": { "cpu": "250m", "memory": "64Mi" },
            "limits": { "cpu": "1500m", "memory": "128Mi", "hugepages-2Mi": "4Mi" },
        });
    };
    let v2 =
        HostFacts { swap_controller: true, huge_page_sizes: vec!["1GB".into(), "2MB".into()], ..HostFacts::default() };
    check(
        resources(limited, &v2),
        expect![[r#"
        {
          "cpu_period": 100000,
          "cpu_quota": 150000,
          "cpu_shares": 256,
          "hugepage_limits": [
            {
              "page_size": "1GB"
            },
            {
              "limit": 4194304,
              "page_size": "2MB"
            }
          ],
          "memory_limit_in_bytes": 134217728,
          "oom_score_adj": 993,
          "unified": {
            "memory.oom.group": "1",
            "memory.swap.max": "0"
          }
        }"#]],
    );
    let v1 = HostFacts { cgroup_v2: false, swap_controller: true, ..HostFacts::default() };
    check(
        resources(limited, &v1),
        expect![[r#"
        {
          "cpu_period": 100000,
          "cpu_quota": 150000,
          "cpu_shares": 256,
          "hugepage_limits": [
            {
              "limit": 4194304,
              "page_size": "2MB"
            }
          ],
          "memory_limit_in_bytes": 134217728,
          "memory_swap_limit_in_bytes": 134217728,
          "oom_score_adj": 993
        }"#]],
    );
}

#[test]
fn under_limited_swap_burstable_containers_get_the_share_that_their_request_has_of_memory() {
    const NODE: i64 = 8 << 30;
    let facts = HostFacts { swap_controller: true, limited_swap: Some(4 << 30), ..HostFacts::default() };
    let swap = |spec: &dyn Fn(&mut Value), facts: &HostFacts| {
        let pod = pod(spec);
        let container = &pod.spec.as_ref().unwrap().containers[0];
        super::resources::container(&pod, container, NODE, facts).unwrap().unified.remove("memory.swap.max").unwrap()
    };
    let with = |requests: Value, limits: Value| {
        move |spec: &mut Value| spec["containers"][0]["resources"] = json!({ "requests": requests, "limits": limits })
    };
    let gibi = json!({ "cpu": "1", "memory": "1Gi" });
    let burstable = with(json!({ "memory": "1Gi" }), json!({}));
    for (spec, expected) in [
        (&burstable as &dyn Fn(&mut Value), "536870912"),
        (&with(json!({ "memory": "1Gi" }), json!({ "memory": "2Gi" })), "536870912"),
        (&with(json!({ "memory": "1Gi" }), json!({ "memory": "1Gi" })), "0"),
        (&with(json!({ "cpu": "1" }), json!({})), "0"),
        (&with(json!({ "memory": "9Gi" }), json!({})), "0"),
        (&with(gibi.clone(), gibi), "0"),
        (&with(json!({}), json!({})), "0"),
    ] {
        assert_eq!(swap(spec, &facts), expected);
    }
    let critical = |spec: &mut Value| {
        burstable(spec);
        spec["priority"] = json!(2_000_000_000);
    };
    assert_eq!(swap(&critical, &facts), "0", "a critical pod");
    assert_eq!(swap(&burstable, &HostFacts { limited_swap: None, ..facts }), "0", "NoSwap");
}

#[test]
fn oom_scores_are_the_kubelets() {
    let with = |resources: Value| pod(|spec| spec["containers"][0]["resources"] = resources);
    let full = json!({ "cpu": "1", "memory": "1Gi" });
    let mut critical = Pod::clone(&with(json!({})));
    let spec = critical.spec.as_mut().unwrap();
    (spec.priority, spec.priority_class_name) = (Some(2_000_001_000), Some("system-node-critical".into()));
    for (pod, expected) in [
        (with(json!({})), 1000),
        (with(json!({ "requests": full, "limits": full })), -997),
        (with(json!({ "requests": { "memory": "4Gi" } })), 500),
        (with(json!({ "requests": { "memory": "1" } })), 999),
        (with(json!({ "requests": { "memory": "8Gi" } })), 3),
        (with(json!({ "requests": { "cpu": "1" } })), 999),
        (Arc::new(critical), -997),
    ] {
        let container = &pod.spec.as_ref().unwrap().containers[0];
        assert_eq!(resources::oom_score_adj(&pod, container, 8 << 30), Ok(expected), "{:?}", container.resources);
    }
}

#[test]
fn pods_are_summed_with_init_containers_sidecars_and_overhead() {
    let c = |cpu: &str| json!({ "name": "c", "resources": { "requests": { "cpu": cpu } } });
    let sidecar =
        |cpu: &str| json!({ "name": "s", "restartPolicy": "Always", "resources": { "requests": { "cpu": cpu } } });
    for (containers, init, overhead, expected) in [
        (vec![c("1"), c("500m")], vec![], None, 1500),
        (vec![c("1")], vec![c("3")], None, 3000),
        (vec![c("1")], vec![sidecar("100m"), c("3")], None, 3100),
        (vec![c("1")], vec![c("3"), sidecar("100m")], Some("10m"), 3010),
        (vec![c("4")], vec![sidecar("100m"), c("3")], None, 4100),
    ] {
        let pod = pod(|spec| {
            spec["containers"] = json!(containers);
            spec["initContainers"] = json!(init);
            if let Some(cpu) = overhead {
                spec["overhead"] = json!({ "cpu": cpu });
            }
        });
        let total = pod_requests(pod.spec.as_ref().unwrap(), true).unwrap();
        assert_eq!(total["cpu"], expected, "{:?}", pod.spec);
    }
}

#[test]
fn a_user_namespace_maps_ids_of_sandbox_containers_and_mounts_alike() {
    let own = pod(|spec| spec["hostUsers"] = json!(false));
    let mut input = container_input(&own);
    input.sandbox.user_namespace = Some(IdBlock { first: 65536, length: 65536 });
    let mapping = vec![pb::IdMapping { host_id: 65536, container_id: 0, length: 65536 }];
    let mode = pb::NamespaceMode::Pod.into();
    let wanted = pb::UserNamespace { mode, uids: mapping.clone(), gids: mapping.clone() };
    let facts = HostFacts::default();
    let sandbox = sandbox_config(&input.sandbox, &facts, Timestamp::UNIX_EPOCH).unwrap();
    let options = sandbox.linux.unwrap().security_context.unwrap().namespace_options.unwrap();
    assert_eq!(options.userns_options, Some(wanted.clone()));
    let container = container_config(&input, &ContainerFacts::default(), &facts).unwrap();
    let options = container.linux.unwrap().security_context.unwrap().namespace_options.unwrap();
    assert_eq!(options.userns_options, Some(wanted));
    assert!(container.mounts.iter().all(|mount| mount.uid_mappings == mapping && mount.gid_mappings == mapping));
}

#[test]
fn paths_within_images_are_sent_apart() {
    let mut input = container_input(&pod(|_| {}));
    let image = |path: &str, sub_path: &str| Mount {
        host_path: Default::default(),
        container_path: path.to_owned(),
        image: Some("img:1".to_owned()),
        image_sub_path: sub_path.to_owned(),
        read_only: true,
        ..input.mounts[0].clone()
    };
    let (whole, part) = (image("/whole", ""), image("/part", "etc/x"));
    input.mounts.extend([whole, part]);
    let config = container_config(&input, &ContainerFacts::default(), &HostFacts::default()).unwrap();
    let paths: Vec<_> = config.mounts.iter().map(|mount| mount.container_path.as_str()).collect();
    assert_eq!(paths, ["/etc/hosts", "/whole"]);
    let parts = parts_of_images(&input);
    assert_eq!(parts.len(), 1);
    let (path, image) = (parts[0].container_path.as_str(), parts[0].image.as_ref().map(|image| image.image.as_str()));
    assert_eq!(
        (path, image, parts[0].image_sub_path.as_str(), parts[0].readonly),
        ("/part", Some("img:1"), "etc/x", true)
    );
}

#[test]
fn what_cannot_be_said_to_the_runtime_is_refused() {
    let refused = pod(|spec| spec["hostUsers"] = json!(false));
    let seen = Timestamp::UNIX_EPOCH;
    assert_eq!(
        sandbox_config(&sandbox_input(&refused), &HostFacts::default(), seen),
        Err(TranslateError::UserNamespace)
    );
    let mut input = container_input(&pod(|_| {}));
    input.name = "other".into();
    let result = container_config(&input, &ContainerFacts::default(), &HostFacts::default());
    assert_eq!(result, Err(TranslateError::NoSuchContainer("other".into())));
}

#[test]
fn ephemeral_containers_are_found() {
    let pod = pod(|spec| {
        spec["ephemeralContainers"] = json!([{ "name": "debug", "image": "busybox:1.36", "tty": true, "stdin": true }]);
    });
    let mut input = container_input(&pod);
    input.name = "debug".into();
    let config = container_config(&input, &ContainerFacts::default(), &HostFacts::default()).unwrap();
    assert_eq!((config.tty, config.stdin, config.log_path.as_str()), (true, true, "debug/2.log"));
}

#[test]
fn who_owns_cpus_has_no_quota_beside_others_who_do() {
    let owned = HostFacts { whole_cpus_are_owned: true, ..HostFacts::default() };
    let guaranteed = |cpu: &str| {
        let amounts = json!({"cpu": cpu, "memory": "1Gi"});
        pod(|spec| {
            for container in spec["containers"].as_array_mut().unwrap() {
                container["resources"] = json!({"requests": amounts, "limits": amounts});
            }
        })
    };
    for (cpu, facts, expected) in [
        ("2", HostFacts::default(), 200_000),
        ("2", HostFacts { cpu_period: 10_000, ..HostFacts::default() }, 20_000),
        ("2", owned.clone(), -1),
        ("1500m", owned.clone(), 150_000),
        ("2", HostFacts { cpu_cfs_quota: false, ..owned }, 0),
    ] {
        let pod = guaranteed(cpu);
        let container = container_config(&container_input(&pod), &ContainerFacts::default(), &facts).unwrap();
        let sandbox = sandbox_config(&sandbox_input(&pod), &facts, Timestamp::UNIX_EPOCH).unwrap();
        let quotas = [container.linux.unwrap().resources, sandbox.linux.unwrap().resources];
        assert!(quotas.into_iter().all(|resources| resources.unwrap().cpu_quota == expected), "{cpu}");
    }
}
