//! Reviews: POSTed questions about who the caller is and who may do what; answered, never stored.

use super::{Answer, Outcome, Stage, decode, form, identity, managed};
use crate::authn::User;
use crate::authz::{Attributes, Decision, bootstrap};
use crate::error::{ApiError, Qualified};
use crate::meta::{Meta, Object};
use crate::registry::ResourceDef;
use crate::registry::field::{Errors, Path};
use crate::request::options::WriteOptions;
use bytes::Bytes;
use serde_json::{Map, Value, json};

/// Whether the resource is a review.
pub(super) fn is_review(def: &ResourceDef) -> bool {
    matches!(def.gv.group, "authentication.k8s.io" | "authorization.k8s.io")
}

pub(super) async fn review(stage: &Stage<'_>, options: &WriteOptions, body: Bytes) -> Result<Outcome, ApiError> {
    let def = &stage.target.def;
    let decoded = decode::object(stage, def.gv, def.kind, &body, options.validation)?;
    let mut review = decoded.value;
    managed::track_answer(stage, form::schema(def)?, options, &mut review)?;
    match def.kind {
        "SelfSubjectReview" => {
            review.meta_mut().insert("creationTimestamp".into(), super::create::rfc3339().into());
            review["status"] = json!({"userInfo": shown(stage.user)});
        }
        "TokenReview" => review["status"] = token(stage, &review["spec"]).await?,
        "SelfSubjectRulesReview" => {
            if review["spec"]["namespace"].as_str().unwrap_or("").is_empty() {
                return Err(ApiError::BadRequest("no namespace on request".into()));
            }
            let (resources, paths) = bootstrap::rules(stage.user);
            // What follows from a node's pods cannot be listed.
            let incomplete = stage.user.as_node().is_some();
            review["spec"] = json!({});
            review["status"] = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": incomplete});
        }
        _ => {
            check(stage, &review)?;
            let user = match def.kind {
                "SelfSubjectAccessReview" => stage.user.clone(),
                _ => subject(&review["spec"]),
            };
            review["status"] = access(stage, &user, &review["spec"]).await?;
        }
    }
    let outcome = Outcome { answer: Answer::Document { code: 201, value: review }, warnings: decoded.warnings };
    Ok(outcome)
}

/// `UserInfo` of a user.
fn shown(user: &User) -> Value {
    let mut info = Map::new();
    info.insert("username".into(), user.name.as_str().into());
    if !user.uid.is_empty() {
        info.insert("uid".into(), user.uid.as_str().into());
    }
    if !user.groups.is_empty() {
        info.insert("groups".into(), user.groups.clone().into());
    }
    if !user.extra.is_empty() {
        info.insert("extra".into(), json!(user.extra));
    }
    info.into()
}

async fn token(stage: &Stage<'_>, spec: &Value) -> Result<Value, ApiError> {
    let text = spec["token"].as_str().unwrap_or("");
    if text.is_empty() {
        return Err(ApiError::BadRequest("token is required for TokenReview in authentication".into()));
    }
    let issuer = stage.api.tokens.as_ref().map_or("", |tokens| tokens.issuer.as_str());
    let audiences: Vec<&str> = spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !audiences.is_empty() && !audiences.contains(&issuer) {
        let error = format!(
            "[invalid bearer token, token audiences [\"{issuer}\"] is invalid for the target audiences {audiences:?}]"
        );
        return Ok(json!({"user": {}, "error": error}));
    }
    match identity::of_token(stage.api, text).await {
        Ok(user) => Ok(json!({"authenticated": true, "user": shown(&user), "audiences": [issuer]})),
        Err(ApiError::Unauthorized) => Ok(json!({"user": {}, "error": "[invalid bearer token]"})),
        Err(error) => Err(error),
    }
}

/// Whom a SubjectAccessReview asks about.
fn subject(spec: &Value) -> User {
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    User {
        name: spec["user"].as_str().unwrap_or("").into(),
        uid: spec["uid"].as_str().unwrap_or("").into(),
        groups: list(&spec["groups"]),
        extra: spec["extra"].as_object().into_iter().flatten().map(|(k, v)| (k.clone(), list(v))).collect(),
    }
}

