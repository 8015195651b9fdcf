//! HTTP in and out: the only room that knows hyper, encodings and status codes.

mod audited;
pub mod body;
pub mod discovery;
mod encode;
mod health;
mod limits;
pub mod listener;
pub mod metrics;
mod negotiate;
mod openapi;
mod proxy;
mod status;
mod table;
pub mod tls;
mod watch_stream;
mod websocket;

pub use body::Body;

use crate::audit::{Auditor, Record};
use crate::clock;
use crate::config::Limits;
use crate::error::ApiError;
use crate::pipeline::{self, Answer, Api, Call, Credential, Outcome};
use crate::registry::Served;
use crate::request::info::RequestInfo;
use crate::request::query::Query;
use crate::request::{ApiRequest, Discovery};
use crate::task::Tasks;
use audited::Open;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use limits::InFlight;
use negotiate::{Encoding, Wanted};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a request body.
pub const MAX_BODY: usize = 3 << 20;

/// The HTTP face of the API: one a server, shared by listener and in-process clients.
pub struct Front {
    pub api: Arc<Api>,
    pub metrics: metrics::Metrics,
    in_flight: InFlight,
    pub auditor: Option<Arc<Auditor>>,
    limits: Limits,
    agents: proxy::Agents,
    tasks: Tasks,
}

impl Front {
    pub fn new(
        api: Arc<Api>,
        kubelet: tls::ClientFiles,
        limits: &Limits,
        auditor: Option<Arc<Auditor>>,
        tasks: Tasks,
    ) -> Arc<Self> {
        Arc::new(Self {
            metrics: metrics::Metrics::new(&api, auditor.as_ref()),
            auditor,
            limits: *limits,
            in_flight: InFlight::new(limits),
            agents: proxy::Agents::new(kubelet),
            tasks,
            api,
        })
    }

    /// Answers one request; never fails: errors are answers too.
    pub async fn serve<B>(self: &Arc<Self>, mut request: Request<B>, credential: Credential) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: std::fmt::Display + Send,
    {
        let started = clock::now().mono;
        // Taken before the parts are split: the connection of an upgrade travels in the extensions.
        let upgrade = proxy::upgrade_of(&mut request);
        let (parts, body) = request.into_parts();
        let query = Query::parse(parts.uri.query().unwrap_or(""));
        let info = RequestInfo::parse(parts.method.as_str(), parts.uri.path(), &query);
        let id = text_of(&parts.headers, "audit-id").map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
        let audit = self.auditor.as_ref();
        let audit = audit.map(|auditor| Record::new(auditor.clone(), audited::origin(&parts, &id), info.clone()));
        let served = self.api.catalog.served();
        let context = Context { info: info.clone(), query: query.clone(), headers: parts.headers.clone(), served };
        let label = metrics::Request::of(&context, query.get("dryRun").is_some());
        let open = is_long_running(&info).then(|| Open::new(audit.clone(), self.metrics.long_running(&label)));
        let mut sent = Sent { body: Arc::new(Mutex::new(Some(body::pass(body)))), upgrade, open };
        let read = read_body(sent.body.clone(), &context, audit.clone());
        let call = Call { info, query, headers: parts.headers, credential, audit: audit.clone(), body: Box::pin(read) };
        let result = self.answer(&context, call, &mut sent).await;
        let failure = result.as_ref().err().filter(|_| audit.is_some()).map(status::body_of);
        let mut response = match result {
            Ok(response) => response,
            Err(error) => status::response(&context, &error),
        };
        let code = response.status().as_u16();
        match (sent.open, &audit) {
            (Some(open), _) if failure.is_none() => {
                let (parts, body) = response.into_parts();
                response = Response::from_parts(parts, open.begin(code, body).await);
            }
            (_, Some(record)) => record.completed(code, failure).await,
            (_, None) => {}
        }
        if let Some(text) = deprecation(&context)
            .filter(|_| !matches!(response.status(), StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED))
        {
            response.headers_mut().append(header::WARNING, warning(text));
        }
        let headers = response.headers_mut();
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
        headers.insert("audit-id", text_header(&id));
        self.metrics.observe(&label, &response, clock::now().mono - started);
        response
    }

