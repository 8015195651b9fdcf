//! `CredentialProviderConfig` (kubelet.config.k8s.io): which programs give passwords for which images, parsed strictly
//! and validated as the kubelet does.

use crate::duration::Duration;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

const KIND: &str = "CredentialProviderConfig";
const VERSIONS: [&str; 3] =
    ["kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1", "kubelet.config.k8s.io/v1alpha1"];
const PROVIDER_VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
];
/// Of a directory of configurations these are read.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];

/// Where the kubelet is told to find the configuration and the programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// `--image-credential-provider-config`: a file, or a directory of them.
    pub config: PathBuf,
    /// `--image-credential-provider-bin-dir`.
    pub bin_dir: PathBuf,
}

/// One program.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CredentialProvider {
    /// Its file name in the directory of programs.
    #[serde(default)]
    pub name: String,
    /// Images that it is asked about: hosts with `*` inside a label, a port, the beginning of a path.
    #[serde(default)]
    pub match_images: Vec<String>,
    pub default_cache_duration: Option<Duration>,
    /// Of the request that it understands.
    #[serde(default)]
    pub api_version: String,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub env: Vec<EnvVar>,
    /// Tokens of the pod's service account for the program.
    pub token_attributes: Option<TokenAttributes>,
}

/// Which tokens a program gets, and of which pods.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TokenAttributes {
    #[serde(default)]
    pub service_account_token_audience: String,
    /// `ServiceAccount` or `Token`: for what the program's answer holds.
    #[serde(default)]
    pub cache_type: String,
    /// Whether the program is left alone for pods without a service account.
    pub require_service_account: Option<bool>,
    /// Annotations of the service account that the program gets; of a service account without one of the required ones
    /// it is not told.
    #[serde(default)]
    pub required_service_account_annotation_keys: Vec<String>,
    #[serde(default)]
    pub optional_service_account_annotation_keys: Vec<String>,
}

/// A variable that the program gets beside the agent's own.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct EnvVar {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub value: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Document {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    providers: Vec<CredentialProvider>,
}

/// Why the configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum CredentialConfigError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is neither YAML nor JSON", path.display())]
    Syntax { path: PathBuf, source: Box<serde_saphyr::Error> },
    #[error("{}: it must be an object of kind {KIND} and one of the versions {}, not {found}", path.display(), VERSIONS.join(", "))]
    NotOurs { path: PathBuf, found: String },
    #[error("{}: {field}: {source}", path.display())]
    Field { path: PathBuf, field: String, source: serde_json::Error },
    #[error("{} holds no configuration of credential providers (*.json, *.yaml, *.yml)", .0.display())]
    Empty(PathBuf),
    #[error("{} is invalid:\n  {}", path.display(), findings.join("\n  "))]
    Invalid { path: PathBuf, findings: Vec<String> },
    #[error("plugin binary executable {} did not exist: install it, or see --image-credential-provider-bin-dir", .0.display())]
    NoBinary(PathBuf),
}

impl Sources {
    /// Reads and validates; the programs must be there.
    pub fn load(&self) -> Result<Vec<CredentialProvider>, CredentialConfigError> {
        let mut providers = Vec::new();
        for file in self.files()? {
            providers.extend(read(&file)?);
        }
        let findings = validate(&providers);
        if !findings.is_empty() {
            return Err(CredentialConfigError::Invalid { path: self.config.clone(), findings });
        }
        match providers.iter().map(|provider| self.bin_dir.join(&provider.name)).find(|program| !program.exists()) {
            None => Ok(providers),
            Some(program) => Err(CredentialConfigError::NoBinary(program)),
        }
    }

    /// The file, or those of the directory in the order of their names.
    fn files(&self) -> Result<Vec<PathBuf>, CredentialConfigError> {
        let error = |source| CredentialConfigError::Read { path: self.config.clone(), source };
        if !std::fs::metadata(&self.config).map_err(error)?.is_dir() {
            return Ok(vec![self.config.clone()]);
        }
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.config).map_err(error)? {
            let path = entry.map_err(error)?.path();
            let known = path.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known));
            if known && path.is_file() {
                files.push(path);
            }
        }
        files.sort();
        if files.is_empty() { Err(CredentialConfigError::Empty(self.config.clone())) } else { Ok(files) }
    }
}

