//! CEL: anything that parses is evaluated within its budget, and what it costs bounds time and memory.

use super::bounds::bounded;
use proptest::prelude::*;
use serde_json::{Value, json};
use skiff_shim::cel::{Budget, EvalError, PER_CALL, Program, Val};
use std::sync::LazyLock;

static SELF: LazyLock<Value> = LazyLock::new(|| {
    json!({
        "n": 3, "s": "some text of some length", "b": true, "f": 1.5, "l": (0..200).collect::<Vec<u32>>(),
        "m": {"a": "x", "b": {"c": [1, "2", null]}}, "q": "1Gi", "t": "2024-02-29T12:30:00Z", "u": "https://a:1/b?c=d",
    })
});

/// An expression of every operator, macro and family of functions, well typed or not.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "self",
        "self.n",
        "self.s",
        "self.l",
        "self.m",
        "self.none",
        "self.t",
        "self.q",
        "self.u",
        "x",
        "1",
        "-1",
        "0u",
        "2.5",
        "'a'",
        "\"\\u00e9\"",
        "b'x'",
        "[1, 'a', null]",
        "{'a': 1}",
        "true",
        "null",
        "9223372036854775807",
        "'[a-z]+(b|c)*$'",
        "'%s and %d'",
        "int",
        "type(1)",
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(6, 40, 3, |inner| {
        let two = || (inner.clone(), inner.clone());
        let binary = vec!["+", "-", "*", "/", "%", "==", "!=", "<", ">=", "&&", "||", "in"];
        let unary = vec![
            "size",
            "string",
            "int",
            "uint",
            "double",
            "bytes",
            "bool",
            "dyn",
            "type",
            "duration",
            "timestamp",
            "quantity",
            "url",
            "ip",
            "cidr",
            "isURL",
            "isQuantity",
            "isIP",
            "has",
            "semver",
            "optional.of",
            "!",
            "-",
            "",
        ];
        let method = vec![
            "contains",
            "startsWith",
            "matches",
            "find",
            "findAll",
            "split",
            "join",
            "replace",
            "indexOf",
            "format",
            "isSorted",
            "sum",
            "min",
            "max",
            "isGreaterThan",
            "add",
            "compareTo",
            "containsIP",
            "orValue",
            "substring",
            "charAt",
        ];
        let loops = vec!["all", "exists", "exists_one", "map", "filter"];
        prop_oneof![
            (two(), prop::sample::select(binary)).prop_map(|((a, b), op)| format!("({a} {op} {b})")),
            (inner.clone(), prop::sample::select(unary)).prop_map(|(a, f)| format!("{f}({a})")),
            (two(), prop::sample::select(method)).prop_map(|((a, b), f)| format!("{a}.{f}({b})")),
            (two(), prop::sample::select(loops)).prop_map(|((a, b), f)| format!("{a}.{f}(x, {b})")),
            (inner.clone(), two()).prop_map(|(a, (b, c))| format!("({a} ? {b} : {c})")),
            two().prop_map(|(a, b)| format!("{a}[{b}]")),
            inner.clone().prop_map(|a| format!("{a}.m")),
            inner.clone().prop_map(|a| format!("{a}.?m")),
            two().prop_map(|(a, b)| format!("[{a}, {b}]")),
        ]
    })
}

fn evaluate(source: &str) -> Result<String, EvalError> {
    let program = Program::compile(source).map_err(EvalError::Failed)?;
    let budget = Budget::new(PER_CALL);
    program.evaluate(&[("self", Val::of(&SELF, None))], &budget).map(|value| value.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn expressions_have_a_value_or_an_error(source in expression()) {
        drop(bounded(|| evaluate(&source)));
    }

    #[test]
    fn expressions_of_any_make_are_parsed_or_refused(source in "[-a-c0-2+*/%(){}\\[\\].,:?!&|<>='\"\\\\ x]{0,60}") {
        drop(bounded(|| evaluate(&source)));
    }
}

#[test]
fn what_grows_without_end_runs_out_of_budget() {
    let list = format!("[{}]", vec!["0"; 100].join(","));
    let loops = |depth: usize| (0..depth).fold("true".to_owned(), |inner, at| format!("{list}.all(x{at}, {inner})"));
    let doubled = (0..40).fold("self.s".to_owned(), |inner, _| format!("[{inner}].map(x, x + x)[0]"));
    let table = [
        ("nested loops", loops(6), "cost limit"),
        ("a text that doubles", doubled, "cost limit"),
        ("a deep expression", format!("{}1{}", "(".repeat(20_000), ")".repeat(20_000)), "recursion limit"),
        ("many negations", format!("{}true", "!".repeat(20_000)), "recursion limit"),
        ("deep lists", format!("{}{}", "[".repeat(20_000), "]".repeat(20_000)), "recursion limit"),
        ("a chain of selections", format!("self{}", ".m".repeat(20_000)), "recursion limit"),
        ("as deep as may be", format!("self{} == 1", ".m".repeat(290)), ""),
        ("a chain of sums", format!("1{}", " + 1".repeat(20_000)), "recursion limit"),
    ];
    for (what, source, expected) in table {
        match bounded(|| evaluate(&source)) {
            Err(error) => assert!(error.to_string().contains(expected), "{what}: {error}"),
            // Long is not deep to every parser; a value is fine where no limit is expected.
            Ok(_) => assert!(expected.is_empty(), "{what} has a value"),
        }
    }
}
