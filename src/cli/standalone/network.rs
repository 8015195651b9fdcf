//! The pods' network: an existing CNI configuration, or a bridge of our own; on a machine without network the bridge
//! also gives the node its address.

use super::masquerade;
use anyhow::Context;
use futures::TryStreamExt;
use node_config::data_dir::{DEFAULT_PATH, Layout};
use node_config::files::{self, FileError};
use node_config::net::Cidr;
use node_config::shipped;
use rtnetlink::{Handle, LinkBridge, LinkUnspec};
use sha2::{Digest, Sha256};
use skiff::supervisor::Supervisor;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Where a CNI configuration of the system is.
const SYSTEM_CONF_DIR: &str = "/etc/cni/net.d";
const OUR_FILE: &str = "10-skiff.conflist";
/// IFNAMSIZ of netdevice(7), without its NUL.
const LINK_NAME_MAX: usize = 15;

/// What the flags say.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) layout: &'a Layout,
    /// A containerd that is not ours reads the system's configuration only.
    pub(super) own_containerd: bool,
    pub(super) conf_dir: Option<&'a Path>,
    pub(super) pod_cidr: Cidr,
    pub(super) bridge: Option<&'a str>,
}

/// The network as it is configured now.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) conf_dir: PathBuf,
    bridge: Bridge,
    pods: Cidr,
    /// The configuration is ours, and with it the bridge.
    ours: bool,
}

#[derive(Clone, Debug)]
struct Bridge {
    name: String,
    gateway: Option<IpAddr>,
    prefix: u8,
}

/// Uses the configuration that is there, else writes one.
pub(super) fn prepare(wanted: &Wanted<'_>) -> Result<Network, FileError> {
    let conf_dir = match wanted.conf_dir {
        Some(given) => given.to_owned(),
        None if !wanted.own_containerd || is_configured(Path::new(SYSTEM_CONF_DIR)) => SYSTEM_CONF_DIR.into(),
        None => wanted.layout.containerd().join("net.d"),
    };
    let bridge = Bridge {
        name: wanted.bridge.map_or_else(|| default_bridge(wanted.layout.root()), str::to_owned),
        gateway: wanted.pod_cidr.nth(1),
        prefix: wanted.pod_cidr.prefix(),
    };
    let ours = !is_configured(&conf_dir);
    if ours {
        files::make_dir(&conf_dir, 0o755)?;
        let ipam = wanted.layout.run().join("ipam");
        let text = shipped::cni_conflist("skiff", &bridge.name, &wanted.pod_cidr.to_string(), &ipam);
        files::write_if_changed(&conf_dir.join(OUR_FILE), text, files::PUBLIC)?;
    }
    Ok(Network { conf_dir, bridge, pods: wanted.pod_cidr, ours })
}

/// Whether a directory holds a CNI configuration that is not ours (containerd takes the first by name).
fn is_configured(conf_dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(conf_dir) else { return false };
    let is_conf = |path: &Path| path.extension().is_some_and(|end| end == "conf" || end == "conflist" || end == "json");
    entries.flatten().any(|entry| entry.file_name() != OUR_FILE && is_conf(&entry.path()))
}

/// Each data directory has its own bridge, so that instances do not share one.
fn default_bridge(data_dir: &Path) -> String {
    if data_dir == Path::new(DEFAULT_PATH) {
        return "skiff0".to_owned();
    }
    let digest = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
    format!("skiff{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2])
}

/// A name that the kernel takes for a link.
pub(super) fn bridge_name(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.len() <= LINK_NAME_MAX && text != "." && text != "..";
    if fits && !text.contains(|char: char| char == '/' || char == ':' || char.is_whitespace()) {
        Ok(text.to_owned())
    } else {
        Err(format!("a link's name has 1 to {LINK_NAME_MAX} characters, without spaces, '/' and ':'"))
    }
}

impl Network {
    /// Makes the bridge with the gateway address that CNI will give it, and returns that address.
    pub(super) async fn make_bridge(&self, tasks: &Supervisor) -> anyhow::Result<IpAddr> {
        let Bridge { name, gateway, prefix } = &self.bridge;
        anyhow::ensure!(
            self.ours,
            "this machine has no default route and {} is not skiff's: give the node's address with --node-ip",
            self.conf_dir.display()
        );
        let gateway = gateway.context("--pod-cidr is too small for a gateway and pods")?;
        let netlink = netlink(tasks)?;
        let index = match link_index(&netlink, name).await? {
            Some(index) => index,
            None => {
                netlink.link().add(LinkBridge::new(name).build()).execute().await?;
                link_index(&netlink, name).await?.context("the new bridge is gone")?
            }
        };
        match netlink.address().add(index, gateway, *prefix).execute().await {
            Ok(()) => {}
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EEXIST => {}
            Err(error) => return Err(error.into()),
        }
        netlink.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await?;
        Ok(gateway)
    }

    /// Removes the bridge if it is ours, and the rules of pods that were on it; a failure is only worth a word.
    pub(super) async fn remove(&self, tasks: &Supervisor) {
        if !self.ours {
            return;
        }
        if let Err(error) = masquerade::remove(&self.pods) {
            tracing::warn!(pods = %self.pods, error = format!("{error:#}"), "NAT rules of pods may be left behind");
        }
        let name = &self.bridge.name;
        let remove = async {
            let netlink = netlink(tasks)?;
            if let Some(index) = link_index(&netlink, name).await? {
                netlink.link().del(index).execute().await?;
            }
            anyhow::Ok(())
        };
        if let Err(error) = remove.await {
            tracing::warn!(bridge = %name, error = format!("{error:#}"), "the bridge is left behind");
        }
    }
}

fn netlink(tasks: &Supervisor) -> anyhow::Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection().context("cannot open netlink")?;
    tasks.spawn("netlink", connection);
    Ok(handle)
}

async fn link_index(netlink: &Handle, name: &str) -> anyhow::Result<Option<u32>> {
    match netlink.link().get().match_name(name.to_owned()).execute().try_next().await {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot look for the link {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_configuration_is_used_and_an_empty_directory_filled() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        for (file, ours) in
            [(None, true), (Some(OUR_FILE), true), (Some("05-other.conf"), false), (Some("README"), true)]
        {
            let conf_dir = tempfile::tempdir().unwrap();
            if let Some(file) = file {
                fs::write(conf_dir.path().join(file), "{}").unwrap();
            }
            let network = prepare(&Wanted {
                layout: &layout,
                own_containerd: true,
                conf_dir: Some(conf_dir.path()),
                pod_cidr: "10.99.0.0/24".parse().unwrap(),
                bridge: None,
            })
            .unwrap();
            assert_eq!(network.ours, ours, "{file:?}");
            let text = fs::read_to_string(conf_dir.path().join(OUR_FILE)).unwrap_or_default();
            assert_eq!(text.contains("10.99.0.0/24"), ours, "{file:?}");
        }
    }

    #[test]
    fn instances_have_bridges_of_their_own_that_the_kernel_takes() {
        assert_eq!(default_bridge(Path::new("/var/lib/skiff")), "skiff0");
        let (one, two) = (default_bridge(Path::new("/tmp/one")), default_bridge(Path::new("/tmp/two")));
        assert_ne!(one, two);
        assert!(bridge_name(&one).is_ok());
        for bad in ["", "a b", "a/b", "sixteen-letters!", ".."] {
            assert!(bridge_name(bad).is_err(), "{bad:?}");
        }
    }
}
