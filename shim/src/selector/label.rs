//! The label selector grammar (apimachinery `labels.Parse`): lexer, parser and its error texts.

use super::names::{label_value_errors, qualified_name_errors};
use super::{LabelSelector, Op, Requirement};
use std::collections::BTreeSet;

/// What the lexer makes of the text; `in` and `notin` are names again where a key or value stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token {
    Bad,
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Name,
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

pub(super) fn parse(text: &str) -> Result<LabelSelector, String> {
    let mut parser = Parser { tokens: scan(text), at: 0 };
    let mut requirements = Vec::new();
    loop {
        let (token, literal) = parser.peek();
        match token {
            Token::Name | Token::Not => {}
            Token::End => break,
            _ => return Err(format!("found '{literal}', expected: !, identifier, or 'end of string'")),
        }
        let requirement = parser.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?;
        requirements.push(requirement);
        let (token, literal) = parser.take();
        match token {
            Token::End => break,
            Token::Comma => {
                let (next, literal) = parser.peek();
                if next != Token::Name && next != Token::Not {
                    return Err(format!("found '{literal}', expected: identifier after ','"));
                }
            }
            _ => return Err(format!("found '{literal}', expected: ',' or 'end of string'")),
        }
    }
    requirements.sort_by(|a: &Requirement, b| a.key.cmp(&b.key));
    Ok(LabelSelector { requirements })
}

fn is_special(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn scan(text: &str) -> Vec<(Token, String)> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while let Some(first) = rest.chars().next() {
        let (token, literal, used) = if is_special(first) { symbol(rest) } else { word(rest) };
        tokens.push((token, literal));
        rest = rest[used..].trim_start_matches(is_space);
    }
    tokens.push((Token::End, String::new()));
    tokens
}

fn word(rest: &str) -> (Token, String, usize) {
    let used = rest.find(|c| is_special(c) || is_space(c)).unwrap_or(rest.len());
    let token = match &rest[..used] {
        "in" => Token::In,
        "notin" => Token::NotIn,
        _ => Token::Name,
    };
    (token, rest[..used].to_owned(), used)
}

/// The longest operator; all are one or two ASCII characters.
fn symbol(rest: &str) -> (Token, String, usize) {
    let (token, used) = match rest.as_bytes() {
        [b'=', b'=', ..] => (Token::DoubleEquals, 2),
        [b'!', b'=', ..] => (Token::NotEquals, 2),
        [b'=', ..] => (Token::Equals, 1),
        [b'!', ..] => (Token::Not, 1),
        [b'(', ..] => (Token::Open, 1),
        [b')', ..] => (Token::Close, 1),
        [b',', ..] => (Token::Comma, 1),
        [b'>', ..] => (Token::Greater, 1),
        [b'<', ..] => (Token::Less, 1),
        _ => (Token::Bad, 1),
    };
    (token, rest[..used].to_owned(), used)
}

struct Parser {
    /// Ends in `End`, which `take` never passes.
    tokens: Vec<(Token, String)>,
    at: usize,
}

impl Parser {
    fn raw(&self) -> (Token, String) {
        self.tokens[self.at.min(self.tokens.len() - 1)].clone()
    }
    fn peek(&self) -> (Token, String) {
        let (token, literal) = self.raw();
        (if matches!(token, Token::In | Token::NotIn) { Token::Name } else { token }, literal)
    }
    fn take(&mut self) -> (Token, String) {
        let taken = self.peek();
        self.at += 1;
        taken
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut key) = self.take();
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.take();
        }
        if token != Token::Name {
            return Err(format!("found '{key}', expected: identifier"));
        }
        let errors = qualified_name_errors(&key);
        if !errors.is_empty() {
            return Err(format!("<nil>: Invalid value: {key:?}: {}", errors.join("; ")));
        }
        if negated {
            // Whatever follows is the caller's to refuse: `!a=b` trips over the `=`, as upstream.
            return Ok(Requirement { key: key.into(), op: Op::DoesNotExist });
        }
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(Requirement { key: key.into(), op: Op::Exists });
        }
        let (operator, literal) = self.raw();
        self.at += 1;
        let values = match operator {
            Token::In | Token::NotIn => self.values()?,
            Token::Equals | Token::DoubleEquals | Token::NotEquals | Token::Greater | Token::Less => {
                BTreeSet::from([self.exact_value()?])
            }
            _ => return Err(format!("found '{literal}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        build(key, operator, values)
    }

    /// `(a,b)`; an empty place is the empty value.
    fn values(&mut self) -> Result<BTreeSet<String>, String> {
        let (token, literal) = self.take();
        if token != Token::Open {
            return Err(format!("found '{literal}' expected: '('"));
        }
        let (token, literal) = self.peek();
        match token {
            Token::Name | Token::Comma => {
                let values = self.identifiers()?;
                // identifiers() stops only before a closing parenthesis.
                self.take();
                Ok(values)
            }
            Token::Close => {
                self.take();
                Ok(BTreeSet::from([String::new()]))
            }
            _ => Err(format!("found '{literal}', expected: ',', ')' or identifier")),
        }
    }

    fn identifiers(&mut self) -> Result<BTreeSet<String>, String> {
        let mut values = BTreeSet::new();
        loop {
            let (token, literal) = self.take();
            match token {
                Token::Name => {
                    values.insert(literal);
                    let (next, literal) = self.peek();
                    match next {
                        Token::Comma => {}
                        Token::Close => return Ok(values),
                        _ => return Err(format!("found '{literal}', expected: ',' or ')'")),
                    }
                }
                Token::Comma => {
                    if values.is_empty() {
                        values.insert(String::new());
                    }
                    match self.peek().0 {
                        Token::Close => {
                            values.insert(String::new());
                            return Ok(values);
                        }
                        Token::Comma => {
                            self.take();
                            values.insert(String::new());
                        }
                        _ => {}
                    }
                }
                _ => return Err(format!("found '{literal}', expected: ',', or identifier")),
            }
        }
    }

    fn exact_value(&mut self) -> Result<String, String> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        let (token, literal) = self.take();
        if token == Token::Name { Ok(literal) } else { Err(format!("found '{literal}', expected: identifier")) }
    }
}

