//! root-ca-certificate-publisher-controller: every active namespace has the ConfigMap `kube-root-ca.crt`.

use super::per_namespace::{self, PerNamespace, Step};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use serde_json::{Map, Value, json};
use std::sync::Arc;

const KEY: &str = "ca.crt";
const DESCRIPTION_ANNOTATION: &str = "kubernetes.io/description";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

struct RootCa {
    bundle: Arc<str>,
}

/// What is read of the ConfigMap.
struct Seen {
    uid: String,
    described: bool,
    /// The CA bundle, where it is there.
    bundle: Option<String>,
    other_keys: Vec<String>,
}

impl PerNamespace for RootCa {
    type Kind = ConfigMap;
    type Seen = Seen;
    const NAME: &'static str = "kube-root-ca.crt";

    fn keep(object: ConfigMap) -> Seen {
        let mut data = object.data.unwrap_or_default();
        let annotations = object.metadata.annotations.unwrap_or_default();
        Seen {
            uid: object.metadata.uid.unwrap_or_default(),
            described: annotations.get(DESCRIPTION_ANNOTATION).is_some_and(|text| !text.is_empty()),
            bundle: data.remove(KEY),
            other_keys: data.into_keys().collect(),
        }
    }

    fn decide(&self, seen: Option<&Seen>) -> Step<ConfigMap> {
        let Some(seen) = seen else {
            return Step::Create(Box::new(ConfigMap {
                metadata: ObjectMeta {
                    name: Some(Self::NAME.into()),
                    annotations: Some([(DESCRIPTION_ANNOTATION.into(), DESCRIPTION.into())].into()),
                    ..ObjectMeta::default()
                },
                data: Some([(KEY.into(), self.bundle.to_string())].into()),
                ..ConfigMap::default()
            }));
        };
        if seen.described && seen.other_keys.is_empty() && seen.bundle.as_deref() == Some(&*self.bundle) {
            return Step::Nothing;
        }
        // The bundle is all it holds: what others put in goes.
        let mut data: Map<String, Value> = seen.other_keys.iter().map(|key| (key.clone(), Value::Null)).collect();
        data.insert(KEY.into(), (*self.bundle).into());
        let mut metadata = json!({"uid": seen.uid});
        if !seen.described {
            metadata["annotations"] = json!({DESCRIPTION_ANNOTATION: DESCRIPTION});
        }
        Step::Patch(json!({"metadata": metadata, "data": data}))
    }
}

/// Publishes the bundle in new namespaces and repairs it where it was changed or deleted, for ever.
pub(super) async fn run(client: Client, bundle: Arc<str>) {
    per_namespace::run(client, RootCa { bundle }).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(object: Option<Value>) -> Value {
        let controller = RootCa { bundle: "PEM".into() };
        let seen = object.map(|object| RootCa::keep(serde_json::from_value(object).unwrap()));
        match controller.decide(seen.as_ref()) {
            Step::Nothing => Value::Null,
            Step::Create(object) => serde_json::to_value(object).unwrap(),
            Step::Patch(patch) => patch,
        }
    }

    #[test]
    fn the_bundle_is_created_where_absent_repaired_where_changed_and_else_left_alone() {
        let described = json!({DESCRIPTION_ANNOTATION: "by someone"});
        let map = |annotations: &Value, data: Value| {
            Some(json!({"metadata": {"uid": "u", "annotations": annotations}, "data": data}))
        };
        for (object, expected) in [
            (
                None,
                json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"ca.crt": "PEM"},
                    "metadata": {"name": "kube-root-ca.crt", "annotations": {DESCRIPTION_ANNOTATION: DESCRIPTION}}}),
            ),
            (map(&described, json!({"ca.crt": "PEM"})), Value::Null),
            (
                map(&described, json!({"ca.crt": "old", "more": "x"})),
                json!({"metadata": {"uid": "u"}, "data": {"ca.crt": "PEM", "more": null}}),
            ),
            (
                map(&Value::Null, json!({"ca.crt": "PEM"})),
                json!({"metadata": {"uid": "u", "annotations": {DESCRIPTION_ANNOTATION: DESCRIPTION}}, "data": {"ca.crt": "PEM"}}),
            ),
            (map(&described, Value::Null), json!({"metadata": {"uid": "u"}, "data": {"ca.crt": "PEM"}})),
        ] {
            assert_eq!(decide(object.clone()), expected, "{object:?}");
        }
    }
}
