//! ValidatingAdmissionPolicies, MutatingAdmissionPolicies and the bindings that put them to work.

use super::matching;
use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::ADMISSIONREGISTRATION_V1;
use crate::registry::names;
use crate::registry::table::{AGE, NAME, age, integer, text_column};
use crate::registry::value::{
    begin, count_spec, default_text, first_generation, items, keep_all_but_status, keep_status_and_count, object_entry,
    object_mut, root, text,
};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, labels, meta};
use serde_json::Value;

const POLICY: ResourceDef = ResourceDef {
    gv: ADMISSIONREGISTRATION_V1,
    categories: &["api-extensions"],
    namespaced: false,
    storage_gv: ADMISSIONREGISTRATION_V1,
    ..ResourceDef::BASIC
};

pub const VALIDATING: ResourceDef = ResourceDef {
    resource: "validatingadmissionpolicies",
    singular: "validatingadmissionpolicy",
    kind: "ValidatingAdmissionPolicy",
    storage: "validatingadmissionpolicies",
    subresources: &[Subresource {
        name: "status",
        kind: "ValidatingAdmissionPolicy",
        gv: ADMISSIONREGISTRATION_V1,
        verbs: STATUS_VERBS,
    }],
    columns: COLUMNS,
    row: validating_row,
    strategy: &Strategy {
        default: default_policy,
        prepare_create: begin,
        prepare_update: keep_status_and_count,
        prepare_status: keep_all_but_status,
        validate: validate_validating,
        allow_unconditional_update: false,
        ..Strategy::CLUSTER
    },
    ..POLICY
};

pub const VALIDATING_BINDING: ResourceDef = ResourceDef {
    resource: "validatingadmissionpolicybindings",
    singular: "validatingadmissionpolicybinding",
    kind: "ValidatingAdmissionPolicyBinding",
    storage: "validatingadmissionpolicybindings",
    columns: BINDING_COLUMNS,
    row: binding_row,
    strategy: &Strategy {
        default: default_binding,
        prepare_create: first_generation,
        prepare_update: count_spec,
        validate: validate_validating_binding,
        allow_unconditional_update: false,
        ..Strategy::CLUSTER
    },
    ..POLICY
};

pub const MUTATING: ResourceDef = ResourceDef {
    resource: "mutatingadmissionpolicies",
    singular: "mutatingadmissionpolicy",
    kind: "MutatingAdmissionPolicy",
    storage: "mutatingadmissionpolicies",
    columns: MUTATING_COLUMNS,
    row: mutating_row,
    strategy: &Strategy {
        default: default_policy,
        prepare_create: first_generation,
        prepare_update: count_spec,
        validate: validate_mutating,
        allow_unconditional_update: false,
        ..Strategy::CLUSTER
    },
    ..POLICY
};

pub const MUTATING_BINDING: ResourceDef = ResourceDef {
    resource: "mutatingadmissionpolicybindings",
    singular: "mutatingadmissionpolicybinding",
    kind: "MutatingAdmissionPolicyBinding",
    storage: "mutatingadmissionpolicybindings",
    columns: BINDING_COLUMNS,
    row: binding_row,
    strategy: &Strategy {
        default: default_binding,
        prepare_create: first_generation,
        prepare_update: count_spec,
        validate: validate_mutating_binding,
        allow_unconditional_update: false,
        ..Strategy::CLUSTER
    },
    ..POLICY
};

fn default_policy(object: &mut Object) {
    let spec = object_entry(root(object), "spec");
    default_text(spec, "failurePolicy", "Fail");
    if let Some(constraints) = spec.get_mut("matchConstraints").and_then(Value::as_object_mut) {
        match_defaults(constraints);
    }
}

fn default_binding(object: &mut Object) {
    let Some(spec) = object_mut(object, "spec") else { return };
    if let Some(resources) = spec.get_mut("matchResources").and_then(Value::as_object_mut) {
        match_defaults(resources);
    }
}

fn match_defaults(resources: &mut serde_json::Map<String, Value>) {
    matching::default(resources);
    for list in ["resourceRules", "excludeResourceRules"] {
        matching::default_scope(resources, list);
    }
}

