//! PriorityLevelConfigurations.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::FLOWCONTROL_V1;
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::{
    begin, default_number, default_value, keep_all_but_status, keep_status_and_count, object_mut, text,
};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, meta, template};
use serde_json::Value;

const KIND: &str = "PriorityLevelConfiguration";

pub const DEF: ResourceDef = ResourceDef {
    gv: FLOWCONTROL_V1,
    resource: "prioritylevelconfigurations",
    singular: "prioritylevelconfiguration",
    kind: KIND,
    namespaced: false,
    storage: "prioritylevelconfigurations",
    storage_gv: FLOWCONTROL_V1,
    subresources: &[Subresource { name: "status", kind: KIND, gv: FLOWCONTROL_V1, verbs: STATUS_VERBS }],
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

fn default(object: &mut Object) {
    let Some(spec) = object_mut(object, "spec") else { return };
    if let Some(limited) = spec.get_mut("limited").and_then(Value::as_object_mut) {
        default_value(limited, "nominalConcurrencyShares", 30);
        default_value(limited, "lendablePercent", 0);
        let response = limited.get_mut("limitResponse").and_then(Value::as_object_mut);
        if let Some(queuing) = response.and_then(|r| r.get_mut("queuing")?.as_object_mut()) {
            default_number(queuing, "handSize", 8);
            default_number(queuing, "queues", 64);
            default_number(queuing, "queueLengthLimit", 50);
        }
    }
    if let Some(exempt) = spec.get_mut("exempt").and_then(Value::as_object_mut) {
        default_value(exempt, "nominalConcurrencyShares", 0);
        default_value(exempt, "lendablePercent", 0);
    }
}

const MAX_QUEUES: i64 = 10_000_000;

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_cluster(object);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    match text(&spec["type"]) {
        "Exempt" => {
            if spec["limited"].is_object() {
                errors.push(path.child("limited").forbidden("must be nil if the type is not Limited"));
            }
            if spec["exempt"].is_object() {
                shares(&spec["exempt"], &path.child("exempt"), &mut errors);
            }
        }
        "Limited" => {
            if spec["exempt"].is_object() {
                errors.push(path.child("exempt").forbidden("must be nil if the type is Limited"));
            }
            if spec["limited"].is_object() {
                limited(&spec["limited"], &path.child("limited"), &mut errors);
            } else {
                errors.push(path.child("limited").required("must not be empty when type is Limited"));
            }
        }
        other => errors.push(path.child("type").not_supported(other, &["Exempt", "Limited"])),
    }
    errors
}

fn shares(level: &Value, path: &Path, errors: &mut Errors) {
    if let Some(shares) = level["nominalConcurrencyShares"].as_i64().filter(|n| *n < 0) {
        errors.push(path.child("nominalConcurrencyShares").invalid(shares, "must be a non-negative integer"));
    }
    if let Some(percent) = level["lendablePercent"].as_i64().filter(|n| !(0..=100).contains(n)) {
        errors.push(path.child("lendablePercent").invalid(percent, "must be between 0 and 100, inclusive"));
    }
}

fn limited(limited: &Value, path: &Path, errors: &mut Errors) {
    shares(limited, path, errors);
    template::non_negative(limited, &["borrowingLimitPercent"], path, errors);
    let (response, path) = (&limited["limitResponse"], path.child("limitResponse"));
    match text(&response["type"]) {
        "Reject" => {
            if response["queuing"].is_object() {
                errors
                    .push(path.child("queuing").forbidden("must be nil if limited.limitResponse.type is not Limited"));
            }
        }
        "Queue" if !response["queuing"].is_object() => {
            let detail = "must not be empty if limited.limitResponse.type is Limited";
            errors.push(path.child("queuing").required(detail));
        }
        "Queue" => queuing(&response["queuing"], &path.child("queuing"), errors),
        other => errors.push(path.child("type").not_supported(other, &["Queue", "Reject"])),
    }
}

fn queuing(queuing: &Value, path: &Path, errors: &mut Errors) {
    let number = |field: &str| queuing[field].as_i64().unwrap_or(0);
    for field in ["queueLengthLimit", "queues", "handSize"] {
        if number(field) <= 0 {
            errors.push(path.child(field).invalid(number(field), "must be positive"));
        }
    }
    if number("queues") > MAX_QUEUES {
        let detail = format!("must not be greater than {MAX_QUEUES}");
        errors.push(path.child("queues").invalid(number("queues"), &detail));
    }
    if number("handSize") > number("queues") {
        let detail = format!("should not be greater than queues ({})", number("queues"));
        errors.push(path.child("handSize").invalid(number("handSize"), &detail));
    }
}

fn row(object: &Object, now: i64) -> Vec<Value> {
    let (spec, limited) = (&object["spec"], &object["spec"]["limited"]);
    let queuing = &limited["limitResponse"]["queuing"];
    let cell = |value: &Value| if value.is_null() { "<none>".into() } else { value.clone() };
    let level = if limited.is_object() { limited } else { &spec["exempt"] };
    vec![
        object.name().into(),
        text(&spec["type"]).into(),
        cell(&level["nominalConcurrencyShares"]),
        cell(&queuing["queues"]),
        cell(&queuing["handSize"]),
        cell(&queuing["queueLengthLimit"]),
        age(object, now),
    ]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column(
        "Type",
        "`type` indicates whether this priority level is subject to limitation on request execution.  A value of `\"Exempt\"` means that requests of this priority level are not subject to a limit (and thus are never queued) and do not detract from the capacity made available to other priority levels.  A value of `\"Limited\"` means that (a) requests of this priority level _are_ subject to limits and (b) some of the server's limited capacity is made available exclusively to this priority level. Required.",
    ),
    text_column(
        "NominalConcurrencyShares",
        "`nominalConcurrencyShares` (NCS) contributes to the computation of the NominalConcurrencyLimit (NominalCL) of this level. This is the number of execution seats available at this priority level. This is used both for requests dispatched from this priority level as well as requests dispatched from other priority levels borrowing seats from this level. The server's concurrency limit (ServerCL) is divided among the Limited priority levels in proportion to their NCS values:\n\nNominalCL(i)  = ceil( ServerCL * NCS(i) / sum_ncs ) sum_ncs = sum[priority level k] NCS(k)\n\nBigger numbers mean a larger nominal concurrency limit, at the expense of every other priority level.\n\nIf not specified, this field defaults to a value of 30.\n\nSetting this field to zero supports the construction of a \"jail\" for this priority level that is used to hold some request(s)",
    ),
    text_column(
        "Queues",
        "`queues` is the number of queues for this priority level. The queues exist independently at each apiserver. The value must be positive.  Setting it to 1 effectively precludes shufflesharding and thus makes the distinguisher method of associated flow schemas irrelevant.  This field has a default value of 64.",
    ),
    text_column(
        "HandSize",
        "`handSize` is a small positive number that configures the shuffle sharding of requests into queues.  When enqueuing a request at this priority level the request's flow identifier (a string pair) is hashed and the hash value is used to shuffle the list of queues and deal a hand of the size specified here.  The request is put into one of the shortest queues in that hand. `handSize` must be no larger than `queues`, and should be significantly smaller (so that a few heavy flows do not saturate most of the queues).  See the user-facing documentation for more extensive guidance on setting this field.  This field has a default value of 8.",
    ),
    text_column(
        "QueueLengthLimit",
        "`queueLengthLimit` is the maximum number of requests allowed to be waiting in a given queue of this priority level at a time; excess requests are rejected.  This value must be positive.  If not specified, it will be defaulted to 50.",
    ),
    AGE,
];
