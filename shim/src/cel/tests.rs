//! Expressions and their values, as tables.

use super::{Budget, EvalError, PER_CALL, Program, Val};
use crate::schema::structural::Structural;
use serde_json::{Value, json};

fn evaluate(source: &str, object: &Value, schema: Option<&Structural>) -> String {
    let program = match Program::compile(source) {
        Ok(program) => program,
        Err(text) => return format!("compile: {text}"),
    };
    let budget = Budget::new(PER_CALL);
    match program.evaluate(&[("self", Val::of(object, schema))], &budget) {
        Ok(value) => value.to_string(),
        Err(error) => format!("error: {error}"),
    }
}

fn check(table: &[(&str, &str)]) {
    let object = json!({
        "n": 3, "s": "text", "b": true, "f": 1.5, "l": [1, 2, 3], "m": {"a": "x", "b": "y"}, "dash-ed": 1, "null": null,
        "items": [{"name": "a", "v": 1}, {"name": "b", "v": 2}], "q": "1Gi", "t": "2024-02-29T12:30:00Z",
    });
    let wrong: Vec<String> = table
        .iter()
        .map(|(source, wanted)| (source, wanted, evaluate(source, &object, None)))
        .filter(|(_, wanted, got)| **wanted != got)
        .map(|(source, wanted, got)| format!("{source}: {got}, not {wanted}"))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn operators_macros_and_absent_fields() {
    check(&[
        ("self.n % 2 == 1 && self.n > 2", "true"),
        ("self.n == 3.0 && 3u == self.n", "true"),
        ("1 + 2 * 3 - 4 / 2", "5"),
        ("-self.n", "-3"),
        ("1 / 0", "error: division by zero"),
        ("9223372036854775807 + 1", "error: integer overflow"),
        ("self.b ? 'yes' : 'no'", "yes"),
        ("has(self.n) && !has(self.none)", "true"),
        ("self.none", "error: no such key: none"),
        ("self.none == 1 || true", "true"),
        ("false && self.none == 1", "false"),
        ("self.dash__dash__ed", "1"),
        ("self['dash-ed']", "1"),
        ("self.l[1] + self.l[2]", "5"),
        ("self.l[7]", "error: index out of bounds: 7"),
        ("2 in self.l && !(9 in self.l) && 'a' in self.m", "true"),
        ("self.l.all(x, x > 0) && self.l.exists(x, x == 2) && self.l.exists_one(x, x == 3)", "true"),
        ("self.m.all(k, self.m[k] != k)", "true"),
        ("self.l.map(x, x * 2)", "[2,4,6]"),
        ("self.l.filter(x, x > 1).size()", "2"),
        ("self.items.map(i, i.name)", "[\"a\",\"b\"]"),
        ("self.items.exists(i, i.v == 2 && i.name == 'b')", "true"),
        ("self.l == [1, 2, 3] && {'a': 1} == {'a': 1.0}", "true"),
        ("self.l + [4]", "[1,2,3,4]"),
        ("type(self.n) == int && type(self.s) == string && type(1.0) == double", "true"),
        ("type(timestamp(self.t)) == google.protobuf.Timestamp", "true"),
        ("self.s > 1", "error: no such overload"),
        ("nosuch(self)", "compile: ERROR: <input>:1:1: undeclared reference to 'nosuch' (in container '')"),
    ]);
}

#[test]
fn optionals() {
    check(&[
        ("self.?none.orValue('x')", "x"),
        ("self.?s.orValue('x')", "text"),
        ("self.?m.?a.hasValue()", "true"),
        ("self.?none.?deep.hasValue()", "false"),
        ("self.m[?'zz'].orValue('d')", "d"),
        ("self.l[?9].hasValue()", "false"),
        ("optional.of(1).value()", "1"),
        ("optional.none().value()", "error: optional.none() dereference"),
        ("self.?n.optMap(x, x + 1).orValue(0)", "4"),
        ("[?self.?none, ?self.?s]", "[\"text\"]"),
        ("optional.ofNonZeroValue('').hasValue()", "false"),
        ("self.?none.or(self.?s).value()", "text"),
    ]);
}

#[test]
fn strings_and_regular_expressions() {
    check(&[
        ("self.s.startsWith('te') && self.s.endsWith('xt') && self.s.contains('ex')", "true"),
        ("self.s.matches('^t.*t$') && !self.s.matches('^x')", "true"),
        ("'a,b,c'.split(',')", "[\"a\",\"b\",\"c\"]"),
        ("'a,b,c'.split(',', 2)", "[\"a\",\"b,c\"]"),
        ("['a', 'b'].join('-')", "a-b"),
        ("'hello'.substring(1, 3) + 'hello'.charAt(4)", "elo"),
        ("'hello'.substring(4, 9)", "error: index out of range: 9"),
        ("'hello'.indexOf('l') + 'hello'.lastIndexOf('l')", "5"),
        ("'aXbX'.replace('X', 'y') + 'aXbX'.replace('X', 'y', 1)", "aybyaybX"),
        ("'TacoCat'.lowerAscii() + 'x'.upperAscii() + ' y '.trim()", "tacocatXy"),
        ("'abc 123'.find('[0-9]+') + string('1a2'.findAll('[0-9]').size())", "1232"),
        ("'%s has %d, %.2f, %x'.format(['a', 3, 1.5, 255])", "a has 3, 1.50, ff"),
        ("'ab'.reverse() + strings.quote('a\"b')", "ba\"a\\\"b\""),
        ("size('äö') + size(b'ab') + size([1]) + size({'a': 1})", "6"),
        ("int('7') + int(2.9) + int(uint(1))", "10"),
        ("string(1) + string(true) + string(1.5)", "1true1.5"),
        ("int('x')", "error: strconv.ParseInt: parsing \"x\": invalid syntax"),
    ]);
}

#[test]
fn kubernetes_lists_and_sets() {
    check(&[
        ("self.l.isSorted() && self.l.sum() == 6 && self.l.min() == 1 && self.l.max() == 3", "true"),
        ("[3, 1].isSorted()", "false"),
        ("self.l.indexOf(2) + self.l.lastIndexOf(9)", "0"),
        ("[].max()", "error: max called on empty list"),
        ("sets.contains(self.l, [1, 3]) && sets.intersects([1], [2, 1]) && sets.equivalent([1, 2], [2, 1, 1])", "true"),
    ]);
}

#[test]
fn urls_addresses_quantities_versions_and_times() {
    check(&[
        ("isURL('https://a.b:80/c?d=1') && !isURL('::') && !isURL('a b')", "true"),
        ("url('https://h.example:8080/p/q?x=1&x=2').getHostname()", "h.example"),
        ("url('https://h:8080/p').getPort() + url('https://h:8080/p').getScheme()", "8080https"),
        ("url('https://h/p?x=1&x=2').getQuery()", "{\"x\":[\"1\",\"2\"]}"),
        ("isIP('::1') && !isIP('1.2.3') && ip('10.0.0.1').family() == 4", "true"),
        ("ip('127.0.0.1').isLoopback() && ip.isCanonical('::1') && !ip.isCanonical('0::1')", "true"),
        ("cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16')", "true"),
        ("cidr('192.168.1.7/24').masked()", "192.168.1.0/24"),
        ("cidr('::/0').prefixLength()", "0"),
        ("quantity(self.q).isGreaterThan(quantity('500Mi')) && isQuantity('1k') && !isQuantity('x')", "true"),
        ("quantity('1500m').asApproximateFloat() == 1.5 && quantity('2k').asInteger() == 2000", "true"),
        (
            "quantity('1').add(quantity('2')) == quantity('3') && quantity('5').sub(2).compareTo(quantity('3')) == 0",
            "true",
        ),
        ("semver('1.2.3').isLessThan(semver('1.10.0')) && isSemver('1.0.0-rc.1') && !isSemver('v1')", "true"),
        ("semver('v01.2', true).minor()", "2"),
        ("timestamp(self.t).getDayOfYear() + timestamp(self.t).getDate()", "88"),
        ("timestamp(self.t) + duration('1h30m') > timestamp(self.t)", "true"),
        ("duration('90m').getHours() + duration('90m').getMinutes()", "91"),
        ("duration('x')", "error: time: invalid duration \"x\""),
        ("format.dns1123Label().validate('a-b').hasValue() || format.dns1123Label().validate('A').hasValue()", "true"),
        ("!format.named('dns1123Label').value().validate('ok').hasValue()", "true"),
    ]);
}

#[test]
fn a_schema_types_what_json_does_not() {
    let schema = Structural::parse(&json!({"type": "object", "properties": {
        "f": {"type": "number"}, "t": {"type": "string", "format": "date-time"}, "d": {"type": "string", "format": "duration"},
        "b": {"type": "string", "format": "byte"}, "x-y": {"type": "integer"},
    }}));
    let object = json!({"f": 2, "t": "2024-01-01T00:00:00Z", "d": "1h", "b": "YWI=", "x-y": 1});
    for (source, wanted) in [
        ("type(self.f) == double && self.f / 4.0 == 0.5", "true"),
        ("self.t < timestamp('2025-01-01T00:00:00Z')", "true"),
        ("self.d == duration('60m')", "true"),
        ("self.b == b'ab'", "true"),
        ("self.x__dash__y", "1"),
    ] {
        assert_eq!(evaluate(source, &object, Some(&schema)), wanted, "{source}");
    }
}

#[test]
fn an_expression_ends_when_its_budget_does() {
    let list: Vec<i64> = (0..1000).collect();
    let object = json!({ "l": list });
    let program = Program::compile("self.l.all(a, self.l.all(b, self.l.all(c, a + b + c >= 0)))").unwrap();
    let budget = Budget::new(PER_CALL);
    let outcome = program.evaluate(&[("self", Val::of(&object, None))], &budget);
    assert_eq!(outcome.err(), Some(EvalError::Cost));
    assert_eq!(budget.left(), 0);
    // An error on the way does not hide that the budget is spent.
    let program = Program::compile("self.l.all(a, self.l.all(b, self.l.all(c, c < 0 || c >= 0))) || true").unwrap();
    let outcome = program.evaluate(&[("self", Val::of(&object, None))], &Budget::new(1000));
    assert_eq!(outcome.err(), Some(EvalError::Cost));
}

#[test]
fn what_is_selected_of_a_variable_is_known() {
    let program = Program::compile("self.a.b == oldSelf.c && has(self.d) && self.l.all(x, x.e > 0)").unwrap();
    let selections = program.selections("self");
    assert!(selections.contains(&vec!["a".to_owned(), "b".to_owned()]));
    assert!(selections.contains(&vec!["d".to_owned()]));
    assert!(program.mentions("oldSelf") && !program.mentions("other"));
    assert_eq!(program.selections("oldSelf"), [vec!["c".to_owned()]]);
}
