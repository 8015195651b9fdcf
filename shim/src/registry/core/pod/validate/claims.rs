//! Resource claims of a pod, and which of them its containers use: `validatePodResourceClaims`.

use crate::registry::field::{Cause, Errors, FieldError, Path};
use crate::registry::names;
use crate::registry::value::{items, text};
use serde_json::Value;

/// The claims that the pod names, by themselves or by a template.
pub(super) fn of_pod(spec: &Value, path: &Path, errors: &mut Errors) {
    let mut seen = Vec::new();
    for (index, claim) in items(&spec["resourceClaims"]).iter().enumerate() {
        let path = path.child("resourceClaims").index(index);
        let name = text(&claim["name"]);
        if name.is_empty() {
            errors.push(path.child("name").required(""));
        } else if seen.contains(&name) {
            errors.push(path.child("name").duplicate(name));
        } else {
            errors.extend(path.child("name").all_invalid(name, names::dns1123_label(name, false)));
            seen.push(name);
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"];
        match sources.iter().filter(|field| claim[**field].is_string()).count() {
            0 => {
                let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                errors.push(path.invalid(claim.clone(), detail));
            }
            1 => {}
            _ => {
                let detail = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                errors.push(path.invalid(claim.clone(), detail));
            }
        }
        for field in sources {
            if let Some(source) = claim[field].as_str() {
                errors.extend(path.child(field).all_invalid(source, names::dns1123_subdomain(source, false)));
            }
        }
    }
}

/// The claims that a container uses are among its pod's.
pub(super) fn of_container(resources: &Value, spec: &Value, path: &Path, errors: &mut Errors) {
    let mut known: Vec<&str> = items(&spec["resourceClaims"]).iter().map(|claim| text(&claim["name"])).collect();
    known.sort_unstable();
    let mut seen = Vec::new();
    for (index, claim) in items(&resources["claims"]).iter().enumerate() {
        let path = path.child("claims").index(index);
        let (name, request) = (text(&claim["name"]), text(&claim["request"]));
        if name.is_empty() {
            errors.push(path.required(""));
            continue;
        }
        let key = if request.is_empty() { name.to_owned() } else { format!("{name}/{request}") };
        if seen.contains(&key) {
            errors.push(path.duplicate(key.as_str()));
        }
        seen.push(key);
        if !known.contains(&name) {
            let there = if known.is_empty() { " which is empty".to_owned() } else { format!(": {}", known.join(", ")) };
            // Upstream explains here what it does not explain elsewhere.
            let error = path.not_found(name);
            let message = format!("{}: must be one of the names in pod.spec.resourceClaims{there}", error.message);
            errors.push(FieldError { cause: Cause::NotFound, message, ..error });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn claims_are_named_once_and_used_by_name() {
        let spec = json!({"resourceClaims": [
            {"name": "a", "resourceClaimName": "x"},
            {"name": "a", "resourceClaimTemplateName": "x"},
            {"name": "b"},
            {"name": "c", "resourceClaimName": "x", "resourceClaimTemplateName": "y"},
        ]});
        let mut errors = Errors::new();
        of_pod(&spec, &Path::new("spec"), &mut errors);
        let found: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(found, ["spec.resourceClaims[1].name", "spec.resourceClaims[2]", "spec.resourceClaims[3]"]);
        let used = json!({"claims": [{"name": "a"}, {"name": "a", "request": "r"}, {"name": "a"}, {"name": "z"}, {}]});
        let mut errors = Errors::new();
        of_container(&used, &json!({"resourceClaims": [{"name": "b"}, {"name": "a"}]}), &Path::new("r"), &mut errors);
        let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "r.claims[2]: Duplicate value: \"a\"",
                "r.claims[3]: Not found: \"z\": must be one of the names in pod.spec.resourceClaims: a, b",
                "r.claims[4]: Required value",
            ]
        );
    }
}
