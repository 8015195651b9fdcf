//! `KubeletConfiguration` (kubelet.config.k8s.io/v1beta1): file, drop-in directory and flags → one configuration,
//! parsed strictly, defaulted and validated as the kubelet does.
//!
//! | module | what |
//! |---|---|
//! | `types` | the fields |
//! | `quantity` | `resource.Quantity` |
//! | `default` `validate` `tls` | upstream's defaults and rules; names of cipher suites |
//! | `flags` | the kubelet's flags, each as a value of a field |
//! | `pending` | fields that are not acted on yet, with what they would do |

mod default;
pub mod flags;
mod pending;
mod quantity;
mod tls;
mod types;
mod validate;

pub use types::*;

use serde::Deserialize;
use serde_json::{Map, Value};
use std::io;
use std::path::{Path, PathBuf};

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
const KIND: &str = "KubeletConfiguration";
/// Drop-in files have this extension (`--config-dir`).
const DROP_IN: &str = "conf";

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is neither YAML nor JSON", path.display())]
    Syntax { path: PathBuf, source: Box<serde_saphyr::Error> },
    #[error("{}: it must be an object with apiVersion: {API_VERSION} and kind: {KIND}, not {found}", path.display())]
    NotOurs { path: PathBuf, found: String },
    #[error("KubeletConfiguration {0}")]
    Field(String),
    #[error("KubeletConfiguration is invalid:\n  {}", .0.join("\n  "))]
    Invalid(Vec<String>),
}

/// Where a configuration comes from; later wins.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// What the caller presumes where nothing else is said; an object of fields.
    pub presumed: Map<String, Value>,
    /// `--config`.
    pub file: Option<PathBuf>,
    /// `--config-dir`.
    pub drop_ins: Option<PathBuf>,
    /// What the flags say (`flags::fields`).
    pub flags: Map<String, Value>,
}

impl KubeletConfiguration {
    /// Reads, merges, defaults and validates.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut fields = Value::Object(sources.presumed.clone());
        if let Some(file) = &sources.file {
            json_patch::merge(&mut fields, &read(file)?);
        }
        for file in sources.drop_ins.as_deref().map(drop_ins).transpose()?.unwrap_or_default() {
            json_patch::merge(&mut fields, &read(&file)?);
        }
        flags::apply(&mut fields, &sources.flags);
        Self::resolve(fields)
    }

    /// Fields as written → a whole configuration.
    fn resolve(mut fields: Value) -> Result<Self, ConfigError> {
        without_nulls(&mut fields);
        let mut config = typed(&fields)?;
        config.written = fields.as_object().into_iter().flat_map(Map::keys).cloned().collect();
        config.set_defaults();
        let findings = validate::validate(&config);
        if findings.is_empty() { Ok(config) } else { Err(ConfigError::Invalid(findings)) }
    }

    /// Upstream's defaults and nothing else.
    pub fn defaulted() -> Self {
        let mut config = Self::default();
        config.set_defaults();
        config
    }

    /// `containerLogMaxSize` in bytes.
    pub fn container_log_max_bytes(&self) -> u64 {
        // Validation let only quantities in.
        quantity::bytes(&self.container_log_max_size).unwrap_or(0)
    }

    /// Whether somebody wrote the field (by its name in the file), be it with its default.
    pub fn is_written(&self, field: &str) -> bool {
        self.written.contains(field)
    }

    /// What was set and has no effect yet: the field, and what it would do.
    pub fn pending(&self) -> Vec<(&'static str, &'static str)> {
        pending::pending(self)
    }
}

/// A document of the right kind.
fn read(path: &Path) -> Result<Value, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let document: Value = serde_saphyr::from_str(&text)
        .map_err(|source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
    let said = |field: &str| document.get(field).and_then(Value::as_str).unwrap_or("none");
    if said("apiVersion") != API_VERSION || said("kind") != KIND {
        let found = format!("apiVersion: {} and kind: {}", said("apiVersion"), said("kind"));
        return Err(ConfigError::NotOurs { path: path.to_owned(), found });
    }
    Ok(document)
}

/// The drop-in files of a directory and those below it, in the order of their names.
fn drop_ins(directory: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let error = |source| ConfigError::Read { path: directory.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(error)? {
        let path = entry.map_err(error)?.path();
        if path.is_dir() {
            files.extend(drop_ins(&path)?);
        } else if path.extension().is_some_and(|extension| extension == DROP_IN) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Null means absent, as to Go.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Typed fields; one that is unknown or of another type is an error with its path.
fn typed(fields: &Value) -> Result<KubeletConfiguration, ConfigError> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(fields, &mut track);
    let config = serde_ignored::deserialize(deserializer, |path| unknown.push(path.to_string()))
        .map_err(|error: serde_json::Error| ConfigError::Field(format!("{}: {error}", track.path())))?;
    match unknown.first() {
        None => Ok(config),
        Some(path) => Err(ConfigError::Field(format!("{path}: unknown field{}", nearest(path)))),
    }
}

/// `; did you mean x?` when a field's name is close.
fn nearest(path: &str) -> String {
    let name = path.rsplit('.').next().unwrap_or(path);
    let distance = |known: &str| strsim::damerau_levenshtein(&known.to_lowercase(), &name.to_lowercase());
    let known = field_names().into_iter().map(|known| (distance(known), known));
    match known.min() {
        Some((distance, known)) if distance <= 3 => format!("; did you mean {known}?"),
        Some(_) | None => String::new(),
    }
}

/// The names of the configuration's own fields, from the deserializer that serde derives.
fn field_names() -> Vec<&'static str> {
    struct Names<'a>(&'a mut Vec<&'static str>);
    impl<'de> serde::Deserializer<'de> for Names<'_> {
        type Error = serde::de::value::Error;

        fn deserialize_any<V: serde::de::Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(serde::de::Error::custom("only names are asked for"))
        }

        fn deserialize_struct<V: serde::de::Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Self::Error> {
            self.0.extend(fields);
            self.deserialize_any(visitor)
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    let mut names = Vec::new();
    // It ends with the error above, having seen the names.
    drop(KubeletConfiguration::deserialize(Names(&mut names)));
    names
}

#[cfg(test)]
mod tests;
