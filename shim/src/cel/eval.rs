//! Evaluation: operators, macros and calls over the parsed tree, each step paid from the budget.

use super::value::{Key, Type, Val, duration};
use super::{Budget, EvalError, functions};
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr};
use jiff::SignedDuration;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) type Evaluated<'v> = Result<Val<'v>, EvalError>;

/// What the literals of lists and maps cost (cel-go's cost model).
const LIST_COST: u64 = 10;
const MAP_COST: u64 = 30;
/// Characters that a step looks at for one unit.
const CHARS_PER_UNIT: usize = 10;

pub(super) fn evaluate<'v>(expr: &IdedExpr, variables: &[(&str, Val<'v>)], budget: &Budget) -> Evaluated<'v> {
    let scope = variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Evaluator { scope, budget }.expr(expr)
}

pub(super) fn no_overload<'v>() -> Evaluated<'v> {
    Err(EvalError::NoSuchOverload(String::new()))
}

/// What it costs to look at that many characters or items.
pub(super) fn per_length(length: usize) -> u64 {
    (length / CHARS_PER_UNIT) as u64 + 1
}

struct Evaluator<'v, 'b> {
    /// Innermost last.
    scope: Vec<(String, Val<'v>)>,
    budget: &'b Budget,
}

impl<'v> Evaluator<'v, '_> {
    fn expr(&mut self, expr: &IdedExpr) -> Evaluated<'v> {
        match &expr.expr {
            Expr::Literal(literal) => Ok(constant(literal)),
            Expr::Ident(name) => {
                self.budget.spend(1)?;
                self.variable(name)
            }
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => {
                self.budget.spend(LIST_COST)?;
                let mut items = Vec::with_capacity(list.elements.len());
                for (index, element) in list.elements.iter().enumerate() {
                    match (self.expr(element)?, list.optional_indices.contains(&index)) {
                        (Val::Optional(value), true) => items.extend(value.map(|value| *value)),
                        (value, _) => items.push(value),
                    }
                }
                Ok(Val::list(items))
            }
            Expr::Map(map) => {
                self.budget.spend(MAP_COST)?;
                let mut entries = BTreeMap::new();
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { return no_overload() };
                    let key = self.expr(&entry.key)?.to_key();
                    let key = key.ok_or_else(|| EvalError::failed("unsupported key type"))?;
                    let value = match (self.expr(&entry.value)?, entry.optional) {
                        (Val::Optional(None), true) => continue,
                        (Val::Optional(Some(value)), true) => *value,
                        (value, _) => value,
                    };
                    if entries.insert(key.clone(), value).is_some() {
                        return Err(EvalError::failed(format!("Failed with repeated key: {key}")));
                    }
                }
                Ok(Val::Map(Arc::new(entries)))
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Struct(_) | Expr::Unspecified => Err(EvalError::failed("unsupported expression")),
        }
    }

    fn variable(&self, name: &str) -> Evaluated<'v> {
        if let Some((_, value)) = self.scope.iter().rev().find(|(known, _)| known == name) {
            return Ok(value.clone());
        }
        let ty = match name {
            "bool" | "int" | "uint" | "double" | "string" | "bytes" | "list" | "map" | "null_type" | "type" => name,
            "optional_type" => "optional_type",
            _ => return Err(EvalError::failed(format!("no such attribute(s): {name}"))),
        };
        Ok(Val::Type(Type(functions::type_name(ty))))
    }

    /// `a.b`, also where `a.b` is one name (`google.protobuf.Timestamp`).
    fn select(&mut self, select: &SelectExpr) -> Evaluated<'v> {
        self.budget.spend(1)?;
        if !select.test
            && let Some(name) = dotted(select)
            && let Some(ty) = functions::qualified_type(&name)
        {
            return Ok(Val::Type(Type(ty)));
        }
        let operand = self.expr(&select.operand)?;
        let (operand, optional) = match operand {
            Val::Optional(None) if select.test => return Ok(Val::Bool(false)),
            Val::Optional(None) => return Ok(Val::Optional(None)),
            Val::Optional(Some(value)) => (*value, true),
            value => (value, false),
        };
        let found = operand.field(&select.field);
        if select.test {
            return match operand {
                Val::Map(_) | Val::JsonMap(..) => Ok(Val::Bool(found.is_some())),
                _ => no_overload(),
            };
        }
        match (found, optional) {
            (found, true) => Ok(Val::Optional(found.map(Box::new))),
            (Some(value), false) => Ok(value),
            (None, false) => match operand {
                Val::Map(_) | Val::JsonMap(..) => Err(EvalError::NoSuchKey(select.field.clone())),
                _ => no_overload(),
            },
        }
    }

    fn call(&mut self, call: &CallExpr) -> Evaluated<'v> {
        match (call.func_name.as_str(), &call.args[..]) {
            ("_&&_", args) => self.logic(args, false),
            ("_||_", args) => self.logic(args, true),
            ("_?_:_", [condition, then, otherwise]) => match self.expr(condition)? {
                Val::Bool(true) => self.expr(then),
                Val::Bool(false) => self.expr(otherwise),
                _ => no_overload(),
            },
            ("@not_strictly_false", [arg]) => match self.expr(arg) {
                Err(EvalError::Cost) => Err(EvalError::Cost),
                Ok(Val::Bool(false)) => Ok(Val::Bool(false)),
                Ok(_) | Err(_) => Ok(Val::Bool(true)),
            },
            ("or" | "orValue", [other]) if call.target.is_some() => self.or(call, other),
            _ => {
                let target = match &call.target {
                    // The namespace of a function (`format.named`, `optional.of`, `sets.contains`) is no value.
                    Some(target) if functions::is_namespace(target, &call.func_name) => None,
                    Some(target) => Some(self.expr(target)?),
                    None => None,
                };
                let name = match (&call.target, &target) {
                    (Some(namespace), None) => functions::qualified(namespace, &call.func_name),
                    _ => Cow::Borrowed(call.func_name.as_str()),
                };
                let mut args = Vec::with_capacity(call.args.len() + 1);
                let member = target.is_some();
                args.extend(target);
                for arg in &call.args {
                    args.push(self.expr(arg)?);
                }
                self.budget.spend(1)?;
                self.apply(&name, member, args)
            }
        }
    }

    /// `&&` and `||`: an error on one side does not matter when the other decides.
    fn logic(&mut self, args: &[IdedExpr], decisive: bool) -> Evaluated<'v> {
        let mut failure = None;
        for arg in args {
            match self.expr(arg) {
                Ok(Val::Bool(value)) if value == decisive => return Ok(Val::Bool(decisive)),
                Ok(Val::Bool(_)) => {}
                Ok(_) => drop(failure.get_or_insert(EvalError::NoSuchOverload(String::new()))),
                Err(EvalError::Cost) => return Err(EvalError::Cost),
                Err(error) => drop(failure.get_or_insert(error)),
            }
        }
        failure.map_or(Ok(Val::Bool(!decisive)), Err)
    }

    /// `a.or(b)`, `a.orValue(b)`: the other is evaluated only when needed.
    fn or(&mut self, call: &CallExpr, other: &IdedExpr) -> Evaluated<'v> {
        let Some(target) = &call.target else { return no_overload() };
        match (self.expr(target)?, call.func_name.as_str()) {
            (Val::Optional(Some(value)), "orValue") => Ok(*value),
            (value @ Val::Optional(Some(_)), _) => Ok(value),
            (Val::Optional(None), _) => self.expr(other),
            _ => no_overload(),
        }
    }

    fn apply(&mut self, name: &str, member: bool, args: Vec<Val<'v>>) -> Evaluated<'v> {
        match (name, &args[..]) {
            ("_==_", [a, b]) => {
                self.budget.spend(per_length(a.size().unwrap_or(0).min(b.size().unwrap_or(0))))?;
                Ok(Val::Bool(a.equals(b)))
            }
            ("_!=_", [a, b]) => {
                self.budget.spend(per_length(a.size().unwrap_or(0).min(b.size().unwrap_or(0))))?;
                Ok(Val::Bool(!a.equals(b)))
            }
            ("_<_", [a, b]) => Ok(Val::Bool(a.compare(b)? == Ordering::Less)),
            ("_<=_", [a, b]) => Ok(Val::Bool(a.compare(b)? != Ordering::Greater)),
            ("_>_", [a, b]) => Ok(Val::Bool(a.compare(b)? == Ordering::Greater)),
            ("_>=_", [a, b]) => Ok(Val::Bool(a.compare(b)? != Ordering::Less)),
            ("!_", [Val::Bool(value)]) => Ok(Val::Bool(!value)),
            ("-_", [Val::Int(value)]) => value.checked_neg().map(Val::Int).ok_or_else(overflow),
            ("-_", [Val::Double(value)]) => Ok(Val::Double(-value)),
            ("_[_]", [container, index]) => index_of(container, index),
            ("_[?_]", [container, index]) => Ok(optional_index(container, index)),
            ("_?._", [container, index]) => match (container, index.as_str()) {
                (Val::Optional(None), _) => Ok(Val::Optional(None)),
                (Val::Optional(Some(inner)), Some(name)) => Ok(Val::Optional(inner.field(name).map(Box::new))),
                (container, Some(name)) => Ok(Val::Optional(container.field(name).map(Box::new))),
                (_, None) => no_overload(),
            },
            ("@in", [item, container]) => {
                self.budget.spend(container.size().unwrap_or(0) as u64)?;
                contains(item, container)
            }
            ("_+_" | "_-_" | "_*_" | "_/_" | "_%_", [a, b]) => {
                let size = a.size().unwrap_or(0) + b.size().unwrap_or(0);
                self.budget.spend(per_length(size))?;
                arithmetic(name, a, b)
            }
            _ => functions::call(name, member, args, self.budget),
        }
    }

    fn comprehension(&mut self, expr: &ComprehensionExpr) -> Evaluated<'v> {
        let range = self.expr(&expr.iter_range)?;
        let range = match range {
            Val::Optional(Some(inner)) => *inner,
            other => other,
        };
        let items = range.iterate().ok_or_else(|| EvalError::NoSuchOverload(String::new()))?;
        let accumulator = self.expr(&expr.accu_init)?;
        let depth = self.scope.len();
        self.scope.push((expr.accu_var.clone(), accumulator));
        let done = self.iterate(expr, &range, items, depth);
        let result = done.and_then(|()| {
            self.scope.truncate(depth + 1);
            self.expr(&expr.result)
        });
        self.scope.truncate(depth);
        result
    }

    fn iterate(
        &mut self,
        expr: &ComprehensionExpr,
        range: &Val<'v>,
        items: Vec<Val<'v>>,
        depth: usize,
    ) -> Result<(), EvalError> {
        for (index, item) in items.into_iter().enumerate() {
            self.budget.spend(1)?;
            self.scope.truncate(depth + 1);
            match &expr.iter_var2 {
                // Of a list the index and the item, of a map the key and the value.
                Some(second) => {
                    let value = item.to_key().and_then(|key| range.entry(&key));
                    let (first, value) = match (range, value) {
                        (Val::Map(_) | Val::JsonMap(..), Some(value)) => (item, value),
                        _ => (Val::Int(index as i64), item),
                    };
                    self.scope.push((expr.iter_var.clone(), first));
                    self.scope.push((second.clone(), value));
                }
                None => self.scope.push((expr.iter_var.clone(), item)),
            }
            match self.expr(&expr.loop_cond)? {
                Val::Bool(true) => {}
                _ => break,
            }
            let step = self.expr(&expr.loop_step)?;
            self.scope[depth].1 = step;
        }
        Ok(())
    }
}

