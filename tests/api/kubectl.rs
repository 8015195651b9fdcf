//! kubectl 1.36 and 1.37, unmodified: apply on either side, diff, edit, scale, label, annotate, replace, delete, explain,
//! wait and watch.

use crate::server::Server;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// As `make deps` names them: the current one, and that of the API's own version.
const VERSIONS: [&str; 2] = ["kubectl", "1.36/kubectl"];

/// A kubectl that talks to a server of its own, in the namespace `default`.
struct Kubectl {
    server: Server,
    program: PathBuf,
}

impl Kubectl {
    /// One of each version, each with a server of its own.
    fn of_each_version() -> impl Iterator<Item = Kubectl> {
        // <target>/<profile>/skiff; `make deps` puts kubectl beside the profiles.
        let target = Path::new(env!("CARGO_BIN_EXE_skiff")).ancestors().nth(2).expect("a target folder");
        VERSIONS.into_iter().map(move |name| {
            let program = target.join("deps-system").join(name);
            assert!(program.is_file(), "{} is missing: make deps", program.display());
            Kubectl { server: Server::start(), program }
        })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(self.server.path("data/admin.kubeconfig")).args(args);
        command.env("HOME", self.server.path("")).env("KUBE_EDITOR", "sed -i s/quiet/loud/");
        command
    }

