//! Which resources the server has, by discovery.

use super::call::{CallError, call};
use kube::Client;
use kube::api::ApiResource;
use kube::core::discovery::v2::APIGroupDiscoveryList;
use std::collections::{BTreeMap, BTreeSet};

/// A resource in the version that the server prefers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub api: ApiResource,
    pub namespaced: bool,
    verbs: Vec<String>,
}

impl Found {
    pub(super) fn has(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }
}

/// Every resource, and which parts of discovery are stale.
pub(super) async fn discover(client: &Client) -> Result<(Vec<Found>, Option<String>), CallError> {
    let core = call(client.list_core_api_versions_aggregated()).await?;
    let groups = call(client.list_api_groups_aggregated()).await?;
    Ok(preferred(&[core, groups]))
}

/// Of each resource of a group the version that the server prefers.
fn preferred(documents: &[APIGroupDiscoveryList]) -> (Vec<Found>, Option<String>) {
    let mut resources = Vec::new();
    let mut stale: BTreeMap<String, &str> = BTreeMap::new();
    for group in documents.iter().flat_map(|document| &document.items) {
        let group_name = group.metadata.as_ref().and_then(|meta| meta.name.as_deref()).unwrap_or("");
        let mut seen = BTreeSet::new();
        for version in &group.versions {
            let version_name = version.version.as_deref().unwrap_or("");
            let api_version =
                if group_name.is_empty() { version_name.to_owned() } else { format!("{group_name}/{version_name}") };
            if version.freshness.as_deref() == Some("Stale") {
                stale.insert(api_version, "stale GroupVersion discovery");
                continue;
            }
            for found in &version.resources {
                let plural = found.resource.clone().unwrap_or_default();
                if !seen.insert(plural.clone()) {
                    continue;
                }
                let kind = found.response_kind.as_ref().and_then(|kind| kind.kind.clone()).unwrap_or_default();
                let api = ApiResource {
                    group: group_name.into(),
                    version: version_name.into(),
                    api_version: api_version.clone(),
                    kind,
                    plural,
                };
                let namespaced = found.scope.as_deref() == Some("Namespaced");
                resources.push(Found { api, namespaced, verbs: found.verbs.clone() });
            }
        }
    }
    let failing: Vec<String> = stale.iter().map(|(gv, why)| format!("{gv}: {why}")).collect();
    let failure = (!failing.is_empty()).then(|| {
        let all = failing.join(", ");
        let count = failing.len();
        format!(
            "Discovery failed for some groups, {count} failing: unable to retrieve the complete list of server APIs: {all}"
        )
    });
    (resources, failure)
}

#[cfg(test)]
impl Found {
    /// A namespaced resource that can do everything.
    pub(super) fn for_tests(plural: &str) -> Self {
        let api = ApiResource {
            group: "apps".into(),
            version: "v1".into(),
            api_version: "apps/v1".into(),
            kind: plural.into(),
            plural: plural.into(),
        };
        Self { api, namespaced: true, verbs: vec!["delete".into(), "list".into(), "watch".into()] }
    }
}
