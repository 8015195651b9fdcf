//! The kubelet's HTTP API: HTTPS on :10250 for the API server, plain `/healthz` on loopback :10248.
//!
//! Reads handles (`PodsHandle`, `Runtime`), never decides about pods. `route` understands the request, `auth` the
//! caller, `count` counts; `pods`, `logs`, `metrics`, `summary`, `node_logs`, `health`, `debug_flags` and `commands`
//! answer; `exec` streams through `upgrade`, `stream` and `spdy`.

mod auth;
mod commands;
mod count;
mod debug_flags;
mod exec;
mod health;
mod logs;
mod metrics;
mod node_logs;
mod pods;
mod route;
mod spdy;
mod stream;
mod summary;
mod upgrade;

pub use auth::TlsError;
pub use debug_flags::{SetVerbosity, set_verbosity, verbosity_is_set_by};

use crate::actors::pods::PodsHandle;
use crate::actors::probes::ProbesHandle;
use crate::clock::Now;
use crate::cluster::Cluster;
use crate::ids::PodUid;
use crate::model::node::Machine;
use crate::runtime::Runtime;
use crate::stats::{Stats, Subject};
use crate::supervisor::Supervisor;
use auth::{Access, Auth, Tls, TlsFiles, TlsTerms, User};
use bytes::Bytes;
use count::Count;
use futures::TryStreamExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use node_config::agent::AgentConfig;
use node_config::kubelet::KubeletConfiguration;
use route::{Route, RouteError};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

/// Connections at once: every `kubectl logs -f`, exec and port-forward of the node holds one to its end.
const MAX_CONNECTIONS: usize = 1024;
/// Leave for one of them. It goes along with requests: what is left of a connection after its upgrade holds it too.
type Permit = Arc<OwnedSemaphorePermit>;
/// A client that has connected sends its TLS hello and its request head within this time.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);

type Error = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, Error>;
type Reply = Response<Body>;

/// What the handlers read.
#[derive(Clone)]
pub struct Deps {
    pub runtime: Arc<dyn Runtime>,
    pub pods: PodsHandle,
    pub probes: ProbesHandle,
    pub tasks: Supervisor,
    pub node_name: Arc<str>,
    pub kubelet: Arc<KubeletConfiguration>,
    /// Asked who callers are and what they may do.
    pub cluster: Arc<dyn Cluster>,
    pub config: Arc<AgentConfig>,
    pub stats: Stats,
    pub machine: Arc<Machine>,
    pub started: Now,
}

impl Deps {
    /// The pods that can be measured: those that the runtime has shown.
    fn subjects(&self) -> Vec<Subject> {
        let pods = self.pods.list().into_iter();
        let subjects = pods.filter_map(|pod| {
            let seen = self.pods.observed(&PodUid::new(pod.metadata.uid.as_deref()?))?;
            Some(Subject { pod, seen })
        });
        subjects.collect()
    }
}

/// Why the node's API could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {0}: {1}; choose another --port or --healthz-port, or stop the process that holds it")]
    Listen(SocketAddr, std::io::Error),
    #[error("TLS of the node's API: {0}")]
    Tls(#[from] TlsError),
}

/// Listens on the ports that the configuration names and serves until the supervisor stops.
pub async fn start(config: &AgentConfig, deps: Deps) -> Result<(), ServeError> {
    if config.healthz_port != 0 {
        let healthz = listen(SocketAddr::new(config.healthz_bind_address, config.healthz_port)).await?;
        let tasks = deps.tasks.clone();
        deps.tasks.spawn("healthz listener", accept(healthz, tasks, serve_healthz));
    }
    if let Ok(port @ 1..) = u16::try_from(deps.kubelet.read_only_port) {
        let listener = listen(SocketAddr::new(config.address, port)).await?;
        let (tasks, deps) = (deps.tasks.clone(), deps.clone());
        let serve = move |stream, permit| serve_read_only(stream, permit, deps.clone());
        tasks.spawn("read-only API listener", accept(listener, tasks.clone(), serve));
    }
    if deps.kubelet.enable_server == Some(false) {
        return Ok(());
    }
    let terms = TlsTerms::new(&config.kubelet.tls_min_version, &config.kubelet.tls_cipher_suites);
    if !terms.unknown().is_empty() {
        tracing::warn!(suites = terms.unknown().join(", "), "tlsCipherSuites that are not secure are not offered");
    }
    let tls = Arc::new(Tls::load(TlsFiles {
        certificate: config.tls_cert_file.clone(),
        key: config.tls_private_key_file.clone(),
        client_ca: config.client_ca_file.clone(),
        awaited: config.server_tls_bootstrap,
        terms,
    })?);
    let auth = Arc::new(Auth::new(&config.kubelet, deps.node_name.clone(), deps.cluster.clone()));
    let listener = listen(SocketAddr::new(config.address, config.port)).await?;
    let tasks = deps.tasks.clone();
    let serve = move |stream, permit| serve_tls(tls.clone(), auth.clone(), stream, permit, deps.clone());
    tasks.spawn("node API listener", accept(listener, tasks.clone(), serve));
    Ok(())
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|e| ServeError::Listen(address, e))
}