    /// Runs it, whatever it answers.
    fn run(&self, args: &[&str], input: &str) -> Output {
        let mut command = self.command(args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        child.stdin.take().expect("piped above").write_all(input.as_bytes()).expect("kubectl reads its input");
        child.wait_with_output().expect("kubectl ends")
    }

    /// What it prints; it must succeed.
    fn ok(&self, args: &[&str], input: &str) -> String {
        let output = self.run(args, input);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {}: {error}\n{}", args.join(" "), self.server.log());
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// What it complains of; it must fail.
    fn refused(&self, args: &[&str], input: &str) -> String {
        let output = self.run(args, input);
        assert!(!output.status.success(), "kubectl {} succeeds", args.join(" "));
        String::from_utf8(output.stderr).expect("UTF-8")
    }

    fn object(&self, what: &str) -> Value {
        let text = self.ok(&["get", what, "-o", "json", "--show-managed-fields"], "");
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    /// `manager operation` of each entry, with its subresource.
    fn managers(&self, what: &str) -> Vec<String> {
        let object = self.object(what);
        let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let line = |e: &Value| format!("{} {} {}", text(e, "manager"), text(e, "operation"), text(e, "subresource"));
        entries.iter().map(|entry| line(entry).trim_end().to_owned()).collect()
    }
}

fn config_map(mood: &str, extra: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: mood\ndata:\n  mood: {mood}\n{extra}")
}

fn deployment(replicas: &str, image: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n{replicas}  selector:\n    matchLabels: {{app: web}}\n  \
         template:\n    metadata:\n      labels: {{app: web}}\n    spec:\n      containers:\n      - name: main\n        image: {image}\n"
    )
}

#[test]
fn apply_on_the_client_side_creates_changes_prunes_and_leaves_alone() {
    for kubectl in Kubectl::of_each_version() {
        let apply = ["apply", "-f", "-"];
        assert_eq!(kubectl.ok(&apply, &config_map("quiet", "  gone: soon\n")), "configmap/mood created\n");
        assert_eq!(kubectl.ok(&apply, &config_map("quiet", "  gone: soon\n")), "configmap/mood unchanged\n");
        let diff = kubectl.run(&["diff", "-f", "-"], &config_map("loud", ""));
        let shown = String::from_utf8_lossy(&diff.stdout);
        assert_eq!(diff.status.code(), Some(1), "kubectl diff says that there is one: {shown}");
        assert!(shown.contains("-  mood: quiet\n+  mood: loud"), "{shown}");
        assert_eq!(kubectl.object("configmap/mood")["data"]["mood"], "quiet", "a diff changes nothing");
        assert_eq!(kubectl.ok(&apply, &config_map("loud", "")), "configmap/mood configured\n");
        assert_eq!(kubectl.object("configmap/mood")["data"], serde_json::json!({"mood": "loud"}));
        assert_eq!(kubectl.managers("configmap/mood"), ["kubectl-client-side-apply Update"]);
    }
}

#[test]
fn apply_on_the_server_side_takes_over_conflicts_and_forces() {
    for kubectl in Kubectl::of_each_version() {
        kubectl.ok(&["apply", "-f", "-"], &config_map("quiet", ""));
        // What client-side apply had set is taken over without a conflict.
        let applied = kubectl.ok(&["apply", "--server-side", "-f", "-"], &config_map("loud", ""));
        assert_eq!(applied, "configmap/mood serverside-applied\n");
        assert_eq!(kubectl.object("configmap/mood")["data"]["mood"], "loud");

        let other = ["apply", "--server-side", "--field-manager", "other", "-f", "-"];
        let refused = kubectl.refused(&other, &config_map("calm", ""));
        assert!(refused.contains("Apply failed with 1 conflict: conflict with \"kubectl\": .data.mood"), "{refused}");
        assert_eq!(kubectl.object("configmap/mood")["data"]["mood"], "loud");
        let forced = ["apply", "--server-side", "--force-conflicts", "--field-manager", "other", "-f", "-"];
        assert_eq!(kubectl.ok(&forced, &config_map("calm", "")), "configmap/mood serverside-applied\n");
        assert_eq!(kubectl.object("configmap/mood")["data"]["mood"], "calm");
        assert!(kubectl.managers("configmap/mood").contains(&"other Apply".to_owned()));

        let diff =
            kubectl.run(&["diff", "--server-side", "--field-manager", "other", "-f", "-"], &config_map("wild", ""));
        assert_eq!(diff.status.code(), Some(1), "{}", String::from_utf8_lossy(&diff.stderr));
        assert!(String::from_utf8_lossy(&diff.stdout).contains("+  mood: wild"));
        let dry = ["apply", "--server-side", "--dry-run=server", "--field-manager", "other", "-f", "-"];
        assert_eq!(kubectl.ok(&dry, &config_map("wild", "")), "configmap/mood serverside-applied (server dry run)\n");
        assert_eq!(kubectl.object("configmap/mood")["data"]["mood"], "calm");
    }
}

#[test]
fn a_scaler_and_an_applier_share_a_deployment() {
    for kubectl in Kubectl::of_each_version() {
        let apply = ["apply", "--server-side", "-f", "-"];
        kubectl.ok(&apply, &deployment("  replicas: 2\n", "registry.example.com/a:1"));
        assert_eq!(kubectl.ok(&["scale", "deployment/web", "--replicas=5"], ""), "deployment.apps/web scaled\n");
        assert_eq!(kubectl.managers("deployment/web"), ["kubectl Apply", "kubectl Update scale"]);
        let refused = kubectl.refused(&apply, &deployment("  replicas: 2\n", "registry.example.com/a:1"));
        assert!(
            refused.contains("conflict with \"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas"),
            "{refused}"
        );
        // Without the replicas the manifest and the scaler do not touch.
        kubectl.ok(&apply, &deployment("", "registry.example.com/a:2"));
        let web = kubectl.object("deployment/web");
        assert_eq!((&web["spec"]["replicas"], &web["metadata"]["generation"]), (&5.into(), &3.into()));
        assert_eq!(web["spec"]["template"]["spec"]["containers"][0]["image"], "registry.example.com/a:2");
        kubectl.ok(&["set", "image", "deployment/web", "main=registry.example.com/a:3"], "");
        assert_eq!(
            kubectl.object("deployment/web")["spec"]["template"]["spec"]["containers"][0]["image"],
            "registry.example.com/a:3"
        );
    }
}

#[test]
fn objects_are_labelled_annotated_edited_patched_and_replaced() {
    for kubectl in Kubectl::of_each_version() {
        kubectl.ok(&["create", "-f", "-"], &config_map("quiet", ""));
        assert_eq!(kubectl.ok(&["label", "configmap/mood", "tier=front"], ""), "configmap/mood labeled\n");
        let refused = kubectl.refused(&["label", "configmap/mood", "tier=back"], "");
        assert!(refused.contains("'tier' already has a value (front), and --overwrite is false"), "{refused}");
        kubectl.ok(&["label", "configmap/mood", "tier=back", "--overwrite"], "");
        kubectl.ok(&["annotate", "configmap/mood", "note=yes"], "");
        kubectl.ok(&["label", "configmap/mood", "tier-"], "");
        assert_eq!(kubectl.ok(&["edit", "configmap/mood"], ""), "configmap/mood edited\n");
        let now = kubectl.object("configmap/mood");
        assert_eq!((&now["data"]["mood"], &now["metadata"]["annotations"]["note"]), (&"loud".into(), &"yes".into()));
        assert!(now["metadata"]["labels"].is_null());

        for (kind, patch) in [
            ("merge", r#"{"data": {"a": "1"}}"#),
            ("json", r#"[{"op": "add", "path": "/data/b", "value": "2"}]"#),
            ("strategic", r#"{"data": {"mood": null}}"#),
        ] {
            kubectl.ok(&["patch", "configmap/mood", "--type", kind, "-p", patch], "");
        }
        assert_eq!(kubectl.object("configmap/mood")["data"], serde_json::json!({"a": "1", "b": "2"}));
        kubectl.ok(&["replace", "-f", "-"], &config_map("calm", ""));
        assert_eq!(kubectl.object("configmap/mood")["data"], serde_json::json!({"mood": "calm"}));
        let stale = config_map("wild", "").replace("  name: mood\n", "  name: mood\n  resourceVersion: \"1\"\n");
        let refused = kubectl.refused(&["replace", "-f", "-"], &stale);
        assert!(
            refused.contains("the object has been modified; please apply your changes to the latest version"),
            "{refused}"
        );
        assert_eq!(
            kubectl.ok(&["delete", "configmap/mood"], ""),
            "configmap \"mood\" deleted from default namespace\n"
        );
    }
}

#[test]
fn kinds_are_explained_and_changes_waited_for_and_watched() {
    for kubectl in Kubectl::of_each_version() {
        let text = kubectl.ok(&["explain", "deployment.spec.strategy.rollingUpdate.maxSurge"], "");
        assert!(text.contains("FIELD: maxSurge <IntOrString>") && text.contains("GROUP:      apps"), "{text}");
        let refused = kubectl.refused(&["explain", "deployment.spec.nothing"], "");
        assert!(refused.contains("field \"nothing\" does not exist"), "{refused}");

        kubectl.ok(&["create", "-f", "-"], &config_map("quiet", ""));
        let mut watch = kubectl.command(&[
            "get",
            "configmap",
            "-w",
            "--output-watch-events",
            "--field-selector",
            "metadata.name=mood",
        ]);
        let mut watch = watch.stdout(Stdio::piped()).spawn().expect("kubectl starts");
        let mut lines = BufReader::new(watch.stdout.take().expect("piped above")).lines();
        let mut line = || lines.next().expect("kubectl goes on watching").expect("UTF-8");
        assert!(line().starts_with("EVENT "), "a header");
        assert!(line().starts_with("ADDED "), "what there is");
        kubectl.ok(&["patch", "configmap/mood", "-p", r#"{"data": {"more": "x"}}"#], "");
        let changed = line();
        assert!(changed.starts_with("MODIFIED ") && changed.contains(" mood "), "{changed}");
        let wait = ["wait", "configmap/mood", "--for", "jsonpath={.data.more}=x", "--timeout", "60s"];
        assert_eq!(kubectl.ok(&wait, ""), "configmap/mood condition met\n");
        kubectl.ok(&["delete", "configmap/mood"], "");
        assert!(line().starts_with("DELETED "), "what went");
        watch.kill().expect("it still watches");
        watch.wait().expect("it ends");

        kubectl.ok(&["apply", "-f", "-"], &deployment("", "registry.example.com/a:1"));
        let status = r#"{"status": {"conditions": [{"type": "Available", "status": "True"}]}}"#;
        kubectl.ok(&["patch", "deployment/web", "--subresource", "status", "--type", "merge", "-p", status], "");
        kubectl.ok(&["wait", "deployment/web", "--for", "condition=Available", "--timeout", "60s"], "");
    }
}
