//! One `skiff server`, without controllers unless its flags name some, on a data directory of its own, and curl as its administrator.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;
use tempfile::TempDir;

/// How long a server may take to start or to stop.
const DEADLINE: Duration = Duration::from_secs(60);
pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A data directory, and the server on it while there is one.
pub struct Server {
    dir: TempDir,
    port: u16,
    flags: Vec<String>,
    child: Option<Child>,
}

/// An answer of the API.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Value,
}

impl Server {
    pub fn start(flags: &[&str]) -> Self {
        // Free now, and hardly taken by another within a second.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut server = Self { dir: TempDir::new().expect("a directory"), port, flags, child: None };
        server.boot();
        server
    }

    /// Starts the server again; returns once it is ready.
    pub fn boot(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skiff"));
        command.args(["server", "--bind-address=127.0.0.1"]).args(&self.flags);
        if !self.flags.iter().any(|flag| flag.starts_with("--controllers")) {
            command.arg("--controllers=-*");
        }
        command.arg(format!("--secure-port={}", self.port)).arg(format!("--data-dir={}", self.data().display()));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("skiff");
        let lines = BufReader::new(child.stderr.take().expect("a pipe"));
        self.child = Some(child);
        let (sender, ready) = channel();
        std::thread::spawn(move || {
            // Read to the end, so that the server never waits for a reader.
            for line in lines.lines().map_while(Result::ok) {
                drop(sender.send(line));
            }
        });
        let mut seen = Vec::new();
        while !seen.last().is_some_and(|line: &String| line.contains("API server")) {
            match ready.recv_timeout(DEADLINE) {
                Ok(line) => seen.push(line),
                Err(error) => panic!("no server ({error}):\n{}", seen.join("\n")),
            }
        }
    }

    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("kill -9");
        child.wait().expect("its end");
    }

    /// SIGTERM, and its end.
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("it runs");
        let killed = Command::new("kill").arg(child.id().to_string()).status();
        assert!(killed.is_ok_and(|status| status.success()));
        assert!(child.wait().expect("its end").success());
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `skiff store …` on this data directory.
    pub fn store(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skiff"));
        command.arg("store").args(arguments).arg(format!("--data-dir={}", self.data().display()));
        command.output().expect("skiff")
    }

    /// As `store`, but it must succeed; what it printed.
    pub fn store_ok(&self, arguments: &[&str]) -> String {
        let output = self.store(arguments);
        assert!(output.status.success(), "skiff store {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// As `store`, but it must fail; its last line.
    pub fn store_refused(&self, arguments: &[&str]) -> String {
        let output = self.store(arguments);
        assert!(!output.status.success(), "skiff store {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stderr).trim_end().lines().last().unwrap_or_default().to_owned()
    }

    pub fn curl_command(&self, path: &str) -> Command {
        let pki = node_config::pki::Pki::new(self.data().join("pki"));
        let (admin, ca) = (pki.admin(), pki.ca().cert);
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "60"]);
        command.arg("--cert").arg(admin.cert).arg("--key").arg(admin.key).arg("--cacert").arg(ca);
        command.arg(format!("https://127.0.0.1:{}{path}", self.port));
        command
    }

    /// One request; `None` when there is no whole answer (the server was killed).
    pub fn try_curl(&self, method: &str, path: &str, body: Option<&Value>) -> Option<Answer> {
        let mut command = self.curl_command(path);
        command.args(["--request", method, "--write-out", "\n%{http_code}"]);
        command.args(["--header", "Content-Type: application/json", "--data-binary", "@-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
        let body = body.map(Value::to_string).unwrap_or_default();
        child.stdin.take()?.write_all(body.as_bytes()).ok()?;
        let output = child.wait_with_output().ok().filter(|output| output.status.success())?;
        let text = String::from_utf8(output.stdout).ok()?;
        let (body, code) = text.rsplit_once('\n')?;
        let body = serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned()));
        Some(Answer { code: code.parse().ok()?, body })
    }

    pub fn curl(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.try_curl(method, path, body).unwrap_or_else(|| panic!("{method} {path}: no answer"))
    }

    /// The first event of a watch that is wanted; `path` has a query.
    pub fn watch(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut command = self.curl_command(&format!("{path}&watch=1&timeoutSeconds=45"));
        let mut child = command.arg("--no-buffer").stdout(Stdio::piped()).spawn().expect("curl");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        let mut events = lines.map(|line| serde_json::from_str::<Value>(&line).expect("JSON"));
        let found = events.find(|event| wanted(event));
        // It may be at its end already.
        drop(child.kill());
        child.wait().expect("its end");
        found.unwrap_or_else(|| panic!("{path}: no such event"))
    }

    pub fn create(&self, name: &str, data: &str) -> Answer {
        self.curl("POST", MAPS, Some(&config_map(name, data)))
    }

    /// Names of the config maps that are there.
    pub fn names(&self) -> Vec<String> {
        let list = self.curl("GET", MAPS, None);
        let items = list.body["items"].as_array().expect("items");
        items.iter().map(|item| item["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

pub fn config_map(name: &str, data: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"text": data}})
}

pub fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).expect("a resourceVersion")
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}