/// Accepts connections, as many at once as there are permits; more wait in the kernel's backlog.
async fn accept<F>(listener: TcpListener, tasks: Supervisor, serve: impl Fn(TcpStream, Permit) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => tasks.spawn("node API connection", serve(stream, Arc::new(permit))),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                // Out of file descriptors: they come back as connections end.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn serve_tls(tls: Arc<Tls>, auth: Arc<Auth>, stream: TcpStream, permit: Permit, deps: Deps) {
    let Some(tls) = tls.current() else {
        return tracing::debug!("no serving certificate yet: its certificate signing request awaits approval");
    };
    let acceptor = TlsAcceptor::from(tls);
    // Small frames of a terminal must not wait for more.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let stream = match tokio::time::timeout(HEAD_DEADLINE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let user = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(User::from_certificate);
    let user = Arc::new(user);
    serve_http(stream, permit, move |request| {
        let (deps, user, auth) = (deps.clone(), user.clone(), auth.clone());
        async move {
            let count = Count::begin(&request, Port::ReadWrite);
            let (method, path) = (request.method(), request.uri().path());
            let reply = match auth.decide(user.as_ref().as_ref(), method, path, request.headers()).await {
                Access::Allowed => reply_to(request, &deps, Port::ReadWrite).await,
                Access::Unauthorized => text(StatusCode::UNAUTHORIZED, "Unauthorized"),
                Access::Forbidden(message) => text(StatusCode::FORBIDDEN, message),
                Access::Unknown(message) => text(StatusCode::INTERNAL_SERVER_ERROR, message),
            };
            count.end();
            reply
        }
    })
    .await;
}

/// `readOnlyPort`: no TLS, and nobody is asked who they are.
async fn serve_read_only(stream: TcpStream, permit: Permit, deps: Deps) {
    serve_http(stream, permit, move |request| {
        let deps = deps.clone();
        async move {
            let count = Count::begin(&request, Port::ReadOnly);
            let reply = reply_to(request, &deps, Port::ReadOnly).await;
            count.end();
            reply
        }
    })
    .await;
}

async fn serve_healthz(stream: TcpStream, permit: Permit) {
    serve_http(stream, permit, |request| async move {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/healthz") => health::healthz(None, request.uri().query() == Some("verbose")),
            (&Method::GET, path) => match path.strip_prefix("/healthz/") {
                Some(check) => health::healthz(Some(check), false),
                None => not_found(),
            },
            _ => not_found(),
        }
    })
    .await;
}

async fn serve_http<S, F>(stream: S, permit: Permit, handler: impl Fn(Request<Incoming>) -> F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Reply>,
{
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(permit.clone());
        let reply = handler(request);
        async move { Ok::<_, Infallible>(reply.await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "connection ended");
    }
}

/// Where a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    /// :10250.
    ReadWrite,
    /// `readOnlyPort`.
    ReadOnly,
}