fn validate_validating(object: &Object) -> Errors {
    let mut errors = common(object);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let (validations, annotations) = (items(&spec["validations"]), items(&spec["auditAnnotations"]));
    if validations.is_empty() && annotations.is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errors.push(path.child("validations").required(detail));
        errors.push(path.child("auditAnnotations").required(detail));
    }
    for (index, validation) in validations.iter().enumerate() {
        let names = variables(spec, usize::MAX);
        self::validation(validation, &names, &path.child("validations").index(index), &mut errors);
    }
    for (index, annotation) in annotations.iter().enumerate() {
        let path = path.child("auditAnnotations").index(index);
        let key = text(&annotation["key"]);
        if key.is_empty() {
            errors.push(path.child("key").required(""));
        } else {
            let full = format!("{}/{key}", object.name());
            errors.extend(path.child("key").all_invalid(&full, names::qualified_name(&full)));
            if annotations[..index].iter().any(|earlier| text(&earlier["key"]) == key) {
                errors.push(path.child("key").duplicate(key));
            }
        }
        let (own, types) = (path.child("valueExpression"), ["string", "null_type"]);
        matching::expression(&annotation["valueExpression"], &variables(spec, usize::MAX), &types, &own, &mut errors);
    }
    errors
}

const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];

/// What an expression of a policy may name: `params` where there are any, and the first so many of its own variables.
fn variables(spec: &Value, count: usize) -> Vec<&'static str> {
    let own = (!items(&spec["variables"]).is_empty() && count > 0).then_some("variables");
    let params = spec["paramKind"].is_object().then_some("params");
    matching::REQUEST.into_iter().chain(own).chain(params).collect()
}

fn validation(validation: &Value, variables: &[&str], path: &Path, errors: &mut Errors) {
    matching::expression(&validation["expression"], variables, &["bool"], &path.child("expression"), errors);
    if let Some(expression) = validation["messageExpression"].as_str().filter(|expression| !expression.is_empty()) {
        let path = path.child("messageExpression");
        if expression.trim().is_empty() {
            errors.push(path.invalid(expression, "must be non-empty if specified"));
        } else {
            matching::expression(&validation["messageExpression"], variables, &["string"], &path, errors);
        }
    }
    let message = text(&validation["message"]);
    if !message.is_empty() && message.trim().is_empty() {
        errors.push(path.child("message").invalid(message, "message must be non-empty if specified"));
    } else if message.trim().contains('\n') {
        errors.push(path.child("message").invalid(message, "must not contain line breaks"));
    } else if text(&validation["expression"]).contains('\n') && message.is_empty() {
        errors.push(path.child("message").required("message must be specified if expression contains line breaks"));
    }
    if let Some(reason) = validation["reason"].as_str().filter(|reason| !REASONS.contains(reason)) {
        errors.push(path.child("reason").not_supported(reason, &REASONS));
    }
}

/// What both kinds of policy have.
fn common(object: &Object) -> Errors {
    let mut errors = meta::validate_cluster(object);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    matching::failure_policy(spec, &path, &mut errors);
    if spec["paramKind"].is_object() {
        param_kind(&spec["paramKind"], &path.child("paramKind"), &mut errors);
    }
    let own = path.child("matchConstraints");
    if spec["matchConstraints"].is_object() {
        match_resources(&spec["matchConstraints"], &own, &mut errors);
        if items(&spec["matchConstraints"]["resourceRules"]).is_empty() {
            errors.push(own.child("resourceRules").required(""));
        }
    } else {
        errors.push(own.required(""));
    }
    matching::conditions(spec, &variables(spec, 0), &path, &mut errors);
    let defined = items(&spec["variables"]);
    for (index, variable) in defined.iter().enumerate() {
        let path = path.child("variables").index(index);
        let name = text(&variable["name"]);
        let is_identifier = !name.is_empty()
            && !name.as_bytes()[0].is_ascii_digit()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if name.is_empty() {
            errors.push(path.child("name").required(""));
        } else if !is_identifier {
            errors.push(path.child("name").invalid(name, "name is not a valid CEL identifier"));
        } else if defined[..index].iter().any(|earlier| text(&earlier["name"]) == name) {
            errors.push(path.child("name").duplicate(name));
        }
        let names = variables(spec, index);
        matching::expression(&variable["expression"], &names, &[], &path.child("expression"), &mut errors);
    }
    errors
}

