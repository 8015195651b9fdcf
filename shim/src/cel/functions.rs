//! The functions of Kubernetes' CEL environment, by name; each pays for what it looks at.

mod lists;
mod strings;
mod types;

use super::eval::{Evaluated, no_overload, per_length};
use super::value::Val;
use super::{Budget, EvalError};
use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// Names before a dot that are no values: `format.named(…)`.
const NAMESPACES: [(&str, &[&str]); 6] = [
    ("optional", &["of", "none", "ofNonZeroValue", "unwrap"]),
    ("sets", &["contains", "equivalent", "intersects"]),
    (
        "format",
        &[
            "named",
            "dns1123Label",
            "dns1123Subdomain",
            "dns1035Label",
            "qualifiedName",
            "dns1123LabelPrefix",
            "dns1123SubdomainPrefix",
            "dns1035LabelPrefix",
            "labelValue",
            "uri",
            "uuid",
            "byte",
            "date",
            "datetime",
        ],
    ),
    ("ip", &["isCanonical"]),
    ("strings", &["quote"]),
    ("base64", &["encode", "decode"]),
];

/// Every function there is, but for operators.
const KNOWN: [&str; 100] = [
    "size",
    "type",
    "dyn",
    "bool",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "duration",
    "timestamp",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "getFullYear",
    "getMonth",
    "getDayOfYear",
    "getDayOfMonth",
    "getDate",
    "getDayOfWeek",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
    "charAt",
    "indexOf",
    "lastIndexOf",
    "join",
    "lowerAscii",
    "upperAscii",
    "replace",
    "split",
    "substring",
    "trim",
    "format",
    "quote",
    "reverse",
    "isSorted",
    "sum",
    "min",
    "max",
    "find",
    "findAll",
    "url",
    "isURL",
    "getScheme",
    "getHost",
    "getHostname",
    "getPort",
    "getEscapedPath",
    "getQuery",
    "quantity",
    "isQuantity",
    "isInteger",
    "asInteger",
    "asApproximateFloat",
    "sign",
    "add",
    "sub",
    "compareTo",
    "isGreaterThan",
    "isLessThan",
    "ip",
    "isIP",
    "isCanonical",
    "family",
    "isUnspecified",
    "isLoopback",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isGlobalUnicast",
    "cidr",
    "isCIDR",
    "containsIP",
    "containsCIDR",
    "prefixLength",
    "masked",
    "semver",
    "isSemver",
    "major",
    "minor",
    "patch",
    "validate",
    "optional.of",
    "optional.none",
    "optional.ofNonZeroValue",
    "hasValue",
    "value",
    "or",
    "orValue",
    "sets.contains",
    "sets.equivalent",
    "sets.intersects",
    "format.named",
    "strings.quote",
    "ip.isCanonical",
    "base64.encode",
    "base64.decode",
    "authorizer",
];

/// Whether `target.name` is one name rather than a call on a value.
pub(super) fn is_namespace(target: &IdedExpr, name: &str) -> bool {
    let Expr::Ident(target) = &target.expr else { return false };
    NAMESPACES.iter().any(|(namespace, names)| namespace == target && names.contains(&name))
}

pub(super) fn qualified<'a>(namespace: &IdedExpr, name: &str) -> Cow<'a, str> {
    match &namespace.expr {
        Expr::Ident(namespace) => Cow::Owned(format!("{namespace}.{name}")),
        _ => Cow::Owned(name.to_owned()),
    }
}

/// Types that have a dotted name.
pub(super) fn qualified_type(name: &str) -> Option<&'static str> {
    const TYPES: [&str; 9] = [
        "google.protobuf.Duration",
        "google.protobuf.Timestamp",
        "kubernetes.URL",
        "kubernetes.Quantity",
        "kubernetes.Semver",
        "kubernetes.NamedFormat",
        "net.IP",
        "net.CIDR",
        "optional.type",
    ];
    TYPES.into_iter().find(|known| *known == name)
}

/// A type's own name from the identifier that stands for it.
pub(super) fn type_name(name: &str) -> &'static str {
    const TYPES: [&str; 11] =
        ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type", "optional_type"];
    TYPES.into_iter().find(|known| *known == name).unwrap_or("dyn")
}

/// Collects the functions that an expression calls and nobody has.
pub(super) fn unknown(expr: &IdedExpr, found: &mut BTreeSet<String>) {
    match &expr.expr {
        Expr::Call(call) => {
            let name = match &call.target {
                Some(target) if is_namespace(target, &call.func_name) => qualified(target, &call.func_name),
                _ => Cow::Borrowed(call.func_name.as_str()),
            };
            let operator = name.contains(|c: char| !c.is_alphanumeric() && c != '.');
            let authorizer = call.target.is_some();
            if !operator && !KNOWN.contains(&&*name) && !name.starts_with("format.") && !authorizer {
                found.insert(name.into_owned());
            }
            call.target.iter().for_each(|target| unknown(target, found));
            call.args.iter().for_each(|arg| unknown(arg, found));
        }
        Expr::Comprehension(c) => {
            [&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result]
                .into_iter()
                .for_each(|part| unknown(part, found));
        }
        Expr::List(list) => list.elements.iter().for_each(|element| unknown(element, found)),
        Expr::Map(map) => {
            for entry in &map.entries {
                if let EntryExpr::MapEntry(entry) = &entry.expr {
                    unknown(&entry.key, found);
                    unknown(&entry.value, found);
                }
            }
        }
        Expr::Select(select) => unknown(&select.operand, found),
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) => {}
    }
}

/// Calls a function; a member's target is the first argument.
pub(super) fn call<'v>(name: &str, member: bool, args: Vec<Val<'v>>, budget: &Budget) -> Evaluated<'v> {
    let looked_at: usize = args.iter().filter_map(Val::size).sum();
    budget.spend(per_length(looked_at))?;
    let called = match types::call(name, &args) {
        None => strings::call(name, member, &args).or_else(|| lists::call(name, &args)),
        called => called,
    };
    called.unwrap_or_else(no_overload)
}

/// A failed conversion or call.
fn fail<'v>(text: impl Into<String>) -> Option<Evaluated<'v>> {
    Some(Err(EvalError::failed(text)))
}