    /// Within the server's limits: watches and streams have none of these.
    async fn answer(
        self: &Arc<Self>,
        context: &Context,
        call: Call,
        sent: &mut Sent,
    ) -> Result<Response<Body>, ApiError> {
        if is_long_running(&call.info) {
            return self.process(context, call, sent).await;
        }
        let _place = self.in_flight.enter(&call.info, &call.credential)?;
        let _counted = self.metrics.in_flight(limits::Queue::of(&call.info.method));
        let time = self.in_flight.time(&call.query)?;
        limits::within(time, self.process(context, call, sent)).await
    }

    async fn process(
        self: &Arc<Self>,
        context: &Context,
        call: Call,
        sent: &mut Sent,
    ) -> Result<Response<Body>, ApiError> {
        let audit = call.audit.clone();
        match pipeline::run(&self.api, call).await {
            Ok(outcome) => {
                if let Some(record) = audit {
                    audited::answered(&record, &outcome.answer);
                }
                self.encode(context, outcome, sent).await
            }
            // What the client cannot read is refused before the resource is looked at; but nobody learns of encodings
            // what they may not ask.
            Err(error @ (ApiError::Unauthorized | ApiError::Forbidden { .. } | ApiError::ForbiddenPath(_))) => {
                Err(error)
            }
            Err(error) if context.info.is_resource => {
                Err(Wanted::parse(&context.accept(), &context.query, context.info.verb == "watch")
                    .err()
                    .unwrap_or(error))
            }
            Err(error) => Err(error),
        }
    }

    async fn encode(
        self: &Arc<Self>,
        context: &Context,
        outcome: Outcome,
        sent: &mut Sent,
    ) -> Result<Response<Body>, ApiError> {
        let mut response = match outcome.answer {
            Answer::Object(object) => encode::object(context, &object)?,
            Answer::Collection(collection) => encode::collection(context, collection)?,
            Answer::Document { code: 204, .. } => plain(StatusCode::NO_CONTENT, "text/plain", Bytes::new()),
            Answer::Document { code, value } => encode::document(context, code, &value)?,
            Answer::Watch(watch) => {
                let upgrade = sent.upgrade.take().map(|upgrade| (upgrade, sent.open.clone()));
                watch_stream::response(context, watch, upgrade, &self.tasks)?
            }
            Answer::Connect(connection) => {
                let (body, upgrade) = (take(&sent.body), sent.upgrade.take());
                let request = proxy::Sent { body, upgrade, open: sent.open.clone() };
                self.agents.connect(context, connection, request, &self.tasks).await?
            }
            Answer::Meta(request) => self.meta(context, request).await?,
        };
        for text in outcome.warnings {
            response.headers_mut().append(header::WARNING, warning(&text));
        }
        Ok(response)
    }

    /// Requests that are not about stored objects.
    async fn meta(&self, context: &Context, request: ApiRequest) -> Result<Response<Body>, ApiError> {
        match request {
            ApiRequest::Discovery(Discovery::Root) => encode::document(context, 200, &discovery::root(&context.served)),
            ApiRequest::Discovery(document) => discovery::response(context, &document),
            ApiRequest::Swagger => openapi::swagger(context, &self.api).await,
            ApiRequest::OpenApi(path) => openapi::response(context, &self.api, path.as_deref()).await,
            ApiRequest::Health(health) => Ok(health::response(&self.api, &health).await),
            ApiRequest::Version => encode::document(context, 200, &discovery::version()),
            ApiRequest::Metrics => Ok(self.metrics.response()),
            ApiRequest::OpenIdConfiguration => {
                let tokens = self.api.tokens.as_ref().ok_or(ApiError::UnknownPath)?;
                encode::document(context, 200, &discovery::openid(&tokens.issuer))
            }
            ApiRequest::Jwks => {
                let accepts = context.accept();
                if !accepts.is_empty() && !accepts.contains("application/jwk-set+json") && !accepts.contains("*/*") {
                    return Err(negotiate::not_acceptable("application/jwk-set+json"));
                }
                let keys = self.api.tokens.as_ref().and_then(|t| t.jwks()).ok_or(ApiError::UnknownPath)?;
                Ok(plain(StatusCode::OK, "application/jwk-set+json", keys.to_string().into()))
            }
            ApiRequest::Resource(..) => Err(ApiError::UnknownResource),
        }
    }
}

