//! CronJobs.

use super::{job, schedule};
use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::BATCH_V1;
use crate::registry::table::{AGE, NAME, age, boolean, containers, integer, or, since, text_column};
use crate::registry::value::{
    begin, default_text, default_value, items, keep_all_but_status, keep_status_and_count, object_entry, root, text,
    truth,
};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, labels, meta, template};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    gv: BATCH_V1,
    resource: "cronjobs",
    singular: "cronjob",
    kind: "CronJob",
    short_names: &["cj"],
    categories: &["all"],
    storage: "cronjobs",
    storage_gv: BATCH_V1,
    subresources: &[Subresource { name: "status", kind: "CronJob", gv: BATCH_V1, verbs: STATUS_VERBS }],
    columns: COLUMNS,
    row,
    strategy: &Strategy {
        default,
        prepare_create: begin,
        prepare_update: keep_status_and_count,
        prepare_status: keep_all_but_status,
        validate,
        warnings,
        ..Strategy::BASIC
    },
    ..ResourceDef::BASIC
};

/// Eleven characters are left for what the controller adds to the names of its jobs.
const MAX_NAME_BYTES: usize = 63 - 11;

fn default(object: &mut Object) {
    let spec = object_entry(root(object), "spec");
    default_text(spec, "concurrencyPolicy", "Allow");
    default_value(spec, "suspend", false);
    default_value(spec, "successfulJobsHistoryLimit", 3);
    default_value(spec, "failedJobsHistoryLimit", 1);
    let template = object_entry(spec, "jobTemplate");
    object_entry(template, "metadata");
    job::template_defaults(object_entry(template, "spec"));
}

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(object);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    if object.name().len() > MAX_NAME_BYTES {
        let detail = format!("must be no more than {MAX_NAME_BYTES} characters");
        errors.push(Path::new("metadata").child("name").invalid(object.name(), &detail));
    }
    time(spec, &path, &mut errors);
    let counts = ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"];
    template::non_negative(spec, &counts, &path, &mut errors);
    let policies = ["Allow", "Forbid", "Replace"];
    match text(&spec["concurrencyPolicy"]) {
        "" => errors.push(path.child("concurrencyPolicy").required("")),
        policy if !policies.contains(&policy) => {
            errors.push(path.child("concurrencyPolicy").not_supported(policy, &policies));
        }
        _ => {}
    }
    job_template(&spec["jobTemplate"], &path.child("jobTemplate"), &mut errors);
    errors
}

fn time(spec: &Value, path: &Path, errors: &mut Errors) {
    let schedule = text(&spec["schedule"]);
    let zone = &spec["timeZone"];
    if schedule.is_empty() {
        errors.push(path.child("schedule").required(""));
    } else {
        if let Err(why) = schedule::parse(schedule) {
            errors.push(path.child("schedule").invalid(schedule, &why));
        }
        if schedule.contains("TZ") {
            let path = path.child("schedule");
            if zone.is_null() {
                let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
                errors.push(path.invalid(schedule, detail));
            } else {
                errors.push(path.invalid(schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule"));
            }
        }
    }
    let Some(zone) = zone.as_str() else { return };
    let path = path.child("timeZone");
    if zone.is_empty() {
        errors.push(path.invalid(zone, "timeZone must be nil or non-empty string"));
    } else if zone.eq_ignore_ascii_case("local") {
        errors.push(
            path.invalid(zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"),
        );
    } else if !schedule::is_zone(zone) {
        errors.push(path.invalid(zone, &format!("unknown time zone {zone}")));
    }
}

fn job_template(template: &Value, path: &Path, errors: &mut Errors) {
    let (metadata, spec) = (path.child("metadata"), &template["spec"]);
    labels::validate(&template["metadata"]["labels"], &metadata.child("labels"), errors);
    meta::annotations(&template["metadata"]["annotations"], &metadata.child("annotations"), errors);
    let path = path.child("spec");
    job::validate_spec(spec, &path, errors);
    if !spec["selector"].is_null() {
        errors.push(path.child("selector").invalid(spec["selector"].clone(), "`selector` will be auto-generated"));
    }
    if truth(&spec["manualSelector"]) {
        errors.push(path.child("manualSelector").not_supported("true", &["nil", "false"]));
    }
}

fn warnings(new: &Object, old: Option<&Object>) -> Vec<String> {
    let mut warnings: Vec<String> = template::name_warning(new, old).into_iter().collect();
    let path = Path::new("spec").child("jobTemplate").child("spec").child("template");
    let spec = |object: &Object| object["spec"]["jobTemplate"]["spec"].clone();
    if old.is_none_or(|old| spec(old) != spec(new)) {
        crate::registry::core::pod::warnings::template(&spec(new)["template"], &path, &mut warnings);
    }
    if let Some(zone) = new["spec"]["schedule"].as_str().filter(|schedule| schedule.contains("TZ")) {
        let path = Path::new("spec").child("schedule");
        warnings.push(format!(
            "{}: cannot use TZ or CRON_TZ in schedule, use timeZone instead, invalid value {}",
            path.as_str(),
            crate::registry::field::quoted(zone)
        ));
    }
    warnings
}

fn row(object: &Object, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let last = match text(&status["lastScheduleTime"]) {
        "" => "<none>".to_owned(),
        last => since(last, now),
    };
    let (names, images) = containers(&spec["jobTemplate"]["spec"]["template"]["spec"]);
    vec![
        object.name().into(),
        text(&spec["schedule"]).into(),
        or(&spec["timeZone"], "<none>"),
        if truth(&spec["suspend"]) { "True".into() } else { "False".into() },
        items(&status["active"]).len().into(),
        last.into(),
        age(object, now),
        names.into(),
        images.into(),
        labels::selector_cell(&spec["jobTemplate"]["spec"]["selector"]).into(),
    ]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column("Schedule", "The schedule in Cron format, see https://en.wikipedia.org/wiki/Cron."),
    text_column("Timezone", "The time zone name for the given schedule, see https://en.wikipedia.org/wiki/List_of_tz_database_time_zones. If not specified, this will default to the time zone of the kube-controller-manager process. The set of valid time zone names and the time zone offset is loaded from the system-wide time zone database by the API server during CronJob validation and the controller manager during execution. If no system-wide time zone database can be found a bundled version of the database is used instead. If the time zone name becomes invalid during the lifetime of a CronJob or due to a change in host configuration, the controller will stop creating new new Jobs and will create a system event with the reason UnknownTimeZone. More information can be found in https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#time-zones"),
    boolean("Suspend", "This flag tells the controller to suspend subsequent executions, it does not apply to already started executions.  Defaults to false."),
    integer("Active", "A list of pointers to currently running jobs."),
    text_column("Last Schedule", "Information when was the last time the job was successfully scheduled."),
    AGE,
    text_column("Containers", "Names of each container in the template.").wide(),
    text_column("Images", "Images referenced by each container in the template.").wide(),
    text_column("Selector", "A label query over pods that should match the pod count. Normally, the system sets this field for you. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors").wide(),
];