fn constant<'v>(literal: &LiteralValue) -> Val<'v> {
    match literal {
        LiteralValue::Boolean(value) => Val::Bool(*value.inner()),
        LiteralValue::Bytes(value) => Val::Bytes(value.inner().into()),
        LiteralValue::Double(value) => Val::Double(*value.inner()),
        LiteralValue::Int(value) => Val::Int(*value.inner()),
        LiteralValue::Null => Val::Null,
        LiteralValue::String(value) => Val::string(value.inner()),
        LiteralValue::UInt(value) => Val::UInt(*value.inner()),
    }
}

/// `a.b.c` as one name.
fn dotted(select: &SelectExpr) -> Option<String> {
    let operand = match &select.operand.expr {
        Expr::Ident(name) => name.clone(),
        Expr::Select(inner) if !inner.test => dotted(inner)?,
        _ => return None,
    };
    Some(format!("{operand}.{}", select.field))
}

fn overflow() -> EvalError {
    EvalError::failed("integer overflow")
}

fn index_of<'v>(container: &Val<'v>, index: &Val<'v>) -> Evaluated<'v> {
    match container {
        Val::Optional(None) => Ok(Val::Optional(None)),
        Val::Optional(Some(inner)) => Ok(optional_index(inner, index)),
        Val::Map(_) | Val::JsonMap(..) => {
            let key = index.to_key().ok_or_else(|| EvalError::NoSuchOverload(String::new()))?;
            container.entry(&key).ok_or_else(|| EvalError::NoSuchKey(key.to_string()))
        }
        Val::List(_) | Val::JsonList(..) => {
            let Some(Key::Int(at)) = index.to_key().map(|key| match key {
                Key::UInt(at) => Key::Int(i64::try_from(at).unwrap_or(i64::MAX)),
                key => key,
            }) else {
                return no_overload();
            };
            let found = usize::try_from(at).ok().and_then(|at| container.item(at));
            found.ok_or_else(|| EvalError::failed(format!("index out of bounds: {at}")))
        }
        _ => no_overload(),
    }
}

