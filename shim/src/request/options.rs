//! Query options of reads and writes, parsed and checked as apimachinery does.

use super::query::Query;
use crate::error::{ApiError, Qualified};
use crate::registry::ResourceDef;
use crate::registry::field::{Cause, FieldError, Path};
use crate::schema::FieldValidation;
use crate::selector::{FieldSelector, LabelSelector};
use std::time::Duration;

const EXACT: &str = "Exact";
const NOT_OLDER_THAN: &str = "NotOlderThan";

/// `resourceVersionMatch`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VersionMatch {
    Exact,
    NotOlderThan,
}

/// Options of list, watch and deletecollection.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    /// 0: everything.
    pub limit: usize,
    pub continue_token: Option<String>,
    /// As sent; empty is absent. Whether it is a number is the read's business: list and watch word it differently.
    pub resource_version: Option<String>,
    pub version_match: Option<VersionMatch>,
    pub bookmarks: bool,
    pub send_initial_events: Option<bool>,
    pub timeout: Option<Duration>,
}

impl ListOptions {
    pub fn parse(query: &Query, def: &ResourceDef, watch: bool) -> Result<Self, ApiError> {
        let labels = LabelSelector::parse(query.get("labelSelector").unwrap_or("")).map_err(ApiError::BadRequest)?;
        let fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or("")).map_err(ApiError::BadRequest)?;
        for (field, _, _) in &fields.terms {
            let known =
                matches!(&**field, "metadata.name" | "metadata.namespace") || def.selectable.contains(&&**field);
            if !known {
                return Err(ApiError::BadRequest(unknown_field(def, field)));
            }
        }
        let number = |name: &str| match query.get(name).filter(|v| !v.is_empty()) {
            None => Ok(0),
            Some(text) => text.parse::<i64>().map_err(|_| parse_int_error(text)),
        };
        let (limit, timeout) = (number("limit")?, number("timeoutSeconds")?);
        let text = |name: &str| query.get(name).filter(|v| !v.is_empty()).map(str::to_owned);
        let options = Self {
            labels,
            fields,
            limit: usize::try_from(limit).unwrap_or(0),
            continue_token: text("continue"),
            resource_version: text("resourceVersion"),
            version_match: None,
            bookmarks: query.flag("allowWatchBookmarks") == Some(true),
            send_initial_events: query.flag("sendInitialEvents"),
            timeout: u64::try_from(timeout).ok().filter(|t| *t > 0).map(Duration::from_secs),
        };
        options.with_match(text("resourceVersionMatch"), query.get("sendInitialEvents").is_some(), watch)
    }

    /// apimachinery's `ValidateListOptions`: every contradiction is reported.
    fn with_match(mut self, wanted: Option<String>, initial_given: bool, watch: bool) -> Result<Self, ApiError> {
        const MATCH: &str = "resourceVersionMatch";
        let wanted = wanted.as_deref();
        let mut errors = Vec::new();
        let mut add = |cause: Cause, field: &str, message: String| {
            errors.push(FieldError { cause, field: field.into(), message });
        };
        let mut forbid = |field: &str, text: &str| add(Cause::Forbidden, field, format!("Forbidden: {text}"));
        let supported: &[&str] = match (watch, wanted) {
            (true, wanted) => {
                if initial_given && wanted != Some(NOT_OLDER_THAN) {
                    forbid(MATCH, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
                }
                if wanted.is_some() && !initial_given {
                    forbid(MATCH, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
                }
                &[NOT_OLDER_THAN]
            }
            (false, Some(wanted)) => {
                let version = self.resource_version.as_deref();
                if version.is_none() {
                    forbid(MATCH, "resourceVersionMatch is forbidden unless resourceVersion is provided");
                }
                if self.continue_token.is_some() {
                    forbid(MATCH, "resourceVersionMatch is forbidden when continue is provided");
                }
                if (wanted, version) == (EXACT, Some("0")) {
                    forbid(MATCH, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
                }
                &[EXACT, NOT_OLDER_THAN, ""]
            }
            (false, None) => &[],
        };
        if watch && wanted.is_some() && self.continue_token.is_some() {
            forbid(MATCH, "resourceVersionMatch is forbidden when continue is provided");
        }
        if initial_given && !watch {
            forbid("sendInitialEvents", "sendInitialEvents is forbidden for list");
        }
        if let Some(wanted) = wanted.filter(|wanted| !supported.contains(wanted)) {
            let values: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
            let text = format!("Unsupported value: {wanted:?}: supported values: {}", values.join(", "));
            add(Cause::NotSupported, MATCH, text);
        }
        if !errors.is_empty() {
            let what = Qualified::new("meta.k8s.io", "ListOptions");
            return Err(ApiError::Invalid { what, name: String::new(), errors });
        }
        self.version_match = match wanted {
            Some(EXACT) => Some(VersionMatch::Exact),
            Some(_) => Some(VersionMatch::NotOlderThan),
            None => None,
        };
        Ok(self)
    }

    /// Whether every object of the collection is wanted.
    pub fn selects_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }
}

/// Kinds with selectors of their own say it their way; the others name the two that all have.
fn unknown_field(def: &ResourceDef, field: &str) -> String {
    if def.selectable.is_empty() {
        format!("\"{field}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    } else {
        format!("field label not supported: {field}")
    }
}

fn parse_int_error(text: &str) -> ApiError {
    ApiError::BadRequest(format!("strconv.ParseInt: parsing \"{text}\": invalid syntax"))
}

/// Options of create, update and patch.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_manager: String,
    pub validation: FieldValidation,
    /// An apply takes fields from other managers.
    pub force: bool,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { dry_run: false, field_manager: String::new(), validation: FieldValidation::Warn, force: false }
    }
}