fn match_resources(resources: &Value, path: &Path, errors: &mut Errors) {
    matching::selectors(resources, path, errors);
    for list in ["resourceRules", "excludeResourceRules"] {
        for (index, rule) in items(&resources[list]).iter().enumerate() {
            let path = path.child(list).index(index);
            let names = items(&rule["resourceNames"]);
            for (index, name) in names.iter().map(text).enumerate() {
                let path = path.child("resourceNames").index(index);
                errors.extend(path.all_invalid(name, names::path_segment(name, false)));
                if names[..index].iter().any(|earlier| text(earlier) == name) {
                    errors.push(path.duplicate(name));
                }
            }
            matching::rule(rule, true, &path, errors);
        }
    }
}

fn param_kind(kind: &Value, path: &Path, errors: &mut Errors) {
    let version = text(&kind["apiVersion"]);
    let own = path.child("apiVersion");
    match version.split('/').count() {
        _ if version.is_empty() => errors.push(own.required("")),
        1 => errors.extend(own.all_invalid(version, names::dns1035_label(version, false))),
        2 => {
            let (group, short) = version.split_once('/').unwrap_or(("", version));
            errors.extend(own.all_invalid(group, names::dns1123_subdomain(group, false)));
            errors.extend(own.all_invalid(short, names::dns1035_label(short, false)));
        }
        _ => errors.push(own.invalid(version, &format!("unexpected GroupVersion string: {version}"))),
    }
    match text(&kind["kind"]) {
        "" => errors.push(path.child("kind").required("")),
        name => {
            let texts = names::dns1035_label(&name.to_lowercase(), false);
            errors.extend(path.child("kind").all_invalid(name, texts));
        }
    }
}

fn validate_mutating(object: &Object) -> Errors {
    let mut errors = common(object);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let (mutations, own) = (items(&spec["mutations"]), path.child("mutations"));
    if mutations.is_empty() {
        errors.push(own.required("mutations must contain at least one item"));
    }
    for (index, mutation) in mutations.iter().enumerate() {
        let path = own.index(index);
        let (kind, fields) = (text(&mutation["patchType"]), ["applyConfiguration", "jsonPatch"]);
        let field = match kind {
            "ApplyConfiguration" => fields[0],
            "JSONPatch" => fields[1],
            "" => {
                errors.push(path.child("patchType").required(""));
                continue;
            }
            other => {
                errors.push(path.child("patchType").not_supported(other, &["ApplyConfiguration", "JSONPatch"]));
                continue;
            }
        };
        if mutation[field].is_object() {
            let path = path.child(field).child("expression");
            if text(&mutation[field]["expression"]).trim().is_empty() {
                errors.push(path.required(""));
            }
        } else {
            errors.push(path.child(field).required(&format!("must be specified when patchType is {kind}")));
        }
        for other in fields.iter().filter(|other| **other != field && mutation[**other].is_object()) {
            errors.push(path.child(other).invalid("", &format!("must not be specified when patchType is {kind}")));
        }
    }
    let policies = ["IfNeeded", "Never"];
    match text(&spec["reinvocationPolicy"]) {
        "" => errors.push(path.child("reinvocationPolicy").required("")),
        policy if !policies.contains(&policy) => {
            errors.push(path.child("reinvocationPolicy").not_supported(policy, &policies));
        }
        _ => {}
    }
    errors
}

