//! The life of a request, top to bottom, in one function; its stages are one file each.
//!
//! Only this module commits to the store. It knows neither HTTP nor encodings: it takes a `Call` and gives an `Outcome`.

pub mod api;
mod binding;
mod codec;
mod connect;
mod create;
mod decode;
pub mod definitions;
mod delete;
mod disruption;
mod form;
mod identity;
mod managed;
mod owners;
mod policies;
mod quotas;
mod read;
mod review;
mod scale;
mod services;
mod stored;
mod token;
mod update;
pub mod watch;

pub use api::{Api, Settings};
pub use codec::canonical;
pub use connect::{Connection, Stream};
pub use definitions::published;
pub use form::{is_stored_form, schema, served_bytes, to_served};
pub use identity::Credential;
pub use read::Collection;
pub use stored::splice_version;

use crate::audit::Record;
use crate::authn::User;
use crate::authz::{self, Attributes, Decision};
use crate::error::ApiError;
use crate::registry::Def;
use crate::request::info::RequestInfo;
use crate::request::query::Query;
use crate::request::{Action, ApiRequest, Sub, Target};
use crate::store::cache::{Scope, Snapshot};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::HeaderMap;
use serde_json::Value;
use std::sync::Arc;
use watch::Watch;

/// A request as it enters: who sent it is not known yet.
pub struct Call {
    pub info: RequestInfo,
    pub query: Query,
    pub headers: HeaderMap,
    pub credential: Credential,
    /// What the audit log gets to know, where one is kept.
    pub audit: Option<Arc<Record>>,
    /// Reads the whole body; called only once the request is known to need it and to be allowed.
    pub body: BoxFuture<'static, Result<Bytes, ApiError>>,
}

/// What came of it: the answer, and texts for `Warning` headers.
pub struct Outcome {
    pub answer: Answer,
    pub warnings: Vec<String>,
}

/// An answer, not yet encoded.
pub enum Answer {
    Object(ObjectAnswer),
    Collection(Collection),
    Watch(Watch),
    /// An object of a kind that is not stored (`TokenRequest`, `Status`), with its HTTP code.
    Document {
        code: u16,
        value: Value,
    },
    /// A stream to an agent; http carries the bytes.
    Connect(Connection),
    /// Everything that is not about a resource is answered by http itself.
    Meta(ApiRequest),
}

/// One stored object.
pub struct ObjectAnswer {
    pub def: Def,
    /// Canonical JSON of the storage form, `resourceVersion` in it.
    pub bytes: Bytes,
    /// 200, 201 or 202.
    pub code: u16,
}

impl From<Answer> for Outcome {
    fn from(answer: Answer) -> Self {
        Self { answer, warnings: Vec::new() }
    }
}

impl Call {
    fn content_type(&self) -> String {
        let text = self.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        text.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
    }

    fn user_agent(&self) -> String {
        let text = self.headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok());
        text.unwrap_or("").to_owned()
    }
}

