//! Printer columns of custom resources: their definitions and the cells of a row.

use super::jsonpath::JsonPath;
use crate::meta::Object;
use crate::registry::table;
use crate::registry::value::{items, text};
use serde_json::Value;

/// One of `additionalPrinterColumns`, or what stands in for them.
#[derive(Debug)]
pub struct PrinterColumn {
    pub name: Box<str>,
    pub kind: Box<str>,
    pub format: Box<str>,
    pub description: Box<str>,
    pub priority: i64,
    path: JsonPath,
}

/// The columns of one version after the name: its own, or the age.
pub(super) fn of(version: &Value) -> Vec<PrinterColumn> {
    let columns = items(&version["additionalPrinterColumns"]);
    if columns.is_empty() {
        return vec![age()];
    }
    columns.iter().filter_map(column).collect()
}

fn column(column: &Value) -> Option<PrinterColumn> {
    let path = text(&column["jsonPath"]);
    let description = match text(&column["description"]) {
        "" => format!("Custom resource definition column (in JSONPath format): {path}").into(),
        own => own.into(),
    };
    Some(PrinterColumn {
        name: text(&column["name"]).into(),
        kind: text(&column["type"]).into(),
        format: text(&column["format"]).into(),
        description,
        priority: column["priority"].as_i64().unwrap_or(0),
        path: JsonPath::parse(path).ok()?,
    })
}

fn age() -> PrinterColumn {
    PrinterColumn {
        name: "Age".into(),
        kind: "date".into(),
        format: "".into(),
        description: table::AGE.description.into(),
        priority: 0,
        // A plain path always parses.
        path: JsonPath::parse(".metadata.creationTimestamp").unwrap_or_else(|_| unreachable!("a plain path")),
    }
}

impl PrinterColumn {
    /// The cell of one object; `now` is Unix seconds.
    pub fn cell(&self, object: &Object, now: i64) -> Value {
        let Some(value) = self.path.find(object).into_iter().next() else { return Value::Null };
        match &*self.kind {
            "string" => match value {
                Value::String(_) => value.clone(),
                Value::Null => "<nil>".into(),
                other => other.to_string().into(),
            },
            "integer" => match (value.as_i64(), value.as_f64()) {
                (Some(number), _) => number.into(),
                (None, Some(number)) => (number as i64).into(),
                (None, None) => Value::Null,
            },
            "number" => Some(value).filter(|value| value.is_number()).cloned().unwrap_or_default(),
            "boolean" => Some(value).filter(|value| value.is_boolean()).cloned().unwrap_or_default(),
            "date" => match value.as_str() {
                Some(time) if table::unix_seconds(time).is_some() => table::since(time, now).into(),
                Some(_) => "<invalid>".into(),
                None => Value::Null,
            },
            _ => Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells_are_typed_and_absent_values_are_null() {
        let columns = of(&json!({"additionalPrinterColumns": [
            {"name": "N", "type": "integer", "jsonPath": ".spec.n", "description": "a number"},
            {"name": "S", "type": "string", "jsonPath": ".spec.s", "priority": 1},
            {"name": "B", "type": "boolean", "jsonPath": ".spec.b"},
            {"name": "F", "type": "number", "jsonPath": ".spec.f"},
            {"name": "First", "type": "string", "jsonPath": ".spec.l"},
            {"name": "When", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        ]}));
        let full = json!({
            "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"n": 5, "s": "text", "b": true, "f": 1.5, "l": ["a", "b"]},
        });
        let now = table::unix_seconds("2026-01-01T00:01:00Z").unwrap();
        let cells = |object: &Value| columns.iter().map(|c| c.cell(object, now)).collect::<Vec<_>>();
        assert_eq!(json!(cells(&full)), json!([5, "text", true, 1.5, "[\"a\",\"b\"]", "60s"]));
        assert_eq!(json!(cells(&json!({}))), json!([null, null, null, null, null, null]));
        assert_eq!(&*columns[0].description, "a number");
        assert_eq!(&*columns[1].description, "Custom resource definition column (in JSONPath format): .spec.s");
        let plain = of(&json!({}));
        assert_eq!((&*plain[0].name, &*plain[0].kind), ("Age", "date"));
    }
}
