//! Streams between a client and the runtime: raw bytes where both speak the same, else a translation of what kubectl
//! speaks by default to what containerd speaks: WebSocket v5 ↔ SPDY v4, and SPDY inside
//! WebSocket messages ↔ raw SPDY. No data is parsed beyond its frames.

use super::route::Streams;
use super::spdy::{Frame, SpdyReader, SpdyWriter, StreamId};
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

/// Channel numbers of `v5.channel.k8s.io` messages (their first byte).
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// `[255, n]`: the sender will send no more on channel n.
const CLOSE: u8 = 255;

/// Answers to pings that wait for the writer; the peer sends one ping at a time.
const PONGS: usize = 4;
/// How long a client has to answer our close.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(5);
/// Of a `Status` that ends a stream.
const MAX_OUTCOME_BYTES: usize = 64 * 1024;
/// Of one read from a raw connection.
const CHUNK_BYTES: usize = 32 * 1024;

type Io = TokioIo<Upgraded>;
type Ws = WebSocketStream<Io>;

/// kubectl sends at most 32 KiB a message; a little more than that is still fine, a flood is not.
fn websocket_limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(CHUNK_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(1 << 20))
        .max_frame_size(Some(1 << 20))
}

/// What is to be done with an upgraded connection of the runtime.
pub(super) enum Copy {
    /// Both sides speak the same: bytes.
    Raw(Io),
    Translate(Io, Streams),
    Tunnel(Io),
}

impl Copy {
    /// Streams until one side has ended.
    pub(super) async fn run(self, client: OnUpgrade) -> io::Result<()> {
        match self {
            Self::Raw(mut runtime) => {
                let mut client = TokioIo::new(client.await.map_err(io::Error::other)?);
                tokio::io::copy_bidirectional(&mut client, &mut runtime).await.map(drop)
            }
            Self::Translate(runtime, streams) => translate(client, runtime, streams).await,
            Self::Tunnel(runtime) => tunnel(client, runtime).await,
        }
    }
}

async fn accept(client: OnUpgrade) -> io::Result<Ws> {
    let io = TokioIo::new(client.await.map_err(io::Error::other)?);
    Ok(WebSocketStream::from_raw_socket(io, Role::Server, Some(websocket_limits())).await)
}

/// The SPDY streams of one process.
#[derive(Clone, Copy)]
struct Opened {
    error: StreamId,
    stdin: Option<StreamId>,
    stdout: Option<StreamId>,
    stderr: Option<StreamId>,
    resize: Option<StreamId>,
}

impl Opened {
    fn channel(&self, stream: StreamId) -> Option<u8> {
        match Some(stream) {
            s if s == self.stdout => Some(STDOUT),
            s if s == self.stderr => Some(STDERR),
            _ => None,
        }
    }
}

/// Runs one exec or attach: a v5 client, and the runtime's SPDY v4 server that has just been upgraded.
async fn translate(client: OnUpgrade, runtime: Io, streams: Streams) -> io::Result<()> {
    let ws = accept(client).await?;
    let (read, write) = tokio::io::split(runtime);
    let mut writer = SpdyWriter::new(write);
    let opened = open(&mut writer, streams).await?;
    let (mut to_client, mut from_client) = ws.split();
    // The client is told that the connection stands before any output comes, as upstream's server does.
    let first = if streams.stdout {
        STDOUT
    } else if streams.stderr {
        STDERR
    } else {
        ERROR
    };
    send(&mut to_client, message(first, &[])).await?;
    let (pongs, pings) = mpsc::channel(PONGS);
    // Each direction waits only for itself: a process that never reads its stdin must not hold up its output. Whichever
    // ends first ends the stream: the runtime when the process has ended, the client when it has gone.
    tokio::select! {
        out = runtime_to_client(SpdyReader::new(read), &mut to_client, opened, pongs) => out?,
        input = client_to_runtime(&mut from_client, writer, opened, pings) => return input,
    }
    goodbye(to_client, from_client).await
}

