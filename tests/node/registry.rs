//! Pulls from a real registry that wants a password (Debian's docker-registry, on loopback).

use crate::harness::{Containerd, Node, image, run_with_input, wait_child};
use crate::pods::{IMAGE, sleeper};
use serde_json::{Value, json};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const USER: &str = "puller";
const PASSWORD: &str = "geheim";

/// A registry that holds busybox as `team/app:1` and `cloud/app:1`; gone when dropped.
struct Registry {
    process: Child,
    host: String,
}

impl Registry {
    fn start(node: &Node) -> Self {
        let host = host(node);
        let dir = node.path("registry");
        fs::create_dir_all(&dir).expect("a folder");
        let passwords = Command::new("htpasswd").args(["-Bbn", USER, PASSWORD]).output().expect("htpasswd: make deps");
        fs::write(format!("{dir}/htpasswd"), passwords.stdout).expect("the passwords");
        let config = json!({
            "version": 0.1, "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": format!("{dir}/data")}},
            "http": {"addr": host, "secret": "tests"},
            "auth": {"htpasswd": {"realm": "tests", "path": format!("{dir}/htpasswd")}},
        });
        // JSON is YAML too.
        fs::write(format!("{dir}/config.yml"), config.to_string()).expect("the configuration");
        let process = Command::new("docker-registry")
            .args(["serve", &format!("{dir}/config.yml")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("docker-registry: make deps");
        let registry = Self { process, host };
        let up = ["--retry", "50", "--retry-connrefused", "--retry-delay", "1", "--output", "/dev/null"];
        registry.curl(&up, "/v2/", b"");
        registry
    }

    /// One request with the password, which must succeed.
    fn curl(&self, args: &[&str], path: &str, body: &[u8]) -> String {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--user", &format!("{USER}:{PASSWORD}")]);
        let url = if path.starts_with("http") { path.to_owned() } else { format!("http://{}{path}", self.host) };
        let output = run_with_input(command.args(args).arg(url), body);
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Puts the image of an OCI archive into the registry.
    fn push(&self, node: &Node, repository: &str) {
        let (archive, dir) = (node.path("app.tar"), node.path("app"));
        image::write(archive.as_ref(), IMAGE);
        fs::create_dir_all(&dir).expect("a folder");
        crate::harness::run("tar", &["-xf", &archive, "-C", &dir]);
        let read = |path: &str| fs::read(format!("{dir}/{path}")).expect("a blob");
        let index: Value = serde_json::from_slice(&read("index.json")).expect("the index");
        let digest = |value: &Value| value["digest"].as_str().expect("a digest").to_owned();
        let blob = |digest: &str| read(&format!("blobs/sha256/{}", digest.trim_start_matches("sha256:")));
        let manifest = blob(&digest(&index["manifests"][0]));
        let parts: Value = serde_json::from_slice(&manifest).expect("the manifest");
        let uploads = format!("/v2/{repository}/blobs/uploads/");
        for digest in parts["layers"].as_array().expect("layers").iter().chain([&parts["config"]]).map(digest) {
            let place = self.curl(&["--request", "POST", "--dump-header", "-"], &uploads, b"");
            let place =
                place.lines().find_map(|line| line.strip_prefix("Location: ")).expect("a place").trim().to_owned();
            let put = ["--request", "PUT", "--header", "Content-Type: application/octet-stream", "--data-binary", "@-"];
            self.curl(&put, &format!("{place}&digest={digest}"), &blob(&digest));
        }
        let kind = format!("Content-Type: {}", parts["mediaType"].as_str().expect("a media type"));
        let put = ["--request", "PUT", "--header", &kind, "--data-binary", "@-"];
        self.curl(&put, &format!("/v2/{repository}/manifests/1"), &manifest);
    }
}

fn host(node: &Node) -> String {
    format!("127.0.0.1:{}", node.slot.port(9))
}

/// A credential provider as clouds have them: a program that knows the password for `cloud/`, and its configuration.
fn install_provider(node: &mut Node) {
    let (host, bin_dir, config) = (host(node), node.path("providers"), node.path("providers.yaml"));
    let answer = json!({
        "kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "cacheKeyType": "Registry", "auth": {format!("{host}/cloud"): {"username": USER, "password": PASSWORD}},
    });
    fs::create_dir_all(&bin_dir).expect("a folder");
    let program = format!("{bin_dir}/cloud-login");
    let script = format!("#!/bin/sh\ncat >> {bin_dir}/asked\necho '{answer}'\n");
    fs::write(&program, script).expect("the provider");
    crate::harness::run("chmod", &["+x", &program]);
    let document = format!(
        "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: cloud-login\n  \
         apiVersion: credentialprovider.kubelet.k8s.io/v1\n  defaultCacheDuration: 1h\n  matchImages: [\"{host}/cloud\"]\n"
    );
    fs::write(&config, document).expect("the configuration");
    node.flag(format!("--image-credential-provider-config={config}"));
    node.flag(format!("--image-credential-provider-bin-dir={bin_dir}"));
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = wait_child(&mut self.process, Duration::from_secs(10));
    }
}

