//! What this machine has for a node: programs, plugins, ports, addresses. Each lack names its remedy.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Something that a node needs and this machine does not have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Lack {
    #[error("a node must run as root (it makes namespaces, mounts and cgroups): try sudo")]
    Root,
    #[error("{program} is not installed: apt-get install {package}")]
    Program { program: &'static str, package: &'static str },
    #[error(
        "CNI plugin {plugin} is not in {searched}: apt-get install {CNI_PACKAGE}, or name their directory with --cni-bin-dir"
    )]
    Plugin { plugin: &'static str, searched: String },
    #[error("no cgroup hierarchy is mounted at /sys/fs/cgroup")]
    Cgroups,
    #[error("port {port} is taken{owner}{flag}")]
    Port { port: u16, owner: String, flag: String },
    #[error("cannot listen on {address}: {problem}{flag}")]
    Address { address: SocketAddr, problem: String, flag: String },
}

/// A program that a node runs, and the Debian package that carries it.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    package: &'static str,
}

pub(crate) const CONTAINERD: Program = Program { name: "containerd", package: "containerd" };
/// containerd starts pods with runc, its portmap and bridge plugins run iptables.
pub(crate) const RUNC: Program = Program { name: "runc", package: "runc" };
pub(crate) const IPTABLES: Program = Program { name: "iptables", package: "iptables" };
pub(crate) const PROGRAMS: [&Program; 3] = [&CONTAINERD, &RUNC, &IPTABLES];

const CNI_PACKAGE: &str = "containernetworking-plugins";
/// What the configuration in `node-config/cni` runs.
const CNI_PLUGINS: [&str; 4] = ["bridge", "host-local", "portmap", "loopback"];
/// Upstream's place, Debian's, Fedora's.
const CNI_BIN_DIRS: [&str; 3] = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];
/// Where a service's PATH may not reach, though its programs are there.
const SYSTEM_DIRS: [&str; 5] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"];

pub(crate) fn root() -> Result<(), Lack> {
    if nix::unistd::Uid::effective().is_root() { Ok(()) } else { Err(Lack::Root) }
}

/// PATH as our children get it: what we were given, then the system's own directories.
pub(crate) fn search_path() -> Vec<PathBuf> {
    let given = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = std::env::split_paths(&given).collect();
    for directory in SYSTEM_DIRS.map(PathBuf::from) {
        if !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    directories
}

pub(crate) fn find_program(program: &Program) -> Result<PathBuf, Lack> {
    search_path()
        .into_iter()
        .map(|directory| directory.join(program.name))
        .find(|path| is_executable(path))
        .ok_or(Lack::Program { program: program.name, package: program.package })
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The directory that holds every plugin we need.
#[derive(Debug)]
pub(crate) struct CniPlugins {
    pub(crate) dir: PathBuf,
}

impl CniPlugins {
    /// Looks into `given`, else into the usual places.
    pub(crate) fn find(given: Option<&Path>) -> Result<Self, Lack> {
        let candidates: Vec<PathBuf> = match given {
            Some(given) => vec![given.to_owned()],
            None => CNI_BIN_DIRS.map(PathBuf::from).into(),
        };
        let missing = |dir: &Path| CNI_PLUGINS.into_iter().find(|plugin| !is_executable(&dir.join(plugin)));
        let mut lack = CNI_PLUGINS[0];
        for dir in &candidates {
            match missing(dir) {
                None => return Ok(Self { dir: dir.clone() }),
                // The most telling: a directory that has some of them.
                Some(plugin) if dir.is_dir() => lack = plugin,
                Some(_) => {}
            }
        }
        let searched = candidates.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ");
        Err(Lack::Plugin { plugin: lack, searched })
    }
}

/// Which cgroup layout is mounted.
pub(crate) fn cgroups() -> Result<String, Lack> {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        Ok("v2".to_owned())
    } else if has_cgroup_v1() {
        Ok("v1".to_owned())
    } else {
        Err(Lack::Cgroups)
    }
}

/// Whether the controllers are in trees of their own.
pub(crate) fn has_cgroup_v1() -> bool {
    let root = Path::new("/sys/fs/cgroup");
    !root.join("cgroup.controllers").exists() && root.join("memory").exists()
}

/// Whether we could listen there. `flag`: what moves the listener elsewhere. Port 0 is any port.
pub(crate) fn port_is_free(flag: &str, address: IpAddr, port: u16) -> Result<(), Lack> {
    let flag = if flag.is_empty() { String::new() } else { format!("; choose another with --{flag}") };
    let address = SocketAddr::new(address, port);
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let owner = port_owner(port).map_or(String::new(), |(pid, name)| format!(" by {name} (process {pid})"));
            Err(Lack::Port { port, owner, flag })
        }
        Err(error) => Err(Lack::Address { address, problem: error.to_string(), flag }),
    }
}

