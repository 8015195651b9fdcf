//! A node that a kubelet kept until now: what it left goes on as it is, and what this agent makes a kubelet would take
//! over. The pods are made over CRI with the traces of kubelet 1.36, written down here and not taken from our own code.

use crate::harness::split::Split;
use crate::harness::{Containerd, Node, run};
use crate::pods::{IMAGE, has_condition, shell};
use hyper_util::rt::TokioIo;
use k8s_cri::v1 as cri;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tonic::transport::{Channel, Endpoint};

/// `kubecontainer.HashContainer` of a container `c` with the test image, as kubelet 1.36 prints it.
const HASH: &str = "c0d793c2";
/// What an older kubelet, or another image, would have left.
const OTHER_HASH: &str = "8e45cbd0";
/// The kubelet had restarted its containers so many times, in the second sandbox.
const RESTARTS: u32 = 3;
const SANDBOX_ATTEMPT: u32 = 1;

/// What of a kubelet is needed to leave pods behind.
struct Kubelet<'a> {
    node: &'a Node,
    tokio: tokio::runtime::Runtime,
    runtime: RuntimeServiceClient<Channel>,
    image: String,
}

impl<'a> Kubelet<'a> {
    fn new(node: &'a Node) -> Self {
        let tokio = tokio::runtime::Runtime::new().expect("a runtime");
        let socket = PathBuf::from(node.containerd_socket());
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = tokio.block_on(async { Endpoint::from_static("http://c").connect_with_connector(connect).await });
        let channel = channel.expect("containerd's socket");
        let image = cri::ImageSpec { image: IMAGE.to_owned(), ..Default::default() };
        let ask = cri::ImageStatusRequest { image: Some(image), verbose: false };
        let status = tokio.block_on(ImageServiceClient::new(channel.clone()).image_status(ask)).expect("the image");
        let image = status.into_inner().image.expect("the test image").id;
        Self { node, tokio, runtime: RuntimeServiceClient::new(channel), image }
    }

    fn pod_dir(&self, pod: &Value) -> PathBuf {
        Path::new(&self.node.path("kubelet/pods")).join(uid(pod))
    }

    fn log_dir(&self, pod: &Value) -> PathBuf {
        Path::new(&self.node.path("logs")).join(format!("default_{}_{}", name(pod), uid(pod)))
    }

    fn cgroup(&self, pod: &Value) -> String {
        format!("{}/kubepods/besteffort/pod{}", self.node.slot.cgroup(), uid(pod))
    }