/// Runs one request: authenticate → authorize → resolve → decode → mutate → validate → commit; http encodes the outcome.
///
/// # Errors
/// Whatever refuses it, in upstream's words.
pub async fn run(api: &Arc<Api>, mut call: Call) -> Result<Outcome, ApiError> {
    let caller = identity::authenticate(api, &call.credential, &call.headers).await;
    let audit = call.audit.as_deref();
    if let Some(record) = audit {
        record.received(caller.as_ref().ok()).await;
    }
    let user = impersonate(api, caller?, &call.headers, audit).await?;
    let allowed = authorize(api, &user, &Attributes::from(&call.info)).await;
    if let Some(record) = audit {
        record.decided(allowed.is_ok(), "");
    }
    allowed?;

    let (content_type, agent) = (call.content_type(), call.user_agent());
    let request = ApiRequest::resolve(&api.catalog.served(), &call.info, &call.query, &content_type)?;
    let ApiRequest::Resource(target, action) = request else { return Ok(Answer::Meta(request).into()) };
    let body = std::mem::replace(&mut call.body, Box::pin(async { Ok(Bytes::new()) }));
    let stage = Stage { api, user: &user, target: &target, content_type: &content_type, agent: &agent };

    // Each stage decodes, mutates (defaults, admission, strategy), validates and commits; see the file of its name.
    match (action, target.sub) {
        (Action::Get { .. }, Some(Sub::Scale)) => scale::get(&stage).await,
        (Action::Get { resource_version }, _) => read::get(&stage, resource_version.as_deref()).await,
        (Action::List(options), _) => read::list(&stage, &options).await,
        (Action::Watch(options), _) => watch::open(&stage, options).await,
        (Action::Create(options), None) if target.def.resource == "bindings" => {
            binding::bind(&stage, &options, body.await?).await
        }
        (Action::Create(options), None) if review::is_review(&target.def) => {
            review::review(&stage, &options, body.await?).await
        }
        (Action::Create(options), None) => create::create(&stage, &options, body.await?).await,
        (Action::Create(options), Some(Sub::Binding)) => binding::bind(&stage, &options, body.await?).await,
        (Action::Create(options), Some(Sub::Eviction)) => delete::evict(&stage, &options, body.await?).await,
        (Action::Create(options), Some(Sub::Token)) => token::request(&stage, &options, body.await?).await,
        (Action::Create(_), Some(_)) => Err(ApiError::MethodNotAllowed),
        (Action::Update(options), Some(Sub::Scale)) => scale::replace(&stage, &options, body.await?).await,
        (Action::Patch(kind, options), Some(Sub::Scale)) => scale::patch(&stage, kind, &options, body.await?).await,
        (Action::Update(options), _) => update::replace(&stage, &options, body.await?).await,
        (Action::Patch(kind, options), _) => update::patch(&stage, kind, &options, body.await?).await,
        (Action::Delete(options), _) => delete::delete(&stage, options, body.await?).await,
        (Action::DeleteCollection(list, options), _) => delete::collection(&stage, &list, options, body.await?).await,
        (Action::Connect { path, query }, _) => connect::connect(&stage, &path, &query).await,
    }
}

/// What the stages share.
struct Stage<'a> {
    api: &'a Arc<Api>,
    user: &'a User,
    target: &'a Target,
    content_type: &'a str,
    /// The `User-Agent`: the manager of writes that name none.
    agent: &'a str,
}

impl Stage<'_> {
    /// The target's namespace, empty for cluster-scoped ones.
    fn namespace(&self) -> &str {
        self.target.namespace.as_deref().unwrap_or("")
    }
}

/// May the user do that? Looks up what the decision depends on: in the cache first, which has it nearly always and answers
/// also while the store does not; a refusal is checked against the present.
async fn decide(api: &Api, user: &User, attributes: &Attributes<'_>) -> Result<Decision, ApiError> {
    // Only the node authorizer looks at pods, and only at its own.
    let looks = user.as_node().is_some()
        && matches!(
            attributes.resource,
            "secrets" | "configmaps" | "persistentvolumeclaims" | "persistentvolumes" | "serviceaccounts"
        );
    if !looks {
        return Ok(authz::decide(user, attributes, &|_, _| false));
    }
    match decide_by_pods(api, user, attributes, Age::Any).await? {
        Decision::Allow => Ok(Decision::Allow),
        Decision::Deny(_) => decide_by_pods(api, user, attributes, Age::Present).await,
    }
}

/// How old what is looked up may be.
#[derive(Clone, Copy)]
enum Age {
    Any,
    Present,
}

async fn snapshot(api: &Api, storage: &str, age: Age) -> Result<Snapshot, ApiError> {
    let cache = api.cache(storage)?;
    Ok(match age {
        Age::Any => cache.latest().await?,
        Age::Present => cache.consistent().await?,
    })
}