fn read(path: &Path) -> Result<Vec<CredentialProvider>, CredentialConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| CredentialConfigError::Read { path: path.to_owned(), source })?;
    let document: Value = serde_saphyr::from_str(&text)
        .map_err(|source| CredentialConfigError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
    let said = |field: &str| document.get(field).and_then(Value::as_str).unwrap_or("none");
    if said("kind") != KIND || !VERSIONS.contains(&said("apiVersion")) {
        let found = format!("apiVersion: {} and kind: {}", said("apiVersion"), said("kind"));
        return Err(CredentialConfigError::NotOurs { path: path.to_owned(), found });
    }
    let document: Document = serde_path_to_error::deserialize(document).map_err(|error| {
        let field = error.path().to_string();
        CredentialConfigError::Field { path: path.to_owned(), field, source: error.into_inner() }
    })?;
    Ok(document.providers)
}

/// Upstream's rules and words (`pkg/credentialprovider/plugin/config.go`).
fn validate(providers: &[CredentialProvider]) -> Vec<String> {
    let mut findings = Vec::new();
    if providers.is_empty() {
        findings.push("providers: Required value: at least 1 item is required".to_owned());
    }
    let mut names = BTreeSet::new();
    for (index, provider) in providers.iter().enumerate() {
        let at = |field: &str| format!("providers[{index}].{field}");
        let CredentialProvider { name, api_version, .. } = provider;
        let mut invalid = |field: &str, value: &str, why: &str| {
            findings.push(format!("{}: Invalid value: {value:?}: {why}", at(field)));
        };
        if name.contains('/') {
            invalid("name", name, "provider name cannot contain '/'");
        }
        if name.contains(' ') {
            invalid("name", name, "provider name cannot contain spaces");
        }
        if name == "." {
            invalid("name", name, "provider name cannot be '.'");
        }
        if name == ".." {
            invalid("name", name, "provider name cannot be '..'");
        }
        for image in provider.match_images.iter().filter(|image| !is_pattern(image)) {
            invalid("matchImages", image, "match image is invalid: no host, with a port and a path perhaps");
        }
        let duration = provider.default_cache_duration;
        if duration.is_some_and(|duration| duration < Duration::ZERO) {
            invalid("defaultCacheDuration", "negative", "must be greater than or equal to 0");
        }
        if name.is_empty() {
            findings.push(format!("{}: Required value: provider name is required", at("name")));
        } else if !names.insert(name) {
            findings.push(format!("{}: Duplicate value: {name:?}", at("name")));
        }
        if api_version.is_empty() {
            findings.push(format!("{}: Required value", at("apiVersion")));
        } else if !PROVIDER_VERSIONS.contains(&api_version.as_str()) {
            let known = PROVIDER_VERSIONS.map(|version| format!("{version:?}")).join(", ");
            let found = format!("{}: Unsupported value: {api_version:?}: supported values: {known}", at("apiVersion"));
            findings.push(found);
        }
        if let Some(attributes) = &provider.token_attributes {
            findings.extend(validate_tokens(attributes, api_version, &at("tokenAttributes")));
        }
        if provider.match_images.is_empty() {
            findings.push(format!("{}: Required value: at least 1 item is required", at("matchImages")));
        }
        if duration.is_none() {
            findings.push(format!("{}: Required value", at("defaultCacheDuration")));
        }
    }
    findings
}

