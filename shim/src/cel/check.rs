//! What can be said of an expression before it is evaluated: names that nothing declares, and the type of its value where
//! the expression alone tells (what a dynamic operand makes of it, only its evaluation does).

use super::functions::is_namespace;
use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue};

/// Names of types, which are values too.
const TYPES: [&str; 18] = [
    "int",
    "uint",
    "double",
    "bool",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
    "type",
    "dyn",
    "duration",
    "timestamp",
    "optional_type", // And the roots of dotted names.
    "google",
    "kubernetes",
    "net",
    "optional",
];

/// The first name that is neither in scope nor a type's.
pub(super) fn undeclared(expr: &IdedExpr, scope: &mut Vec<String>) -> Option<String> {
    match &expr.expr {
        Expr::Ident(name) => {
            let known = TYPES.contains(&name.as_str()) || name.starts_with('@') || name.starts_with("__");
            (!known && !scope.contains(name)).then(|| name.clone())
        }
        Expr::Select(select) => undeclared(&select.operand, scope),
        Expr::Call(call) => {
            let target = call.target.as_deref().filter(|target| !is_namespace(target, &call.func_name));
            target.into_iter().chain(&call.args).find_map(|part| undeclared(part, scope))
        }
        Expr::List(list) => list.elements.iter().find_map(|part| undeclared(part, scope)),
        Expr::Map(map) => map.entries.iter().find_map(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => undeclared(&entry.key, scope).or_else(|| undeclared(&entry.value, scope)),
            EntryExpr::StructField(field) => undeclared(&field.value, scope),
        }),
        Expr::Comprehension(each) => {
            let outside = undeclared(&each.iter_range, scope).or_else(|| undeclared(&each.accu_init, scope));
            if outside.is_some() {
                return outside;
            }
            let depth = scope.len();
            scope.extend([each.iter_var.clone(), each.accu_var.clone()]);
            scope.extend(each.iter_var2.clone());
            let parts = [&each.loop_cond, &each.loop_step, &each.result];
            let found = parts.into_iter().find_map(|part| undeclared(part, scope));
            scope.truncate(depth);
            found
        }
        Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified => None,
    }
}

/// The type of the value, as cel-go names it; `None` where it depends on what the operands turn out to be.
pub(super) fn type_of(expr: &IdedExpr) -> Option<&'static str> {
    match &expr.expr {
        Expr::Literal(literal) => Some(match literal {
            LiteralValue::Boolean(_) => "bool",
            LiteralValue::Bytes(_) => "bytes",
            LiteralValue::Double(_) => "double",
            LiteralValue::Int(_) => "int",
            LiteralValue::Null => "null_type",
            LiteralValue::String(_) => "string",
            LiteralValue::UInt(_) => "uint",
        }),
        Expr::Select(select) => select.test.then_some("bool"),
        Expr::Call(call) => {
            let operands = || call.target.iter().map(|target| &**target).chain(&call.args);
            match call.func_name.as_str() {
                "_&&_" | "_||_" | "!_" | "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" | "@in" | "_in_" | "in"
                | "startsWith" | "endsWith" | "matches" | "bool" => Some("bool"),
                "size" | "int" | "compareTo" => Some("int"),
                "string" | "lowerAscii" | "upperAscii" | "trim" | "join" => Some("string"),
                "double" => Some("double"),
                "uint" => Some("uint"),
                "bytes" => Some("bytes"),
                "-_" => call.args.first().and_then(type_of),
                // Of the same type on either side; times and durations are none of these.
                "_+_" | "_-_" | "_*_" | "_/_" | "_%_" => {
                    let mut types = operands().map(type_of);
                    let first = types.next().flatten()?;
                    types.all(|other| other == Some(first)).then_some(first)
                }
                "_?_:_" => {
                    let mut types = call.args.iter().skip(1).map(type_of);
                    let first = types.next().flatten()?;
                    types.all(|other| other == Some(first)).then_some(first)
                }
                _ => None,
            }
        }
        Expr::Ident(_)
        | Expr::List(_)
        | Expr::Map(_)
        | Expr::Comprehension(_)
        | Expr::Struct(_)
        | Expr::Unspecified => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::cel::Program;

    #[test]
    fn the_first_name_that_nothing_declares_is_found() {
        for (source, wanted) in [
            ("self.a > 1", None),
            ("other.a > 1", Some("other")),
            ("self.all(x, x > 1)", None),
            ("self.all(x, x > y)", Some("y")),
            ("self.all(x, true) && x", Some("x")),
            ("type(self) == string", None),
            ("[self, {'a': that}]", Some("that")),
            ("self.startsWith(missing)", Some("missing")),
        ] {
            let program = Program::compile(source).unwrap();
            assert_eq!(program.undeclared(&["self"]).as_deref(), wanted, "{source}");
        }
    }

    #[test]
    fn a_type_is_told_only_where_the_expression_alone_tells() {
        for (source, wanted) in [
            ("1", Some("int")),
            ("1u", Some("uint")),
            ("'a' + 'b'", Some("string")),
            ("1 + self", None),
            ("-1.5", Some("double")),
            ("self > 1", Some("bool")),
            ("has(self.a)", Some("bool")),
            ("size(self)", Some("int")),
            ("self ? 1 : 2", Some("int")),
            ("self ? 1 : 'a'", None),
            ("self", None),
            ("null", Some("null_type")),
        ] {
            assert_eq!(Program::compile(source).unwrap().type_name(), wanted, "{source}");
        }
    }
}
