//! The server's end of a WebSocket that only speaks: each frame of a watch is a message.

use super::audited::Open;
use super::{Body, body, proxy, text_header};
use crate::error::ApiError;
use crate::task::Tasks;
use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

/// How long one message may take to be written, and the connection to be switched: a client that is stuck is let go.
const WRITE: Duration = Duration::from_secs(30);
/// Clients have nothing to say on a watch.
const MESSAGE_BYTES: usize = 4096;

/// What is sent: each piece a message, binary or text, and what is kept until the last has gone.
pub(super) struct Frames<S> {
    pub(super) frames: S,
    pub(super) binary: bool,
    pub(super) open: Option<Arc<Open>>,
}

/// Answers the handshake with 101 and sends `frames` once the connection is switched.
///
/// # Errors
/// 400 for what is no WebSocket handshake.
pub(super) fn serve(
    headers: &HeaderMap,
    upgrade: proxy::Upgrade,
    frames: Frames<impl Stream<Item = Bytes> + Send + 'static>,
    tasks: &Tasks,
) -> Result<Response<Body>, ApiError> {
    let accepted = accept(headers)?;
    // To its end: the frames end when the server stops, and the client is told goodbye.
    tasks.spawn_to_end("watch-websocket", async move {
        match timeout(WRITE, upgrade.0).await {
            Ok(Ok(connection)) => {
                let config = WebSocketConfig::default()
                    .max_message_size(Some(MESSAGE_BYTES))
                    .max_frame_size(Some(MESSAGE_BYTES));
                let socket =
                    WebSocketStream::from_raw_socket(TokioIo::new(connection), Role::Server, Some(config)).await;
                send(socket, frames).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "a watch could not be switched to a WebSocket"),
            Err(_) => tracing::debug!("a watch was not switched to a WebSocket in time"),
        }
    });
    let mut response = Response::new(body::full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().extend(accepted);
    Ok(response)
}

/// The headers of the 101 (RFC 6455, 4.2).
fn accept(headers: &HeaderMap) -> Result<HeaderMap, ApiError> {
    let of = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let refuse = |why: &str| Err(ApiError::BadRequest(why.to_owned()));
    if !of(header::UPGRADE).eq_ignore_ascii_case("websocket") {
        return refuse("a watch can be upgraded to a WebSocket, and to nothing else");
    }
    let key = of(header::SEC_WEBSOCKET_KEY);
    if key.is_empty() || of(header::SEC_WEBSOCKET_VERSION) != "13" {
        return refuse("a WebSocket handshake needs Sec-WebSocket-Key and Sec-WebSocket-Version: 13");
    }
    let mut out = HeaderMap::new();
    out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    out.insert(header::SEC_WEBSOCKET_ACCEPT, text_header(&derive_accept_key(key.as_bytes())));
    // As upstream: the one protocol that is offered is spoken, whatever its name; a bearer token may travel beside it.
    let offered = of(header::SEC_WEBSOCKET_PROTOCOL).split(',').map(str::trim);
    if let Some(protocol) = offered.into_iter().find(|p| !p.is_empty() && !p.starts_with("base64url.bearer.")) {
        out.insert(header::SEC_WEBSOCKET_PROTOCOL, text_header(protocol));
    }
    Ok(out)
}

async fn send<S>(socket: WebSocketStream<S>, frames: Frames<impl Stream<Item = Bytes>>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut to, mut from) = socket.split();
    let Frames { frames, binary, open: _open } = frames;
    let mut frames = pin!(frames);
    loop {
        // Cancel-safe: a stream loses nothing when its `next` is dropped.
        tokio::select! {
            biased;
            said = from.next() => match said {
                // Pings are answered as they are read; their answers leave with the flush below.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Text(_) | Message::Binary(_) | Message::Frame(_))) => {
                    if !matches!(timeout(WRITE, to.flush()).await, Ok(Ok(()))) {
                        return;
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            },
            frame = frames.next() => {
                let Some(frame) = frame else { break };
                let message = if binary {
                    Message::Binary(frame)
                } else {
                    // Every frame that is not binary is JSON.
                    Message::text(String::from_utf8_lossy(&frame).into_owned())
                };
                if !matches!(timeout(WRITE, to.send(message)).await, Ok(Ok(()))) {
                    return;
                }
            }
        }
    }
    // The watch is over; whether the client still hears of it does not matter.
    drop(timeout(WRITE, to.close()).await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_is_accepted_as_the_rfc_has_it() {
        let of = |pairs: &[(HeaderName, &str)]| {
            pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect::<HeaderMap>()
        };
        let good = [
            (header::UPGRADE, "WebSocket"),
            // The RFC's own example.
            (header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
            (header::SEC_WEBSOCKET_VERSION, "13"),
            (header::SEC_WEBSOCKET_PROTOCOL, "base64url.bearer.authorization.k8s.io.eA, binary.k8s.io"),
        ];
        let accepted = accept(&of(&good)).unwrap();
        assert_eq!(accepted[header::SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(accepted[header::SEC_WEBSOCKET_PROTOCOL], "binary.k8s.io");
        for bad in [&good[..1], &good[..2], &[(header::UPGRADE, "SPDY/3.1")]] {
            assert!(accept(&of(bad)).is_err());
        }
    }
}