    fn sandbox_config(&self, pod: &Value, attempt: u32) -> cri::PodSandboxConfig {
        let (net, own) = (cri::NamespaceMode::Pod.into(), cri::NamespaceMode::Container.into());
        let namespaces = cri::NamespaceOption { network: net, ipc: net, pid: own, ..Default::default() };
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name(pod),
                uid: uid(pod),
                namespace: "default".to_owned(),
                attempt,
            }),
            hostname: name(pod),
            log_directory: self.log_dir(pod).display().to_string(),
            dns_config: Some(cri::DnsConfig::default()),
            labels: labels(pod, None),
            annotations: strings(&[
                ("kubernetes.io/config.seen", "2026-11-22T10:11:12.131415161Z"),
                ("kubernetes.io/config.source", "api"),
            ]),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup(pod),
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn container_config(&self, pod: &Value, restarts: u32, hash: &str) -> cri::ContainerConfig {
        let dir = self.pod_dir(pod);
        let token = token_volume(pod);
        let mount = |container: &str, host: PathBuf, readonly: bool| cri::Mount {
            container_path: container.to_owned(),
            host_path: host.display().to_string(),
            readonly,
            ..Default::default()
        };
        let account = "/var/run/secrets/kubernetes.io/serviceaccount";
        let container = &pod["spec"]["containers"][0];
        let argv = container["command"].as_array().expect("a command").iter();
        let namespaces = cri::NamespaceOption { pid: cri::NamespaceMode::Container.into(), ..Default::default() };
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: "c".to_owned(), attempt: restarts }),
            image: Some(cri::ImageSpec {
                image: self.image.clone(),
                user_specified_image: IMAGE.to_owned(),
                ..Default::default()
            }),
            command: argv.map(|word| word.as_str().expect("a word").to_owned()).collect(),
            mounts: vec![
                mount("/scratch", dir.join("volumes/kubernetes.io~empty-dir/scratch"), false),
                mount(account, dir.join("volumes/kubernetes.io~projected").join(token), true),
                mount("/etc/hosts", dir.join("etc-hosts"), false),
                mount("/dev/termination-log", dir.join("containers/c/5f3a9c01"), false),
            ],
            labels: labels(pod, Some("c")),
            annotations: strings(&[
                ("io.kubernetes.container.hash", hash),
                ("io.kubernetes.container.ports", r#"[{"name":"web","containerPort":8080,"protocol":"TCP"}]"#),
                ("io.kubernetes.container.preStopHandler", r#"{"exec":{"command":["touch","/scratch/stopping"]}}"#),
                ("io.kubernetes.container.restartCount", &restarts.to_string()),
                ("io.kubernetes.container.terminationMessagePath", "/dev/termination-log"),
                ("io.kubernetes.container.terminationMessagePolicy", "File"),
                ("io.kubernetes.pod.terminationGracePeriod", "2"),
            ]),
            log_path: format!("c/{restarts}.log"),
            linux: Some(cri::LinuxContainerConfig {
                security_context: Some(cri::LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// The directories, volumes and containers of a pod, and the status that a kubelet shows of it.
    fn leave(&mut self, pod: &Value, hash: &str) {
        self.lay_out(pod);
        let config = self.sandbox_config(pod, SANDBOX_ATTEMPT);
        let container = self.container_config(pod, RESTARTS, hash);
        let runtime = &mut self.runtime;
        let made = self.tokio.block_on(async {
            let run = cri::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
            let sandbox = runtime.run_pod_sandbox(run).await?.into_inner().pod_sandbox_id;
            let create = cri::CreateContainerRequest {
                pod_sandbox_id: sandbox.clone(),
                config: Some(container),
                sandbox_config: Some(config),
            };
            let container_id = runtime.create_container(create).await?.into_inner().container_id;
            let start = cri::StartContainerRequest { container_id: container_id.clone() };
            runtime.start_container(start).await?;
            Ok::<_, tonic::Status>((sandbox, container_id))
        });
        let (sandbox, container) = made.expect("a pod of the kubelet");
        let status = self.status(&sandbox, &container);
        let path = format!("/api/v1/namespaces/default/pods/{}/status", name(pod));
        let answer = self.node.curl_as("PATCH", &path, Some(&status), "application/strategic-merge-patch+json");
        assert_eq!(answer.code, 200, "{answer:?}");
    }

    fn lay_out(&self, pod: &Value) {
        let dir = self.pod_dir(pod);
        let token = token_volume(pod);
        let scratch = dir.join("volumes/kubernetes.io~empty-dir/scratch");
        let projected = dir.join("volumes/kubernetes.io~projected").join(&token);
        let markers = dir.join("plugins/kubernetes.io~empty-dir");
        let wrapped = markers.join(format!("wrapped_{token}"));
        for folder in [&scratch, &projected, &markers.join("scratch"), &wrapped, &dir.join("containers/c")] {
            fs::create_dir_all(folder).expect("a folder of the pod");
        }
        fs::create_dir_all(self.log_dir(pod).join("c")).expect("a folder for logs");
        for file in ["etc-hosts", "containers/c/5f3a9c01"] {
            fs::write(dir.join(file), "").expect("a file of the pod");
        }
        fs::write(scratch.join("ready"), "of the kubelet\n").expect("a file in the volume");
        // The token's volume: memory, and a set of files behind `..data`.
        run("mount", &["-t", "tmpfs", "tmpfs", &projected.display().to_string()]);
        let set = "..2026_11_22_10_11_12.1234567890";
        fs::create_dir(projected.join(set)).expect("the set");
        symlink(set, projected.join("..data")).expect("a link");
        for file in ["ca.crt", "namespace", "token"] {
            fs::write(projected.join(set).join(file), "of the kubelet").expect("a file of the set");
            symlink(format!("..data/{file}"), projected.join(file)).expect("a link");
        }
        for marker in [markers.join("scratch/ready"), wrapped.join("ready")] {
            fs::write(marker, "").expect("a marker");
        }
    }

    fn status(&mut self, sandbox: &str, container: &str) -> Value {
        let (sandbox, container) = (self.sandbox_status(sandbox), self.container_status(container));
        let ip = sandbox.network.expect("its network").ip;
        let at = |nanoseconds| jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)).expect("a time");
        let seconds = |nanoseconds| at(nanoseconds).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let since = seconds(container.started_at);
        let condition = |kind: &str| {
            json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": since,
                "observedGeneration": 1})
        };
        let conditions =
            ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
        json!({"status": {
            "phase": "Running", "qosClass": "BestEffort", "observedGeneration": 1, "conditions": conditions,
            "hostIP": self.node.slot.node_ip(), "hostIPs": [{"ip": self.node.slot.node_ip()}],
            "podIP": ip, "podIPs": [{"ip": ip}], "startTime": seconds(sandbox.created_at),
            "containerStatuses": [{
                "name": "c", "image": IMAGE, "imageID": container.image_ref, "ready": true, "started": true,
                "containerID": format!("containerd://{}", container.id), "restartCount": RESTARTS,
                "state": {"running": {"startedAt": since}}, "lastState": {}, "resources": {},
            }],
        }})
    }

    fn sandbox_status(&mut self, id: &str) -> cri::PodSandboxStatus {
        let ask = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = self.tokio.block_on(self.runtime.pod_sandbox_status(ask)).expect("a status");
        answer.into_inner().status.expect("a status")
    }

    fn container_status(&mut self, id: &str) -> cri::ContainerStatus {
        let ask = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.tokio.block_on(self.runtime.container_status(ask)).expect("a status");
        answer.into_inner().status.expect("a status")
    }

    /// Sandboxes and containers of a pod that run.
    fn held(&mut self, pod: &Value) -> (Vec<String>, Vec<String>) {
        let label_selector = strings(&[("io.kubernetes.pod.uid", &uid(pod))]);
        let sandboxes = cri::PodSandboxFilter {
            label_selector: label_selector.clone(),
            state: Some(cri::PodSandboxStateValue { state: cri::PodSandboxState::SandboxReady.into() }),
            ..Default::default()
        };
        let sandboxes = cri::ListPodSandboxRequest { filter: Some(sandboxes) };
        let containers = cri::ContainerFilter {
            label_selector,
            state: Some(cri::ContainerStateValue { state: cri::ContainerState::ContainerRunning.into() }),
            ..Default::default()
        };
        let containers = cri::ListContainersRequest { filter: Some(containers) };
        let runtime = &mut self.runtime;
        self.tokio
            .block_on(async {
                let sandboxes = runtime.list_pod_sandbox(sandboxes).await?.into_inner().items;
                let containers = runtime.list_containers(containers).await?.into_inner().containers;
                let sandboxes = sandboxes.into_iter().map(|sandbox| sandbox.id).collect();
                Ok::<_, tonic::Status>((sandboxes, containers.into_iter().map(|container| container.id).collect()))
            })
            .expect("what the runtime holds")
    }

    /// What a kubelet would read of a pod of ours is what it would have written.
    fn would_adopt(&mut self, pod: &Value) {
        let (sandboxes, containers) = self.held(pod);
        let (wanted, made) = (self.sandbox_config(pod, 0), self.sandbox_status(&sandboxes[0]));
        assert_eq!(made.metadata, wanted.metadata);
        assert_eq!(made.labels, wanted.labels);
        let mut annotations = made.annotations;
        let seen = annotations.insert("kubernetes.io/config.seen".to_owned(), "then".to_owned()).expect("when it was");
        assert!(seen.parse::<jiff::Timestamp>().is_ok(), "{seen}");
        let mut expected = wanted.annotations;
        expected.insert("kubernetes.io/config.seen".to_owned(), "then".to_owned());
        assert_eq!(annotations, expected);

        let (wanted, made) = (self.container_config(pod, 0, HASH), self.container_status(&containers[0]));
        assert_eq!(made.metadata, wanted.metadata);
        assert_eq!(made.labels, wanted.labels);
        assert_eq!(sorted(&made.annotations), sorted(&wanted.annotations));
        assert_eq!(made.log_path, self.log_dir(pod).join("c/0.log").display().to_string());
        assert_eq!(mounts(&made.mounts), mounts(&wanted.mounts));
        // The cgroups that the kubelet measures and removes.
        for controller in ["memory", "cpu"] {
            let cgroup = format!("/sys/fs/cgroup/{controller}{}/{}", self.cgroup(pod), made.id);
            let unified = format!("/sys/fs/cgroup{}/{}", self.cgroup(pod), made.id);
            assert!(Path::new(&cgroup).is_dir() || Path::new(&unified).is_dir(), "{cgroup}");
        }
    }
}

