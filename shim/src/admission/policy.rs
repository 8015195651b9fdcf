//! ValidatingAdmissionPolicy: which policies a request is about, and what their expressions say to it.

use super::{Operation, Review};
use crate::cel::{Budget, EvalError, Key, PER_CALL, PER_OBJECT, Program, Val};
use crate::error::{ApiError, Qualified};
use crate::meta::{Meta, Object};
use crate::registry::labels;
use crate::registry::value::{items, text};
use crate::selector::{LabelSelector, Pairs};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Expressions kept compiled; more than any set of policies has. When it is full it begins anew.
const MAX_PROGRAMS: usize = 4096;

/// An expression, compiled once, or why it cannot be.
type Compiled = Arc<Result<Program, String>>;

/// Compiled expressions by their text, shared by all requests.
#[derive(Debug, Default)]
pub struct Programs(RwLock<BTreeMap<Box<str>, Compiled>>);

impl Programs {
    fn get(&self, source: &str) -> Compiled {
        // A panic while it was held can only have lost an entry.
        if let Some(known) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(source) {
            return known.clone();
        }
        let program = Arc::new(Program::compile(source));
        let mut programs = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if programs.len() >= MAX_PROGRAMS {
            programs.clear();
        }
        programs.insert(source.into(), program.clone());
        program
    }
}

/// A policy with one of its bindings, and one of the objects that the binding names as parameters.
#[derive(Debug)]
pub struct Bound {
    pub policy: Object,
    pub binding: Object,
    pub params: Params,
}

#[derive(Debug)]
pub enum Params {
    /// The policy has none.
    None,
    Of(Object),
    /// They are not there, and the binding says that this is a refusal.
    Missing,
}

/// What a request is, beside its objects.
pub struct Request<'a> {
    pub review: &'a Review<'a>,
    pub object: Option<&'a Object>,
    /// The namespace that the object is in.
    pub namespace: Option<&'a Object>,
    pub dry_run: bool,
}

/// Whether the request is about what the policy and the binding name.
pub fn concerns(request: &Request<'_>, policy: &Object, binding: &Object) -> bool {
    let constraints = &policy["spec"]["matchConstraints"];
    let narrower = &binding["spec"]["matchResources"];
    constraints.is_object()
        && matches(request, constraints, true)
        && (!narrower.is_object() || matches(request, narrower, false))
}

/// `MatchResources`; `strict`: without rules nothing matches.
fn matches(request: &Request<'_>, resources: &Value, strict: bool) -> bool {
    let rules = items(&resources["resourceRules"]);
    let named = if rules.is_empty() { !strict } else { rules.iter().any(|r| rule_matches(request.review, r)) };
    named
        && !items(&resources["excludeResourceRules"]).iter().any(|r| rule_matches(request.review, r))
        && selects_namespace(request, &resources["namespaceSelector"])
        && selects_object(request, &resources["objectSelector"])
}

fn rule_matches(review: &Review<'_>, rule: &Value) -> bool {
    let has = |field: &str, wanted: &str| items(&rule[field]).iter().any(|v| v == "*" || v == wanted);
    let operation = operation(review.operation);
    let names = items(&rule["resourceNames"]);
    let scope = match text(&rule["scope"]) {
        "Cluster" => !review.def.namespaced,
        "Namespaced" => review.def.namespaced,
        _ => true,
    };
    let (resource, sub) = (review.def.resource, review.sub.map_or("", crate::request::Sub::name));
    let wanted = |pattern: &str| {
        let (name, below) = pattern.split_once('/').unwrap_or((pattern, ""));
        (name == "*" || name == resource) && (below == sub || (below == "*" && pattern.contains('/')))
    };
    has("operations", operation)
        && has("apiGroups", review.def.gv.group)
        && has("apiVersions", review.def.gv.version)
        && items(&rule["resources"]).iter().any(|pattern| wanted(text(pattern)))
        && (names.is_empty() || names.iter().any(|name| name == review.name))
        && scope
}

fn operation(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
    }
}

/// A selector that cannot be read selects nothing.
fn selected(selector: &Value, labels_of: Option<&Map<String, Value>>) -> bool {
    let Ok(selector) = LabelSelector::parse(&labels::format_selector(selector)) else { return false };
    let pairs: Pairs = labels_of
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.as_str().into(), value.as_str()?.into())))
        .collect();
    selector.matches(&pairs)
}

fn is_everything(selector: &Value) -> bool {
    selector.as_object().is_none_or(Map::is_empty)
}

/// Cluster-scoped objects are in no namespace and always selected, but for namespaces, which are in themselves.
fn selects_namespace(request: &Request<'_>, selector: &Value) -> bool {
    let review = request.review;
    if is_everything(selector) {
        return true;
    }
    if review.def.resource == "namespaces" && review.def.gv.group.is_empty() {
        let namespace = request.object.or(review.old);
        return selected(selector, namespace.and_then(Meta::labels));
    }
    !review.def.namespaced || selected(selector, request.namespace.and_then(Meta::labels))
}