fn validate_validating_binding(object: &Object) -> Errors {
    let mut errors = binding(object);
    let (actions, path) = (items(&object["spec"]["validationActions"]), Path::new("spec").child("validationActions"));
    let supported = ["Audit", "Deny", "Warn"];
    if actions.is_empty() {
        errors.push(path.required(""));
    }
    for (index, action) in actions.iter().map(text).enumerate() {
        if !supported.contains(&action) {
            errors.push(path.index(index).not_supported(action, &supported));
        }
        if actions[..index].iter().any(|earlier| text(earlier) == action) {
            errors.push(path.index(index).duplicate(action));
        }
    }
    let has = |wanted: &str| actions.iter().any(|action| text(action) == wanted);
    if has("Deny") && has("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.push(path.invalid(object["spec"]["validationActions"].clone(), detail));
    }
    errors
}

fn validate_mutating_binding(object: &Object) -> Errors {
    binding(object)
}

fn binding(object: &Object) -> Errors {
    let mut errors = meta::validate_cluster(object);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    match text(&spec["policyName"]) {
        "" => errors.push(path.child("policyName").required("")),
        name => errors.extend(path.child("policyName").all_invalid(name, names::dns1123_subdomain(name, false))),
    }
    let (param, own) = (&spec["paramRef"], path.child("paramRef"));
    if param.is_object() {
        let name = text(&param["name"]);
        match (name.is_empty(), param["selector"].is_object()) {
            (true, false) => errors.push(own.required("either name or selector must be set")),
            (false, true) => {
                errors.push(own.child("name").forbidden("name and selector are mutually exclusive"));
                errors.push(own.child("selector").forbidden("name and selector are mutually exclusive"));
            }
            (false, false) => errors.extend(own.child("name").all_invalid(name, names::path_segment(name, false))),
            (true, true) => labels::validate_selector(&param["selector"], &own.child("selector"), &mut errors),
        }
        let own = own.child("parameterNotFoundAction");
        match text(&param["parameterNotFoundAction"]) {
            "" => errors.push(own.required("")),
            "Allow" | "Deny" => {}
            other => errors.push(own.not_supported(other, &["Deny", "Allow"])),
        }
    }
    if spec["matchResources"].is_object() {
        match_resources(&spec["matchResources"], &path.child("matchResources"), &mut errors);
    }
    errors
}

fn param_kind_cell(spec: &Value) -> String {
    let kind = &spec["paramKind"];
    if kind.is_object() {
        format!("{}/{}", text(&kind["apiVersion"]), text(&kind["kind"]))
    } else {
        "<unset>".to_owned()
    }
}

fn validating_row(object: &Object, now: i64) -> Vec<Value> {
    let spec = &object["spec"];
    let count = items(&spec["validations"]).len();
    vec![object.name().into(), count.into(), param_kind_cell(spec).into(), age(object, now)]
}

fn mutating_row(object: &Object, now: i64) -> Vec<Value> {
    let spec = &object["spec"];
    let count = items(&spec["mutations"]).len();
    vec![object.name().into(), count.into(), param_kind_cell(spec).into(), age(object, now)]
}

fn binding_row(object: &Object, now: i64) -> Vec<Value> {
    let (spec, param) = (&object["spec"], &object["spec"]["paramRef"]);
    let shown = if !param.is_object() {
        "<unset>".to_owned()
    } else if !text(&param["name"]).is_empty() {
        match text(&param["namespace"]) {
            "" => format!("*/{}", text(&param["name"])),
            namespace => format!("{namespace}/{}", text(&param["name"])),
        }
    } else {
        labels::selector_cell(&param["selector"])
    };
    vec![object.name().into(), text(&spec["policyName"]).into(), shown.into(), age(object, now)]
}

const COLUMNS: &[Column] = &[
    NAME,
    integer("Validations", "Validations indicates the number of validation rules defined in this configuration"),
    text_column("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy"),
    AGE,
];

const BINDING_COLUMNS: &[Column] = &[
    NAME,
    text_column("PolicyName", "PolicyName indicates the policy definition which the policy binding binded to"),
    text_column("ParamRef", "ParamRef indicates the param resource which sets the configuration param"),
    AGE,
];

const MUTATING_COLUMNS: &[Column] = &[
    NAME,
    integer("Mutations", "Mutations indicates the number of mutations rules defined in this configuration"),
    text_column("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy"),
    AGE,
];
