//! Jobs.

mod policy;
mod status;
mod update;

use crate::meta::{Meta, Object};
use crate::registry::core::pod;
use crate::registry::duration::human_duration;
use crate::registry::field::{Errors, Path};
use crate::registry::gv::BATCH_V1;
use crate::registry::table::{AGE, NAME, age, containers, text_column, unix_seconds};
use crate::registry::value::{
    begin, default_text, default_value, is_empty, items, items_mut, keep_all_but_status, keep_status_and_count,
    object_entry, root, text, truth,
};
use crate::registry::{
    Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, labels, meta, meta_fields, names, template,
};
use crate::selector::Pairs;
use serde_json::{Map, Value};

pub const DEF: ResourceDef = ResourceDef {
    gv: BATCH_V1,
    resource: "jobs",
    singular: "job",
    kind: "Job",
    categories: &["all"],
    storage: "jobs",
    storage_gv: BATCH_V1,
    subresources: &[Subresource { name: "status", kind: "Job", gv: BATCH_V1, verbs: STATUS_VERBS }],
    columns: COLUMNS,
    row,
    selectable: &["status.successful"],
    fields,
    orphans_by_default: true,
    strategy: &Strategy {
        default,
        prepare_create,
        prepare_update: keep_status_and_count,
        prepare_status: keep_all_but_status,
        validate,
        validate_update: update::validate,
        validate_status: status::validate,
        warnings,
        ..Strategy::BASIC
    },
    ..ResourceDef::BASIC
};

/// (label of the controller, label of the job's name), and their older names.
const UID_LABELS: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];
const NAME_LABELS: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

fn fields(job: &Object) -> Pairs {
    let mut pairs = meta_fields(job);
    let succeeded = job["status"]["succeeded"].as_i64().unwrap_or(0);
    pairs.insert("status.successful".into(), succeeded.to_string().into());
    pairs
}

fn default(job: &mut Object) {
    let labels = job["spec"]["template"]["metadata"]["labels"].clone();
    if is_empty(&job["metadata"]["labels"]) && !is_empty(&labels) {
        job.meta_mut().insert("labels".to_owned(), labels);
    }
    let spec = object_entry(root(job), "spec");
    let absent = |spec: &Map<String, Value>, key: &str| spec.get(key).is_none_or(Value::is_null);
    if absent(spec, "completions") && absent(spec, "parallelism") {
        spec.insert("completions".to_owned(), 1.into());
    }
    default_value(spec, "parallelism", 1);
    let limit = if absent(spec, "backoffLimitPerIndex") { 6 } else { i64::from(i32::MAX) };
    default_value(spec, "backoffLimit", limit);
    default_text(spec, "completionMode", "NonIndexed");
    default_value(spec, "suspend", false);
    default_value(spec, "manualSelector", false);
    let replacement = if absent(spec, "podFailurePolicy") { "TerminatingOrFailed" } else { "Failed" };
    default_text(spec, "podReplacementPolicy", replacement);
    template_defaults(spec);
}

/// What the spec of a job and that of a cron job's template have in common.
pub fn template_defaults(spec: &mut Map<String, Value>) {
    if let Some(policy) = spec.get_mut("podFailurePolicy").and_then(Value::as_object_mut) {
        for rule in items_mut(policy, "rules") {
            for pattern in items_mut(rule, "onPodConditions") {
                default_text(pattern, "status", "True");
            }
        }
    }
    template::default(spec);
}

/// The selector is made of the job's uid, unless the client wants its own.
fn prepare_create(job: &mut Object) {
    begin(job);
    if !truth(&job["spec"]["manualSelector"]) {
        let (uid, name) = (job.uid().to_owned(), job.name().to_owned());
        let spec = object_entry(root(job), "spec");
        let template = object_entry(spec, "template");
        let labels = object_entry(object_entry(template, "metadata"), "labels");
        for (keys, value) in [(NAME_LABELS, name), (UID_LABELS, uid.clone())] {
            // A client that sets the older label itself may have meant something else: validation will tell.
            if !labels.contains_key(keys[1]) {
                for key in keys {
                    labels.insert(key.to_owned(), value.clone().into());
                }
            }
        }
        let selector = object_entry(spec, "selector");
        object_entry(selector, "matchLabels").entry(UID_LABELS[0]).or_insert_with(|| uid.into());
    }
    // As upstream does when it reads back what it has just stored.
    default(job);
}