async fn decide_by_pods(api: &Api, user: &User, attributes: &Attributes<'_>, age: Age) -> Result<Decision, ApiError> {
    let pods = snapshot(api, "pods", age).await?;
    // A pod uses a volume through the claim that has it.
    let holder = match attributes.resource {
        "persistentvolumes" => claim_of(api, attributes.name, age).await?,
        _ => None,
    };
    // A volume's driver is given secrets that no pod names.
    let volumes = match attributes.resource {
        "secrets" => Some(snapshot(api, "persistentvolumes", age).await?),
        _ => None,
    };
    let attached_to = match attributes.resource {
        "volumeattachments" => attached_to(api, attributes.name, age).await?,
        _ => None,
    };
    let uses = |node: &str, namespace: &str, resource: &str, name: &str| {
        let prefix = crate::store::key::StoreKey::prefix("pods", Some(namespace));
        let scope = Scope::Field { prefix, value: node.into() };
        pods.within(&scope, None)
            .any(|entry| stored::value(&entry.bytes).is_ok_and(|pod| authz::node::pod_uses(&pod, resource, name)))
    };
    let related = |node: &str, a: &Attributes<'_>| match (a.resource, &holder) {
        ("persistentvolumes", Some((namespace, name))) => uses(node, namespace, "persistentvolumeclaims", name),
        ("persistentvolumes", None) => false,
        ("volumeattachments", _) => attached_to.as_deref() == Some(node),
        ("secrets", _) if uses(node, a.namespace, a.resource, a.name) => true,
        ("secrets", _) => volumes.iter().any(|volumes| {
            let all = Scope::Prefix(crate::store::key::StoreKey::prefix("persistentvolumes", None));
            volumes.within(&all, None).any(|entry| {
                let volume = stored::value(&entry.bytes);
                let claim = volume.ok().and_then(|v| authz::node::claim_with_secret(&v, a.namespace, a.name));
                claim.is_some_and(|(namespace, name)| uses(node, &namespace, "persistentvolumeclaims", &name))
            })
        }),
        _ => uses(node, a.namespace, a.resource, a.name),
    };
    Ok(authz::decide(user, attributes, &related))
}

/// Namespace and name of the claim that a volume is bound to.
async fn claim_of(api: &Api, volume: &str, age: Age) -> Result<Option<(String, String)>, ApiError> {
    let volumes = snapshot(api, "persistentvolumes", age).await?;
    let key = crate::store::key::StoreKey::object("persistentvolumes", None, volume);
    let Some(entry) = volumes.get(&key) else { return Ok(None) };
    let volume = stored::value(&entry.bytes)?;
    let text = |field: &str| volume["spec"]["claimRef"][field].as_str().map(str::to_owned);
    Ok(text("namespace").zip(text("name")))
}

/// The node that an attachment is for.
async fn attached_to(api: &Api, attachment: &str, age: Age) -> Result<Option<String>, ApiError> {
    let attachments = snapshot(api, "volumeattachments", age).await?;
    let key = crate::store::key::StoreKey::object("volumeattachments", None, attachment);
    let Some(entry) = attachments.get(&key) else { return Ok(None) };
    Ok(stored::value(&entry.bytes)?["spec"]["nodeName"].as_str().map(str::to_owned))
}

async fn authorize(api: &Api, user: &User, attributes: &Attributes<'_>) -> Result<(), ApiError> {
    match decide(api, user, attributes).await? {
        Decision::Allow => Ok(()),
        Decision::Deny(reason) => Err(authz::forbidden(user, attributes, &reason)),
    }
}

async fn impersonate(api: &Api, user: User, headers: &HeaderMap, audit: Option<&Record>) -> Result<User, ApiError> {
    let Some((wanted, claims)) = crate::authn::impersonate::requested(headers)? else { return Ok(user) };
    for claim in &claims {
        let attributes = Attributes {
            verb: "impersonate",
            is_resource: true,
            group: claim.group,
            resource: claim.resource,
            subresource: &claim.subresource,
            namespace: &claim.namespace,
            name: &claim.name,
            path: "",
        };
        authorize(api, &user, &attributes).await?;
    }
    if let Some(record) = audit {
        record.impersonated(&wanted);
    }
    Ok(wanted)
}
