//! namespace-controller: empties namespaces that are being deleted, says what is in the way, then lets them go.

mod conditions;
mod content;

use self::conditions::Findings;
use super::call::{CallError, FIELD_MANAGER, call};
use super::informer::{Delta, Informer};
use super::queue::retry_wait;
use crate::clock;
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::Semaphore;

/// The finalizer in `spec.finalizers` that stands for us.
const FINALIZER: &str = "kubernetes";
/// Passes under way at once (upstream: `--concurrent-namespace-syncs`).
const PASSES_AT_ONCE: usize = 10;

/// What is read of a namespace.
struct Seen {
    uid: String,
    /// It is being deleted and waits for us.
    doomed: bool,
}

fn keep(namespace: Namespace) -> Seen {
    let finalizers = namespace.spec.and_then(|spec| spec.finalizers).unwrap_or_default();
    Seen {
        uid: namespace.metadata.uid.unwrap_or_default(),
        doomed: namespace.metadata.deletion_timestamp.is_some() && finalizers.iter().any(|name| name == FINALIZER),
    }
}

/// Empties every doomed namespace, for ever.
pub(super) async fn run(client: Client) {
    let mut namespaces = Informer::new(Api::<Namespace>::all(client.clone()), ListParams::default(), keep);
    let slots = Semaphore::new(PASSES_AT_ONCE);
    // One entry a doomed namespace; those that wait cost a sleeping future and at most one watch.
    let mut under_way = FuturesUnordered::new();
    let mut busy: BTreeSet<String> = BTreeSet::new();
    loop {
        // Both arms are cancel-safe: the set keeps its futures.
        tokio::select! {
            delta = namespaces.next() => {
                if let Delta::Applied { key, new, .. } = delta
                    && new.doomed
                    && busy.insert(new.uid.clone())
                {
                    under_way.push(empty(&client, &slots, key.name.to_string(), new.uid.clone()));
                }
            }
            Some(uid) = under_way.next() => {
                busy.remove(&uid);
            }
        }
    }
}

/// What one pass over a namespace came to.
enum Pass {
    /// Finalized, or gone.
    Done,
    Remains(content::Wait),
}

/// Makes passes over one namespace until it is finalized; gives back its uid.
async fn empty(client: &Client, slots: &Semaphore, name: String, uid: String) -> String {
    let mut failures = 0;
    loop {
        let pass = {
            // Each pass ends by the deadlines of its calls. Closed the semaphore never is: no permit then means no limit.
            let _slot = slots.acquire().await.ok();
            pass(client, &name, &uid).await
        };
        match pass {
            Ok(Pass::Done) => return uid,
            Ok(Pass::Remains(wait)) => {
                failures = 0;
                wait.until_worth_a_look(client, &name).await;
            }
            // Somebody else wrote the namespace in between, or it is gone: the next pass reads it anew.
            Err(CallError::Conflict(_) | CallError::NotFound(_)) if failures == 0 => failures += 1,
            Err(error) => {
                tracing::warn!(namespace = name, %error, "namespace not emptied, retrying");
                tokio::time::sleep(retry_wait(failures)).await;
                failures += 1;
            }
        }
    }
}

async fn pass(client: &Client, name: &str, uid: &str) -> Result<Pass, CallError> {
    // Untyped: it is written back by PUT, which must not lose what we do not know.
    let path = format!("/api/v1/namespaces/{name}");
    let namespace: Value = match get(client, &path).await {
        Err(CallError::NotFound(_)) => return Ok(Pass::Done),
        answer => answer?,
    };
    let Some(finalizers) = doomed(&namespace, uid) else { return Ok(Pass::Done) };
    let deleted_at = namespace["metadata"]["deletionTimestamp"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
    let since = deleted_at.map(|at| clock::now().wall.duration_since(at).unsigned_abs()).unwrap_or_default();

    let (findings, wait) = content::delete(client, name, since).await;
    let others: Vec<&str> = finalizers.into_iter().filter(|f| *f != FINALIZER).collect();
    // An empty namespace goes at once; nobody would see its conditions.
    if !findings.is_clear() || !others.is_empty() {
        write_conditions(client, name, uid, &namespace, &findings).await?;
    }
    if let Some(failure) = findings.failure() {
        return Err(CallError::Unavailable(failure));
    }
    if !findings.is_clear() {
        return Ok(Pass::Remains(wait));
    }
    let mut finalized = namespace.clone();
    finalized["spec"]["finalizers"] = json!(others);
    if !others.is_empty() {
        // The conditions just written moved its version; ours is the only change, so the newest version will do.
        finalized = get(client, &path).await?;
        match doomed(&finalized, uid) {
            Some(now) => finalized["spec"]["finalizers"] = now.into_iter().filter(|f| *f != FINALIZER).collect(),
            None => return Ok(Pass::Done),
        }
    }
    let body = serde_json::to_vec(&finalized).map_err(|error| CallError::Rejected(error.to_string()))?;
    let request = http::Request::put(format!("{path}/finalize?fieldManager={FIELD_MANAGER}"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(|error| CallError::Rejected(error.to_string()))?;
    match call(client.request::<Value>(request)).await {
        Ok(_) | Err(CallError::NotFound(_)) => Ok(Pass::Done),
        Err(error) => Err(error),
    }
}

/// The finalizers of this very namespace while it still waits for us.
fn doomed<'a>(namespace: &'a Value, uid: &str) -> Option<Vec<&'a str>> {
    let finalizers: Vec<&str> = namespace["spec"]["finalizers"].as_array()?.iter().filter_map(Value::as_str).collect();
    let meta = &namespace["metadata"];
    (meta["uid"] == uid && meta["deletionTimestamp"].is_string() && finalizers.contains(&FINALIZER))
        .then_some(finalizers)
}

async fn get(client: &Client, path: &str) -> Result<Value, CallError> {
    let request = http::Request::get(path).body(Vec::new()).map_err(|e| CallError::Rejected(e.to_string()))?;
    call(client.request(request)).await
}

/// Writes the conditions that changed; none: writes nothing.
async fn write_conditions(
    client: &Client,
    name: &str,
    uid: &str,
    namespace: &Value,
    findings: &Findings,
) -> Result<(), CallError> {
    let changed = conditions::changed(&namespace["status"]["conditions"], findings, clock::now().wall);
    if changed.is_empty() {
        return Ok(());
    }
    let patch = json!({"metadata": {"uid": uid}, "status": {"conditions": changed}});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let api = Api::<Namespace>::all(client.clone());
    // The deadline of the patch is the call's.
    let written = call(api.patch_status(name, &params, &Patch::Strategic(patch))).await;
    written.map(drop)
}

/// The longest that a namespace is left alone while something in it takes its time.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
