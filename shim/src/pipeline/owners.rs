//! Owner references of a written object: one for each owner.

use crate::meta::{Meta, Object};
use serde_json::Value;
use std::collections::BTreeSet;

/// Drops the references to an owner that is named already; the text of the warning when there were any.
pub(super) fn dedupe(object: &mut Object) -> Option<String> {
    let references = object.meta_mut().get_mut("ownerReferences").and_then(Value::as_array_mut)?;
    let (mut seen, mut twice) = (BTreeSet::new(), Vec::new());
    references.retain(|reference| {
        let uid = reference["uid"].as_str().unwrap_or_default();
        let first = seen.insert(uid.to_owned());
        if !first {
            twice.push(uid.to_owned());
        }
        first
    });
    (!twice.is_empty()).then(|| {
        format!(
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may \
             reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: [{}]",
            twice.join(" ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_owner_is_named_once() {
        let mut object =
            json!({"metadata": {"ownerReferences": [{"uid": "a"}, {"uid": "b"}, {"uid": "a", "controller": true}]}});
        assert!(dedupe(&mut object).is_some_and(|text| text.ends_with("duplicate UID(s) observed: [a]")));
        assert_eq!(object["metadata"]["ownerReferences"], json!([{"uid": "a"}, {"uid": "b"}]));
        assert_eq!(dedupe(&mut object), None);
        assert_eq!(dedupe(&mut json!({"metadata": {}})), None);
    }
}
