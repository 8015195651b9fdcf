//! Clients of the node as users have them: kubectl 1.37, and plain curl with the client certificate of the kubeconfig.

use super::{DEADLINE, Node, deps, run_with_input};
use base64::Engine;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// An answer of the API.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Value,
}

impl Node {
    pub fn kubeconfig(&self) -> String {
        self.path("data/admin.kubeconfig")
    }

    /// kubectl with this node's kubeconfig.
    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = self.program(deps().join("kubectl"));
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(args);
        command.env("HOME", &self.dir);
        command
    }

    /// Runs kubectl, whatever it answers.
    pub fn try_kubectl(&self, args: &[&str], input: &[u8]) -> Output {
        run_with_input(&mut self.kubectl_command(args), input)
    }

    /// Runs kubectl, which must succeed, and returns what it printed.
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.kubectl_with_input(args, b"")
    }

    pub fn kubectl_with_input(&self, args: &[&str], input: &[u8]) -> String {
        let output = self.try_kubectl(args, input);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "kubectl {args:?}: {}\n{out}{err}\n{}", output.status, self.log_tail());
        out.into_owned()
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &Value) {
        self.kubectl_with_input(&["apply", "-f", "-"], manifest.to_string().as_bytes());
    }

    /// Waits for pods to be Ready.
    pub fn wait_ready(&self, pods: &[&str]) {
        let mut args = vec!["wait", "--for=condition=Ready", "--timeout=90s"];
        let names: Vec<String> = pods.iter().map(|pod| format!("pod/{pod}")).collect();
        args.extend(names.iter().map(String::as_str));
        self.kubectl(&args);
    }

    /// `status.<path>` of a pod by JSONPath.
    pub fn jsonpath(&self, what: &str, path: &str) -> String {
        self.kubectl(&["get", what, "-o", &format!("jsonpath={path}")])
    }

    fn curl_command(&self, path: &str) -> Command {
        let (certificate, key, ca) = (self.path("curl.crt"), self.path("curl.key"), self.path("curl.ca"));
        if !std::path::Path::new(&ca).exists() {
            let config = std::fs::read_to_string(self.kubeconfig()).expect("the kubeconfig");
            for (field, file) in [
                ("client-certificate-data", &certificate),
                ("client-key-data", &key),
                ("certificate-authority-data", &ca),
            ] {
                let line = config.lines().find(|line| line.trim_start().starts_with(field)).expect("embedded data");
                let data = line.split_once(':').expect("a value").1.trim().trim_matches('"');
                let data = base64::engine::general_purpose::STANDARD.decode(data).expect("base64");
                std::fs::write(file, data).expect("a file");
            }
        }
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--cert", &certificate, "--key", &key, "--cacert", &ca]);
        command.arg(format!("https://127.0.0.1:{}{path}", self.slot.port(0)));
        command
    }

    /// One request by curl; `body` goes as JSON (or as the patch type that `content_type` names).
    pub fn curl(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.curl_as(method, path, body, "application/json")
    }

    pub fn curl_as(&self, method: &str, path: &str, body: Option<&Value>, content_type: &str) -> Answer {
        let mut command = self.curl_command(path);
        command.args(["--request", method, "--write-out", "\n%{http_code}", "--max-time", "60"]);
        if body.is_some() {
            command.args(["--header", &format!("Content-Type: {content_type}"), "--data-binary", "@-"]);
        }
        let output = run_with_input(&mut command, body.map(Value::to_string).unwrap_or_default().as_bytes());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, code) = text.rsplit_once('\n').unwrap_or_else(|| panic!("{method} {path}: {output:?}"));
        let code = code.parse().unwrap_or_else(|e| panic!("{method} {path}: {e}: {output:?}"));
        Answer { code, body: serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())) }
    }

    /// Opens a watch by curl.
    pub fn watch(&self, path: &str) -> Watch {
        let mut command = self.curl_command(path);
        Watch::new(command.arg("--no-buffer"))
    }
}

/// The output of a running command, line by line, with deadlines.
pub struct Watch {
    child: Child,
    lines: Receiver<String>,
}

impl Watch {
    pub fn new(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stdout = child.stdout.take().expect("a pipe");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line; `None` when the command has ended.
    pub fn line(&self, deadline: Duration) -> Option<String> {
        match self.lines.recv_timeout(deadline) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("nothing was said in {deadline:?}"),
        }
    }

    /// The next line, if it comes soon enough and the command has not ended.
    pub fn line_within(&self, wait: Duration) -> Option<String> {
        self.lines.recv_timeout(wait).ok()
    }

    /// Lines until one that contains `text`.
    pub fn until_line(&self, text: &str) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(line) = self.line(DEADLINE) {
            seen.push(line);
            if seen.last().is_some_and(|line| line.contains(text)) {
                return seen;
            }
        }
        panic!("it ended without {text:?}: {seen:#?}");
    }

    /// Watch events until one for which `done` holds; all of them, in order.
    pub fn until(&self, what: &str, mut done: impl FnMut(&Value) -> bool) -> Vec<Value> {
        let end = Instant::now() + DEADLINE;
        let mut seen: Vec<Value> = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = match self.lines.recv_timeout(left) {
                Ok(line) => line,
                Err(error) => panic!("no {what} ({error}) after {seen:#?}"),
            };
            let event: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
            seen.push(event);
            if seen.last().is_some_and(&mut done) {
                return seen;
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads everything that a child prints, with its end.
pub fn read_all(mut from: impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).expect("text");
    text
}