fn optional_index<'v>(container: &Val<'v>, index: &Val<'v>) -> Val<'v> {
    match index_of(container, index) {
        Ok(value @ Val::Optional(_)) if matches!(container, Val::Optional(_)) => value,
        found => Val::Optional(found.ok().map(Box::new)),
    }
}

fn contains<'v>(item: &Val<'v>, container: &Val<'v>) -> Evaluated<'v> {
    match container {
        Val::Map(_) | Val::JsonMap(..) => {
            Ok(Val::Bool(item.to_key().is_some_and(|key| container.entry(&key).is_some())))
        }
        _ => match container.items() {
            Some(items) => Ok(Val::Bool(items.iter().any(|other| other.equals(item)))),
            None => no_overload(),
        },
    }
}

fn arithmetic<'v>(name: &str, a: &Val<'v>, b: &Val<'v>) -> Evaluated<'v> {
    let zero = |remainder: bool| EvalError::failed(if remainder { "modulus by zero" } else { "division by zero" });
    match (name, a, b) {
        ("_+_", Val::Int(a), Val::Int(b)) => a.checked_add(*b).map(Val::Int).ok_or_else(overflow),
        ("_-_", Val::Int(a), Val::Int(b)) => a.checked_sub(*b).map(Val::Int).ok_or_else(overflow),
        ("_*_", Val::Int(a), Val::Int(b)) => a.checked_mul(*b).map(Val::Int).ok_or_else(overflow),
        ("_/_" | "_%_", Val::Int(_), Val::Int(0)) | ("_/_" | "_%_", Val::UInt(_), Val::UInt(0)) => {
            Err(zero(name == "_%_"))
        }
        ("_/_", Val::Int(a), Val::Int(b)) => a.checked_div(*b).map(Val::Int).ok_or_else(overflow),
        ("_%_", Val::Int(a), Val::Int(b)) => a.checked_rem(*b).map(Val::Int).ok_or_else(overflow),
        ("_+_", Val::UInt(a), Val::UInt(b)) => a.checked_add(*b).map(Val::UInt).ok_or_else(overflow),
        ("_-_", Val::UInt(a), Val::UInt(b)) => a.checked_sub(*b).map(Val::UInt).ok_or_else(overflow),
        ("_*_", Val::UInt(a), Val::UInt(b)) => a.checked_mul(*b).map(Val::UInt).ok_or_else(overflow),
        ("_/_", Val::UInt(a), Val::UInt(b)) => a.checked_div(*b).map(Val::UInt).ok_or_else(overflow),
        ("_%_", Val::UInt(a), Val::UInt(b)) => a.checked_rem(*b).map(Val::UInt).ok_or_else(overflow),
        ("_+_", Val::Double(a), Val::Double(b)) => Ok(Val::Double(a + b)),
        ("_-_", Val::Double(a), Val::Double(b)) => Ok(Val::Double(a - b)),
        ("_*_", Val::Double(a), Val::Double(b)) => Ok(Val::Double(a * b)),
        ("_/_", Val::Double(a), Val::Double(b)) => Ok(Val::Double(a / b)),
        ("_+_", Val::String(a), Val::String(b)) => Ok(Val::string(format!("{a}{b}"))),
        ("_+_", Val::Bytes(a), Val::Bytes(b)) => Ok(Val::Bytes([&a[..], &b[..]].concat().into())),
        ("_+_", Val::Timestamp(at), Val::Duration(by)) | ("_+_", Val::Duration(by), Val::Timestamp(at)) => {
            at.checked_add(*by).map(Val::Timestamp).map_err(|_| EvalError::failed("timestamp overflow"))
        }
        ("_-_", Val::Timestamp(at), Val::Duration(by)) => {
            at.checked_sub(*by).map(Val::Timestamp).map_err(|_| EvalError::failed("timestamp overflow"))
        }
        ("_-_", Val::Timestamp(a), Val::Timestamp(b)) => Ok(Val::Duration(a.duration_since(*b))),
        ("_+_", Val::Duration(a), Val::Duration(b)) => sum(a.checked_add(*b)),
        ("_-_", Val::Duration(a), Val::Duration(b)) => sum(a.checked_sub(*b)),
        ("_+_", a, b) => match (a.items(), b.items()) {
            (Some(mut a), Some(b)) => {
                a.extend(b);
                Ok(Val::list(a))
            }
            _ => no_overload(),
        },
        _ => no_overload(),
    }
}

fn sum<'v>(value: Option<SignedDuration>) -> Evaluated<'v> {
    value.map(Val::Duration).ok_or_else(|| EvalError::failed("duration overflow"))
}

/// `duration("1h")`.
pub(super) fn parse_duration<'v>(text: &str) -> Evaluated<'v> {
    let parsed = duration(text).map(Val::Duration);
    parsed.ok_or_else(|| EvalError::failed(format!("time: invalid duration {text:?}")))
}
