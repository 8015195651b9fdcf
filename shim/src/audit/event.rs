//! One request as the audit log sees it: filled in as the request passes through, written at the stages of its life.

use super::Auditor;
use super::policy::{Level, Stage, Verdict};
use crate::authn::User;
use crate::authz::Attributes;
use crate::clock;
use crate::request::info::RequestInfo;
use bytes::Bytes;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the transport knows of a request.
pub struct Origin {
    /// `Audit-ID`, the client's or ours.
    pub id: String,
    /// Path and query as they came.
    pub uri: String,
    pub user_agent: String,
    /// The client's address, and those that proxies say they forwarded for before it.
    pub source_ips: Vec<String>,
}

/// What came of a request: the code, and the `Status` of a failure.
type Came = (u16, Option<Value>);

/// The record of one request. Nothing is written before the user is known, since the policy goes by them.
pub struct Record {
    auditor: Arc<Auditor>,
    origin: Origin,
    info: RequestInfo,
    received: Timestamp,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    verdict: Option<Verdict>,
    user: Option<User>,
    impersonated: Option<User>,
    /// Allowed or not, and why.
    decision: Option<(bool, String)>,
    /// The name that a created object's body gives it.
    created_name: String,
    request: Option<Value>,
    response: Option<Value>,
}

impl Record {
    pub fn new(auditor: Arc<Auditor>, origin: Origin, info: RequestInfo) -> Arc<Self> {
        let received = clock::now().wall;
        Arc::new(Self { auditor, origin, info, received, known: Mutex::default() })
    }

    /// Who asks (`None`: someone who could not prove it); decides how much is recorded.
    pub async fn received(&self, user: Option<&User>) {
        let verdict = self.auditor.policy.decide(user, &Attributes::from(&self.info));
        {
            let mut known = self.lock();
            known.verdict = Some(verdict);
            known.user = user.cloned();
        }
        if let Some(line) = self.line(Stage::RequestReceived, None) {
            self.auditor.write(line).await;
        }
    }

    pub fn impersonated(&self, user: &User) {
        self.lock().impersonated = Some(user.clone());
    }

    pub fn decided(&self, allowed: bool, reason: &str) {
        self.lock().decision = Some((allowed, reason.to_owned()));
    }

    /// How much is recorded.
    pub fn level(&self) -> Level {
        self.lock().verdict.as_ref().map_or(Level::None, |verdict| verdict.level)
    }

    /// The body as it was sent, decoded by `decode` if it is to be recorded.
    pub fn sent(&self, body: &Bytes, decode: impl FnOnce(&[u8]) -> Option<Value>) {
        let level = self.level();
        if level == Level::None || body.is_empty() {
            return;
        }
        let created = self.info.verb == "create" && self.info.name.is_empty();
        let mut known = self.lock();
        if level >= Level::Request {
            known.request = decode(body);
        }
        if created {
            known.created_name = match &known.request {
                Some(object) => object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
                None => name_of(body),
            };
        }
    }

    /// The object or list that is answered; recorded at the level RequestResponse only.
    pub fn answered(&self, object: Value) {
        self.lock().response = Some(object);
    }

    /// The answer of a watch or stream begins.
    pub async fn started(&self, code: u16) {
        if let Some(line) = self.line(Stage::ResponseStarted, Some((code, None))) {
            self.auditor.write(line).await;
        }
    }

    /// The answer is there: its code and, of a failure, its `Status`.
    pub async fn completed(&self, code: u16, failure: Option<Value>) {
        if let Some(line) = self.line(Stage::ResponseComplete, Some((code, failure))) {
            self.auditor.write(line).await;
        }
    }