/// A longer manager's name is refused (apimachinery's `FieldManagerMaxLength`).
pub const FIELD_MANAGER_MAX_BYTES: usize = 128;

impl WriteOptions {
    /// `kind` is what errors call the options: `CreateOptions`, `UpdateOptions`.
    pub fn parse(query: &Query, kind: &str) -> Result<Self, ApiError> {
        let (options, errors) = Self::read(query);
        Self::checked(options, errors, kind)
    }

    /// A patch's: an apply must name its manager, and only it may be forced.
    pub fn parse_patch(query: &Query, patch: PatchType) -> Result<Self, ApiError> {
        let (options, rest) = Self::read(query);
        let mut errors = Vec::new();
        if patch != PatchType::Apply && query.get("force").is_some() {
            errors.push(Path::new("force").forbidden("may not be specified for non-apply patch"));
        }
        if patch == PatchType::Apply && options.field_manager.is_empty() {
            errors.push(Path::new("fieldManager").required("is required for apply patch"));
        }
        errors.extend(rest);
        Self::checked(options, errors, "PatchOptions")
    }

    fn checked(options: Self, errors: Vec<FieldError>, kind: &str) -> Result<Self, ApiError> {
        if errors.is_empty() {
            return Ok(options);
        }
        Err(ApiError::Invalid { what: Qualified::new("meta.k8s.io", kind), name: String::new(), errors })
    }

    fn read(query: &Query) -> (Self, Vec<FieldError>) {
        let mut errors = Vec::new();
        let manager = query.get("fieldManager").unwrap_or("");
        let path = Path::new("fieldManager");
        if manager.len() > FIELD_MANAGER_MAX_BYTES {
            errors.push(path.too_long(FIELD_MANAGER_MAX_BYTES));
        }
        for (at, c) in manager.char_indices().filter(|(_, c)| c.is_control()) {
            let code = u32::from(c);
            errors.push(path.invalid(manager, &format!("invalid character U+{code:04X} (at position {at})")));
        }
        let dry_run: Vec<&str> = query.all("dryRun").collect();
        if dry_run.iter().any(|value| *value != "All") {
            errors.push(unknown_dry_run(&dry_run));
        }
        let validation = match query.get("fieldValidation").unwrap_or("") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                errors.push(Path::new("fieldValidation").not_supported(other, &["", "Ignore", "Strict", "Warn"]));
                FieldValidation::Warn
            }
        };
        let options = Self {
            dry_run: !dry_run.is_empty(),
            field_manager: manager.to_owned(),
            validation,
            force: query.flag("force") == Some(true),
        };
        (options, errors)
    }
}