fn validate_tokens(attributes: &TokenAttributes, api_version: &str, path: &str) -> Vec<String> {
    const ONLY: &str = PROVIDER_VERSIONS[0];
    let mut findings = Vec::new();
    if api_version != ONLY {
        findings.push(format!("{path}: Forbidden: tokenAttributes is only supported for {ONLY} API version"));
    }
    if attributes.service_account_token_audience.is_empty() {
        findings.push(format!("{path}.serviceAccountTokenAudience: Required value"));
    }
    match attributes.cache_type.as_str() {
        "ServiceAccount" | "Token" => {}
        "" => findings.push(format!(
            "{path}.cacheType: Required value: cacheType is required to be set when tokenAttributes is specified. \
             Supported values are: ServiceAccount, Token"
        )),
        other => findings.push(format!(
            "{path}.cacheType: Unsupported value: {other:?}: supported values: \"ServiceAccount\", \"Token\""
        )),
    }
    let (required, optional) =
        (&attributes.required_service_account_annotation_keys, &attributes.optional_service_account_annotation_keys);
    match attributes.require_service_account {
        None => findings.push(format!("{path}.requireServiceAccount: Required value")),
        Some(false) if !required.is_empty() => findings.push(format!(
            "{path}.requiredServiceAccountAnnotationKeys: Forbidden: requireServiceAccount cannot be false when \
             requiredServiceAccountAnnotationKeys is set"
        )),
        Some(_) => {}
    }
    for (field, keys) in
        [("requiredServiceAccountAnnotationKeys", required), ("optionalServiceAccountAnnotationKeys", optional)]
    {
        let mut seen = BTreeSet::new();
        for key in keys {
            if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c)) {
                findings.push(format!("{path}.{field}: Invalid value: {key:?}: it must be a qualified name"));
            } else if !seen.insert(key) {
                findings.push(format!("{path}.{field}: Duplicate value: {key:?}"));
            }
        }
    }
    if let Some(both) = required.iter().find(|key| optional.contains(key)) {
        findings.push(format!("{path}: Invalid value: {both:?}: annotation keys cannot be both required and optional"));
    }
    findings
}

