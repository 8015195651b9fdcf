//! Errors → HTTP: the one file that knows codes, reasons and the `Status` body.

use super::{Body, Context, encode, plain, text_header};
use crate::error::{ApiError, Qualified};
use crate::registry::field::{Cause, FieldError};
use crate::schema::apply::Conflict;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};

/// The answer to a refused or failed request.
pub(super) fn response(context: &Context, error: &ApiError) -> Response<Body> {
    if let ApiError::UnknownPath = error {
        let mut response =
            plain(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", Bytes::from_static(b"404 page not found\n"));
        response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        return response;
    }
    let status = status(error);
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if code.is_server_error() {
        tracing::warn!(code = status.code, verb = context.info.verb, path = context.info.path, error = %error, "request failed");
    }
    let mut response = encode::status(context, code, &status.body());
    if let Some(seconds) = status.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, text_header(&seconds.to_string()));
    }
    response
}

/// A `metav1.Status` of a failure.
#[derive(Default)]
struct Status {
    code: u16,
    reason: &'static str,
    message: String,
    details: Option<Details>,
    retry_after: Option<u32>,
    /// `metadata.continue`
    next: Option<String>,
}

#[derive(Default)]
struct Details {
    what: Qualified,
    name: String,
    causes: Vec<Value>,
}

impl Status {
    fn new(code: u16, reason: &'static str, message: String) -> Self {
        Self { code, reason, message, ..Self::default() }
    }
    fn about(mut self, what: &Qualified, name: &str) -> Self {
        self.details = Some(Details { what: what.clone(), name: name.into(), causes: Vec::new() });
        self
    }
    fn with_details(mut self) -> Self {
        self.details = Some(Details::default());
        self
    }
    fn causes(mut self, causes: Vec<Value>) -> Self {
        self.details.get_or_insert_default().causes = causes;
        self
    }
    fn retry(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default();
        self.retry_after = Some(seconds);
        self
    }

    fn body(&self) -> Value {
        let mut body = Map::new();
        body.insert("kind".into(), "Status".into());
        body.insert("apiVersion".into(), "v1".into());
        let metadata = self.next.as_ref().map_or_else(|| json!({}), |next| json!({"continue": next}));
        body.insert("metadata".into(), metadata);
        body.insert("status".into(), "Failure".into());
        body.insert("message".into(), self.message.as_str().into());
        if !self.reason.is_empty() {
            body.insert("reason".into(), self.reason.into());
        }
        if let Some(details) = &self.details {
            let mut map = Map::new();
            for (field, value) in
                [("name", &details.name), ("group", &details.what.group), ("kind", &details.what.resource)]
            {
                if !value.is_empty() {
                    map.insert(field.into(), value.as_str().into());
                }
            }
            if !details.causes.is_empty() {
                map.insert("causes".into(), details.causes.clone().into());
            }
            if let Some(seconds) = self.retry_after {
                map.insert("retryAfterSeconds".into(), seconds.into());
            }
            body.insert("details".into(), map.into());
        }
        body.insert("code".into(), self.code.into());
        Value::Object(body)
    }
}

/// The `Status` object of an error (also sent inside watches).
pub(super) fn body_of(error: &ApiError) -> Value {
    status(error).body()
}

