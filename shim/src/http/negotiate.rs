//! The Accept header → encoding and form, as apiserver negotiates (`application/*` is not understood, on purpose).

use crate::error::ApiError;
use crate::request::query::Query;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Encoding {
    Json { pretty: bool },
    Yaml,
    Protobuf,
}

/// What an object is shown as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    Plain,
    /// `as=Table`; what each row carries of its object.
    Table(Include),
    /// `as=PartialObjectMetadata`
    Metadata,
    /// `as=PartialObjectMetadataList`
    MetadataList,
    /// `as=APIGroupDiscoveryList`
    Discovery,
}

/// `includeObject` of a Table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Include {
    None,
    Metadata,
    Object,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Wanted {
    pub encoding: Encoding,
    pub form: Form,
    /// The group version of tables and partial objects: clients of old ask for `v1beta1`.
    pub meta: &'static str,
}

const META_V1: &str = "meta.k8s.io/v1";
const META_V1BETA1: &str = "meta.k8s.io/v1beta1";

const MEDIA_TYPES: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const STREAM_TYPES: &str = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
const WATCH_TYPES: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf, \
                           application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";

impl Wanted {
    /// The first acceptable alternative, by quality, then order; `*/*` and nothing mean JSON.
    ///
    /// # Errors
    /// 406 when nothing fits; 400 for an unknown `includeObject`.
    pub(super) fn parse(accept: &str, query: &Query, watch: bool) -> Result<Self, ApiError> {
        let json = Encoding::Json { pretty: query.flag("pretty") == Some(true) };
        if accept.trim().is_empty() {
            return Ok(Self { encoding: json, form: Form::Plain, meta: META_V1 });
        }
        let mut clauses: Vec<Clause<'_>> = accept.split(',').map(Clause::parse).collect();
        clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
        let mut refused_form = false;
        for clause in &clauses {
            let encoding = match clause.media {
                "*/*" | "application/json" if clause.pretty => Encoding::Json { pretty: true },
                "*/*" | "application/json" => json,
                "application/yaml" => Encoding::Yaml,
                "application/vnd.kubernetes.protobuf" => Encoding::Protobuf,
                _ => continue,
            };
            if watch && encoding == Encoding::Yaml {
                // It is chosen, and then found to have no frames.
                return Err(only(STREAM_TYPES));
            }
            let form = match (clause.kind, clause.group, clause.version) {
                ("", ..) => Form::Plain,
                // Tables hold anything, which protobuf cannot.
                ("Table", "meta.k8s.io", "v1" | "v1beta1") if encoding != Encoding::Protobuf => {
                    Form::Table(include(query)?)
                }
                ("PartialObjectMetadata", "meta.k8s.io", "v1" | "v1beta1") => Form::Metadata,
                ("PartialObjectMetadataList", "meta.k8s.io", "v1" | "v1beta1") => Form::MetadataList,
                ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Form::Discovery,
                _ => {
                    refused_form = true;
                    continue;
                }
            };
            let meta = if clause.version == "v1beta1" { META_V1BETA1 } else { META_V1 };
            return Ok(Self { encoding, form, meta });
        }
        if refused_form {
            return Err(only(if watch { STREAM_TYPES } else { MEDIA_TYPES }));
        }
        Err(not_acceptable(if watch { WATCH_TYPES } else { MEDIA_TYPES }))
    }
}

fn only(types: &str) -> ApiError {
    ApiError::NotAcceptable(format!("only the following media types are accepted: {types}"))
}

/// The 406 that lists what there is.
pub(super) fn not_acceptable(available: &str) -> ApiError {
    ApiError::NotAcceptable(format!("406: Not Acceptable\n\nAvailable representations: {available}"))
}

fn include(query: &Query) -> Result<Include, ApiError> {
    match query.get("includeObject").unwrap_or("") {
        "" | "Metadata" => Ok(Include::Metadata),
        "None" => Ok(Include::None),
        "Object" => Ok(Include::Object),
        other => Err(ApiError::BadRequest(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: \"{other}\": must be 'Metadata', 'Object', 'None', or empty"
        ))),
    }
}

struct Clause<'a> {
    media: &'a str,
    quality: f32,
    kind: &'a str,
    group: &'a str,
    version: &'a str,
    pretty: bool,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().unwrap_or("");
        let mut clause = Self { media, quality: 1.0, kind: "", group: "", version: "", pretty: false };
        for part in parts {
            match part.split_once('=') {
                Some(("q", value)) => clause.quality = value.parse().unwrap_or(1.0),
                Some(("as", value)) => clause.kind = value,
                Some(("g", value)) => clause.group = value,
                Some(("v", value)) => clause.version = value,
                Some(("pretty", value)) => clause.pretty = value == "1",
                _ => {}
            }
        }
        clause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_alternative_that_is_served_wins() {
        const JSON: Encoding = Encoding::Json { pretty: false };
        for (accept, wanted) in [
            ("", Some((JSON, Form::Plain))),
            ("*/*", Some((JSON, Form::Plain))),
            ("application/json;q=0.5,text/html", Some((JSON, Form::Plain))),
            ("application/yaml", Some((Encoding::Yaml, Form::Plain))),
            ("application/vnd.kubernetes.protobuf,application/json", Some((Encoding::Protobuf, Form::Plain))),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Some((JSON, Form::Table(Include::Metadata))),
            ),
            ("application/json;as=Chair;v=v1;g=meta.k8s.io,application/json", Some((JSON, Form::Plain))),
            ("application/json;as=Chair;v=v1;g=meta.k8s.io", None),
            ("application/json;pretty=1", Some((Encoding::Json { pretty: true }, Form::Plain))),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
                Some((Encoding::Protobuf, Form::Metadata)),
            ),
            (
                "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json",
                Some((JSON, Form::Plain)),
            ),
            ("application/json;as=PartialObjectMetadata;g=meta.k8s.io", None),
            ("application/*", None),
            ("text/plain", None),
        ] {
            let got = Wanted::parse(accept, &Query::default(), false).ok().map(|w| (w.encoding, w.form));
            assert_eq!(got, wanted, "{accept}");
        }
    }
}
