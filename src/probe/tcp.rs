//! A connection opened and closed.

use super::Verdict;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub async fn run(ip: IpAddr, port: u16, timeout: Duration) -> Verdict {
    let address = SocketAddr::new(ip, port);
    match tokio::time::timeout(timeout, tokio::net::TcpStream::connect(address)).await {
        Ok(Ok(_)) => Verdict::Passed,
        Ok(Err(error)) => Verdict::Failed(dial_error(address, &error)),
        Err(_) => Verdict::Failed(format!("dial tcp {address}: i/o timeout")),
    }
}

/// As Go words it: `dial tcp 10.0.0.1:80: connect: connection refused`.
pub(super) fn dial_error(address: SocketAddr, error: &std::io::Error) -> String {
    let text = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        std::io::ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {address}: connect: {text}")
}
