//! ValidatingWebhookConfigurations and MutatingWebhookConfigurations.

use super::matching;
use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::ADMISSIONREGISTRATION_V1;
use crate::registry::names;
use crate::registry::table::{AGE, NAME, age, integer};
use crate::registry::value::{
    count_content, default_number, default_text, default_value, first_generation, items, items_mut, root, text,
};
use crate::registry::{Column, ResourceDef, Strategy, meta};
use serde_json::Value;

const WEBHOOKS: ResourceDef = ResourceDef {
    gv: ADMISSIONREGISTRATION_V1,
    categories: &["api-extensions"],
    namespaced: false,
    storage_gv: ADMISSIONREGISTRATION_V1,
    columns: COLUMNS,
    row,
    ..ResourceDef::BASIC
};

pub const VALIDATING: ResourceDef = ResourceDef {
    resource: "validatingwebhookconfigurations",
    singular: "validatingwebhookconfiguration",
    kind: "ValidatingWebhookConfiguration",
    storage: "validatingwebhookconfigurations",
    strategy: &Strategy { default, validate, ..STRATEGY },
    ..WEBHOOKS
};

pub const MUTATING: ResourceDef = ResourceDef {
    resource: "mutatingwebhookconfigurations",
    singular: "mutatingwebhookconfiguration",
    kind: "MutatingWebhookConfiguration",
    storage: "mutatingwebhookconfigurations",
    strategy: &Strategy { default: default_mutating, validate: validate_mutating, ..STRATEGY },
    ..WEBHOOKS
};

const STRATEGY: Strategy = Strategy {
    prepare_create: first_generation,
    prepare_update: count_content,
    allow_unconditional_update: false,
    ..Strategy::CLUSTER
};

fn default(object: &mut Object) {
    for hook in items_mut(root(object), "webhooks") {
        default_text(hook, "failurePolicy", "Fail");
        matching::default(hook);
        default_value(hook, "timeoutSeconds", 10);
        matching::default_scope(hook, "rules");
        let service = hook.get_mut("clientConfig").and_then(|config| config.get_mut("service")?.as_object_mut());
        if let Some(service) = service {
            default_number(service, "port", 443);
        }
    }
}

fn default_mutating(object: &mut Object) {
    default(object);
    for hook in items_mut(root(object), "webhooks") {
        default_text(hook, "reinvocationPolicy", "Never");
    }
}

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_cluster(object);
    let hooks = items(&object["webhooks"]);
    for (index, hook) in hooks.iter().enumerate() {
        let path = Path::new("webhooks").index(index);
        self::hook(hook, &path, &mut errors);
        let name = text(&hook["name"]);
        if !name.is_empty() && hooks[..index].iter().any(|earlier| text(&earlier["name"]) == name) {
            errors.push(path.child("name").duplicate(name));
        }
    }
    errors
}

fn validate_mutating(object: &Object) -> Errors {
    let mut errors = validate(object);
    let policies = ["IfNeeded", "Never"];
    for (index, hook) in items(&object["webhooks"]).iter().enumerate() {
        let path = Path::new("webhooks").index(index).child("reinvocationPolicy");
        if let Some(policy) = hook["reinvocationPolicy"].as_str().filter(|policy| !policies.contains(policy)) {
            errors.push(path.not_supported(policy, &policies));
        }
    }
    errors
}

