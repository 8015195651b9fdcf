//! `serviceaccounts/token`: a signed token for an account, bound to a pod, secret or node when asked.

use super::{Answer, Outcome, Stage, decode, managed};
use crate::admission::node_restriction;
use crate::authn::token::{Claims, Private, Reference};
use crate::clock;
use crate::error::{ApiError, Qualified};
use crate::gvr::GroupVersion;
use crate::meta::{Meta, Object};
use crate::registry::field::Cause;
use crate::request::options::WriteOptions;
use crate::schema::{AnySchema, Schema};
use bytes::Bytes;
use serde_json::{Value, json};

const AUTHENTICATION_V1: GroupVersion = GroupVersion { group: "authentication.k8s.io", version: "v1" };
const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
/// Upstream's limit: what `1 << 32` seconds hold.
const MAX_SECONDS: i64 = 1 << 32;

pub(super) async fn request(stage: &Stage<'_>, options: &WriteOptions, body: Bytes) -> Result<Outcome, ApiError> {
    let (api, target) = (stage.api, stage.target);
    let namespace = stage.namespace();
    let mut request = decode::object(stage, AUTHENTICATION_V1, "TokenRequest", &body, options.validation)?.value;
    let account = api.read(&target.def, namespace, &target.name).await?;
    let account = account.ok_or_else(|| ApiError::not_found(&target.def, &target.name))?.value;
    if !request.name().is_empty() && request.name() != target.name {
        return Err(ApiError::BadRequest(format!(
            "metadata.name: Invalid value: \"{}\": must match the service account name if specified",
            request.name()
        )));
    }
    let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    check_seconds(seconds)?;
    let tokens =
        api.tokens.as_ref().ok_or_else(|| ApiError::Internal("service account tokens need a signing key".into()))?;
    let audiences = audiences(&request).unwrap_or_else(|| vec![tokens.issuer.clone()]);

    let mut private = Private {
        namespace: namespace.into(),
        node: None,
        pod: None,
        secret: None,
        serviceaccount: Reference { name: target.name.clone(), uid: account.uid().into() },
    };
    let bound = bind(stage, &request["spec"]["boundObjectRef"], &mut private).await?;
    if let Some(node) = stage.user.as_node() {
        node_restriction::token(node, &request, &bound)
            .map_err(|why| ApiError::forbidden(&target.def, &target.name, why))?;
    }

    let now = clock::now().wall.as_second();
    let claims = Claims {
        aud: audiences.clone(),
        exp: now + seconds,
        iat: now,
        iss: tokens.issuer.clone(),
        jti: uuid::Uuid::new_v4().to_string(),
        kubernetes: private,
        nbf: now,
        sub: format!("system:serviceaccount:{namespace}:{}", target.name),
    };
    let schema = Schema::builtin(AUTHENTICATION_V1, "TokenRequest").map(AnySchema::BuiltIn);
    if let Some(schema) = schema {
        request["spec"]["expirationSeconds"] = seconds.into();
        managed::track_answer(stage, schema, options, &mut request)?;
    }
    let token = tokens.sign(&claims).ok_or_else(|| ApiError::Internal("the token could not be signed".into()))?;
    request["metadata"]["name"] = target.name.as_str().into();
    request["metadata"]["namespace"] = namespace.into();
    request["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
    request["metadata"]["creationTimestamp"] = super::create::rfc3339().into();
    request["spec"]["expirationSeconds"] = seconds.into();
    request["spec"]["audiences"] = audiences.into();
    if request["spec"]["boundObjectRef"].is_null() {
        request["spec"]["boundObjectRef"] = Value::Null;
    }
    request["status"] = json!({"token": token, "expirationTimestamp": super::create::after_seconds(seconds)});
    Ok(Answer::Document { code: 201, value: request }.into())
}

fn audiences(request: &Object) -> Option<Vec<String>> {
    let list = request["spec"]["audiences"].as_array().filter(|a| !a.is_empty())?;
    Some(list.iter().filter_map(|a| a.as_str().map(str::to_owned)).collect())
}

fn check_seconds(seconds: i64) -> Result<(), ApiError> {
    let why = match seconds {
        s if s < MIN_SECONDS => "may not specify a duration less than 10 minutes",
        s if s > MAX_SECONDS => "may not specify a duration larger than 2^32 seconds",
        _ => return Ok(()),
    };
    let what = Qualified::new("authentication.k8s.io", "TokenRequest");
    let message = format!("Invalid value: {seconds}: {why}");
    Err(ApiError::invalid_field(what, "", Cause::Invalid, "spec.expirationSeconds", message))
}

/// Binds the token to the object that the request names, which must exist and have that uid; returns that object.
async fn bind(stage: &Stage<'_>, reference: &Value, private: &mut Private) -> Result<Object, ApiError> {
    if reference.is_null() {
        return Ok(Value::Null);
    }
    let text = |field: &str| reference[field].as_str().unwrap_or("");
    let (version, kind, name, uid) = (text("apiVersion"), text("kind"), text("name"), text("uid"));
    let resource = match (version, kind) {
        ("v1", "Pod") => "pods",
        ("v1", "Secret") => "secrets",
        ("v1", "Node") => "nodes",
        _ => {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            return Err(ApiError::BadRequest(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    };
    let namespace = if resource == "nodes" { "" } else { stage.namespace() };
    let found = stage.api.read_core(resource, namespace, name).await?;
    let found =
        found.ok_or_else(|| ApiError::NotFound { what: Qualified::new("", resource), name: name.into() })?.value;
    if !uid.is_empty() && uid != found.uid() {
        return Err(ApiError::Conflict {
            what: Qualified::new("", kind),
            name: name.into(),
            why: format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            ),
        });
    }
    let bound = Reference { name: name.into(), uid: found.uid().into() };
    match resource {
        "secrets" => private.secret = Some(bound),
        "nodes" => private.node = Some(bound),
        _ => {
            if found["spec"]["serviceAccountName"] != stage.target.name {
                return Err(ApiError::BadRequest(format!(
                    "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
                    stage.target.name
                )));
            }
            if let Some(node) = found["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
                let node_uid =
                    stage.api.read_core("nodes", "", node).await?.map(|n| n.value.uid().to_owned()).unwrap_or_default();
                private.node = Some(Reference { name: node.into(), uid: node_uid });
            }
            private.pod = Some(bound);
        }
    }
    Ok(found)
}
