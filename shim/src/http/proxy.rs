//! Streams to agents: one request over mTLS, its answer copied back; upgraded connections are copied byte by byte.

use super::audited::Open;
use super::tls::{ClientFiles, ClientTls};
use super::{Body, Context, body};
use crate::error::ApiError;
use crate::pipeline::{Connection, Stream};
use crate::task::Tasks;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long connecting to an agent may take, TLS included; and its answer's headers.
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(30);
/// Never passed on: they are this hop's, or the caller's credentials.
const DROPPED: [HeaderName; 3] = [header::HOST, header::AUTHORIZATION, header::CONTENT_LENGTH];
/// Of the text of a refusal (upstream's `maxReadLength`).
const REFUSAL_BYTES: usize = 50_000;
const V5: &str = "v5.channel.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// The client's half of an upgrade, taken from its request.
pub(super) struct Upgrade(pub(super) OnUpgrade);

/// What the client sends after its headers: a body, or whatever an upgraded connection carries.
pub(super) struct Sent {
    pub(super) body: Body,
    pub(super) upgrade: Option<Upgrade>,
    /// Kept for as long as an upgraded connection lasts.
    pub(super) open: Option<Arc<Open>>,
}

/// The upgrade that a request asks for, if its transport can.
pub(super) fn upgrade_of<B>(request: &mut Request<B>) -> Option<Upgrade> {
    request.headers().get(header::UPGRADE)?;
    request.extensions_mut().remove::<OnUpgrade>().map(Upgrade)
}

/// Connections to agents.
pub(super) struct Agents {
    tls: ClientTls,
}

impl Agents {
    pub(super) fn new(files: ClientFiles) -> Self {
        Self { tls: ClientTls::new(files) }
    }

    /// Sends the request on and answers with what comes back.
    pub(super) async fn connect(
        &self,
        context: &Context,
        to: Connection,
        sent: Sent,
        tasks: &Tasks,
    ) -> Result<Response<Body>, ApiError> {
        let upgrade = match (to.stream, sent.upgrade) {
            (Stream::Plain, upgrade) => upgrade,
            (Stream::Logs, _) => None,
            (Stream::Upgrade, Some(upgrade)) => Some(upgrade),
            (Stream::Upgrade, None) => return Err(ApiError::BadRequest("Upgrade request required".into())),
        };
        let mut headers = forwarded(&context.headers, upgrade.is_some());
        if !to.websockets {
            refuse_new_protocols(&mut headers)?;
        }
        let unreachable = |error: &dyn std::fmt::Display| {
            ApiError::BadGateway(format!("error dialing backend: {}:{}: {error}", to.host, to.port))
        };
        let address = if to.host.contains(':') {
            format!("[{}]:{}", to.host, to.port)
        } else {
            format!("{}:{}", to.host, to.port)
        };
        let dial = async {
            let stream = TcpStream::connect(&address).await.map_err(|e| unreachable(&e))?;
            let _ = stream.set_nodelay(true);
            if !to.tls {
                return self.open(stream, tasks).await;
            }
            let config = self.tls.current().map_err(|e| unreachable(&e))?;
            let name = ServerName::try_from(to.host.clone()).map_err(|e| unreachable(&e))?;
            let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|e| unreachable(&e))?;
            self.open(stream, tasks).await
        };
        let mut sender = match tokio::time::timeout(CONNECT, dial).await {
            Ok(sender) => sender?,
            Err(_) => return Err(unreachable(&"timed out")),
        };
        let mut request =
            Request::builder().method(context.info.method.as_str()).uri(&to.path).header(header::HOST, &address);
        if let Some(map) = request.headers_mut() {
            map.extend(headers);
        }
        let request = request.body(sent.body).map_err(|e| unreachable(&e))?;
        let answer = match tokio::time::timeout(ANSWER, sender.send_request(request)).await {
            Ok(answer) => answer.map_err(|e| unreachable(&e))?,
            Err(_) => return Err(unreachable(&"no answer in time")),
        };
        match upgrade {
            Some(upgrade) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
                Ok(switch(answer, upgrade, sent.open, tasks))
            }
            _ if to.stream == Stream::Logs && !answer.status().is_success() => Err(refusal(answer).await),
            _ => Ok(pass(answer)),
        }
    }

    async fn open<S>(&self, stream: S, tasks: &Tasks) -> Result<http1::SendRequest<Body>, ApiError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| ApiError::BadGateway(format!("error dialing backend: {e}")))?;
        tasks.spawn("agent-connection", async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to an agent ended");
            }
        });
        Ok(sender)
    }
}