/// What of a request is not read yet: whoever needs the body takes it, the pipeline or the proxy.
struct Sent {
    body: Arc<Mutex<Option<Body>>>,
    upgrade: Option<proxy::Upgrade>,
    /// Of a watch or stream: whoever goes on with the connection keeps it.
    open: Option<Arc<Open>>,
}

/// Reads the body, and tells the audit log of it.
fn read_body(
    body: Arc<Mutex<Option<Body>>>,
    context: &Context,
    audit: Option<Arc<Record>>,
) -> impl Future<Output = Result<Bytes, ApiError>> + Send + 'static {
    let audit = audit.map(|record| {
        let content_type = text_of(&context.headers, "content-type").unwrap_or("").to_owned();
        (record, context.info.clone(), content_type)
    });
    async move {
        let bytes = body::read(take(&body), MAX_BODY).await?;
        if let Some((record, info, content_type)) = audit {
            record.sent(&bytes, |body| audited::sent(&info, &content_type, body));
        }
        Ok(bytes)
    }
}

fn text_of<'a>(headers: &'a http::HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn take(body: &Mutex<Option<Body>>) -> Body {
    body.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_else(|| body::full(Bytes::new()))
}

/// Watches and streams last as long as their clients like.
fn is_long_running(info: &RequestInfo) -> bool {
    info.verb == "watch" || !info.rest.is_empty() || metrics::is_stream(info)
}

/// The warning that every request on a deprecated resource gets, also a refused one.
fn deprecation(context: &Context) -> Option<&'static str> {
    let info = &context.info;
    context.served.find(&info.group, &info.version, &info.resource)?.deprecation
}

fn warning(text: &str) -> HeaderValue {
    let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
    text_header(&format!("299 - \"{quoted}\""))
}

/// What encoding an answer needs of its request.
pub(crate) struct Context {
    pub(crate) info: RequestInfo,
    pub(crate) query: Query,
    pub(crate) headers: http::HeaderMap,
    /// What was served when the request came.
    pub(crate) served: Arc<Served>,
}

impl Context {
    fn accept(&self) -> String {
        let values = self.headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
        let accept = values.collect::<Vec<_>>().join(",");
        let info = &self.info;
        let def = self.served.find(&info.group, &info.version, &info.resource);
        if def.is_none_or(|def| def.custom.is_none()) {
            return accept;
        }
        // Custom resources have no protobuf form: the next best is asked for.
        let is_protobuf = |part: &str| part.contains("protobuf") && !part.contains("as=");
        let others: Vec<&str> = accept.split(',').filter(|part| !is_protobuf(part)).collect();
        if others.is_empty() { accept } else { others.join(",") }
    }
    fn wanted(&self) -> Result<Wanted, ApiError> {
        let wanted = Wanted::parse(&self.accept(), &self.query, false)?;
        let pretty = wanted.encoding == Encoding::Json { pretty: false } && self.is_for_people();
        Ok(if pretty { Wanted { encoding: Encoding::Json { pretty }, ..wanted } } else { wanted })
    }

    /// Whether someone reads the answer on a screen: these get it pretty, unless they say otherwise.
    fn is_for_people(&self) -> bool {
        let agent = self.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
        self.query.get("pretty").is_none_or(str::is_empty)
            && ["curl", "Wget", "Mozilla/5.0"].iter().any(|name| agent.starts_with(name))
    }
    fn accepts_gzip(&self) -> bool {
        let header = self.headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or("");
        header.split(',').any(|e| e.split(';').next().is_some_and(|name| name.trim() == "gzip"))
    }
}

/// A header value of any text; what a header cannot carry is left out.
fn text_header(text: &str) -> HeaderValue {
    let clean: String = text.chars().filter(|c| !c.is_control()).collect();
    HeaderValue::from_bytes(clean.as_bytes()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// A whole answer of that type.
fn plain(code: StatusCode, content_type: &str, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(body::full(bytes));
    *response.status_mut() = code;
    if code != StatusCode::NO_CONTENT {
        response.headers_mut().insert(header::CONTENT_TYPE, text_header(content_type));
    }
    response
}