fn validate(job: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(job);
    generated_selector(job, &mut errors);
    let (spec, path) = (&job["spec"], Path::new("spec"));
    validate_spec(spec, &path, &mut errors);
    if spec["selector"].is_null() {
        errors.push(path.child("selector").required(""));
    } else {
        labels::validate_selector(&spec["selector"], &path.child("selector"), &mut errors);
    }
    if labels::selects(&spec["selector"], &spec["template"]["metadata"]["labels"]) == Some(false) {
        template::mismatch(spec, &path, &mut errors);
    }
    // Pods of an indexed job are called after job and index, and their hostnames too.
    if text(&spec["completionMode"]) == "Indexed"
        && let Some(completions) = spec["completions"].as_i64().filter(|c| *c > 0)
    {
        let longest = format!("{}-{}", job.name(), completions - 1);
        if !names::dns1123_label(&longest, false).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {longest}");
            errors.push(Path::new("metadata").child("name").invalid(job.name(), &detail));
        }
    }
    errors
}

fn generated_selector(job: &Object, errors: &mut Errors) {
    let spec = &job["spec"];
    if truth(&spec["manualSelector"]) || spec["selector"].is_null() {
        return;
    }
    let mut expected = Map::new();
    let path = Path::new("spec").child("template").child("metadata").child("labels");
    for (keys, value) in [(UID_LABELS, job.uid()), (NAME_LABELS, job.name())] {
        for key in keys {
            expected.insert(key.to_owned(), value.into());
            match &spec["template"]["metadata"]["labels"][key] {
                Value::Null => errors.push(path.key(key).required(&format!("must be '{value}'"))),
                found if text(found) != value => {
                    errors.push(path.key(key).invalid(found.clone(), &format!("must be '{value}'")));
                }
                _ => {}
            }
        }
    }
    if labels::selects(&spec["selector"], &Value::Object(expected)) == Some(false) {
        let path = Path::new("spec").child("selector");
        errors.push(path.invalid(spec["selector"].clone(), "`selector` not auto-generated"));
    }
}

const MAX_INDEXED: i64 = 100_000;
const MAX_FAILED_INDEXES_OF_MANY: i64 = 10_000;

/// `validateJobSpec`: what cron jobs' templates obey too.
pub fn validate_spec(spec: &Value, path: &Path, errors: &mut Errors) {
    let counts = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    template::non_negative(spec, &counts, path, errors);
    let (max_failed, per_index) = (spec["maxFailedIndexes"].as_i64(), spec["backoffLimitPerIndex"].as_i64());
    if max_failed.is_some() && per_index.is_none() {
        errors.push(path.child("backoffLimitPerIndex").required("when maxFailedIndexes is specified"));
    }
    if let Some(manager) = spec["managedBy"].as_str() {
        managed_by(manager, &path.child("managedBy"), errors);
    }
    let mode = text(&spec["completionMode"]);
    if !matches!(mode, "" | "NonIndexed" | "Indexed") {
        errors.push(path.child("completionMode").not_supported(mode, &["NonIndexed", "Indexed"]));
    }
    if mode == "Indexed" {
        indexed(spec, path, errors);
    } else {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(number) = spec[field].as_i64() {
                errors.push(path.child(field).invalid(number, "requires indexed completion mode"));
            }
        }
    }
    policy::failure(spec, path, errors);
    policy::success(spec, path, errors);
    policy::replacement(spec, path, errors);
    let (template, path) = (&spec["template"], path.child("template"));
    pod::validate::template(template, &path, errors);
    let (policy, path) = (text(&template["spec"]["restartPolicy"]), path.child("spec").child("restartPolicy"));
    match policy {
        "" | "Always" => errors.push(path.required("valid values: \"OnFailure\", \"Never\"")),
        "OnFailure" if spec["podFailurePolicy"].is_object() => {
            errors.push(path.invalid(policy, "only \"Never\" is supported when podFailurePolicy is specified"));
        }
        "OnFailure" | "Never" => {}
        other => errors.push(path.not_supported(other, &["OnFailure", "Never"])),
    }
}

fn managed_by(manager: &str, path: &Path, errors: &mut Errors) {
    const MAX_BYTES: usize = 63;
    let parts = manager.split_once('/');
    match parts {
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
            errors.extend(path.all_invalid(host, names::dns1123_subdomain(host, false)));
        }
        _ => errors.push(path.invalid(manager, "must be a domain-prefixed path (such as \"acme.io/foo\")")),
    }
    if manager.len() > MAX_BYTES {
        errors.push(path.too_long(MAX_BYTES));
    }
}

