//! FlowSchemas.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::FLOWCONTROL_V1;
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::{
    begin, default_number, items, keep_all_but_status, keep_status_and_count, object_entry, root, text, truth,
};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, meta, names};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    gv: FLOWCONTROL_V1,
    resource: "flowschemas",
    singular: "flowschema",
    kind: "FlowSchema",
    namespaced: false,
    storage: "flowschemas",
    storage_gv: FLOWCONTROL_V1,
    subresources: &[Subresource { name: "status", kind: "FlowSchema", gv: FLOWCONTROL_V1, verbs: STATUS_VERBS }],
    columns: COLUMNS,
    row,
    strategy: &Strategy {
        default,
        prepare_create: begin,
        prepare_update: keep_status_and_count,
        prepare_status: keep_all_but_status,
        validate,
        ..Strategy::CLUSTER
    },
    ..ResourceDef::BASIC
};

const MAX_PRECEDENCE: i64 = 10_000;
const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

fn default(object: &mut Object) {
    let spec = object_entry(root(object), "spec");
    default_number(spec, "matchingPrecedence", 1000);
}

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_cluster(object);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let precedence = spec["matchingPrecedence"].as_i64().unwrap_or(0);
    let own = path.child("matchingPrecedence");
    if precedence <= 0 {
        errors.push(own.invalid(precedence, "must be a positive value"));
    }
    if precedence > MAX_PRECEDENCE {
        errors.push(own.invalid(precedence, &format!("must not be greater than {MAX_PRECEDENCE}")));
    }
    if precedence == 1 && object.name() != "exempt" {
        errors.push(own.invalid(precedence, "only the schema named 'exempt' may have matchingPrecedence 1"));
    }
    let methods = ["ByNamespace", "ByUser"];
    if spec["distinguisherMethod"].is_object() {
        let method = text(&spec["distinguisherMethod"]["type"]);
        if !methods.contains(&method) {
            errors.push(path.child("distinguisherMethod").not_supported(spec["distinguisherMethod"].clone(), &methods));
        }
    }
    let level = text(&spec["priorityLevelConfiguration"]["name"]);
    let own = path.child("priorityLevelConfiguration").child("name");
    if level.is_empty() {
        errors.push(own.required("must reference a priority level"));
    } else {
        errors.extend(own.all_invalid(level, names::dns1123_subdomain(level, false)));
    }
    for (index, rule) in items(&spec["rules"]).iter().enumerate() {
        self::rule(rule, &path.child("rules").index(index), &mut errors);
    }
    errors
}

fn rule(rule: &Value, path: &Path, errors: &mut Errors) {
    let (subjects, resources, urls) =
        (items(&rule["subjects"]), items(&rule["resourceRules"]), items(&rule["nonResourceRules"]));
    if subjects.is_empty() {
        errors.push(path.child("subjects").required("subjects must contain at least one value"));
    }
    for (index, subject) in subjects.iter().enumerate() {
        self::subject(subject, &path.child("subjects").index(index), errors);
    }
    if resources.is_empty() && urls.is_empty() {
        errors.push(path.required("at least one of resourceRules and nonResourceRules has to be non-empty"));
    }
    for (index, rule) in resources.iter().enumerate() {
        let path = path.child("resourceRules").index(index);
        verbs(rule, &path, errors);
        for field in ["apiGroups", "resources"] {
            one_or_all(items(&rule[field]), &path.child(field), errors);
        }
        if items(&rule["namespaces"]).is_empty() && !truth(&rule["clusterScope"]) {
            let detail = "resource rules that are not cluster scoped must supply at least one namespace";
            errors.push(path.child("namespaces").required(detail));
        }
    }
    for (index, rule) in urls.iter().enumerate() {
        let path = path.child("nonResourceRules").index(index);
        verbs(rule, &path, errors);
        one_or_all(items(&rule["nonResourceURLs"]), &path.child("nonResourceURLs"), errors);
    }
}

fn verbs(rule: &Value, path: &Path, errors: &mut Errors) {
    let (list, path) = (items(&rule["verbs"]), path.child("verbs"));
    if list.is_empty() {
        errors.push(path.required("verbs must contain at least one value"));
    } else if list.iter().any(|v| text(v) == "*") {
        if list.len() > 1 {
            errors.push(path.invalid(rule["verbs"].clone(), "if '*' is present, must not specify other verbs"));
        }
    } else if rule["nonResourceURLs"].is_null() && !list.iter().all(|v| VERBS.contains(&text(v))) {
        errors.push(path.not_supported(rule["verbs"].clone(), &VERBS));
    }
}

fn one_or_all(list: &[Value], path: &Path, errors: &mut Errors) {
    if list.is_empty() {
        errors.push(path.required("must contain at least one value"));
    } else if list.len() > 1 && list.iter().any(|v| text(v) == "*") {
        errors.push(path.invalid(list.to_vec(), "if '*' is present, must not specify others"));
    }
}

fn subject(subject: &Value, path: &Path, errors: &mut Errors) {
    let kind = text(&subject["kind"]);
    let field = match kind {
        "ServiceAccount" => "serviceAccount",
        "User" => "user",
        "Group" => "group",
        other => {
            errors.push(path.child("kind").not_supported(other, &["Group", "ServiceAccount", "User"]));
            return;
        }
    };
    if !subject[field].is_object() {
        errors.push(path.child(field).required(&format!("{field} is required when subject kind is '{kind}'")));
        return;
    }
    for other in ["serviceAccount", "user", "group"] {
        if other != field && subject[other].is_object() {
            errors
                .push(path.child(other).forbidden(&format!("{other} is forbidden when subject kind is not '{kind}'")));
        }
    }
    if text(&subject[field]["name"]).is_empty() {
        errors.push(path.child(field).child("name").required(""));
    }
    if field == "serviceAccount" && text(&subject[field]["namespace"]).is_empty() {
        errors.push(path.child(field).child("namespace").required("must specify namespace for service account"));
    }
}

fn row(object: &Object, now: i64) -> Vec<Value> {
    let spec = &object["spec"];
    let method = match text(&spec["distinguisherMethod"]["type"]) {
        "" => "<none>",
        method => method,
    };
    let dangling = items(&object["status"]["conditions"]).iter().find(|c| text(&c["type"]) == "Dangling");
    vec![
        object.name().into(),
        text(&spec["priorityLevelConfiguration"]["name"]).into(),
        spec["matchingPrecedence"].as_i64().unwrap_or(0).into(),
        method.into(),
        age(object, now),
        dangling.map_or("?", |c| text(&c["status"])).into(),
    ]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column("PriorityLevel", "`name` is the name of the priority level configuration being referenced Required."),
    text_column(
        "MatchingPrecedence",
        "`matchingPrecedence` is used to choose among the FlowSchemas that match a given request. The chosen FlowSchema is among those with the numerically lowest (which we take to be logically highest) MatchingPrecedence.  Each MatchingPrecedence value must be ranged in [1,10000]. Note that if the precedence is not specified, it will be set to 1000 as default.",
    ),
    text_column(
        "DistinguisherMethod",
        "`distinguisherMethod` defines how to compute the flow distinguisher for requests that match this schema. `nil` specifies that the distinguisher is disabled and thus will always be the empty string.",
    ),
    AGE,
    text_column("MissingPL", "references a broken or non-existent PriorityLevelConfiguration"),
];
