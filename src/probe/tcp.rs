//! A connection opened and closed.

use super::Verdict;
use std::net::SocketAddr;
use std::time::Duration;

/// `host` is an address or a name.
pub async fn run(host: &str, port: u16, timeout: Duration) -> Verdict {
    let dialled = async {
        let mut found = tokio::net::lookup_host((host, port)).await.ok().into_iter().flatten();
        let address = found.next().ok_or_else(|| format!("dial tcp: lookup {host}: no such host"))?;
        tokio::net::TcpStream::connect(address).await.map_err(|error| dial_error(address, &error))
    };
    match tokio::time::timeout(timeout, dialled).await {
        Ok(Ok(_)) => Verdict::Passed,
        Ok(Err(error)) => Verdict::Failed(error),
        Err(_) => Verdict::Failed(format!("dial tcp {host}:{port}: i/o timeout")),
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
