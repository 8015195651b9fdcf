//! What stands in the way of a namespace's end, and the five conditions that say so, in upstream's words.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What one pass over the content found. Maps and sorted texts: the same findings always read the same.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Why not every resource is known.
    pub discovery: Option<String>,
    /// What could not be deleted.
    pub failures: Vec<String>,
    /// Objects left, by `resource.group`.
    pub remaining: BTreeMap<String, usize>,
    /// Objects left that wait for this finalizer.
    pub finalizers: BTreeMap<String, usize>,
}

impl Findings {
    /// Nothing is left, and that is certain.
    pub(super) fn is_clear(&self) -> bool {
        self.discovery.is_none() && self.failures.is_empty() && self.remaining.is_empty()
    }

    /// What went wrong, as opposed to what merely takes time.
    pub(super) fn failure(&self) -> Option<String> {
        let all: Vec<&str> = self.discovery.iter().chain(&self.failures).map(String::as_str).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }
}

/// A condition's type; reason and message while all is well; reason and message of what is not.
type Row = (&'static str, &'static str, &'static str, Option<(&'static str, String)>);

fn rows(findings: &Findings) -> [Row; 5] {
    let mut failures = findings.failures.clone();
    failures.sort();
    let remaining: Vec<String> =
        findings.remaining.iter().map(|(r, n)| format!("{r} has {n} resource instances")).collect();
    let finalizers: Vec<String> =
        findings.finalizers.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect();
    [
        (
            "NamespaceDeletionDiscoveryFailure",
            "ResourcesDiscovered",
            "All resources successfully discovered",
            findings.discovery.clone().map(|message| ("DiscoveryFailed", message)),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
            None,
        ),
        (
            "NamespaceDeletionContentFailure",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
            (!failures.is_empty()).then(|| {
                let text = failures.join(", ");
                (
                    "ContentDeletionFailed",
                    format!("Failed to delete all resource types, {} remaining: {text}", failures.len()),
                )
            }),
        ),
        (
            "NamespaceContentRemaining",
            "ContentRemoved",
            "All content successfully removed",
            (!remaining.is_empty())
                .then(|| ("SomeResourcesRemain", format!("Some resources are remaining: {}", remaining.join(", ")))),
        ),
        (
            "NamespaceFinalizersRemaining",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
            (!finalizers.is_empty()).then(|| {
                let text = format!("Some content in the namespace has finalizers remaining: {}", finalizers.join(", "));
                ("SomeFinalizersRemain", text)
            }),
        ),
    ]
}

/// The conditions that must be written so that `old` (the namespace's `status.conditions`) tells these findings.
pub(super) fn changed(old: &Value, findings: &Findings, now: Timestamp) -> Vec<Value> {
    let old = old.as_array().map(Vec::as_slice).unwrap_or_default();
    let second = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
    let mut out = Vec::new();
    for (kind, well, well_message, wrong) in rows(findings) {
        let (status, reason, message) = match &wrong {
            Some((reason, message)) => ("True", *reason, message.as_str()),
            None => ("False", well, well_message),
        };
        let same = |c: &&Value| c["status"] == status && c["reason"] == reason && c["message"] == message;
        if old.iter().find(|c| c["type"] == kind).filter(same).is_none() {
            out.push(json!({"type": kind, "status": status, "lastTransitionTime": second, "reason": reason, "message": message}));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(conditions: &[Value]) -> Vec<String> {
        let text = |c: &Value, field: &str| c[field].as_str().unwrap_or_default().to_owned();
        conditions
            .iter()
            .map(|c| format!("{}={} {}: {}", text(c, "type"), text(c, "status"), text(c, "reason"), text(c, "message")))
            .collect()
    }

    #[test]
    fn every_condition_is_told_once_and_then_only_what_changed() {
        let now: Timestamp = "2026-01-02T03:04:05.678Z".parse().unwrap();
        let mut findings = Findings {
            discovery: None,
            failures: vec!["b failed".into(), "a failed".into()],
            remaining: [("pods.".into(), 2), ("jobs.batch".into(), 1)].into(),
            finalizers: [("x.io/hold".into(), 1)].into(),
        };
        let first = changed(&Value::Null, &findings, now);
        assert_eq!(
            lines(&first),
            [
                "NamespaceDeletionDiscoveryFailure=False ResourcesDiscovered: All resources successfully discovered",
                "NamespaceDeletionGroupVersionParsingFailure=False ParsedGroupVersions: All legacy kube types successfully parsed",
                "NamespaceDeletionContentFailure=True ContentDeletionFailed: Failed to delete all resource types, 2 remaining: a failed, b failed",
                "NamespaceContentRemaining=True SomeResourcesRemain: Some resources are remaining: jobs.batch has 1 resource instances, pods. has 2 resource instances",
                "NamespaceFinalizersRemaining=True SomeFinalizersRemain: Some content in the namespace has finalizers remaining: x.io/hold in 1 resource instances",
            ]
        );
        assert_eq!(first[0]["lastTransitionTime"], "2026-01-02T03:04:05Z");
        let old = Value::Array(first);
        assert!(changed(&old, &findings, now).is_empty());
        findings.failures.clear();
        assert_eq!(
            lines(&changed(&old, &findings, now)),
            [
                "NamespaceDeletionContentFailure=False ContentDeleted: All content successfully deleted, may be waiting on finalization"
            ]
        );
        findings.discovery = Some("no answer".into());
        assert_eq!(
            lines(&changed(&old, &findings, now))[0],
            "NamespaceDeletionDiscoveryFailure=True DiscoveryFailed: no answer"
        );
    }
}