    /// A watch or stream has ended: where that is noticed nobody can wait.
    pub fn ended(&self, code: u16) {
        if let Some(line) = self.line(Stage::ResponseComplete, Some((code, None))) {
            self.auditor.write_now(line);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The event of a stage, if the policy wants it.
    fn line(&self, stage: Stage, came: Option<Came>) -> Option<String> {
        let known = self.lock();
        let verdict = known.verdict.as_ref()?;
        if verdict.level == Level::None || verdict.omit_stages.contains(&stage) {
            return None;
        }
        Some(self.event(stage, &known, verdict, came, clock::now().wall).to_string())
    }

    fn event(&self, stage: Stage, known: &Known, verdict: &Verdict, came: Option<Came>, now: Timestamp) -> Value {
        let mut event = Map::new();
        let mut put = |field: &str, value: Value| drop(event.insert(field.to_owned(), value));
        put("kind", "Event".into());
        put("apiVersion", "audit.k8s.io/v1".into());
        put("level", verdict.level.name().into());
        put("auditID", self.origin.id.as_str().into());
        put("stage", stage.name().into());
        put("requestURI", self.origin.uri.as_str().into());
        put("verb", self.info.verb.as_str().into());
        put("user", known.user.as_ref().map_or_else(|| json!({}), user));
        if let Some(other) = &known.impersonated {
            put("impersonatedUser", user(other));
        }
        if !self.origin.source_ips.is_empty() {
            put("sourceIPs", self.origin.source_ips.clone().into());
        }
        if !self.origin.user_agent.is_empty() {
            put("userAgent", self.origin.user_agent.as_str().into());
        }
        if self.info.is_resource {
            put("objectRef", self.reference(&known.created_name));
        }
        if let Some((code, failure)) = came {
            put("responseStatus", status(code, failure));
            if let Some(object) = &known.response {
                put("responseObject", shown(object.clone(), verdict));
            }
        }
        if stage != Stage::RequestReceived
            && let Some(object) = &known.request
        {
            put("requestObject", shown(object.clone(), verdict));
        }
        put("requestReceivedTimestamp", micros(self.received).into());
        put("stageTimestamp", micros(now).into());
        if let Some((allowed, reason)) = &known.decision {
            let decision = if *allowed { "allow" } else { "forbid" };
            put(
                "annotations",
                json!({"authorization.k8s.io/decision": decision, "authorization.k8s.io/reason": reason}),
            );
        }
        Value::Object(event)
    }

    fn reference(&self, created_name: &str) -> Value {
        let info = &self.info;
        let name = if info.name.is_empty() { created_name } else { &info.name };
        let mut reference = Map::new();
        for (field, value) in [
            ("resource", info.resource.as_str()),
            ("namespace", &info.namespace),
            ("name", name),
            ("apiGroup", &info.group),
            ("apiVersion", &info.version),
            ("subresource", &info.subresource),
        ] {
            if !value.is_empty() {
                reference.insert(field.into(), value.into());
            }
        }
        Value::Object(reference)
    }
}

fn user(user: &User) -> Value {
    let mut out = Map::new();
    out.insert("username".into(), user.name.as_str().into());
    if !user.uid.is_empty() {
        out.insert("uid".into(), user.uid.as_str().into());
    }
    if !user.groups.is_empty() {
        out.insert("groups".into(), user.groups.clone().into());
    }
    if !user.extra.is_empty() {
        out.insert("extra".into(), json!(user.extra));
    }
    Value::Object(out)
}

/// A failure's `Status` without kind and version; of a success the code is all there is.
fn status(code: u16, failure: Option<Value>) -> Value {
    let mut out = Map::new();
    out.insert("metadata".into(), json!({}));
    if let Some(Value::Object(failure)) = failure {
        let shown =
            failure.into_iter().filter(|(field, _)| !matches!(field.as_str(), "kind" | "apiVersion" | "metadata"));
        out.extend(shown);
    }
    out.insert("code".into(), code.into());
    Value::Object(out)
}

/// An object as the policy wants it: perhaps without what nobody reads.
fn shown(mut object: Value, verdict: &Verdict) -> Value {
    fn drop_managed_fields(object: &mut Value) {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    }
    if verdict.omit_managed_fields {
        drop_managed_fields(&mut object);
        let items = object.get_mut("items").and_then(Value::as_array_mut);
        items.into_iter().flatten().for_each(drop_managed_fields);
    }
    object
}

fn micros(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// `metadata.name` of a JSON body, without reading the rest of it.
fn name_of(body: &[u8]) -> String {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Named {
        metadata: Metadata,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Metadata {
        name: String,
    }
    serde_json::from_slice::<Named>(body).map(|named| named.metadata.name).unwrap_or_default()
}
