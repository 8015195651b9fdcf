//! PodDisruptionBudgets, and whether one of them allows an eviction.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::POLICY_V1;
use crate::registry::table::{AGE, NAME, age, integer, text_column};
use crate::registry::value::{begin, items, keep_all_but_status, keep_status_and_count, object_entry, root, text};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, labels, meta, template};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    gv: POLICY_V1,
    resource: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    kind: "PodDisruptionBudget",
    short_names: &["pdb"],
    storage: "poddisruptionbudgets",
    storage_gv: POLICY_V1,
    subresources: &[Subresource { name: "status", kind: "PodDisruptionBudget", gv: POLICY_V1, verbs: STATUS_VERBS }],
    columns: COLUMNS,
    row,
    strategy: &Strategy {
        prepare_create: begin,
        prepare_update: keep_status_and_count,
        prepare_status: keep_all_but_status,
        validate,
        validate_status,
        allow_unconditional_update: false,
        ..Strategy::BASIC
    },
    ..ResourceDef::BASIC
};

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(object);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        errors.push(path.invalid(spec.clone(), "minAvailable and maxUnavailable cannot be both set"));
    }
    for field in ["minAvailable", "maxUnavailable"] {
        template::int_or_percent(&spec[field], &path.child(field), &mut errors);
        template::at_most_all(&spec[field], &path.child(field), &mut errors);
    }
    labels::validate_selector(&spec["selector"], &path.child("selector"), &mut errors);
    let policies = ["AlwaysAllow", "IfHealthyBudget"];
    if let Some(policy) = spec["unhealthyPodEvictionPolicy"].as_str().filter(|policy| !policies.contains(policy)) {
        errors.push(path.child("unhealthyPodEvictionPolicy").not_supported(policy, &policies));
    }
    errors
}

fn validate_status(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let counts = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
    template::non_negative(&new["status"], &counts, &Path::new("status"), &mut errors);
    errors
}

/// Pods whose removal a budget still waits to see; more are not noted.
const MAX_DISRUPTED_PODS: usize = 2000;

/// Why a pod may not be evicted now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// 429, to be tried again after `seconds`, with the text of the cause.
    NotNow { cause: String, seconds: Option<u32> },
    /// 403: the budget is in no state to answer.
    Unable(String),
}

/// Whether the budget covers the pod.
pub fn covers(budget: &Object, pod: &Object) -> bool {
    labels::selects(&budget["spec"]["selector"], &pod["metadata"]["labels"]) == Some(true)
}

/// Takes one disruption from the budget for that pod, noting when (`checkAndDecrement`). A pod that is not ready may
/// go without (`Ok(false)`) where the budget has enough healthy ones, or says so.
///
/// # Errors
/// Why not.
pub fn take(budget: &mut Object, pod: &Object, now: &str) -> Result<bool, Refusal> {
    let name = budget.name().to_owned();
    let number = |budget: &Object, field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let ready =
        items(&pod["status"]["conditions"]).iter().any(|c| text(&c["type"]) == "Ready" && text(&c["status"]) == "True");
    if !ready {
        let healthy = number(budget, "currentHealthy") >= number(budget, "desiredHealthy")
            && number(budget, "desiredHealthy") > 0;
        if healthy || text(&budget["spec"]["unhealthyPodEvictionPolicy"]) == "AlwaysAllow" {
            return Ok(false);
        }
    }
    if number(budget, "observedGeneration") < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        // The controller has yet to see the latest spec.
        let cause = format!("The disruption budget {name} is still being processed by the server.");
        return Err(Refusal::NotNow { cause, seconds: Some(10) });
    }
    if number(budget, "disruptionsAllowed") < 0 {
        return Err(Refusal::Unable("pdb disruptions allowed is negative".into()));
    }
    if items(&budget["status"]["disruptedPods"]).len() > MAX_DISRUPTED_PODS {
        return Err(Refusal::Unable(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller".into(),
        ));
    }
    if number(budget, "disruptionsAllowed") == 0 {
        let failed = items(&budget["status"]["conditions"]).iter().find(|c| {
            text(&c["type"]) == "DisruptionAllowed"
                && text(&c["status"]) == "False"
                && text(&c["reason"]) == "SyncFailed"
        });
        let (healthy, desired) = (number(budget, "currentHealthy"), number(budget, "desiredHealthy"));
        let cause = if let Some(condition) = failed {
            let why = text(&condition["message"]);
            format!("The disruption budget {name} does not allow evicting pods currently because it failed sync: {why}")
        } else if healthy <= desired {
            format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently")
        } else {
            format!("The disruption budget {name} does not allow evicting pods currently")
        };
        return Err(Refusal::NotNow { cause, seconds: None });
    }
    let left = number(budget, "disruptionsAllowed") - 1;
    let status = object_entry(root(budget), "status");
    status.insert("disruptionsAllowed".to_owned(), left.into());
    object_entry(status, "disruptedPods").insert(pod.name().to_owned(), now.into());
    if left == 0 {
        let condition = serde_json::json!({
            "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
            "observedGeneration": status.get("observedGeneration").cloned().unwrap_or(Value::Null),
            "lastTransitionTime": now,
        });
        let conditions = status.entry("conditions").or_insert_with(|| Value::Array(Vec::new()));
        if let Some(list) = conditions.as_array_mut() {
            list.retain(|c| text(&c["type"]) != "DisruptionAllowed");
            list.push(condition);
        }
    }
    Ok(true)
}

fn row(object: &Object, now: i64) -> Vec<Value> {
    let amount = |field: &str| match &object["spec"][field] {
        Value::Null => "N/A".to_owned(),
        Value::String(text) => text.clone(),
        number => number.to_string(),
    };
    vec![
        object.name().into(),
        amount("minAvailable").into(),
        amount("maxUnavailable").into(),
        object["status"]["disruptionsAllowed"].as_i64().unwrap_or(0).into(),
        age(object, now),
    ]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column("Min Available", "The minimum number of pods that must be available."),
    text_column("Max Unavailable", "The maximum number of pods that may be unavailable."),
    integer("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time."),
    AGE,
];