fn selects_object(request: &Request<'_>, selector: &Value) -> bool {
    let objects = [request.object, request.review.old];
    is_everything(selector) || objects.into_iter().flatten().any(|object| selected(selector, object.labels()))
}

/// Asks every policy; what only warns comes back as texts for `Warning` headers.
///
/// # Errors
/// The first refusal.
pub fn validate(request: &Request<'_>, bound: &[Bound], programs: &Programs) -> Result<Vec<String>, ApiError> {
    let mut warnings = Vec::new();
    for bound in bound {
        let name = |object: &Object| object.name().to_owned();
        let title =
            format!("ValidatingAdmissionPolicy '{}' with binding '{}'", name(&bound.policy), name(&bound.binding));
        let actions = items(&bound.binding["spec"]["validationActions"]);
        for refusal in ask(request, bound, programs) {
            if actions.iter().any(|action| action == "Warn") {
                warnings.push(format!("Validation failed for {title}: {}", refusal.message));
            }
            if actions.iter().any(|action| action == "Deny") {
                return Err(ApiError::PolicyDenied {
                    what: Qualified::resource(request.review.def),
                    name: request.review.name.to_owned(),
                    why: format!("{title} denied request: {}", refusal.message),
                    reason: refusal.reason,
                });
            }
        }
    }
    Ok(warnings)
}

/// What one expression has against the request.
struct Refusal {
    message: String,
    reason: &'static str,
}

impl Refusal {
    fn invalid(message: String) -> Self {
        Self { message, reason: "Invalid" }
    }
}

fn ask(request: &Request<'_>, bound: &Bound, programs: &Programs) -> Vec<Refusal> {
    let spec = &bound.policy["spec"];
    let ignore = spec["failurePolicy"] == "Ignore";
    let params = match &bound.params {
        Params::None => Value::Null,
        Params::Of(params) => params.clone(),
        Params::Missing => {
            let text = "no params found for policy binding with `Deny` parameterNotFoundAction";
            return vec![Refusal::invalid(format!("failed to configure binding: {text}"))];
        }
    };
    let about = request_value(request);
    let null = Value::Null;
    let mut scope = Scope {
        variables: vec![
            ("object", Val::of(request.object.unwrap_or(&null), None)),
            ("oldObject", Val::of(request.review.old.unwrap_or(&null), None)),
            ("request", Val::of(&about, None)),
            ("params", Val::of(&params, None)),
            ("namespaceObject", Val::of(request.namespace.unwrap_or(&null), None)),
        ],
        programs,
        budget: PER_OBJECT,
    };
    for condition in items(&spec["matchConditions"]) {
        match scope.evaluate(text(&condition["expression"])) {
            Ok(Val::Bool(true)) => {}
            Ok(_) => return Vec::new(),
            Err(_) if ignore => return Vec::new(),
            Err(error) => return vec![Refusal::invalid(format!("{error}"))],
        }
    }
    scope.define(items(&spec["variables"]));
    let mut refusals = Vec::new();
    for validation in items(&spec["validations"]) {
        let expression = text(&validation["expression"]);
        match scope.evaluate(expression) {
            Ok(Val::Bool(true)) => {}
            Ok(_) => refusals.push(Refusal { message: scope.message(validation), reason: reason(validation) }),
            Err(_) if ignore => {}
            Err(error) => {
                refusals.push(Refusal::invalid(format!("expression '{expression}' resulted in error: {error}")));
            }
        }
    }
    refusals
}

fn reason(validation: &Value) -> &'static str {
    match text(&validation["reason"]) {
        "Unauthorized" => "Unauthorized",
        "Forbidden" => "Forbidden",
        "RequestEntityTooLarge" => "RequestEntityTooLarge",
        _ => "Invalid",
    }
}

/// What expressions may name, and what is left for them to spend.
struct Scope<'v, 'p> {
    variables: Vec<(&'static str, Val<'v>)>,
    programs: &'p Programs,
    budget: u64,
}

impl<'v> Scope<'v, '_> {
    fn evaluate(&mut self, source: &str) -> Result<Val<'v>, EvalError> {
        match &*self.programs.get(source) {
            Err(text) => Err(EvalError::Failed(format!("compilation failed: {text}"))),
            Ok(program) => {
                let limit = self.budget.min(PER_CALL);
                let budget = Budget::new(limit);
                let value = program.evaluate(&self.variables, &budget);
                self.budget -= limit - budget.left();
                value
            }
        }
    }

    /// `variables.x`, each seeing those before it. One that fails is absent, and so fails whoever asks for it.
    fn define(&mut self, definitions: &[Value]) {
        let mut known: BTreeMap<Key, Val<'v>> = BTreeMap::new();
        self.variables.push(("variables", Val::Map(Arc::default())));
        for definition in definitions {
            if let Ok(value) = self.evaluate(text(&definition["expression"])) {
                known.insert(Key::String(text(&definition["name"]).to_owned()), value);
                self.variables.pop();
                self.variables.push(("variables", Val::Map(Arc::new(known.clone()))));
            }
        }
    }

    fn message(&mut self, validation: &Value) -> String {
        let made = text(&validation["messageExpression"]);
        if !made.is_empty()
            && let Ok(Val::String(text)) = self.evaluate(made)
            && !text.trim().is_empty()
            && !text.contains('\n')
        {
            return text.into_owned();
        }
        match text(&validation["message"]) {
            "" => format!("failed expression: {}", text(&validation["expression"])),
            message => message.to_owned(),
        }
    }
}

