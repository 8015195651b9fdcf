//! The listener: accept, TLS, who the client certificate names, HTTP/1.1 or HTTP/2.

use super::Front;
use super::audited::Peer;
use super::tls::ServerTls;
use crate::authn::{User, certificate};
use crate::pipeline::Credential;
use crate::task::Tasks;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use socket2::TcpKeepalive;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

/// Connections at once: more wait in the kernel's backlog. Each costs some tens of KiB.
const MAX_CONNECTIONS: usize = 4096;
/// How long a client may take to finish its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take until the next request's headers are there. hyper counts the idle time of a kept
/// connection in, so this is kube-apiserver's `IdleTimeout`: clients that do not retry rely on it.
const HEADERS: Duration = Duration::from_secs(90);
/// How long after a failed accept (out of file descriptors) the next is tried.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// HTTP/2 pings: finds dead peers of idle watches.
const PING_EVERY: Duration = Duration::from_secs(30);
/// Bytes that the headers of one HTTP/2 request may take: tokens and impersonation make long ones.
const HEADER_BYTES: u32 = 128 * 1024;
/// An idle TCP connection is probed this often (Go's default), and given up when nothing is acknowledged for so long: a
/// client that vanished, or never reads, must not hold what is being sent to it.
const PROBE_EVERY: Duration = Duration::from_secs(15);
const UNACKNOWLEDGED: Duration = Duration::from_secs(90);

/// Serves until the task group stops; connections then end once their requests have.
pub async fn run(listener: TcpListener, tls: ServerTls, front: Arc<Front>, tasks: Tasks) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let stopping = tasks.stopping();
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        // Both arms are cancel-safe: a connection is either accepted or left in the backlog.
        let accepted = tokio::select! {
            () = stopping.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let acceptor = TlsAcceptor::from(tls.current());
                let accepted = Accepted { stream, peer: Peer(peer.ip()), acceptor, _permit: permit };
                tasks.spawn_to_end("connection", connection(accepted, front.clone(), tasks.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A socket that refuses these options is served all the same.
fn notice_dead_peers(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    drop(socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(PROBE_EVERY).with_interval(PROBE_EVERY)));
    drop(socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED)));
}

/// A connection before its handshake.
struct Accepted {
    stream: TcpStream,
    peer: Peer,
    acceptor: TlsAcceptor,
    _permit: OwnedSemaphorePermit,
}

async fn connection(accepted: Accepted, front: Arc<Front>, tasks: Tasks) {
    let Accepted { stream, peer, acceptor, _permit } = accepted;
    notice_dead_peers(&stream);
    // Watch events are small and must not wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            front.metrics.handshake_failed();
            return tracing::debug!(%error, "TLS handshake failed");
        }
        Err(_) => {
            front.metrics.handshake_failed();
            return tracing::debug!("TLS handshake timed out");
        }
    };
    let user: Option<User> =
        stream.get_ref().1.peer_certificates().and_then(|c| c.first()).and_then(|c| certificate::user(c));
    let credential = user.map_or(Credential::None, Credential::User);
    let max_streams = front.limits.max_streams_per_connection;
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let (front, credential) = (front.clone(), credential.clone());
        async move { Ok::<_, Infallible>(front.serve(request, credential).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .max_concurrent_streams(max_streams)
        .max_header_list_size(HEADER_BYTES);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let stopping = tasks.stopping();
    // The connection is polled in place in both arms: nothing is lost when the other is taken.
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = stopping.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}
