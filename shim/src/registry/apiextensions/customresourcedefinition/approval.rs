//! Groups below `k8s.io` and `kubernetes.io` are the community's: their definitions say who has approved them.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::value::text;

const ANNOTATION: &str = "api-approved.kubernetes.io";
const PROTECTED: [&str; 2] = ["k8s.io", "kubernetes.io"];
const MORE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";

/// What the annotation says (apihelpers' `APIApprovalState`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Approval {
    Missing,
    Bypassed,
    Approved,
    Invalid,
}

/// A definition in such a group must say it, unless it did not before either.
pub(super) fn rules(new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let state = approval(new);
    if !is_protected(text(&new["spec"]["group"])) || old.is_some_and(|old| approval(old) == state) {
        return;
    }
    let path = Path::new("metadata").child("annotations").key(ANNOTATION);
    match state {
        Approval::Missing => {
            let text = format!("protected groups must have approval annotation \"{ANNOTATION}\", {MORE}");
            errors.push(path.required(&text));
        }
        Approval::Invalid => {
            let text = format!(
                "protected groups must have approval annotation \"{ANNOTATION}\" with either a URL or a reason starting \
                 with \"unapproved\", {MORE}"
            );
            errors.push(path.invalid(annotation(new), &text));
        }
        Approval::Bypassed | Approval::Approved => {}
    }
}

fn is_protected(group: &str) -> bool {
    PROTECTED.iter().any(|known| group.strip_suffix(known).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

fn annotation(object: &Object) -> &str {
    object.annotations().and_then(|all| all.get(ANNOTATION)).map_or("", text)
}

fn approval(object: &Object) -> Approval {
    let value = annotation(object);
    let is_url = || {
        value.parse::<http::Uri>().is_ok_and(|url| url.scheme().is_some() && url.host().is_some_and(|h| !h.is_empty()))
    };
    match value {
        "" => Approval::Missing,
        value if value.starts_with("unapproved") => Approval::Bypassed,
        _ if is_url() => Approval::Approved,
        _ => Approval::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::field::Cause;
    use serde_json::json;

    fn definition(group: &str, approval: &str) -> Object {
        let annotations = if approval.is_empty() { json!({}) } else { json!({ANNOTATION: approval}) };
        json!({"metadata": {"annotations": annotations}, "spec": {"group": group}})
    }

    #[test]
    fn a_protected_group_says_who_approved_it() {
        for (group, said, wanted) in [
            ("example.com", "", None),
            ("notk8s.io", "", None),
            ("k8s.io", "", Some(Cause::Required)),
            ("apps.k8s.io", "", Some(Cause::Required)),
            ("a.kubernetes.io", "surely", Some(Cause::Invalid)),
            ("a.kubernetes.io", "/pull/1", Some(Cause::Invalid)),
            ("a.kubernetes.io", "https://github.com/kubernetes/kubernetes/pull/78458", None),
            ("a.kubernetes.io", "unapproved, an experiment", None),
        ] {
            let mut errors = Errors::new();
            rules(&definition(group, said), None, &mut errors);
            assert_eq!(errors.first().map(|error| error.cause), wanted, "{group} {said}");
            assert!(errors.iter().all(|error| error.field == format!("metadata.annotations[{ANNOTATION}]")));
        }
    }

    #[test]
    fn what_was_not_approved_before_need_not_be() {
        for (before, after, wanted) in [("", "", 0), ("surely", "perhaps", 0), ("unapproved", "", 1), ("", "surely", 1)]
        {
            let mut errors = Errors::new();
            rules(&definition("a.k8s.io", after), Some(&definition("a.k8s.io", before)), &mut errors);
            assert_eq!(errors.len(), wanted, "{before} -> {after}");
        }
    }
}
