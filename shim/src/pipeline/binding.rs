//! `pods/binding` and `bindings`: a scheduler's choice of a node becomes the pod's, once.

use super::create::rfc3339;
use super::stored::{ATTEMPTS, Written};
use super::{Answer, Outcome, Stage, decode};
use crate::error::{ApiError, Qualified};
use crate::meta::Meta;
use crate::registry;
use crate::registry::core::pod::{self, status::validate_binding};
use crate::registry::gv::CORE_V1;
use crate::request::options::WriteOptions;
use crate::store::Expect;
use bytes::Bytes;
use serde_json::json;

pub(super) async fn bind(stage: &Stage<'_>, options: &WriteOptions, body: Bytes) -> Result<Outcome, ApiError> {
    let binding = decode::object(stage, CORE_V1, "Binding", &body, options.validation)?.value;
    // `bindings` takes the name from the object, `pods/<name>/binding` has it in the path.
    let name = match stage.target.name.as_str() {
        "" => binding.name().to_owned(),
        name if binding.name().is_empty() || binding.name() == name => name.to_owned(),
        _ => return Err(ApiError::BadRequest("name in URL does not match name in Binding object".into())),
    };
    if !binding.namespace().is_empty() && binding.namespace() != stage.namespace() {
        return Err(ApiError::BadRequest(
            "the namespace of the provided object does not match the namespace sent on the request".into(),
        ));
    }
    if let Some(error) = validate_binding(&binding).first() {
        return Err(ApiError::Plain(error.to_string()));
    }
    let pods = registry::find("", "v1", "pods").ok_or(ApiError::UnknownResource)?;
    let mut current = stage.api.read(pods, stage.namespace(), &name).await?;
    for _ in 0..ATTEMPTS {
        let old = current.ok_or_else(|| ApiError::not_found(pods, &name))?;
        let conflict =
            |why: String| ApiError::Conflict { what: Qualified::new("", "pods/binding"), name: name.clone(), why };
        if !binding.uid().is_empty() && binding.uid() != old.value.uid() {
            return Err(conflict(format!(
                "Precondition failed: UID in precondition: {}, UID in object meta: {}",
                binding.uid(),
                old.value.uid()
            )));
        }
        let mut pod = old.value;
        pod::status::bind(&mut pod, &binding, &rfc3339()).map_err(|e| conflict(e.to_string()))?;
        match stage.api.write(pods, pod, Expect::At(old.revision), options.dry_run).await? {
            Written::Done(_) => {
                let value =
                    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
                return Ok(Answer::Document { code: 201, value }.into());
            }
            Written::Lost(now) => current = now,
        }
    }
    Err(ApiError::modified(pods, &name))
}
