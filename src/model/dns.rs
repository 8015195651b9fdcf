//! DNS settings: a resolv.conf, and what the node offers for its pods.

use std::net::IpAddr;

/// A resolv.conf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// What the node offers for its pods' DNS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeDns {
    pub cluster_servers: Vec<IpAddr>,
    pub cluster_domain: String,
    /// The host's own.
    pub host: Dns,
}
