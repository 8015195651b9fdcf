//! `skiff server` on a free port, without controllers: on a memory store, as the interactions were recorded, or on one
//! that outlives it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// What the start may take on a busy two-core machine.
const START_LIMIT: Duration = Duration::from_secs(60);

pub struct Server {
    /// None between two lives.
    child: Option<Child>,
    dir: PathBuf,
    store: &'static str,
    pub port: u16,
    pub url: String,
}

impl Server {
    /// Starts it and waits until it says that it serves; the administrator's credentials are written by then.
    pub fn start() -> Self {
        Self::on("memory")
    }

    /// With a store that is there again after `stop` and `boot`.
    pub fn durable() -> Self {
        Self::on("sqlite")
    }

    fn on(store: &'static str) -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(format!("/tmp/skiff-api-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory of its own");
        let mut server = Self { child: None, dir, store, port: 0, url: String::new() };
        server.boot(free_port());
        server
    }

    /// Starts it on that port.
    pub fn boot(&mut self, port: u16) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_skiff"))
            .args(["server", "--store", self.store, "--controllers=-*", "--bind-address", "127.0.0.1"])
            .args(["--secure-port", &port.to_string(), "--data-dir"])
            .arg(self.path("data"))
            .stdin(Stdio::null())
            .stdout(fs::File::create(self.path("stdout.log")).expect("the log file"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("skiff starts");
        let lines = lines_of(child.stderr.take().expect("piped above"), self.path("server.log"));
        (self.child, self.port, self.url) = (Some(child), port, format!("https://127.0.0.1:{port}"));
        let begun = Instant::now();
        loop {
            match lines.recv_timeout(START_LIMIT.saturating_sub(begun.elapsed())) {
                Ok(line) if line.contains("API server") && line.contains(&self.url) => break,
                Ok(_) => {}
                Err(error) => panic!("the server does not start ({error})\n{}", self.log()),
            }
        }
        write_credentials(&self.path("data/admin.kubeconfig"), &self.dir);
    }

    /// Ends it as a crash would.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("server.log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        drop(fs::remove_dir_all(&self.dir));
    }
}

/// The port is free when asked for; whoever takes it in between makes the server say so.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// What the server says, line by line, and into a file.
fn lines_of(stream: impl Read + Send + 'static, log: PathBuf) -> Receiver<String> {
    // More lines than this wait to be read.
    let (send, receive) = sync_channel(64);
    std::thread::spawn(move || {
        let mut log = fs::File::create(log).expect("the log file");
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            writeln!(log, "{line}").expect("the log file");
            // Nobody listens once it has started.
            drop(send.send(line));
        }
    });
    receive
}

/// The client certificate and key of the kubeconfig as the files that the replayer takes.
fn write_credentials(kubeconfig: &Path, dir: &Path) {
    let text = fs::read_to_string(kubeconfig).expect("the administrator's kubeconfig");
    for (key, file) in [("client-certificate-data:", "client.pem"), ("client-key-data:", "client.key")] {
        let found = text.lines().find_map(|line| line.trim().strip_prefix(key)).expect(key);
        let pem = STANDARD.decode(found.trim().trim_matches('"')).expect("base64");
        fs::write(dir.join(file), pem).expect("the credentials");
    }
}
