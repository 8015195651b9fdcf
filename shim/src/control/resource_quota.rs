//! resourcequota-controller: counts what the namespaces with quotas use, and says so in the quotas' status, by which
//! admission goes. Admission charges what is added; what goes away is seen here. Without quotas it only watches for them.

use super::call::{CallError, FIELD_MANAGER, call};
use super::discover::discover;
use super::informer::{Delta, Informer, ObjectKey};
use super::queue::Queue;
use crate::clock;
use crate::registry::core::resourcequota::usage::{Amounts, PLAIN, concerns, in_scope, usage};
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, PostParams};
use serde_json::Value;
use std::time::Duration;

/// How often each quota is counted anew. Stock counts when it sees something deleted, and every five minutes.
const RECOUNT_EVERY: Duration = Duration::from_secs(10);
/// Page size of a LIST, as client-go's pager.
const PAGE_ITEMS: u32 = 500;

/// Core resources that are read one by one; of all others only the number counts.
const MEASURED: [&str; 3] = ["persistentvolumeclaims", "pods", "services"];

/// Keeps every quota's status, for ever.
pub(super) async fn run(client: Client) {
    let all = Api::<ResourceQuota>::all(client.clone());
    let mut quotas = Informer::new(all, ListParams::default(), |quota| quota.spec.and_then(|spec| spec.hard));
    // One entry a quota.
    let mut queue: Queue<ObjectKey> = Queue::default();
    loop {
        // All arms are cancel-safe (see `Informer::next`, `Queue::wait`).
        tokio::select! {
            delta = quotas.next() => match delta {
                // Admission writes the status; only another limit asks for another count.
                Delta::Applied { key, old, new } if old.as_ref() != Some(&new) => queue.add(key, clock::now().mono),
                Delta::Applied { .. } | Delta::Synced => {}
                Delta::Deleted { key, .. } => queue.forget(&key),
            },
            () = queue.wait() => {}
        }
        while let Some(key) = queue.pop(clock::now().mono) {
            match recount(&client, &key).await {
                Ok(true) => {
                    queue.succeeded(&key);
                    queue.add(key, clock::now().mono + RECOUNT_EVERY);
                }
                Ok(false) => queue.forget(&key),
                // It was charged meanwhile: count again.
                Err(CallError::Conflict(_)) => queue.failed(key, clock::now().mono),
                Err(error) => {
                    tracing::warn!(quota = %key, %error, "usage not counted, retrying");
                    queue.failed(key, clock::now().mono);
                }
            }
        }
    }
}