/// Host path, or of the file that has a random name its folder, and whether it is read-only, by path in the container.
fn mounts(mounts: &[cri::Mount]) -> BTreeMap<&str, (&str, bool)> {
    fn folder(path: &str) -> &str {
        path.rsplit_once('/').map_or(path, |(folder, _)| folder)
    }
    mounts
        .iter()
        .map(|mount| {
            let random = mount.container_path.ends_with("termination-log");
            let host = if random { folder(&mount.host_path) } else { mount.host_path.as_str() };
            (mount.container_path.as_str(), (host, mount.readonly))
        })
        .collect()
}

fn sorted(map: &HashMap<String, String>) -> BTreeMap<&str, &str> {
    map.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

fn strings(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A sandbox also has the pod's own labels; a container has its name.
fn labels(pod: &Value, container: Option<&str>) -> HashMap<String, String> {
    let mut labels = strings(&[
        ("io.kubernetes.pod.name", &name(pod)),
        ("io.kubernetes.pod.namespace", "default"),
        ("io.kubernetes.pod.uid", &uid(pod)),
    ]);
    let (key, value) = container.map_or(("app", "web"), |name| ("io.kubernetes.container.name", name));
    labels.insert(key.to_owned(), value.to_owned());
    labels
}

fn name(pod: &Value) -> String {
    pod["metadata"]["name"].as_str().expect("a name").to_owned()
}

fn uid(pod: &Value) -> String {
    pod["metadata"]["uid"].as_str().expect("a uid").to_owned()
}

/// The volume that admission gave to the pod.
fn token_volume(pod: &Value) -> String {
    let volumes = pod["spec"]["volumes"].as_array().expect("volumes").iter();
    let mut names = volumes.filter_map(|volume| volume["name"].as_str());
    names.find(|name| name.starts_with("kube-api-access-")).expect("a token").to_owned()
}

/// A pod of this node; made with what the API gave it.
fn create(node: &Node, name: &str) -> Value {
    let script =
        "trap 'echo bye >/dev/termination-log; exit 0' TERM; echo up; while true; do sleep 3600 & wait $!; done";
    let mut pod = shell(name, script);
    pod["metadata"]["labels"] = json!({"app": "web"});
    pod["spec"]["nodeName"] = json!(node.slot.node_name());
    pod["spec"]["volumes"] = json!([{"name": "scratch", "emptyDir": {}}]);
    let container = &mut pod["spec"]["containers"][0];
    container["volumeMounts"] = json!([{"name": "scratch", "mountPath": "/scratch"}]);
    container["ports"] = json!([{"name": "web", "containerPort": 8080}]);
    container["lifecycle"] = json!({"preStop": {"exec": {"command": ["touch", "/scratch/stopping"]}}});
    let probe = json!({"periodSeconds": 1, "failureThreshold": 1,
        "exec": {"command": ["sh", "-c", "test -e /scratch/ready || test ! -e /scratch/stop"]}});
    container["readinessProbe"] = probe;
    let answer = node.curl("POST", "/api/v1/namespaces/default/pods", Some(&pod));
    assert_eq!(answer.code, 201, "{answer:?}");
    answer.body
}

fn of(node: &Node, name: &str) -> Value {
    node.curl("GET", &format!("/api/v1/namespaces/default/pods/{name}"), None).body
}

/// What nobody may see change while the agents change.
fn what_is_shown(pod: &Value) -> Value {
    let status = &pod["status"];
    let container = &status["containerStatuses"][0];
    let conditions = status["conditions"].as_array().expect("conditions").iter();
    let conditions: BTreeMap<&str, Value> = conditions
        .map(|c| (c["type"].as_str().expect("a type"), json!([c["status"], c["lastTransitionTime"]])))
        .collect();
    let of_container = ["containerID", "image", "imageID", "lastState", "ready", "restartCount", "started", "state"];
    let container: Vec<&Value> = of_container.iter().map(|field| &container[field]).collect();
    json!([conditions, container, status["phase"], status["podIP"], status["startTime"], status["qosClass"]])
}

#[test]
fn pods_of_a_kubelet_go_on_as_they_are_and_ours_are_such_as_it_would_adopt() {
    let mut node = Node::start(Containerd::Current);
    let mut parts = Split::of(&mut node);
    parts.kill_agent();
    let (adopted, changed) = (create(&node, "adopted"), create(&node, "changed"));
    let mut kubelet = Kubelet::new(&node);
    kubelet.leave(&adopted, HASH);
    kubelet.leave(&changed, OTHER_HASH);
    let before = of(&node, "adopted");
    let version = before["metadata"]["resourceVersion"].as_str().expect("a version");
    let held = kubelet.held(&adopted);

    parts.start_agent(&node);
    let watch = node.watch(&format!("/api/v1/namespaces/default/pods?watch=1&resourceVersion={version}"));
    let ours = create(&node, "ours");
    let seen =
        watch.until("Ready ours", |event| event["object"]["metadata"]["name"] == "ours" && ready(&event["object"]));
    for event in seen.iter().filter(|event| event["object"]["metadata"]["name"] == "adopted") {
        assert_eq!(what_is_shown(&event["object"]), what_is_shown(&before), "every version that a watcher saw");
    }
    assert_eq!(what_is_shown(&of(&node, "adopted")), what_is_shown(&before));
    assert_eq!(kubelet.held(&adopted), held);
    kubelet.would_adopt(&ours);

    goes_on(&node, &kubelet.pod_dir(&adopted));
    is_restarted(&node);
    ends(&node, &mut kubelet, &adopted);
    drop(kubelet);
    node.kubectl(&["delete", "pod", "--all", "--timeout=60s"]);
    parts.join(&mut node);
}

fn ready(pod: &Value) -> bool {
    has_condition(pod, "Ready")
}

/// Exec, logs, probes and volumes of a pod that was taken over.
fn goes_on(node: &Node, dir: &Path) {
    assert_eq!(node.kubectl(&["exec", "adopted", "--", "cat", "/scratch/ready"]), "of the kubelet\n");
    assert_eq!(node.kubectl(&["logs", "adopted"]), "up\n");
    // Its mount is the kubelet's; what is behind it is kept fresh by us.
    let token = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let ours = format!("until grep -q ^ey {token}; do sleep 1; done");
    node.kubectl(&["exec", "adopted", "--", "timeout", "60", "sh", "-c", &ours]);
    assert!(dir.join("volumes/kubernetes.io~empty-dir/scratch/ready").exists());
    node.kubectl(&["exec", "adopted", "--", "sh", "-c", "touch /scratch/stop; rm /scratch/ready"]);
    node.kubectl(&["wait", "--for=condition=Ready=false", "--timeout=60s", "pod/adopted"]);
    node.kubectl(&["exec", "adopted", "--", "touch", "/scratch/ready"]);
    node.wait_ready(&["adopted"]);
}

/// A container that is not what the pod says is made anew, and says why.
fn is_restarted(node: &Node) {
    let count = format!("--for=jsonpath={{.status.containerStatuses[0].restartCount}}={}", RESTARTS + 1);
    node.kubectl(&["wait", &count, "--timeout=60s", "pod/changed"]);
    node.wait_ready(&["changed"]);
    let pod = of(node, "changed");
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["message"]), (&json!(0), &json!("bye\n")), "{pod:#}");
    let selector = "--field-selector=involvedObject.name=changed,reason=Killing";
    let messages = node.kubectl(&["get", "events", selector, "-o", "jsonpath={.items[*].message}"]);
    assert_eq!(messages, "Container c definition changed, will be restarted");
}

/// Nothing is left of a pod that a kubelet began.
fn ends(node: &Node, kubelet: &mut Kubelet<'_>, pod: &Value) {
    node.kubectl(&["delete", "pod", "adopted", "--timeout=60s"]);
    let uid = uid(pod);
    assert!(!kubelet.pod_dir(pod).exists(), "its folder");
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    assert!(!table.contains(&uid), "{table}");
    assert_eq!(kubelet.held(pod), (Vec::new(), Vec::new()));
    assert!(!Path::new("/sys/fs/cgroup/memory").join(&kubelet.cgroup(pod)[1..]).exists(), "its cgroup");
}
