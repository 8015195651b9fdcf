//! Certificates and kubeconfigs of a cluster of our own, for the names that the flags give this machine.

use crate::cli::flags::ServerFlags;
use crate::cli::machine;
use node_config::data_dir::Layout;
use node_config::files::FileError;
use node_config::kubeconfig::{self, Access, KubeconfigError};
use node_config::pki::{self, Names, Pair, Pki, PkiError};
use skiff::clock;
use std::fs;
use std::net::{IpAddr, SocketAddr};

const CLUSTER: &str = "skiff";

/// Names of an API server without node.
pub(crate) fn server_names(server: &ServerFlags, own_address: Option<IpAddr>) -> Names {
    Names {
        node_name: String::new(),
        hostname: machine::hostname(),
        node_ips: own_address.into_iter().collect(),
        api_addresses: server.api_addresses(),
        service_ip: server.service_cluster_ip_range.nth(1),
        cluster_domain: "cluster.local".to_owned(),
        server: true,
        node: false,
    }
}

/// Names of an API server and its node.
pub(crate) fn node_names(server: &ServerFlags, node_name: String, cluster_domain: &str, node_ip: IpAddr) -> Names {
    Names { node_name, cluster_domain: cluster_domain.to_owned(), node: true, ..server_names(server, Some(node_ip)) }
}

/// Makes or renews them; the answer is for the readiness line.
pub(crate) fn ensure(layout: &Layout, names: &Names) -> Result<String, PkiError> {
    let done = pki::ensure(&Pki::new(layout.pki()), names, clock::now().wall.into())?;
    let issued: Vec<String> =
        done.iter().filter_map(|done| done.issued.map(|why| format!("{} ({why})", done.file))).collect();
    Ok(match issued.len() {
        0 => "valid".to_owned(),
        all if all == done.len() => "made".to_owned(),
        _ => format!("renewed: {}", issued.join(", ")),
    })
}

pub(crate) fn write_admin_kubeconfig(layout: &Layout, server: &ServerFlags, port: u16) -> Result<(), KubeconfigError> {
    let pair = Pki::new(layout.pki()).admin();
    kubeconfig::write(&layout.admin_kubeconfig(), CLUSTER, "kubernetes-admin", &access(layout, server, port, &pair)?)
}

pub(crate) fn write_kubelet_kubeconfig(
    layout: &Layout,
    server: &ServerFlags,
    port: u16,
) -> Result<(), KubeconfigError> {
    let pki = Pki::new(layout.pki());
    let access = access(layout, server, port, &pki.kubelet_client())?;
    kubeconfig::write(&pki.kubelet_kubeconfig(), CLUSTER, "kubelet", &access)
}

fn access(layout: &Layout, server: &ServerFlags, port: u16, client: &Pair) -> Result<Access, FileError> {
    let read = |path: &std::path::Path| {
        fs::read(path).map_err(|source| FileError { action: "read", path: path.to_owned(), source })
    };
    Ok(Access {
        server: format!("https://{}", SocketAddr::new(server.local_address(), port)),
        certificate_authority: read(&Pki::new(layout.pki()).ca().cert)?,
        client_certificate: read(&client.cert)?,
        client_key: read(&client.key)?,
    })
}