fn check(stage: &Stage<'_>, review: &Object) -> Result<(), ApiError> {
    let errors = errors(stage.target.def.kind, review, stage.namespace());
    if errors.is_empty() {
        return Ok(());
    }
    // Upstream names the group and no kind.
    Err(ApiError::Invalid { what: Qualified::new("authorization.k8s.io", ""), name: String::new(), errors })
}

fn errors(kind: &str, review: &Object, namespace: &str) -> Errors {
    let spec = &review["spec"];
    let path = Path::new("spec");
    let (resource, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let mut errors = Errors::new();
    match (resource.is_null(), other.is_null()) {
        (false, false) => {
            let shown =
                json!({"Path": other["path"].as_str().unwrap_or(""), "Verb": other["verb"].as_str().unwrap_or("")});
            let detail = "cannot be specified in combination with resourceAttributes";
            errors.push(path.child("nonResourceAttributes").invalid(shown, detail));
        }
        (true, true) => {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.push(path.child("resourceAttributes").invalid(Value::Null, detail));
        }
        _ => {}
    }
    let empty = |value: &Value| value.as_str().unwrap_or("").is_empty();
    if kind != "SelfSubjectAccessReview" && empty(&spec["user"]) && spec["groups"].as_array().is_none_or(Vec::is_empty)
    {
        errors.push(path.child("user").invalid("", "at least one of user or group must be specified"));
    }
    if kind == "LocalSubjectAccessReview" {
        let asked = resource["namespace"].as_str().unwrap_or("");
        if asked != namespace {
            let field = path.child("resourceAttributes").child("namespace");
            errors.push(field.invalid(asked, "must match metadata.namespace"));
        }
        if !other.is_null() {
            let detail = "disallowed on this kind of request";
            errors.push(path.child("nonResourceAttributes").invalid(other.clone(), detail));
        }
    }
    errors
}

async fn access(stage: &Stage<'_>, user: &User, spec: &Value) -> Result<Value, ApiError> {
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let (resource, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let is_resource = !resource.is_null();
    let verb = text(if is_resource { &resource["verb"] } else { &other["verb"] });
    let field = |name: &str| text(&resource[name]);
    let (group, kind, sub, namespace, name) =
        (field("group"), field("resource"), field("subresource"), field("namespace"), field("name"));
    let attributes = Attributes {
        verb: &verb,
        is_resource,
        group: &group,
        resource: &kind,
        subresource: &sub,
        namespace: &namespace,
        name: &name,
        path: other["path"].as_str().unwrap_or(""),
    };
    Ok(match super::decide(stage.api, user, &attributes).await? {
        Decision::Allow => json!({"allowed": true}),
        Decision::Deny(reason) if reason.is_empty() => json!({"allowed": false}),
        Decision::Deny(reason) => json!({"allowed": false, "reason": reason}),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_review_asks_one_thing_about_someone() {
        let pods = json!({"namespace": "ns", "verb": "get", "resource": "pods"});
        for (kind, spec, expected) in [
            ("SelfSubjectAccessReview", json!({"resourceAttributes": pods}), vec![]),
            ("SubjectAccessReview", json!({"user": "u", "resourceAttributes": pods}), vec![]),
            ("SubjectAccessReview", json!({"resourceAttributes": pods}), vec!["spec.user"]),
            ("SubjectAccessReview", json!({"groups": ["g"]}), vec!["spec.resourceAttributes"]),
            (
                "SelfSubjectAccessReview",
                json!({"resourceAttributes": pods, "nonResourceAttributes": {"path": "/"}}),
                vec!["spec.nonResourceAttributes"],
            ),
            (
                "LocalSubjectAccessReview",
                json!({"user": "u", "resourceAttributes": {"namespace": "other", "verb": "get"}}),
                vec!["spec.resourceAttributes.namespace"],
            ),
        ] {
            let fields: Vec<String> =
                errors(kind, &json!({"spec": spec}), "ns").into_iter().map(|error| error.field).collect();
            assert_eq!(fields, expected, "{kind} {spec}");
        }
    }

    #[test]
    fn a_user_is_shown_without_what_it_lacks() {
        let user = User { name: "u".into(), ..User::default() };
        assert_eq!(shown(&user), json!({"username": "u"}));
    }
}