fn hook(hook: &Value, path: &Path, errors: &mut Errors) {
    const MAX_SECONDS: i64 = 30;
    qualified(text(&hook["name"]), &path.child("name"), errors);
    for (index, rule) in items(&hook["rules"]).iter().enumerate() {
        matching::rule(rule, false, &path.child("rules").index(index), errors);
    }
    matching::failure_policy(hook, path, errors);
    let effects = ["None", "NoneOnDryRun"];
    match hook["sideEffects"].as_str() {
        None | Some("") => errors.push(path.child("sideEffects").required("must specify one of None, NoneOnDryRun")),
        Some(effect) if !effects.contains(&effect) => {
            errors.push(path.child("sideEffects").not_supported(effect, &effects));
        }
        Some(_) => {}
    }
    if let Some(seconds) = hook["timeoutSeconds"].as_i64().filter(|s| !(1..=MAX_SECONDS).contains(s)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.push(path.child("timeoutSeconds").invalid(seconds, detail));
    }
    matching::selectors(hook, path, errors);
    client(&hook["clientConfig"], &path.child("clientConfig"), errors);
    let (versions, own) = (items(&hook["admissionReviewVersions"]), path.child("admissionReviewVersions"));
    if versions.is_empty() {
        errors.push(own.required("must specify one of v1, v1beta1"));
    } else {
        for (index, version) in versions.iter().map(text).enumerate() {
            if versions[..index].iter().any(|earlier| text(earlier) == version) {
                errors.push(own.index(index).invalid(version, "duplicate version"));
            }
            errors.extend(own.index(index).all_invalid(version, names::dns1035_label(version, false)));
        }
        if !versions.iter().any(|v| matches!(text(v), "v1" | "v1beta1")) {
            let detail = "must include at least one of v1, v1beta1";
            errors.push(own.invalid(hook["admissionReviewVersions"].clone(), detail));
        }
    }
    matching::conditions(hook, &matching::REQUEST[..4], path, errors);
}

/// `IsFullyQualifiedName`: at least three parts.
fn qualified(name: &str, path: &Path, errors: &mut Errors) {
    if name.is_empty() {
        errors.push(path.required(""));
        return;
    }
    let texts = names::dns1123_subdomain(name, false);
    let fine = texts.is_empty();
    errors.extend(path.all_invalid(name, texts));
    if fine && name.split('.').count() < 3 {
        errors.push(path.invalid(name, "should be a domain with at least three segments separated by dots"));
    }
}

fn client(config: &Value, path: &Path, errors: &mut Errors) {
    let (url, service) = (&config["url"], &config["service"]);
    match (url.as_str(), service.is_object()) {
        (Some(_), true) | (None, false) => {
            errors.push(path.child("url").required("exactly one of url or service is required"));
        }
        (Some(url), false) => self::url(url, &path.child("url"), errors),
        (None, true) => {
            let path = path.child("service");
            if text(&service["name"]).is_empty() {
                errors.push(path.child("name").required("service name is required"));
            }
            if text(&service["namespace"]).is_empty() {
                errors.push(path.child("namespace").required("service namespace is required"));
            }
            let port = service["port"].as_i64().unwrap_or(443);
            if !names::port_number(port).is_empty() {
                let detail = "port is not valid: must be between 1 and 65535, inclusive";
                errors.push(path.child("port").invalid(port, detail));
            }
            if let Some(location) = service["path"].as_str()
                && !location.starts_with('/')
            {
                errors.push(path.child("path").invalid(location, "must start with a '/'"));
            }
        }
    }
}

fn url(url: &str, path: &Path, errors: &mut Errors) {
    let form = "; desired format: https://host[/path]";
    let mut wrong = |detail: String| errors.push(path.invalid(url, &detail));
    let Ok(parsed) = url.parse::<http::Uri>() else {
        wrong(format!("url must be a valid URL{form}"));
        return;
    };
    if parsed.scheme_str() != Some("https") {
        wrong(format!("'https' is the only allowed URL scheme{form}"));
    }
    if parsed.host().is_none_or(str::is_empty) {
        wrong(format!("host must be specified{form}"));
    }
    if parsed.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        wrong("user information is not permitted in the URL".to_owned());
    }
    if url.contains('#') {
        wrong("fragments are not permitted in the URL".to_owned());
    }
    if parsed.query().is_some() {
        wrong("query parameters are not permitted in the URL".to_owned());
    }
}

fn row(object: &Object, now: i64) -> Vec<Value> {
    vec![object.name().into(), items(&object["webhooks"]).len().into(), age(object, now)]
}

const COLUMNS: &[Column] =
    &[NAME, integer("Webhooks", "Webhooks indicates the number of webhooks registered in this configuration"), AGE];
