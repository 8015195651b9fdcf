//! What an expression may cost at most, as far as the loops in it tell: a lower bound of cel-go's estimate, by which rules
//! that nest loops over lists without a `maxItems` are refused when they are made, not when they are evaluated.

use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use serde_json::Value;

/// Estimated cost that one rule may have (apiextensions' `StaticEstimatedCostLimit`).
pub const LIMIT: u64 = 10_000_000;
/// Bytes of a request, by which lists and maps without a bound have one (apiserver's `MaxRequestSizeBytes`).
const MAX_REQUEST_BYTES: u64 = 3 << 20;

/// Names in scope and the schemas of their values, innermost last.
type Scope<'s> = Vec<(String, Option<&'s Value>)>;

pub(super) fn estimate(expr: &IdedExpr, schema: &Value) -> u64 {
    cost(expr, &mut vec![("self".to_owned(), Some(schema)), ("oldSelf".to_owned(), Some(schema))])
}

fn cost<'s>(expr: &IdedExpr, scope: &mut Scope<'s>) -> u64 {
    match &expr.expr {
        Expr::Ident(_) => 1,
        Expr::Select(select) => cost(&select.operand, scope).saturating_add(1),
        Expr::Call(call) => {
            let parts = call.target.iter().map(|target| &**target).chain(&call.args);
            parts.fold(1, |sum: u64, part| sum.saturating_add(cost(part, scope)))
        }
        Expr::List(list) => list.elements.iter().fold(10, |sum: u64, part| sum.saturating_add(cost(part, scope))),
        Expr::Map(map) => map.entries.iter().fold(30, |sum: u64, entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => {
                sum.saturating_add(cost(&entry.key, scope)).saturating_add(cost(&entry.value, scope))
            }
            EntryExpr::StructField(field) => sum.saturating_add(cost(&field.value, scope)),
        }),
        Expr::Comprehension(loop_) => {
            let range = schema_of(&loop_.iter_range, scope);
            let rounds = range.map_or(1, rounds);
            let before = cost(&loop_.iter_range, scope).saturating_add(cost(&loop_.accu_init, scope));
            let depth = scope.len();
            scope.push((loop_.accu_var.clone(), None));
            let item = range.map(|range| &range["items"]).filter(|item| item.is_object());
            scope.push((loop_.iter_var.clone(), item));
            let round = cost(&loop_.loop_cond, scope).saturating_add(cost(&loop_.loop_step, scope));
            scope.truncate(depth);
            before.saturating_add(rounds.saturating_mul(round))
        }
        Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified => 0,
    }
}

/// The schema of what an expression leads to.
fn schema_of<'s>(expr: &IdedExpr, scope: &Scope<'s>) -> Option<&'s Value> {
    match &expr.expr {
        Expr::Ident(name) => scope.iter().rev().find(|(known, _)| known == name)?.1,
        Expr::Select(select) if !select.test => {
            let outer = schema_of(&select.operand, scope)?;
            let name = super::unescape(&select.field).unwrap_or_else(|| select.field.clone());
            [&outer["properties"][name.as_str()], &outer["additionalProperties"]].into_iter().find(|s| s.is_object())
        }
        Expr::Call(call) if call.func_name == "_[_]" => {
            let outer = schema_of(call.args.first()?, scope)?;
            [&outer["items"], &outer["additionalProperties"]].into_iter().find(|schema| schema.is_object())
        }
        _ => None,
    }
}

/// How many items or entries a value may have.
fn rounds(schema: &Value) -> u64 {
    let bound = |key: &str| schema[key].as_u64();
    match schema["type"].as_str() {
        Some("array") => bound("maxItems").unwrap_or_else(|| MAX_REQUEST_BYTES / (least_bytes(&schema["items"]) + 1)),
        // An entry has at least quotes around its key, a colon and a comma.
        Some("object") => bound("maxProperties")
            .unwrap_or_else(|| MAX_REQUEST_BYTES / (least_bytes(&schema["additionalProperties"]) + 4)),
        _ => 1,
    }
}

/// The least that a value takes as JSON.
fn least_bytes(schema: &Value) -> u64 {
    match schema["type"].as_str() {
        Some("string") => 2 + schema["minLength"].as_u64().unwrap_or(0),
        Some("object") => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            required.fold(2, |sum, name| sum + name.len() as u64 + 4 + least_bytes(&schema["properties"][name]))
        }
        Some("array") => 2,
        Some("boolean") => 4,
        _ => 1,
    }
}