/// Ends a connection in order: kubectl takes anything but a normal closure for a failure.
async fn goodbye(mut to_client: SplitSink<Ws, Message>, mut from_client: SplitStream<Ws>) -> io::Result<()> {
    let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let farewell = async {
        to_client.send(Message::Close(Some(close))).await.map_err(io::Error::other)?;
        // Until the client's own close, or its end.
        while let Some(Ok(_)) = from_client.next().await {}
        let mut ws = from_client.reunite(to_client).map_err(io::Error::other)?;
        ws.get_mut().shutdown().await
    };
    match tokio::time::timeout(GOODBYE_DEADLINE, farewell).await {
        Ok(ended) => ended,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Opens the streams in the order in which client-go's executor does.
async fn open(writer: &mut SpdyWriter<WriteHalf<Io>>, streams: Streams) -> io::Result<Opened> {
    let error = writer.open(&[("streamtype", "error")]).await?;
    let mut optional = async |wanted: bool, kind: &str| {
        Ok::<_, io::Error>(if wanted { Some(writer.open(&[("streamtype", kind)]).await?) } else { None })
    };
    Ok(Opened {
        error,
        stdin: optional(streams.stdin, "stdin").await?,
        stdout: optional(streams.stdout, "stdout").await?,
        stderr: optional(streams.stderr, "stderr").await?,
        resize: optional(streams.tty, "resize").await?,
    })
}

async fn runtime_to_client(
    mut runtime: SpdyReader<ReadHalf<Io>>,
    client: &mut SplitSink<Ws, Message>,
    opened: Opened,
    pongs: mpsc::Sender<u32>,
) -> io::Result<()> {
    let mut outcome = BytesMut::new();
    let mut open: Vec<StreamId> = [Some(opened.error), opened.stdout, opened.stderr].into_iter().flatten().collect();
    while let Some(frame) = runtime.next().await? {
        match frame {
            Frame::Data { stream, data, fin } if stream == opened.error => {
                // One `Status`, which may come in pieces; whatever it is, it is passed on.
                outcome.put_slice(&data);
                if let Some(retold) = retold(&outcome) {
                    outcome.clear();
                    send(client, message(ERROR, &retold)).await?;
                } else if (fin || outcome.len() > MAX_OUTCOME_BYTES) && !outcome.is_empty() {
                    send(client, message(ERROR, &outcome.split())).await?;
                }
                if fin {
                    open.retain(|id| *id != stream);
                }
            }
            Frame::Data { stream, data, fin } => {
                if let (Some(channel), false) = (opened.channel(stream), data.is_empty()) {
                    send(client, message(channel, &data)).await?;
                }
                if fin {
                    open.retain(|id| *id != stream);
                }
            }
            Frame::Reset(stream) => open.retain(|id| *id != stream),
            // A full queue means that the writer is stuck behind the process: the peer will ping again.
            Frame::Ping(id) => drop(pongs.try_send(id)),
            Frame::GoAway | Frame::Other => {}
        }
        if open.is_empty() {
            break;
        }
    }
    Ok(())
}

/// A whole `Status` as upstream's translator tells it to a v5 client: a failure other than an exit code is one more
/// internal error around what the runtime said. `None`: not whole yet.
fn retold(outcome: &[u8]) -> Option<Vec<u8>> {
    let status: Value = serde_json::from_slice(outcome).ok()?;
    if status["status"] != "Failure" || status["reason"] == "NonZeroExitCode" {
        return Some(outcome.to_vec());
    }
    let said = status["message"].as_str().unwrap_or_default();
    let told = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "InternalError",
        "code": 500, "message": format!("Internal error occurred: {said}"), "details": {"causes": [{"message": said}]},
    });
    Some(told.to_string().into_bytes())
}