/// A URL without its scheme, as Go's parser would take it.
fn is_pattern(image: &str) -> bool {
    let host = image.split('/').next().unwrap_or(image);
    let port = host.rsplit_once(':').map(|(_, port)| port);
    let plain = |c: char| c.is_ascii_alphanumeric() || "*.-_:".contains(c);
    !image.contains("://")
        && host.chars().all(plain)
        && port.is_none_or(|port| port.chars().all(|c| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn load(document: &Value) -> Result<Vec<CredentialProvider>, String> {
        let dir = tempfile::tempdir().unwrap();
        let (config, bin_dir) = (dir.path().join("config.yaml"), dir.path().to_owned());
        std::fs::write(&config, document.to_string()).unwrap();
        std::fs::write(dir.path().join("ecr"), "").unwrap();
        let shown = dir.path().display().to_string();
        Sources { config, bin_dir }.load().map_err(|error| error.to_string().replace(&shown, ""))
    }

    fn config(change: impl FnOnce(&mut Value)) -> Value {
        let mut document = json!({
            "apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig",
            "providers": [{
                "name": "ecr", "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "defaultCacheDuration": "12h",
                "matchImages": ["*.dkr.ecr.*.amazonaws.com", "registry:5000/team"],
                "args": ["get"], "env": [{"name": "AWS_PROFILE", "value": "p"}],
            }],
        });
        change(&mut document);
        document
    }

    #[test]
    fn a_whole_configuration_is_read_in_each_version() {
        for version in VERSIONS {
            let [provider] = &load(&config(|document| document["apiVersion"] = json!(version))).unwrap()[..] else {
                panic!("one provider");
            };
            assert_eq!(provider.default_cache_duration, Some(Duration::from_secs(43_200)));
            assert_eq!((provider.args.as_slice(), provider.env[0].value.as_str()), (&["get".to_owned()][..], "p"));
        }
    }

    #[test]
    fn tokens_are_asked_for_completely_or_not_at_all() {
        type Change = fn(&mut Value);
        let table: [(Change, &str); 8] = [
            (|_| {}, ""),
            (|t| t["serviceAccountTokenAudience"] = json!(""), "tokenAttributes.serviceAccountTokenAudience: Required"),
            (|t| t["cacheType"] = json!(""), "tokenAttributes.cacheType: Required value: cacheType is required"),
            (|t| t["cacheType"] = json!("Pod"), "cacheType: Unsupported value: \"Pod\""),
            (|t| drop(t["requireServiceAccount"].take()), "requireServiceAccount: Required value"),
            (|t| t["requireServiceAccount"] = json!(false), "requireServiceAccount cannot be false when"),
            (|t| t["optionalServiceAccountAnnotationKeys"] = json!(["a.io/role"]), "cannot be both required"),
            (|t| t["requiredServiceAccountAnnotationKeys"] = json!(["a", "a"]), "Duplicate value: \"a\""),
        ];
        for (change, expected) in table {
            let document = config(|document| {
                let mut tokens = json!({
                    "serviceAccountTokenAudience": "registry", "cacheType": "Token", "requireServiceAccount": true,
                    "requiredServiceAccountAnnotationKeys": ["a.io/role"],
                });
                change(&mut tokens);
                document["providers"][0]["tokenAttributes"] = tokens;
            });
            match load(&document) {
                Ok(_) => assert_eq!(expected, "", "{document}"),
                Err(error) => assert!(!expected.is_empty() && error.contains(expected), "{error}"),
            }
        }
        let old = config(|document| {
            document["providers"][0]["apiVersion"] = json!(PROVIDER_VERSIONS[1]);
            document["providers"][0]["tokenAttributes"] = json!({});
        });
        assert!(
            load(&old).unwrap_err().contains("only supported for credentialprovider.kubelet.k8s.io/v1 API version")
        );
    }

    #[test]
    fn what_upstream_refuses_is_refused_with_the_field() {
        type Change = fn(&mut Value);
        let table: [(Change, &str); 13] = [
            (|c| c["kind"] = json!("Other"), "kind: Other"),
            (|c| c["apiVersion"] = json!("kubelet.config.k8s.io/v2"), "kubelet.config.k8s.io/v2"),
            (|c| c["providers"] = json!([]), "providers: Required value"),
            (|c| c["providers"][0]["nmae"] = json!("x"), "providers[0].nmae: unknown field"),
            (|c| c["providers"][0]["args"] = json!("x"), "providers[0].args: invalid type"),
            (|c| c["providers"][0]["name"] = json!("../ecr"), "provider name cannot contain '/'"),
            (|c| c["providers"][0]["name"] = json!("none"), "plugin binary executable /none did not exist"),
            (|c| c["providers"][0]["matchImages"] = json!([]), "providers[0].matchImages: Required value"),
            (|c| c["providers"][0]["matchImages"] = json!(["a:b%c"]), "match image is invalid"),
            (|c| c["providers"][0]["defaultCacheDuration"] = json!("-1s"), "must be greater than or equal to 0"),
            (|c| drop(c["providers"][0]["defaultCacheDuration"].take()), "defaultCacheDuration: Required value"),
            (|c| c["providers"][0]["apiVersion"] = json!("v9"), "Unsupported value: \"v9\""),
            (|c| c["providers"] = json!([c["providers"][0], c["providers"][0]]), "Duplicate value: \"ecr\""),
        ];
        for (change, expected) in table {
            let error = load(&config(change)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_files_of_a_directory_count_together() {
        let dir = tempfile::tempdir().unwrap();
        let sources = Sources { config: dir.path().to_owned(), bin_dir: dir.path().to_owned() };
        assert!(matches!(sources.load(), Err(CredentialConfigError::Empty(_))));
        for name in ["a", "b"] {
            let document = config(|document| document["providers"][0]["name"] = json!(name));
            std::fs::write(dir.path().join(name), "").unwrap();
            std::fs::write(dir.path().join(format!("{name}.json")), document.to_string()).unwrap();
        }
        let names: Vec<String> = sources.load().unwrap().into_iter().map(|provider| provider.name).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