fn status(error: &ApiError) -> Status {
    let text = error.to_string();
    match error {
        ApiError::BadRequest(_) => Status::new(400, "BadRequest", text),
        ApiError::Unauthorized => Status::new(401, "Unauthorized", text),
        ApiError::Forbidden { what, name, why, causes } => {
            let message = if name.is_empty() { format!("{what} is forbidden: {why}") } else { text };
            let causes: Vec<Value> = causes.iter().map(|c| cause(c, "NamespaceTerminating")).collect();
            Status::new(403, "Forbidden", message).about(what, name).causes(causes)
        }
        ApiError::ForbiddenPath(_) => Status::new(403, "Forbidden", text).with_details(),
        ApiError::PolicyDenied { what, name, why, reason } => {
            let code = match *reason {
                "Unauthorized" => 401,
                "Forbidden" => 403,
                "RequestEntityTooLarge" => 413,
                _ => 422,
            };
            Status::new(code, reason, text).about(what, name).causes(vec![json!({"message": why})])
        }
        ApiError::NotFound { what, name } => Status::new(404, "NotFound", text).about(what, name),
        ApiError::UnknownResource | ApiError::UnknownPath => Status::new(404, "NotFound", text).with_details(),
        ApiError::MethodNotAllowed | ApiError::DefinitionTerminating { .. } => {
            Status::new(405, "MethodNotAllowed", text).with_details()
        }
        // Refused before any resource was looked at: with empty details, as upstream's filter answers.
        ApiError::NotAcceptable(_) if text.starts_with("406:") => {
            Status::new(406, "NotAcceptable", text).with_details()
        }
        ApiError::NotAcceptable(_) => Status::new(406, "NotAcceptable", text),
        ApiError::AlreadyExists { what, name } => Status::new(409, "AlreadyExists", text).about(what, name),
        ApiError::Conflict { what, name, .. } => Status::new(409, "Conflict", text).about(what, name),
        ApiError::ApplyConflict { conflicts, .. } => {
            let cause = |c: &Conflict| json!({"reason": "FieldManagerConflict", "message": format!("conflict with {}", c.manager), "field": c.path});
            Status::new(409, "Conflict", text).with_details().causes(conflicts.iter().map(cause).collect())
        }
        ApiError::Expired(_) => Status::new(410, "Expired", text),
        ApiError::ExpiredPage { next } => Status { next: Some(next.clone()), ..Status::new(410, "Expired", text) },
        ApiError::TooLarge(_) => Status::new(413, "RequestEntityTooLarge", text),
        ApiError::UnsupportedMediaType(_) => Status::new(415, "UnsupportedMediaType", text),
        ApiError::Invalid { what, name, errors } => invalid(what, name, errors),
        ApiError::PatchRejected(_) => {
            let message = "the server rejected our request due to an error in our request".to_owned();
            Status::new(422, "Invalid", message).with_details()
        }
        ApiError::TooManyRequests { retry_after_seconds, .. } => {
            Status::new(429, "TooManyRequests", text).retry(*retry_after_seconds)
        }
        ApiError::Disrupting { cause, retry_after_seconds } => {
            let causes = vec![json!({"reason": "DisruptionBudget", "message": cause})];
            let status = Status::new(429, "TooManyRequests", text).causes(causes);
            Status { retry_after: *retry_after_seconds, ..status }
        }
        ApiError::Plain(_) => Status::new(500, "", text),
        ApiError::Internal(cause) => Status::new(500, "InternalError", text).causes(vec![json!({"message": cause})]),
        // No reason of metav1 fits, and no wait helps (so no Retry-After): someone must make room.
        ApiError::InsufficientStorage(_) => Status::new(507, "InsufficientStorage", text),
        ApiError::BadGateway(_) => Status::new(500, "InternalError", text),
        ApiError::Unavailable(_) => Status::new(503, "ServiceUnavailable", text).retry(1),
        ApiError::Timeout(_) => Status::new(504, "Timeout", text).with_details(),
        ApiError::FutureVersion { .. } => Status::new(504, "Timeout", text)
            .causes(vec![json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"})])
            .retry(1),
    }
}

fn invalid(what: &Qualified, name: &str, errors: &[FieldError]) -> Status {
    let mut texts: Vec<String> = Vec::new();
    for error in errors {
        let text = format!("{}: {}", path(error), error.message);
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    let mut message = format!("{what} \"{name}\" is invalid");
    match &texts[..] {
        [] => {}
        [only] => message.push_str(&format!(": {only}")),
        several => message.push_str(&format!(": [{}]", several.join(", "))),
    }
    let causes = errors.iter().map(|e| cause(e, "InternalError")).collect();
    Status::new(422, "Invalid", message).about(what, name).causes(causes)
}

fn cause(error: &FieldError, internal: &str) -> Value {
    let reason = match error.cause {
        Cause::NotFound => "FieldValueNotFound",
        Cause::Required => "FieldValueRequired",
        Cause::Duplicate => "FieldValueDuplicate",
        Cause::Invalid => "FieldValueInvalid",
        Cause::NotSupported => "FieldValueNotSupported",
        Cause::Forbidden => "FieldValueForbidden",
        Cause::TooLong => "FieldValueTooLong",
        Cause::TooMany => "FieldValueTooMany",
        Cause::Internal => internal,
        Cause::TypeInvalid => "FieldValueTypeInvalid",
    };
    json!({"reason": reason, "message": error.message, "field": path(error)})
}

/// An error of the object as a whole has no path; upstream shows an empty one so.
fn path(error: &FieldError) -> &str {
    if error.field.is_empty() { "[]" } else { &error.field }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_code_reason_and_details() {
        let pods = Qualified::new("", "pods");
        let leases = Qualified::new("coordination.k8s.io", "leases");
        let field = |f: &str| FieldError { cause: Cause::Required, field: f.into(), message: "Required value".into() };
        for (error, wanted) in [
            (
                ApiError::NotFound { what: leases, name: "a".into() },
                r#"{"apiVersion":"v1","code":404,"details":{"group":"coordination.k8s.io","kind":"leases","name":"a"},"kind":"Status","message":"leases.coordination.k8s.io \"a\" not found","metadata":{},"reason":"NotFound","status":"Failure"}"#,
            ),
            (
                ApiError::Forbidden { what: pods, name: String::new(), why: "no".into(), causes: vec![] },
                r#"{"apiVersion":"v1","code":403,"details":{"kind":"pods"},"kind":"Status","message":"pods is forbidden: no","metadata":{},"reason":"Forbidden","status":"Failure"}"#,
            ),
            (
                ApiError::MethodNotAllowed,
                r#"{"apiVersion":"v1","code":405,"details":{},"kind":"Status","message":"the server does not allow this method on the requested resource","metadata":{},"reason":"MethodNotAllowed","status":"Failure"}"#,
            ),
            (
                ApiError::Plain("x".into()),
                r#"{"apiVersion":"v1","code":500,"kind":"Status","message":"x","metadata":{},"status":"Failure"}"#,
            ),
            (
                ApiError::Invalid {
                    what: Qualified::new("", "Pod"),
                    name: "p".into(),
                    errors: vec![field("a"), field("b")],
                },
                r#"{"apiVersion":"v1","code":422,"details":{"causes":[{"field":"a","message":"Required value","reason":"FieldValueRequired"},{"field":"b","message":"Required value","reason":"FieldValueRequired"}],"kind":"Pod","name":"p"},"kind":"Status","message":"Pod \"p\" is invalid: [a: Required value, b: Required value]","metadata":{},"reason":"Invalid","status":"Failure"}"#,
            ),
        ] {
            assert_eq!(body_of(&error), serde_json::from_str::<Value>(wanted).unwrap());
        }
    }
}