async fn client_to_runtime(
    client: &mut SplitStream<Ws>,
    mut runtime: SpdyWriter<WriteHalf<Io>>,
    opened: Opened,
    mut pings: mpsc::Receiver<u32>,
) -> io::Result<()> {
    loop {
        // Both arms are cancel-safe: a receive, and the next of a stream that keeps partial input itself.
        let message = tokio::select! {
            Some(id) = pings.recv() => { runtime.pong(id).await?; continue }
            message = client.next() => message,
        };
        match message {
            None | Some(Ok(Message::Close(_))) => return Ok(()),
            Some(Err(WsError::ConnectionClosed | WsError::AlreadyClosed)) => return Ok(()),
            Some(Err(error)) => return Err(io::Error::other(error)),
            Some(Ok(Message::Binary(bytes))) => input(&mut runtime, opened, &bytes).await?,
            Some(Ok(Message::Text(text))) => input(&mut runtime, opened, text.as_bytes()).await?,
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
        }
    }
}

/// One message of the client; channels that were not asked for are ignored, as upstream ignores them.
async fn input(runtime: &mut SpdyWriter<WriteHalf<Io>>, opened: Opened, bytes: &[u8]) -> io::Result<()> {
    let Some((channel, data)) = bytes.split_first() else { return Ok(()) };
    match (*channel, opened.stdin, opened.resize) {
        (STDIN, Some(stdin), _) if !data.is_empty() => runtime.data(stdin, data, false).await,
        (CLOSE, Some(stdin), _) if data == [STDIN] => runtime.data(stdin, &[], true).await,
        (RESIZE, _, Some(resize)) => runtime.data(resize, data, false).await,
        _ => Ok(()),
    }
}

/// Runs one tunnelled port-forward: WebSocket messages carry the SPDY connection's bytes.
async fn tunnel(client: OnUpgrade, runtime: Io) -> io::Result<()> {
    let ws = accept(client).await?;
    let (mut to_client, mut from_client) = ws.split();
    let (mut read, mut write) = tokio::io::split(runtime);
    let out = async {
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
        loop {
            buffer.reserve(CHUNK_BYTES);
            if read.read_buf(&mut buffer).await? == 0 {
                return Ok::<_, io::Error>(());
            }
            send(&mut to_client, buffer.split().freeze()).await?;
        }
    };
    let input = async {
        while let Some(message) = from_client.next().await {
            match message {
                Ok(Message::Binary(bytes)) => write.write_all(&bytes).await?,
                Ok(Message::Text(text)) => write.write_all(text.as_bytes()).await?,
                Ok(Message::Close(_)) | Err(WsError::ConnectionClosed | WsError::AlreadyClosed) => break,
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(())
    };
    tokio::select! {
        ended = out => ended?,
        ended = input => return ended,
    }
    goodbye(to_client, from_client).await
}

fn message(channel: u8, data: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + data.len());
    bytes.put_u8(channel);
    bytes.put_slice(data);
    bytes.freeze()
}

async fn send(client: &mut SplitSink<Ws, Message>, bytes: Bytes) -> io::Result<()> {
    client.send(Message::Binary(bytes)).await.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_retold_as_an_internal_error_and_an_exit_code_as_it_is() {
        let exited = r#"{"status":"Failure","reason":"NonZeroExitCode","message":"m"}"#;
        let failed = r#"{"status":"Failure","reason":"InternalError","message":"Internal error occurred: no shell"}"#;
        for (outcome, message) in [
            (r#"{"status":"Success"}"#, None),
            (exited, Some("m")),
            (failed, Some("Internal error occurred: Internal error occurred: no shell")),
        ] {
            let told: Value = serde_json::from_slice(&retold(outcome.as_bytes()).unwrap()).unwrap();
            assert_eq!(told["message"].as_str(), message, "{outcome}");
        }
        assert_eq!(retold(br#"{"status":"Succ"#), None);
    }
}