async fn reply_to(request: Request<Incoming>, deps: &Deps, port: Port) -> Reply {
    let (method, path) = (request.method(), request.uri().path());
    if port == Port::ReadOnly || deps.kubelet.enable_debugging_handlers == Some(false) {
        match open_without_debugging(path) {
            Openness::Open => {}
            Openness::Disabled => return text(StatusCode::METHOD_NOT_ALLOWED, "Debug endpoints are disabled.\n"),
            Openness::Absent => return not_found(),
        }
    }
    match route::parse(method, path, request.uri().query().unwrap_or_default()) {
        Ok(Route::Healthz { check, verbose }) => health::healthz(check.as_deref(), verbose),
        Ok(Route::Statusz) => health::statusz(deps),
        Ok(Route::Flagz) => health::flagz(),
        Ok(Route::Verbosity) if deps.kubelet.enable_debug_flags_handler == Some(false) => {
            text(StatusCode::METHOD_NOT_ALLOWED, "flags endpoint is disabled.\n")
        }
        Ok(Route::Verbosity) => debug_flags::put_verbosity(request).await,
        Ok(Route::Summary { only_cpu_and_memory }) => summary::serve(deps, only_cpu_and_memory).await,
        Ok(Route::ResourceMetrics) => metrics::resource(deps).await,
        Ok(Route::CadvisorMetrics) => metrics::cadvisor(deps).await,
        Ok(Route::SliMetrics) => metrics::slis(),
        Ok(Route::NodeLogs { path }) => node_logs::serve(deps, &path).await,
        Ok(Route::NodeLogQuery(query)) => node_logs::query(deps, &query).await,
        Ok(Route::Run { target, command }) => commands::run(deps, &target, &command).await,
        Ok(Route::Checkpoint { target, timeout }) => commands::checkpoint(deps, &target, timeout).await,
        Ok(Route::Pods) => pods::desired(deps),
        Ok(Route::RunningPods) => pods::running(deps).await,
        Ok(Route::Metrics) => metrics::scrape(deps).await,
        Ok(Route::Configz) => json(&serde_json::json!({ "kubeletconfig": &*deps.kubelet })),
        Ok(Route::ProbeMetrics) => metrics::probes(&deps.probes),
        Ok(Route::Logs { target, previous, options }) => logs::serve(deps, &target, previous, options).await,
        Ok(Route::Exec { target, streams, command }) => exec::exec(request, deps, &target, streams, command).await,
        Ok(Route::Attach { target, streams }) => exec::attach(request, deps, &target, streams).await,
        Ok(Route::PortForward { pod, ports }) => exec::port_forward(request, deps, &pod, &ports).await,
        Err(RouteError::NotFound) => not_found(),
        // As where the kubelet is told to show none (`enableProfilingHandler: false`).
        Err(RouteError::NoProfiles) => text(StatusCode::METHOD_NOT_ALLOWED, "profiling endpoint is disabled.\n"),
        Err(RouteError::NotAPut) => text(StatusCode::NOT_ACCEPTABLE, "unsupported http method"),
        Err(RouteError::MethodNotAllowed) => text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed"),
        Err(RouteError::BadRequest(message)) => text(StatusCode::BAD_REQUEST, message),
    }
}

/// What is there where debugging handlers are off (`enableDebuggingHandlers: false`), and on the read-only port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Openness {
    /// `InstallAuthNotRequiredHandlers`: nothing in it runs or changes anything.
    Open,
    /// `InstallDebuggingDisabledHandlers`: says why not.
    Disabled,
    Absent,
}

/// By the first part of the path, which is what chooses the route.
fn open_without_debugging(path: &str) -> Openness {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    match (parts.next().unwrap_or_default(), parts.next()) {
        ("healthz" | "pods" | "stats" | "metrics", _) => Openness::Open,
        ("run" | "exec" | "attach" | "portForward" | "containerLogs" | "runningpods" | "logs", _)
        | ("debug", Some("pprof")) => Openness::Disabled,
        _ => Openness::Absent,
    }
}

/// A plain text answer, as Go's `http.Error` and the kubelet's handlers write them.
fn text(status: StatusCode, message: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(message.into()).map_err(|never| match never {}).boxed_unsync());
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    reply
}

fn not_found() -> Reply {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

fn json(value: &impl serde::Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(bytes) => {
            let mut reply = text(StatusCode::OK, bytes);
            reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            reply
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// A body that is sent as it comes.
fn streamed(chunks: impl futures::Stream<Item = Result<Bytes, Error>> + Send + 'static) -> Reply {
    let body = http_body_util::StreamBody::new(chunks.map_ok(http_body::Frame::data)).boxed_unsync();
    let mut reply = Response::new(body);
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_debugging_nothing_is_open_that_runs_or_shows_more_than_figures_and_pods() {
        for (path, expected) in [
            ("/healthz/ping", Openness::Open),
            ("/pods", Openness::Open),
            ("//pods", Openness::Open),
            ("/stats/summary", Openness::Open),
            ("/metrics", Openness::Open),
            ("/metrics/cadvisor", Openness::Open),
            ("/exec/ns/p/c", Openness::Disabled),
            ("/run/ns/p/c", Openness::Disabled),
            ("/attach/ns/p/c", Openness::Disabled),
            ("/portForward/ns/p", Openness::Disabled),
            ("/containerLogs/ns/p/c", Openness::Disabled),
            ("/runningpods/", Openness::Disabled),
            ("/logs/", Openness::Disabled),
            ("/debug/pprof/heap", Openness::Disabled),
            ("/debug/flags/v", Openness::Absent),
            ("/configz", Openness::Absent),
            ("/checkpoint/ns/p/c", Openness::Absent),
            ("/flagz", Openness::Absent),
            ("/statusz", Openness::Absent),
            ("/", Openness::Absent),
            ("/pods/../exec/ns/p/c", Openness::Open),
        ] {
            assert_eq!(open_without_debugging(path), expected, "{path}");
        }
        // What looks open by its beginning has no route but the open ones.
        let dots = route::parse(&Method::POST, "/pods/../exec/ns/p/c", "command=id&output=1");
        assert_eq!(dots, Err(RouteError::MethodNotAllowed));
        let dots = route::parse(&Method::GET, "/pods/../exec/ns/p/c", "command=id&output=1");
        assert_eq!(dots, Err(RouteError::NotFound));
    }
}