fn indexed(spec: &Value, path: &Path, errors: &mut Errors) {
    let number = |field: &str| spec[field].as_i64();
    let Some(completions) = number("completions") else {
        errors.push(path.child("completions").required("when completion mode is Indexed"));
        return;
    };
    if let Some(parallelism) = number("parallelism").filter(|p| *p > MAX_INDEXED) {
        let detail = format!("must be less than or equal to {MAX_INDEXED} when completion mode is Indexed");
        errors.push(path.child("parallelism").invalid(parallelism, &detail));
    }
    let path_of_max = path.child("maxFailedIndexes");
    if let Some(most) = number("maxFailedIndexes") {
        if most > completions {
            errors.push(path_of_max.invalid(most, "must be less than or equal to completions"));
        }
        if most > MAX_INDEXED {
            errors.push(path_of_max.invalid(most, &format!("must be less than or equal to {MAX_INDEXED}")));
        }
    }
    if completions > MAX_INDEXED && number("backoffLimitPerIndex").is_some() {
        match number("maxFailedIndexes") {
            None => {
                errors.push(path_of_max.required(&format!("must be specified when completions is above {MAX_INDEXED}")))
            }
            Some(most) if most > MAX_FAILED_INDEXES_OF_MANY => {
                let detail = format!(
                    "must be less than or equal to {MAX_FAILED_INDEXES_OF_MANY} when completions are above {MAX_INDEXED} and used with backoff limit per index"
                );
                errors.push(path_of_max.invalid(most, &detail));
            }
            Some(_) => {}
        }
        if let Some(parallelism) = number("parallelism").filter(|p| *p > MAX_FAILED_INDEXES_OF_MANY) {
            let detail = format!(
                "must be less than or equal to {MAX_FAILED_INDEXES_OF_MANY} when completions are above {MAX_INDEXED} and used with backoff limit per index"
            );
            errors.push(path.child("parallelism").invalid(parallelism, &detail));
        }
    }
}

/// Indexed jobs of this many completions may be too many to be tracked.
const MANY_COMPLETIONS: i64 = 100_000;
const MANY_PARALLEL: i64 = 10_000;

fn warnings(new: &Object, old: Option<&Object>) -> Vec<String> {
    let mut warnings = template::named_warnings(new, old);
    let spec = &new["spec"];
    let more = |field: &str, than: i64| spec[field].as_i64().is_some_and(|number| number > than);
    if text(&spec["completionMode"]) == "Indexed"
        && more("completions", MANY_COMPLETIONS)
        && more("parallelism", MANY_PARALLEL)
    {
        warnings.push("In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail".to_owned());
    }
    warnings
}

fn row(job: &Object, now: i64) -> Vec<Value> {
    let (spec, status) = (&job["spec"], &job["status"]);
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    let succeeded = number(&status["succeeded"]);
    let completions = match spec["completions"].as_i64() {
        Some(completions) => format!("{succeeded}/{completions}"),
        None => match number(&spec["parallelism"]) {
            parallelism if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
            _ => format!("{succeeded}/1"),
        },
    };
    let duration = match (unix_seconds(text(&status["startTime"])), unix_seconds(text(&status["completionTime"]))) {
        (None, _) => String::new(),
        (Some(start), Some(end)) => human_duration(end - start),
        (Some(start), None) => human_duration(now - start),
    };
    let (names, images) = containers(&spec["template"]["spec"]);
    vec![
        job.name().into(),
        state(job).into(),
        completions.into(),
        duration.into(),
        age(job, now),
        names.into(),
        images.into(),
        labels::selector_cell(&spec["selector"]).into(),
    ]
}

fn state(job: &Object) -> &'static str {
    let is = |kind: &str| {
        items(&job["status"]["conditions"]).iter().any(|c| text(&c["type"]) == kind && text(&c["status"]) == "True")
    };
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if job.deletion_timestamp().is_some() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column("Status", "Status of the job."),
    text_column("Completions", "The number of pods which reached phase Succeeded. The value increases monotonically for a given spec. However, it may decrease in reaction to scale down of elastic indexed jobs."),
    text_column("Duration", "Time required to complete the job."),
    AGE,
    text_column("Containers", "Names of each container in the template.").wide(),
    text_column("Images", "Images referenced by each container in the template.").wide(),
    text_column("Selector", "A label query over pods that should match the pod count. Normally, the system sets this field for you. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors").wide(),
];