/// Checks the values and makes the requirement; several errors read `[a, b]`.
fn build(key: String, operator: Token, values: BTreeSet<String>) -> Result<Requirement, String> {
    let mut errors = Vec::new();
    let mut bound = 0;
    if matches!(operator, Token::Greater | Token::Less) {
        for (i, value) in values.iter().enumerate() {
            match value.parse::<i64>() {
                Ok(n) => bound = n,
                Err(_) => errors.push(format!(
                    "values[{i}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
                )),
            }
        }
    }
    for (i, value) in values.iter().enumerate() {
        let wrong = label_value_errors(value);
        if !wrong.is_empty() {
            errors.push(format!("values[{i}][{key}]: Invalid value: {value:?}: {}", wrong.join("; ")));
        }
    }
    match &errors[..] {
        [] => {}
        [one] => return Err(one.clone()),
        many => return Err(format!("[{}]", many.join(", "))),
    }
    let values = values.into_iter().map(String::into_boxed_str).collect();
    let op = match operator {
        Token::NotIn | Token::NotEquals => Op::NotIn(values),
        Token::Greater => Op::GreaterThan(bound),
        Token::Less => Op::LessThan(bound),
        _ => Op::In(values),
    };
    Ok(Requirement { key: key.into(), op })
}

#[cfg(test)]
mod tests {
    use crate::selector::{LabelSelector, Pairs};

    fn labels(pairs: &[(&str, &str)]) -> Pairs {
        pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    #[test]
    fn matches_as_the_documentation_says() {
        let prod = labels(&[("env", "prod"), ("tier", "web"), ("n", "5")]);
        for (text, want) in [
            ("", true),
            ("env=prod", true),
            ("env==prod,tier", true),
            ("env!=dev", true),
            ("env in (dev, prod),tier notin (db)", true),
            ("env notin (prod)", false),
            ("!missing", true),
            ("!env", false),
            ("missing!=x", true),
            ("missing notin (x)", true),
            ("missing in (x)", false),
            ("missing", false),
            ("n>4,n<6", true),
            ("n>5", false),
            ("env>5", false),
            ("missing<5", false),
            ("in in (in)", false),
            (" env = prod , tier ", true),
            ("env=", false),
            ("missing in ()", false),
            ("x in (,a)", false),
            ("example.com/x notin (a,,b)", true),
        ] {
            assert_eq!(LabelSelector::parse(text).map(|s| s.matches(&prod)), Ok(want), "{text}");
        }
        assert!(LabelSelector::parse("x in (,a)").unwrap().matches(&labels(&[("x", "")])));
        assert!(LabelSelector::parse("in").unwrap().matches(&labels(&[("in", "")])));
    }

    #[test]
    fn refuses_in_upstreams_words() {
        let value = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
        for (text, want) in [
            ("env=prod=x", "found '=', expected: ',' or 'end of string'".to_owned()),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt".to_owned()),
            ("env in (dev", "unable to parse requirement: found '', expected: ',' or ')'".to_owned()),
            ("a in", "unable to parse requirement: found '' expected: '('".to_owned()),
            ("env=bad value", "found 'value', expected: ',' or 'end of string'".to_owned()),
            ("!!", "unable to parse requirement: found '!', expected: identifier".to_owned()),
            ("a,", "found '', expected: identifier after ','".to_owned()),
            (",a", "found ',', expected: !, identifier, or 'end of string'".to_owned()),
            ("a=(b)", "unable to parse requirement: found '(', expected: identifier".to_owned()),
            ("!a=b", "found '=', expected: ',' or 'end of string'".to_owned()),
            (
                "-bad=x",
                "unable to parse requirement: <nil>: Invalid value: \"-bad\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')".to_owned(),
            ),
            (
                "a=-b",
                format!("unable to parse requirement: values[0][a]: Invalid value: \"-b\": {value}"),
            ),
            (
                "a>b",
                "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators, the value must be an integer".to_owned(),
            ),
            (
                "a in (-b,c-)",
                format!("unable to parse requirement: [values[0][a]: Invalid value: \"-b\": {value}, values[1][a]: Invalid value: \"c-\": {value}]"),
            ),
        ] {
            assert_eq!(LabelSelector::parse(text), Err(want), "{text}");
        }
    }
}