/// Counts for one quota and writes what differs; whether it is still there. The quota is read first: what is charged
/// while we count makes the write fail.
async fn recount(client: &Client, key: &ObjectKey) -> Result<bool, CallError> {
    let api = Api::<ResourceQuota>::namespaced(client.clone(), &key.namespace);
    let Some(mut quota) = call(api.get_opt(&key.name)).await? else { return Ok(false) };
    let object = value_of(&quota)?;
    let hard = Amounts::of(&object["spec"]["hard"]);
    let mut found = Amounts::default();
    for resource in resources(client, &hard).await? {
        found.add_all(&used_of(client, &key.namespace, &resource, &object).await?);
    }
    let used = found.of_each(hard.names());
    let mut status = quota.status.take().unwrap_or_default();
    let quantities = |amounts: &Amounts| serde_json::from_value(amounts.value()).map_err(unreadable);
    let (hard, used) = (quantities(&hard)?, quantities(&used)?);
    if status.hard.as_ref() == Some(&hard) && status.used.as_ref() == Some(&used) {
        return Ok(true);
    }
    (status.hard, status.used) = (Some(hard), Some(used));
    quota.status = Some(status);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    match call(api.replace_status(&key.name, &params, &quota)).await {
        Ok(_) => Ok(true),
        Err(CallError::NotFound(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The resources whose objects use what the quota limits.
async fn resources(client: &Client, hard: &Amounts) -> Result<Vec<ApiResource>, CallError> {
    let core = |plural: &str| ApiResource {
        group: String::new(),
        version: "v1".into(),
        api_version: "v1".into(),
        kind: String::new(),
        plural: plural.into(),
    };
    let concerned = |plural: &&str| {
        let def = crate::registry::find("", "v1", plural);
        def.is_some_and(|def| hard.names().any(|name| concerns(def, name)))
    };
    let mut found: Vec<ApiResource> = MEASURED.iter().chain(&PLAIN).copied().filter(concerned).map(core).collect();
    let counted: Vec<&str> = hard.names().filter_map(|name| name.strip_prefix("count/")).collect();
    let known = |name: &str| MEASURED.contains(&name) || PLAIN.contains(&name);
    if counted.iter().all(|name| known(name)) {
        return Ok(found);
    }
    let (all, _) = discover(client).await?;
    let named = |api: &ApiResource| match api.group.as_str() {
        "" => api.plural.clone(),
        group => format!("{}.{group}", api.plural),
    };
    let others = all.into_iter().filter(|found| found.namespaced && found.has("list")).map(|found| found.api);
    found.extend(others.filter(|api| counted.contains(&named(api).as_str()) && !known(&named(api))));
    Ok(found)
}

/// What the objects of one resource in the namespace use, those in the quota's scopes.
async fn used_of(client: &Client, namespace: &str, api: &ApiResource, quota: &Value) -> Result<Amounts, CallError> {
    let objects = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, api);
    let measured = api.group.is_empty() && MEASURED.contains(&api.plural.as_str());
    let mut used = Amounts::default();
    if !measured {
        // One object, and how many more there are.
        let scoped = !quota["spec"]["scopes"].is_null() || !quota["spec"]["scopeSelector"].is_null();
        if !scoped {
            let page = call(objects.list_metadata(&ListParams::default().limit(1))).await?;
            let more = usize::try_from(page.metadata.remaining_item_count.unwrap_or(0)).unwrap_or(0);
            used.add_count(&api.group, &api.plural, page.items.len() + more);
        }
        return Ok(used);
    }
    let Some(def) = crate::registry::find("", "v1", &api.plural) else { return Ok(used) };
    let mut params = ListParams::default().limit(PAGE_ITEMS);
    loop {
        let page = call(objects.list(&params)).await?;
        for object in &page.items {
            let object = value_of(object)?;
            if in_scope(quota, def, &object) {
                used.add_all(&usage(def, &object));
            }
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(used),
        }
    }
}

fn value_of(object: &impl serde::Serialize) -> Result<Value, CallError> {
    serde_json::to_value(object).map_err(unreadable)
}

fn unreadable(error: serde_json::Error) -> CallError {
    CallError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::script::Script;
    use serde_json::json;

    #[tokio::test(start_paused = true)]
    async fn a_quota_says_what_is_there_and_is_left_alone_when_it_does_already() {
        let list = |items: Value| json!({"metadata": {"resourceVersion": "3"}, "items": items});
        let pod = |name: &str, phase: &str| {
            let container = json!({"name": "c", "resources": {"requests": {"cpu": "300m"}}});
            json!({"metadata": {"namespace": "d", "name": name, "resourceVersion": "1"},
                "spec": {"containers": [container]}, "status": {"phase": phase}})
        };
        let quota = |status: Value| {
            json!({"metadata": {"namespace": "d", "name": "q", "resourceVersion": "2"}, "status": status,
                "spec": {"hard": {"cpu": "1", "pods": "5", "configmaps": "9"}}})
        };
        let counted = json!({"hard": {"cpu": "1", "pods": "5", "configmaps": "9"}, "used": {"cpu": "600m", "pods": "2", "configmaps": "4"}});
        let maps = json!({"metadata": {"resourceVersion": "3", "remainingItemCount": 3}, "items": [{"metadata": {"name": "m"}}]});
        for (status, writes) in [(json!({}), 1), (counted.clone(), 0)] {
            let script = Script::default()
                .on("GET /api/v1/resourcequotas?", 200, list(json!([quota(status.clone())])))
                .on("GET /api/v1/namespaces/d/resourcequotas/q", 200, quota(status.clone()))
                .on(
                    "GET /api/v1/namespaces/d/pods?",
                    200,
                    list(json!([pod("a", "Running"), pod("b", "Pending"), pod("c", "Failed")])),
                )
                .on("GET /api/v1/namespaces/d/configmaps?", 200, &maps)
                .on("PUT /api/v1/namespaces/d/resourcequotas/q/status", 200, quota(counted.clone()));
            let _ = tokio::time::timeout(RECOUNT_EVERY / 2, run(script.client())).await;
            let asked = script.asked();
            let puts: Vec<&String> = asked.iter().filter(|line| line.starts_with("PUT")).collect();
            assert_eq!(puts.len(), writes, "{status}: {asked:?}");
            for put in puts {
                assert!(put.contains(r#""used":{"configmaps":"4","cpu":"600m","pods":"2"}"#), "{put}");
                assert!(put.contains(r#""resourceVersion":"2""#), "{put}");
            }
        }
    }
}