/// What was asked for is shown as a list, as upstream does.
fn unknown_dry_run(values: &[&str]) -> FieldError {
    Path::new("dryRun").not_supported(values.iter().map(|v| (*v).to_owned()).collect::<Vec<String>>(), &["All"])
}

fn parse_dry_run(query: &Query, kind: &str) -> Result<bool, ApiError> {
    let mut dry = false;
    for value in query.all("dryRun") {
        if value != "All" {
            let text = format!("Unsupported value: \"{value}\": supported values: \"All\"");
            let what = Qualified::new("meta.k8s.io", kind);
            return Err(ApiError::invalid_field(what, "", Cause::NotSupported, "dryRun", text));
        }
        dry = true;
    }
    Ok(dry)
}

/// Delete options of the query string; a body, when sent, is used instead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteQuery {
    pub dry_run: bool,
    pub grace_period_seconds: Option<i64>,
    pub propagation_policy: Option<String>,
    pub orphan_dependents: Option<bool>,
}

impl DeleteQuery {
    pub fn parse(query: &Query) -> Result<Self, ApiError> {
        let grace = match query.get("gracePeriodSeconds").filter(|v| !v.is_empty()) {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| parse_int_error(text))?),
        };
        Ok(Self {
            dry_run: parse_dry_run(query, "DeleteOptions")?,
            grace_period_seconds: grace,
            propagation_policy: query.get("propagationPolicy").filter(|v| !v.is_empty()).map(Into::into),
            orphan_dependents: query.flag("orphanDependents"),
        })
    }
}

/// The kind of a PATCH, by its content type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PatchType {
    Json,
    Merge,
    Strategic,
    /// Server-side apply.
    Apply,
}

impl PatchType {
    /// # Errors
    /// 415, naming what is accepted.
    pub fn parse(content_type: &str) -> Result<Self, ApiError> {
        match content_type {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            _ => Err(ApiError::UnsupportedMediaType(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, \
                 application/apply-patch+yaml"
                    .into(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradicting_list_options_are_refused_each_in_upstreams_words() {
        let def = crate::registry::find("", "v1", "configmaps").unwrap();
        let forbidden = |text: &str| format!("Forbidden: {text}");
        let (needs, unless, with_continue, exact, initial, watch) = (
            forbidden("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
            forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided"),
            forbidden("resourceVersionMatch is forbidden when continue is provided"),
            forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""),
            forbidden("sendInitialEvents is forbidden for list"),
            forbidden("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"),
        );
        let list_values = "Unsupported value: \"x\": supported values: \"Exact\", \"NotOlderThan\", \"\"".to_owned();
        let watch_values = |value: &str| format!("Unsupported value: {value:?}: supported values: \"NotOlderThan\"");
        for (is_watch, query, wanted) in [
            (false, "", vec![]),
            (false, "resourceVersion=5&resourceVersionMatch=Exact&limit=3", vec![]),
            (false, "resourceVersion=0&resourceVersionMatch=NotOlderThan", vec![]),
            (false, "resourceVersionMatch=Exact", vec![&unless]),
            (false, "resourceVersionMatch=NotOlderThan&continue=x", vec![&unless, &with_continue]),
            (false, "resourceVersion=0&resourceVersionMatch=Exact", vec![&exact]),
            (false, "resourceVersion=1&resourceVersionMatch=x", vec![&list_values]),
            (false, "sendInitialEvents=true", vec![&initial]),
            (false, "sendInitialEvents=false&resourceVersionMatch=Exact", vec![&unless, &initial]),
            (true, "sendInitialEvents=true&resourceVersionMatch=NotOlderThan", vec![]),
            (true, "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion=7", vec![]),
            (true, "sendInitialEvents=true", vec![&needs]),
            (true, "sendInitialEvents=true&resourceVersionMatch=Exact", vec![&needs, &watch_values("Exact")]),
            (true, "resourceVersionMatch=NotOlderThan", vec![&watch]),
        ] {
            let got = match ListOptions::parse(&Query::parse(query), def, is_watch) {
                Ok(_) => Vec::new(),
                Err(ApiError::Invalid { errors, .. }) => errors.into_iter().map(|e| e.message).collect(),
                Err(other) => vec![other.to_string()],
            };
            assert_eq!(got.iter().collect::<Vec<_>>(), wanted, "{query}");
        }
    }
}
