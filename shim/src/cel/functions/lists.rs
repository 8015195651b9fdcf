//! Lists, sets and optionals.

use super::fail;
use crate::cel::eval::Evaluated;
use crate::cel::value::Val;
use std::cmp::Ordering;

pub(super) fn call<'v>(name: &str, args: &[Val<'v>]) -> Option<Evaluated<'v>> {
    if let Some(called) = optionals(name, args) {
        return Some(called);
    }
    let items = args.first()?.items()?;
    Some(Ok(match (name, args) {
        ("isSorted", [_]) => {
            for pair in items.windows(2) {
                match pair[0].compare(&pair[1]) {
                    Ok(Ordering::Greater) => return Some(Ok(Val::Bool(false))),
                    Ok(_) => {}
                    Err(error) => return Some(Err(error)),
                }
            }
            Val::Bool(true)
        }
        ("sum", [_]) => return Some(sum(&items)),
        ("min", [_]) => return Some(extreme(&items, "min", Ordering::Less)),
        ("max", [_]) => return Some(extreme(&items, "max", Ordering::Greater)),
        ("indexOf", [_, wanted]) => position(items.iter().position(|item| item.equals(wanted))),
        ("lastIndexOf", [_, wanted]) => position(items.iter().rposition(|item| item.equals(wanted))),
        ("reverse", [_]) => Val::list(items.into_iter().rev().collect()),
        ("join", [_]) => return Some(join(&items, "")),
        ("join", [_, separator]) => return Some(join(&items, separator.as_str()?)),
        ("sets.contains", [_, other]) => Val::Bool(includes(&items, &other.items()?)),
        ("sets.intersects", [_, other]) => {
            let other = other.items()?;
            Val::Bool(items.iter().any(|item| other.iter().any(|o| o.equals(item))))
        }
        ("sets.equivalent", [_, other]) => {
            let other = other.items()?;
            Val::Bool(includes(&items, &other) && includes(&other, &items))
        }
        _ => return None,
    }))
}

fn includes(all: &[Val<'_>], some: &[Val<'_>]) -> bool {
    some.iter().all(|item| all.iter().any(|other| other.equals(item)))
}

fn position<'v>(at: Option<usize>) -> Val<'v> {
    Val::Int(at.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1))
}

fn sum<'v>(items: &[Val<'v>]) -> Evaluated<'v> {
    let mut total: Option<Val<'v>> = None;
    for item in items {
        total = Some(match (total, item) {
            (None, item) => item.clone(),
            (Some(Val::Int(a)), Val::Int(b)) => match a.checked_add(*b) {
                Some(sum) => Val::Int(sum),
                None => return Err(crate::cel::EvalError::failed("integer overflow")),
            },
            (Some(Val::UInt(a)), Val::UInt(b)) => match a.checked_add(*b) {
                Some(sum) => Val::UInt(sum),
                None => return Err(crate::cel::EvalError::failed("unsigned integer overflow")),
            },
            (Some(Val::Double(a)), Val::Double(b)) => Val::Double(a + b),
            (Some(Val::Duration(a)), Val::Duration(b)) => Val::Duration(a.saturating_add(*b)),
            _ => return crate::cel::eval::no_overload(),
        });
    }
    Ok(total.unwrap_or(Val::Int(0)))
}

fn extreme<'v>(items: &[Val<'v>], name: &str, wanted: Ordering) -> Evaluated<'v> {
    let mut best: Option<&Val<'v>> = None;
    for item in items {
        if best.is_none() || best.is_some_and(|best| item.compare(best) == Ok(wanted)) {
            best = Some(item);
        }
    }
    best.cloned().ok_or_else(|| crate::cel::EvalError::failed(format!("{name} called on empty list")))
}

fn join<'v>(items: &[Val<'v>], separator: &str) -> Evaluated<'v> {
    let texts: Option<Vec<&str>> = items.iter().map(Val::as_str).collect();
    match texts {
        Some(texts) => Ok(Val::string(texts.join(separator))),
        None => crate::cel::eval::no_overload(),
    }
}

fn optionals<'v>(name: &str, args: &[Val<'v>]) -> Option<Evaluated<'v>> {
    Some(Ok(match (name, args) {
        ("optional.of", [value]) => Val::some(value.clone()),
        ("optional.none", []) => Val::Optional(None),
        ("optional.ofNonZeroValue", [value]) => {
            let zero = match value {
                Val::Null | Val::Bool(false) | Val::Int(0) | Val::UInt(0) | Val::Optional(None) => true,
                Val::Double(number) => *number == 0.0,
                other => other.size() == Some(0),
            };
            if zero { Val::Optional(None) } else { Val::some(value.clone()) }
        }
        ("hasValue", [Val::Optional(value)]) => Val::Bool(value.is_some()),
        ("value", [Val::Optional(Some(value))]) => (**value).clone(),
        ("value", [Val::Optional(None)]) => return fail("optional.none() dereference"),
        _ => return None,
    }))
}
