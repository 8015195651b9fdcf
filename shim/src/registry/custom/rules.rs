//! `x-kubernetes-validations`: the CEL rules of a schema on an object, compiled once, with upstream's cost limits and words.

use super::validate::{at, counterpart};
use crate::cel::{Budget, EvalError, PER_CALL, PER_OBJECT, Program, Val};
use crate::meta::Object;
use crate::registry::field::{Cause, Errors, FieldError, quoted};
use crate::schema::structural::{Rule, Structural};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// A message that an expression makes may be this long.
const MAX_MESSAGE_BYTES: usize = 5 * 1024;

/// The expressions of one schema, each compiled when it is first evaluated: many definitions are never used.
#[derive(Debug, Default)]
pub struct Rules {
    programs: BTreeMap<Box<str>, OnceLock<Option<Program>>>,
}

impl Rules {
    /// Of everything in the schema.
    pub fn of(schema: &Structural) -> Self {
        let programs = std::cell::RefCell::new(BTreeMap::new());
        schema.any_node(&|node| {
            for rule in &node.rules {
                for source in [&rule.rule, &rule.message_expression] {
                    if !source.is_empty() {
                        programs.borrow_mut().entry(source.clone()).or_insert_with(OnceLock::new);
                    }
                }
            }
            false
        });
        Self { programs: programs.into_inner() }
    }

    pub fn is_empty(&self) -> bool {
        self.programs.is_empty()
    }

    fn program(&self, source: &str) -> Option<&Program> {
        self.programs.get(source)?.get_or_init(|| Program::compile(source).ok()).as_ref()
    }

    /// Evaluates all rules; those whose value has not changed are not asked again, but for rules about the change.
    pub fn validate(&self, schema: &Structural, object: &Object, old: Option<&Object>, errors: &mut Errors) {
        let mut pass = Pass { rules: self, budget: PER_OBJECT, errors };
        pass.node(schema, object, old, "");
    }
}

/// What stands for the rules when the object is not even of its type.
pub(super) fn not_checked() -> FieldError {
    at("").invalid(
        Value::Null,
        "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
    )
}

struct Pass<'r, 'e> {
    rules: &'r Rules,
    /// Left for the whole object.
    budget: u64,
    errors: &'e mut Errors,
}

/// No more rules are evaluated.
struct Spent;

impl Pass<'_, '_> {
    fn node(&mut self, schema: &Structural, value: &Value, old: Option<&Value>, path: &str) {
        let _ = self.walk(schema, value, old, path);
    }

    fn walk(&mut self, schema: &Structural, value: &Value, old: Option<&Value>, path: &str) -> Result<(), Spent> {
        for rule in &schema.rules {
            self.rule(rule, schema, value, old, path)?;
        }
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    if let Some(below) = schema.entry(name) {
                        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                        self.walk(below, value, old.and_then(|old| old.get(name)), &path)?;
                    }
                }
            }
            Value::Array(items) => {
                if let Some(below) = &schema.items {
                    for (index, item) in items.iter().enumerate() {
                        let old = counterpart(schema, item, old);
                        self.walk(below, item, old, &format!("{path}[{index}]"))?;
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
        Ok(())
    }

    fn rule(
        &mut self,
        rule: &Rule,
        schema: &Structural,
        value: &Value,
        old: Option<&Value>,
        path: &str,
    ) -> Result<(), Spent> {
        let Some(program) = self.rules.program(&rule.rule) else { return Ok(()) };
        let transition = program.mentions("oldSelf");
        let skipped = match old {
            None => transition && !rule.optional_old_self,
            Some(old) => !transition && old == value,
        };
        if skipped || value.is_null() {
            return Ok(());
        }
        let mut variables = vec![("self", Val::of(value, Some(schema)))];
        let old = old.map(|old| Val::of(old, Some(schema)));
        match (rule.optional_old_self, old) {
            (true, old) => variables.push(("oldSelf", Val::Optional(old.map(Box::new)))),
            (false, Some(old)) => variables.push(("oldSelf", old)),
            (false, None) => {}
        }
        let budget = Budget::new(self.budget.min(PER_CALL));
        let outcome = program.evaluate(&variables, &budget);
        let before = self.budget.min(PER_CALL);
        self.budget -= before - budget.left();
        let path = format!("{path}{}", rule.field_path);
        let path = path.strip_prefix('.').filter(|_| !rule.field_path.is_empty()).unwrap_or(&path);
        match outcome {
            Ok(Val::Bool(true)) => Ok(()),
            Ok(_) => {
                let text = self.message(rule, &variables);
                self.errors.push(refusal(path, value, &rule.reason, &text));
                Ok(())
            }
            Err(EvalError::Cost) if self.budget == 0 => {
                let text =
                    "validation failed due to running out of cost budget, no further validation rules will be run";
                self.errors.push(refusal(path, value, "", text));
                Err(Spent)
            }
            Err(error @ EvalError::Cost) => {
                let text = format!(
                    "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                    spoken(rule)
                );
                self.errors.push(refusal(path, value, "", &text));
                Err(Spent)
            }
            Err(error @ EvalError::NoSuchOverload(_)) => {
                let text = format!(
                    "'{error}': call arguments did not match a supported operator, function or macro signature for rule: {}",
                    spoken(rule)
                );
                self.errors.push(refusal(path, value, "", &text));
                Ok(())
            }
            Err(error) => {
                self.errors.push(refusal(path, value, "", &format!("{error} evaluating rule: {}", spoken(rule))));
                Ok(())
            }
        }
    }

    /// What the expression for messages makes, else the message, else the rule itself.
    fn message(&mut self, rule: &Rule, variables: &[(&str, Val<'_>)]) -> String {
        let budget = Budget::new(self.budget.min(PER_CALL));
        let made = self.rules.program(&rule.message_expression).map(|program| program.evaluate(variables, &budget));
        self.budget -= self.budget.min(PER_CALL) - budget.left();
        if let Some(Ok(Val::String(text))) = made {
            let text = text.trim();
            if !text.is_empty() && !text.contains('\n') && text.len() <= MAX_MESSAGE_BYTES {
                return text.to_owned();
            }
        }
        match rule.message.trim() {
            "" => format!("failed rule: {}", rule.rule.trim()),
            message => message.to_owned(),
        }
    }
}

/// A rule as errors name it.
fn spoken(rule: &Rule) -> &str {
    match rule.message.trim() {
        "" => rule.rule.trim(),
        message => message,
    }
}

/// An error of a rule: scalars are shown, objects and lists are left out.
fn refusal(path: &str, value: &Value, reason: &str, text: &str) -> FieldError {
    let shown = match value {
        Value::String(text) => Some(quoted(text)),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    let shown = shown.map_or_else(String::new, |shown| format!(": {shown}"));
    let (cause, message) = match reason {
        "FieldValueRequired" => (Cause::Required, format!("Required value: {text}")),
        "FieldValueForbidden" => (Cause::Forbidden, format!("Forbidden: {text}")),
        "FieldValueDuplicate" => (Cause::Duplicate, format!("Duplicate value{shown}")),
        _ => (Cause::Invalid, format!("Invalid value{shown}: {text}")),
    };
    FieldError { cause, field: at(path).as_str().to_owned(), message }
}
