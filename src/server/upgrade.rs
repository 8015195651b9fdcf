//! Upgraded connections: what a client may ask for, the dial to the runtime's streaming server, the 101.

use super::{Body, Reply, text};
use crate::supervisor::Supervisor;
use bytes::Bytes;
use http::header::{CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// `X-Stream-Protocol-Version`: the SPDY sub-protocol.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// Streams of a process, with half-close of stdin (KEP-4006); kubectl's default.
pub(super) const V5: &str = "v5.channel.k8s.io";
/// SPDY frames inside WebSocket messages (KEP-4006); kubectl port-forward's default.
pub(super) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// The streaming server is on loopback: it answers at once or is not there.
const DIAL_DEADLINE: Duration = Duration::from_secs(30);

/// How the client wants to stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// SPDY, or a WebSocket protocol that the runtime speaks itself: bytes are passed through.
    PassThrough,
    /// WebSocket `v5.channel.k8s.io`: translated to SPDY.
    V5,
    /// SPDY in WebSocket messages: unwrapped.
    Tunnel,
    /// No upgrade at all.
    None,
}

/// Reads the client's offer off its headers.
pub(super) fn offer(headers: &HeaderMap) -> Offer {
    let Some(upgrade) = headers.get(UPGRADE).and_then(|value| value.to_str().ok()) else { return Offer::None };
    if !upgrade.eq_ignore_ascii_case("websocket") {
        return Offer::PassThrough;
    }
    let offered: Vec<&str> = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    if offered.contains(&V5) {
        Offer::V5
    } else if offered.contains(&TUNNEL) {
        Offer::Tunnel
    } else {
        Offer::PassThrough
    }
}

/// Why the runtime's streaming server could not be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("the runtime's streaming address {0:?} is not an http URL with a host")]
    Address(String),
    #[error("error dialing the runtime's streaming server at {0}: {1}")]
    Connect(String, std::io::Error),
    #[error("the runtime's streaming server did not answer within {DIAL_DEADLINE:?}")]
    Deadline,
    #[error("the runtime's streaming server: {0}")]
    Http(#[from] hyper::Error),
    #[error("the runtime's streaming server: {0}")]
    Request(#[from] http::Error),
    /// It answered without upgrading; its answer is the client's.
    #[error("unable to upgrade connection: {}", String::from_utf8_lossy(.1))]
    Refused(StatusCode, Bytes),
}

/// What the runtime's streaming server answered to an upgrade.
pub(super) struct Dialed {
    pub(super) headers: HeaderMap,
    pub(super) io: TokioIo<Upgraded>,
}

/// Asks the runtime's streaming server at `url` for an upgrade with these headers.
pub(super) async fn dial(tasks: &Supervisor, url: &str, headers: &HeaderMap) -> Result<Dialed, DialError> {
    tokio::time::timeout(DIAL_DEADLINE, dial_now(tasks, url, headers)).await.map_err(|_| DialError::Deadline)?
}

async fn dial_now(tasks: &Supervisor, url: &str, headers: &HeaderMap) -> Result<Dialed, DialError> {
    let uri: Uri = url.parse().map_err(|_| DialError::Address(url.to_owned()))?;
    let authority = uri.authority().ok_or_else(|| DialError::Address(url.to_owned()))?;
    let address = authority.as_str();
    let tcp = TcpStream::connect(address).await.map_err(|e| DialError::Connect(address.to_owned(), e))?;
    tcp.set_nodelay(true).map_err(|e| DialError::Connect(address.to_owned(), e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
    let mut request = Request::post(uri.path_and_query().map_or("/", |p| p.as_str())).body(Empty::<Bytes>::new())?;
    if headers.get(UPGRADE).is_some_and(|u| u.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        *request.method_mut() = http::Method::GET;
    }
    for (name, value) in headers.iter().filter(|(name, _)| is_upgrade_header(name)) {
        request.headers_mut().append(name, value.clone());
    }
    request.headers_mut().insert(HOST, HeaderValue::from_str(address).map_err(http::Error::from)?);
    tasks.spawn("streaming dial", async move {
        // An error here is also the pending request's, and is reported there.
        drop(connection.with_upgrades().await);
    });
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = response.status();
        return Err(DialError::Refused(status, response.into_body().collect().await?.to_bytes()));
    }
    let headers = response.headers().clone();
    Ok(Dialed { headers, io: TokioIo::new(hyper::upgrade::on(response).await?) })
}

fn is_upgrade_header(name: &HeaderName) -> bool {
    *name == CONNECTION || *name == UPGRADE || *name == STREAM_PROTOCOL || name.as_str().starts_with("sec-websocket-")
}

/// Headers that ask for SPDY with one sub-protocol.
pub(super) fn spdy_headers(protocol: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    headers
}

/// The runtime's 101, for the client: the same bytes follow in both directions.
pub(super) fn switch_as(dialed: &HeaderMap) -> Reply {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in dialed.iter().filter(|(name, _)| is_upgrade_header(name)) {
        response.headers_mut().append(name, value.clone());
    }
    response
}

/// A 101 to a WebSocket client that offered `protocol`.
pub(super) fn switch_to_websocket(headers: &HeaderMap, protocol: &'static str) -> Reply {
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
        return text(StatusCode::BAD_REQUEST, "a WebSocket upgrade without Sec-WebSocket-Key");
    };
    let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) else {
        return text(StatusCode::BAD_REQUEST, "a malformed Sec-WebSocket-Key");
    };
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let into = response.headers_mut();
    into.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    into.insert(UPGRADE, HeaderValue::from_static("websocket"));
    into.insert(SEC_WEBSOCKET_ACCEPT, accept);
    into.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_protocol_that_both_know_is_taken() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect::<HeaderMap>()
        };
        for (pairs, want) in [
            (&[][..], Offer::None),
            (&[("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v4.channel.k8s.io")][..], Offer::PassThrough),
            (&[("upgrade", "websocket"), ("sec-websocket-protocol", "v4.channel.k8s.io")][..], Offer::PassThrough),
            (
                &[("upgrade", "websocket"), ("sec-websocket-protocol", "v5.channel.k8s.io, v4.channel.k8s.io")][..],
                Offer::V5,
            ),
            (&[("upgrade", "WebSocket"), ("sec-websocket-protocol", "SPDY/3.1+portforward.k8s.io")][..], Offer::Tunnel),
        ] {
            assert_eq!(offer(&headers(pairs)), want, "{pairs:?}");
        }
    }
}