/// The process that listens on a TCP port, where /proc shows it.
fn port_owner(port: u16) -> Option<(u32, String)> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let sockets: Vec<String> =
        tables.iter().flat_map(|table| listeners(table, port)).map(|inode| format!("socket:[{inode}]")).collect();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = files.flatten().any(|file| {
            fs::read_link(file.path()).is_ok_and(|target| sockets.iter().any(|socket| target.as_os_str() == &**socket))
        });
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().to_owned()));
        }
    }
    None
}

/// Inodes of the sockets that listen on `port`, from the text of /proc/net/tcp (proc(5)).
fn listeners(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
            (local.ends_with(&suffix) && *state == LISTEN).then(|| (*inode).to_owned())
        })
        .collect()
}

/// The address from which this machine would speak to others; `None` without a default route. Sends nothing:
/// connecting a datagram socket only asks the routing table (the targets are documentation addresses).
pub(crate) fn default_address() -> Option<IpAddr> {
    let source = |local: IpAddr, remote: IpAddr| {
        let socket = UdpSocket::bind((local, 0)).ok()?;
        socket.connect((remote, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback() && !address.is_unspecified())
    };
    source(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(203, 0, 113, 1).into())
        .or_else(|| source(Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()))
}

pub(crate) fn hostname() -> String {
    let name =
        nix::unistd::gethostname().map_or_else(|_| "localhost".into(), |name| name.to_string_lossy().into_owned());
    // As the kubelet does: node names are DNS names.
    name.trim().to_lowercase()
}

/// Whether processes here may not lower `oom_score_adj` (no CAP_SYS_RESOURCE, as in many containers): tried, since
/// a capability inside a user namespace does not count.
pub(crate) fn oom_score_is_restricted() -> bool {
    const FILE: &str = "/proc/self/oom_score_adj";
    const LOWEST: i32 = -1000;
    let Some(current) = fs::read_to_string(FILE).ok().and_then(|text| text.trim().parse::<i32>().ok()) else {
        return true;
    };
    if current == LOWEST {
        return false;
    }
    let lowered = fs::write(FILE, (current - 1).to_string()).is_ok();
    if lowered {
        let _ = fs::write(FILE, current.to_string());
    }
    !lowered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_its_debian_package() {
        let lack = find_program(&Program { name: "no-such-containerd", package: "containerd" }).unwrap_err();
        assert_eq!(lack.to_string(), "no-such-containerd is not installed: apt-get install containerd");
    }

    #[test]
    fn missing_plugins_name_directory_package_and_flag() {
        let dir = tempfile::tempdir().unwrap();
        let lack = CniPlugins::find(Some(dir.path())).unwrap_err().to_string();
        assert!(lack.contains("CNI plugin bridge is not in /"), "{lack}");
        assert!(
            lack.ends_with("apt-get install containernetworking-plugins, or name their directory with --cni-bin-dir")
        );
    }

    #[test]
    fn a_taken_port_names_itself_its_owner_and_the_flag() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let lack = port_is_free("secure-port", Ipv4Addr::LOCALHOST.into(), port).unwrap_err().to_string();
        assert!(lack.starts_with(&format!("port {port} is taken by ")), "{lack}");
        assert!(lack.contains(&format!("(process {})", std::process::id())), "{lack}");
        assert!(lack.ends_with("; choose another with --secure-port"), "{lack}");
    }

    #[test]
    fn listening_sockets_are_found_by_port_and_state() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 0100007F:192B 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0
   2: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0";
        assert_eq!(listeners(table, 6443), ["4711"]);
    }
}