fn forwarded(headers: &HeaderMap, upgrades: bool) -> HeaderMap {
    let mut out = HeaderMap::new();
    for (name, value) in headers {
        let hop = matches!(*name, header::CONNECTION | header::UPGRADE | header::TRANSFER_ENCODING);
        let impersonation = name.as_str().starts_with("impersonate-");
        if DROPPED.contains(name) || impersonation || (hop && !(upgrades && *name != header::TRANSFER_ENCODING)) {
            continue;
        }
        out.append(name.clone(), value.clone());
    }
    out
}

/// A node that has not declared them must not be offered the newest WebSocket protocols: clients then fall back to SPDY.
fn refuse_new_protocols(headers: &mut HeaderMap) -> Result<(), ApiError> {
    let name = header::SEC_WEBSOCKET_PROTOCOL;
    let offered: Vec<String> = headers
        .get_all(&name)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|p| p.trim().to_owned())
        .filter(|p| !p.is_empty())
        .collect();
    if offered.is_empty() {
        return Ok(());
    }
    let kept: Vec<&str> = offered.iter().map(String::as_str).filter(|p| *p != V5 && *p != TUNNEL).collect();
    if kept.is_empty() {
        return Err(ApiError::BadRequest(format!(
            "the node does not speak {} (it does not declare the feature ExtendWebSocketsToKubelet); use SPDY",
            offered.join(", ")
        )));
    }
    headers.insert(name, super::text_header(&kept.join(", ")));
    Ok(())
}

/// Answers 101 and copies bytes both ways; the end of one direction is passed on, the other goes on.
fn switch(
    mut answer: Response<hyper::body::Incoming>,
    client: Upgrade,
    open: Option<Arc<Open>>,
    tasks: &Tasks,
) -> Response<Body> {
    let agent = hyper::upgrade::on(&mut answer);
    tasks.spawn("stream", async move {
        let _open = open;
        let (client, agent) = match tokio::try_join!(client.0, agent) {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%error, "a stream could not be switched"),
        };
        let (mut client, mut agent) = (TokioIo::new(client), TokioIo::new(agent));
        if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut agent).await {
            tracing::debug!(%error, "a stream broke");
        }
    });
    let (parts, _) = answer.into_parts();
    let mut response = Response::new(body::full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = parts.headers;
    response
}

/// An agent's refusal in plain text, as upstream's `GenericHttpResponseChecker` words it.
async fn refusal(answer: Response<hyper::body::Incoming>) -> ApiError {
    let status = answer.status();
    let limited = Limited::new(answer.into_body(), REFUSAL_BYTES).collect();
    let text = match tokio::time::timeout(ANSWER, limited).await {
        Ok(Ok(body)) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Ok(Err(error)) => return ApiError::Internal(error.to_string()),
        Err(_) => return ApiError::Internal("the agent did not say in time why it refused".into()),
    };
    match status {
        StatusCode::BAD_REQUEST => ApiError::BadRequest(text),
        StatusCode::NOT_FOUND => ApiError::UnknownResource,
        _ => ApiError::Internal(text),
    }
}

fn pass(answer: Response<hyper::body::Incoming>) -> Response<Body> {
    let (mut parts, incoming) = answer.into_parts();
    for hop in [header::CONNECTION, header::TRANSFER_ENCODING] {
        parts.headers.remove(hop);
    }
    Response::from_parts(parts, incoming.map_err(|e| body::BodyError(e.to_string())).boxed_unsync())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_protocols_are_kept_from_nodes_that_do_not_declare_them() {
        for (offered, wanted) in [
            ("v5.channel.k8s.io", None),
            ("v5.channel.k8s.io, v4.channel.k8s.io", Some("v4.channel.k8s.io")),
            ("SPDY/3.1+portforward.k8s.io", None),
            ("v4.channel.k8s.io", Some("v4.channel.k8s.io")),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, offered.parse().unwrap());
            let result = refuse_new_protocols(&mut headers);
            assert_eq!(result.is_ok(), wanted.is_some(), "{offered}");
            if let Some(wanted) = wanted {
                assert_eq!(headers[header::SEC_WEBSOCKET_PROTOCOL], wanted);
            }
        }
    }
}
