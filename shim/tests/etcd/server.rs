//! A real etcd for tests: members over TLS with certificates of their own, each killed and started at will.
#![allow(dead_code, reason = "shared by several test crates, none of which uses all of it")]

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use tempfile::TempDir;

/// The certificate files of one CA, and what it signed.
pub struct Files {
    pub ca: PathBuf,
    pub server: (PathBuf, PathBuf),
    pub client: (PathBuf, PathBuf),
}

impl Files {
    /// A new CA in `dir`; its server certificate is for these names, and may have ended yesterday.
    pub fn make(dir: &Path, names: &[&str], expired: bool) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = Issuer::new(ca, ca_key);
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let leaf = |name: &str, names: &[&str], expired: bool| {
            let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            if expired {
                params.not_after = rcgen::date_time_ymd(2020, 1, 1);
            }
            let key = KeyPair::generate().unwrap();
            let pem = params.signed_by(&key, &issuer).unwrap().pem();
            (write(&format!("{name}.crt"), pem), write(&format!("{name}.key"), key.serialize_pem()))
        };
        Self { ca: write("ca.crt", ca_pem), server: leaf("server", names, expired), client: leaf("client", &[], false) }
    }
}

/// How a cluster is run.
#[derive(Clone, Copy)]
pub struct Options {
    pub members: usize,
    /// Without it, tests of semantics spare the disk; tests of what survives a kill have it.
    pub fsync: bool,
    pub expired: bool,
    /// No TLS for clients.
    pub plain: bool,
    pub names: &'static [&'static str],
}

impl Default for Options {
    fn default() -> Self {
        Self { members: 1, fsync: false, expired: false, plain: false, names: &["127.0.0.1", "localhost"] }
    }
}

struct Member {
    child: Option<Child>,
    args: Vec<String>,
}

/// A cluster; it ends with this value, and leaves nothing behind.
pub struct Etcd {
    binary: PathBuf,
    members: Vec<Member>,
    pub urls: Vec<String>,
    pub files: Files,
    dir: TempDir,
}

impl Etcd {
    /// `None`, said aloud, where there is no etcd on this machine.
    pub fn start(options: Options) -> Option<Self> {
        let Some(binary) = binary() else {
            eprintln!("skipped: no etcd on this machine (tests/deps.sh tests installs one)");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let files = Files::make(&dir.path().join("pki"), options.names, options.expired);
        let ports: Vec<(u16, u16)> = (0..options.members).map(|_| (free_port(), free_port())).collect();
        let peer = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> =
            ports.iter().enumerate().map(|(i, (_, port))| format!("m{i}={}", peer(*port))).collect();
        let scheme = if options.plain { "http" } else { "https" };
        let urls: Vec<String> = ports.iter().map(|(port, _)| format!("{scheme}://127.0.0.1:{port}")).collect();
        let member = |i: usize| {
            let mut args = Vec::new();
            let mut flag = |name: &str, value: &str| args.push(format!("--{name}={value}"));
            flag("name", &format!("m{i}"));
            flag("data-dir", &dir.path().join(format!("m{i}")).display().to_string());
            flag("listen-client-urls", &urls[i]);
            flag("advertise-client-urls", &urls[i]);
            flag("listen-peer-urls", &peer(ports[i].1));
            flag("initial-advertise-peer-urls", &peer(ports[i].1));
            flag("initial-cluster", &cluster.join(","));
            flag("initial-cluster-token", &dir.path().display().to_string());
            if !options.plain {
                flag("cert-file", &files.server.0.display().to_string());
                flag("key-file", &files.server.1.display().to_string());
                flag("trusted-ca-file", &files.ca.display().to_string());
                flag("client-cert-auth", "true");
            }
            flag("enable-grpc-gateway", "false");
            flag("log-level", "error");
            if !options.fsync {
                flag("unsafe-no-fsync", "true");
            }
            Member { child: None, args }
        };
        let members = (0..options.members).map(member).collect();
        let mut etcd = Self { binary, members, urls, files, dir };
        (0..options.members).for_each(|i| etcd.launch(i));
        Some(etcd)
    }

    /// Starts a member on the data that it left.
    pub fn launch(&mut self, index: usize) {
        let log = self.dir.path().join(format!("m{index}.log"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let member = &mut self.members[index];
        let child = Command::new(&self.binary)
            .args(&member.args)
            // Its own configuration variables (ETCD_…) are not for this one.
            .env_clear()
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        member.child = Some(child);
    }

    /// `kill -9`.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.members[index].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// A client of one member, past everything that is ours.
    pub async fn client(&self, index: usize) -> etcd_client::Client {
        let read = |path: &Path| std::fs::read(path).unwrap();
        let (certificate, key) = &self.files.client;
        let tls = TlsOptions::new()
            .ca_certificate(Certificate::from_pem(read(&self.files.ca)))
            .identity(Identity::from_pem(read(certificate), read(key)));
        let options = ConnectOptions::new().with_tls(tls);
        etcd_client::Client::connect([&self.urls[index]], Some(options)).await.unwrap()
    }

    /// Where other certificates of a test go.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for i in 0..self.members.len() {
                let log = std::fs::read_to_string(self.dir.path().join(format!("m{i}.log"))).unwrap_or_default();
                eprintln!("--- etcd m{i} ---\n{log}");
            }
        }
        (0..self.members.len()).for_each(|i| self.kill(i));
    }
}

/// The one that `tests/deps.sh tests` unpacked, or the system's.
fn binary() -> Option<PathBuf> {
    // <target>/<profile>/deps/<this test>
    let target = std::env::current_exe().ok()?.ancestors().nth(3)?.to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let unpacked = target.join("deps-system/etcd/usr/bin");
    std::iter::once(unpacked)
        .chain(std::env::split_paths(&path))
        .map(|dir| dir.join("etcd"))
        .find(|file| file.is_file())
}

/// A port that nobody listens on, below those that the kernel gives to outgoing connections: what is free stays free
/// until etcd takes it. Test processes begin at different places.
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 10_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() as u16).wrapping_mul(97) % COUNT;
    let port = || FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
    std::iter::repeat_with(port)
        .take(usize::from(COUNT))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("a free port")
}