/// The `request` variable (an AdmissionRequest without its objects).
fn request_value(request: &Request<'_>) -> Value {
    let review = request.review;
    let def = review.def;
    let kind = json!({"group": def.gv.group, "version": def.gv.version, "kind": def.kind});
    let resource = json!({"group": def.gv.group, "version": def.gv.version, "resource": def.resource});
    let sub = review.sub.map_or("", crate::request::Sub::name);
    let user = review.user;
    json!({
        "kind": kind, "resource": resource, "subResource": sub,
        "requestKind": kind, "requestResource": resource, "requestSubResource": sub,
        "name": review.name, "namespace": review.namespace, "operation": operation(review.operation),
        "userInfo": {"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra},
        "dryRun": request.dry_run,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::User;

    fn outcome(spec: Value, binding: Value, object: Value) -> String {
        let user = User::authenticated("alice", ["dev".to_owned()]);
        let def = crate::registry::find("", "v1", "configmaps").unwrap();
        let namespace = json!({"metadata": {"name": "n", "labels": {"env": "prod"}}});
        let name = object.name().to_owned();
        let review = Review { namespace: "n", name: &name, ..Review::bare(&user, def, Operation::Create, None) };
        let request = Request { review: &review, object: Some(&object), namespace: Some(&namespace), dry_run: false };
        let policy = json!({"metadata": {"name": "p"}, "spec": spec});
        let binding = json!({"metadata": {"name": "b"}, "spec": binding});
        if !concerns(&request, &policy, &binding) {
            return "not concerned".to_owned();
        }
        let bound = Bound { policy, binding, params: Params::Of(json!({"data": {"max": "2"}})) };
        match validate(&request, &[bound], &Programs::default()) {
            Ok(warnings) => format!("allowed {warnings:?}"),
            Err(error) => error.to_string(),
        }
    }

    fn rules(resource: &str) -> Value {
        json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource]}])
    }

    #[test]
    fn policies_refuse_warn_or_let_pass() {
        let deny = json!({"validationActions": ["Deny"]});
        let spec = |validation: Value| json!({"matchConstraints": {"resourceRules": rules("configmaps")}, "validations": [validation]});
        let object = json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "data": {"k": "v"}});
        let start = "configmaps \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: ";
        let denied = |why: &str| format!("{start}{why}");
        for (spec, binding, wanted) in [
            (
                spec(json!({"expression": "object.data.size() <= int(params.data.max)"})),
                deny.clone(),
                "allowed []".to_owned(),
            ),
            (
                spec(json!({"expression": "object.data.size() > 1", "message": "too few"})),
                deny.clone(),
                denied("too few"),
            ),
            (spec(json!({"expression": "false"})), deny.clone(), denied("failed expression: false")),
            (
                spec(json!({"expression": "false", "messageExpression": "'no, ' + request.userInfo.username"})),
                deny.clone(),
                denied("no, alice"),
            ),
            (
                spec(json!({"expression": "object.none == 1"})),
                deny.clone(),
                denied("expression 'object.none == 1' resulted in error: no such key: none"),
            ),
            (
                spec(json!({"expression": "false", "message": "mind"})),
                json!({"validationActions": ["Warn"]}),
                "allowed [\"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': mind\"]".to_owned(),
            ),
            (
                spec(json!({"expression": "false"})),
                json!({"validationActions": ["Deny"], "matchResources": {"namespaceSelector": {"matchLabels": {"env": "test"}}}}),
                "not concerned".to_owned(),
            ),
            (
                json!({"matchConstraints": {"resourceRules": rules("secrets")}, "validations": [{"expression": "false"}]}),
                deny.clone(),
                "not concerned".to_owned(),
            ),
            (
                json!({
                    "matchConstraints": {"resourceRules": rules("*")}, "failurePolicy": "Ignore",
                    "matchConditions": [{"name": "c", "expression": "object.metadata.name == 'other'"}],
                    "validations": [{"expression": "false"}],
                }),
                deny.clone(),
                "allowed []".to_owned(),
            ),
            (
                json!({
                    "matchConstraints": {"resourceRules": rules("*")},
                    "variables": [{"name": "n", "expression": "object.data.size()"}, {"name": "twice", "expression": "variables.n * 2"}],
                    "validations": [{"expression": "variables.twice == 2 && namespaceObject.metadata.name == 'n'"}],
                }),
                deny,
                "allowed []".to_owned(),
            ),
        ] {
            assert_eq!(outcome(spec.clone(), binding, object.clone()), wanted, "{spec}");
        }
    }
}
