//! Table columns and cells that several kinds share, worded as kubectl's server-side printers.

use super::Column;
use super::duration::human_duration;
use super::value::{entries, items, text};
use crate::meta::{Meta, Object};
use serde_json::{Value, json};

/// Description of a first column, ObjectMeta.name's.
const NAME_TEXT: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
/// Description of an age column, ObjectMeta.creationTimestamp's.
const CREATION_TEXT: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

pub const NAME: Column = Column { name: "Name", kind: "string", format: "name", priority: 0, description: NAME_TEXT };
pub const AGE: Column = text_column("Age", CREATION_TEXT);
/// The second column of kinds without a printer of their own.
pub const CREATED_AT: Column =
    Column { name: "Created At", kind: "date", format: "", priority: 0, description: CREATION_TEXT };

/// Columns of a kind without a printer.
pub const DEFAULT_COLUMNS: &[Column] = &[NAME, CREATED_AT];

/// A string column.
pub const fn text_column(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 0, description }
}

/// An integer column.
pub const fn integer(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "integer", format: "", priority: 0, description }
}

/// A boolean column.
pub const fn boolean(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "boolean", format: "", priority: 0, description }
}

impl Column {
    /// Shown with `-o wide` only.
    pub const fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }
}

/// Cells of a kind without a printer.
pub fn default_row(object: &Object, _now: i64) -> Vec<Value> {
    vec![object.name().into(), object.meta_str("creationTimestamp").into()]
}

/// Time since creation, `<unknown>` when there is none.
pub fn age(object: &Object, now: i64) -> Value {
    since(object.meta_str("creationTimestamp"), now).into()
}

/// Time since an RFC 3339 timestamp as `translateTimestampSince`.
pub fn since(timestamp: &str, now: i64) -> String {
    match unix_seconds(timestamp) {
        Some(then) => human_duration(now - then),
        None => "<unknown>".to_owned(),
    }
}

/// Unix seconds of an RFC 3339 timestamp.
pub fn unix_seconds(timestamp: &str) -> Option<i64> {
    timestamp.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
}

/// A string cell, `fallback` for the empty string.
pub fn or(value: &Value, fallback: &str) -> Value {
    match text(value) {
        "" => fallback.into(),
        text => text.into(),
    }
}

/// `a=1,b=2`, or `<none>` (`labels.FormatLabels`).
pub fn format_labels(labels: &Value) -> String {
    let pairs: Vec<String> = entries(labels).map(|(key, value)| format!("{key}={}", text(value))).collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// Names and images of a pod template's containers, comma separated.
pub fn containers(spec: &Value) -> (String, String) {
    let column = |key: &str| items(&spec["containers"]).iter().map(|c| text(&c[key])).collect::<Vec<_>>().join(",");
    (column("name"), column("image"))
}

/// The condition of a row of a pod that has finished.
pub fn completed(reason: &str, message: &str) -> Vec<Value> {
    vec![json!({"type": "Completed", "status": "True", "reason": reason, "message": message})]
}

/// At most three items, then how many more (`listWithMoreString`).
pub fn capped_list(list: &[String]) -> String {
    const SHOWN: usize = 3;
    match list.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("{} + {more} more...", list[..SHOWN].join(",")),
        Some(_) | None => list.join(","),
    }
}

/// `RWO,ROX` … of a list of access modes, in the order upstream prints them.
pub fn access_modes(modes: &Value) -> String {
    const SHORT: [(&str, &str); 4] =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let has = |mode: &str| items(modes).iter().any(|m| text(m) == mode);
    SHORT.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}