#[test]
fn a_private_image_needs_the_pull_secret_of_the_pod_or_of_its_account_or_a_provider_of_the_node() {
    let mut node = Node::prepare(Containerd::Current, &[]);
    install_provider(&mut node);
    node.boot();
    let registry = Registry::start(&node);
    registry.push(&node, "team/app");
    registry.push(&node, "cloud/app");
    let pod = |name: &str, secret: Option<&str>| {
        let mut pod = sleeper(name);
        pod["spec"]["containers"][0]["image"] = json!(format!("{}/team/app:1", registry.host));
        if let Some(secret) = secret {
            pod["spec"]["imagePullSecrets"] = json!([{"name": secret}]);
        }
        pod
    };
    let login = |name: &str, password: &str| {
        let (server, user) = (format!("--docker-server={}", registry.host), format!("--docker-username={USER}"));
        let password = format!("--docker-password={password}");
        node.kubectl(&["create", "secret", "docker-registry", name, &server, &user, &password]);
    };
    login("right", PASSWORD);
    login("wrong", "falsch");

    for (name, secret) in [("nobody", None), ("stranger", Some("wrong"))] {
        node.apply(&pod(name, secret));
        let waits = "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=ImagePullBackOff";
        node.kubectl(&["wait", waits, "--timeout=60s", &format!("pod/{name}")]);
        let why = node.jsonpath(&format!("pod/{name}"), "{.status.containerStatuses[0].state.waiting.message}");
        assert!(
            why.starts_with(&format!("Back-off pulling image \"{}/team/app:1\": ErrImagePull", registry.host)),
            "{why}"
        );
        assert!(why.contains("401 Unauthorized") || why.contains("authorization failed"), "{why}");
    }

    node.apply(&pod("member", Some("right")));
    node.wait_ready(&["member"]);
    let id = node.jsonpath("pod/member", "{.status.containerStatuses[0].imageID}");
    assert!(id.contains("sha256:"), "{id}");

    // An account passes its secrets on to its pods.
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"},
        "imagePullSecrets": [{"name": "right"}]});
    node.apply(&account);
    let mut of_account = pod("of-account", None);
    of_account["spec"]["serviceAccountName"] = json!("robot");
    // Asked for again although the image is there: only who may pull it may run it.
    of_account["spec"]["containers"][0]["imagePullPolicy"] = json!("Always");
    node.apply(&of_account);
    node.wait_ready(&["of-account"]);

    // The node's own login, for what its provider is asked about.
    let mut of_node = pod("of-node", None);
    of_node["spec"]["containers"][0]["image"] = json!(format!("{}/cloud/app:1", registry.host));
    node.apply(&of_node);
    node.wait_ready(&["of-node"]);
    let asked: Value = serde_json::from_str(&fs::read_to_string(node.path("providers/asked")).expect("a request"))
        .expect("one request, for one image");
    assert_eq!(asked["image"], format!("{}/cloud/app", registry.host));

    // The images are here now, and still only for who may pull them: by the same login, or one that is as good.
    login("copy", PASSWORD);
    let not_always = |mut pod: Value, image: &str, policy: &str| {
        pod["spec"]["containers"][0]["image"] = json!(format!("{}/{image}:1", registry.host));
        pod["spec"]["containers"][0]["imagePullPolicy"] = json!(policy);
        pod
    };
    for (name, secret, image, policy) in [
        ("same", Some("right"), "team/app", "IfNotPresent"),
        ("as-good", Some("copy"), "team/app", "Never"),
        ("anyone", None, "cloud/app", "Never"),
    ] {
        node.apply(&not_always(pod(name, secret), image, policy));
    }
    for (name, secret, policy, reason) in [
        ("outsider", None, "IfNotPresent", "ImagePullBackOff"),
        ("impostor", Some("wrong"), "IfNotPresent", "ImagePullBackOff"),
        ("spy", None, "Never", "ErrImageNeverPull"),
    ] {
        node.apply(&not_always(pod(name, secret), "team/app", policy));
        let waits = format!("--for=jsonpath={{.status.containerStatuses[0].state.waiting.reason}}={reason}");
        node.kubectl(&["wait", &waits, "--timeout=60s", &format!("pod/{name}")]);
    }
    node.wait_ready(&["same", "as-good", "anyone"]);
    let records = fs::read_dir(node.path("kubelet/image_manager/pulled")).expect("records of pulls");
    assert!(records.count() > 0);
}
