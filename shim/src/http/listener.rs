//! The listener: accept, TLS, who the client certificate names, HTTP/1.1 or HTTP/2.

use super::Front;
use super::tls::ServerTls;
use crate::authn::{User, certificate};
use crate::pipeline::Credential;
use crate::task::Tasks;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
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
/// Requests at once on one HTTP/2 connection (upstream's default is 100 for anonymous clients, 250 else).
const MAX_STREAMS: u32 = 250;

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
            Ok((stream, _)) => {
                let acceptor = TlsAcceptor::from(tls.current());
                tasks.spawn_to_end("connection", connection(stream, acceptor, front.clone(), tasks.clone(), permit));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    front: Arc<Front>,
    tasks: Tasks,
    _permit: OwnedSemaphorePermit,
) {
    // Watch events are small and must not wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake timed out"),
    };
    let user: Option<User> =
        stream.get_ref().1.peer_certificates().and_then(|c| c.first()).and_then(|c| certificate::user(c));
    let credential = user.map_or(Credential::None, Credential::User);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (front, credential) = (front.clone(), credential.clone());
        async move { Ok::<_, Infallible>(front.serve(request, credential).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING_EVERY).max_concurrent_streams(MAX_STREAMS);
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
