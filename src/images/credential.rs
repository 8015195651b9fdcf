//! Passwords for images from the node's credential providers: programs that are asked on standard input and answer on
//! standard output (`credentialprovider.kubelet.k8s.io`), as cloud registries have them.

mod matching;

use crate::clock;
use matching::matches;
use node_config::credential_provider::{CredentialConfigError, CredentialProvider, Sources};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long a program may take (kubelet `pluginExecTimeout`).
const DEADLINE: Duration = Duration::from_secs(60);
/// Of an answer at most this much is read; a token has a few kilobytes.
const MAX_ANSWER_BYTES: u64 = 1024 * 1024;
/// Answers kept of one program: one an image, should it ask so, of the images that a node pulls in a while.
const MAX_ANSWERS: usize = 256;

/// User and password.
pub type Login = (String, String);

/// All programs of the node; cheap to clone. Without programs it holds nothing and does nothing.
#[derive(Clone, Default)]
pub struct CredentialProviders {
    providers: Arc<[Provider]>,
}

struct Provider {
    config: CredentialProvider,
    program: PathBuf,
    /// Held while the program runs: pulls that start together ask it once.
    answers: Mutex<Answers>,
}

type Answers = BTreeMap<CacheKey, Kept>;

/// For what an answer holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum CacheKey {
    Image(String),
    Registry(String),
    Global,
}

struct Kept {
    until: Instant,
    /// By the images that they are for, as patterns.
    logins: Arc<BTreeMap<String, Login>>,
}

/// `CredentialProviderResponse`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    kind: String,
    api_version: String,
    cache_key_type: KeyType,
    cache_duration: Option<node_config::duration::Duration>,
    #[serde(default)]
    auth: Option<BTreeMap<String, AuthConfig>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum KeyType {
    Image,
    Registry,
    Global,
}

#[derive(Deserialize)]
struct AuthConfig {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

/// Why a program gave nothing: the pull goes on without it.
#[derive(Debug, thiserror::Error)]
enum ProviderError {
    #[error("it cannot be run: {0}")]
    Run(#[from] std::io::Error),
    #[error("it did not answer within {} s", DEADLINE.as_secs())]
    Deadline,
    #[error("it ended with {0}")]
    Failed(std::process::ExitStatus),
    #[error("its answer is no CredentialProviderResponse: {0}")]
    Answer(#[from] serde_json::Error),
    #[error("its answer is a {kind} of {api_version}, not a CredentialProviderResponse of {expected}")]
    Version { kind: String, api_version: String, expected: String },
}

impl CredentialProviders {
    pub fn load(sources: &Sources) -> Result<Self, CredentialConfigError> {
        let provider = |config: CredentialProvider| Provider {
            program: sources.bin_dir.join(&config.name),
            config,
            answers: Mutex::default(),
        };
        Ok(Self { providers: sources.load()?.into_iter().map(provider).collect() })
    }

    /// What the programs know for an image (`host/path`, without tag or digest), the best match of each first.
    pub async fn logins(&self, image: &str) -> Vec<Login> {
        let mut found = Vec::new();
        for provider in self.providers.iter() {
            if !provider.config.match_images.iter().any(|pattern| matches(pattern, image)) {
                continue;
            }
            match provider.logins(image).await {
                // The longer pattern says more; of two as long, either.
                Ok(logins) => {
                    let fitting = logins.iter().rev().filter(|(pattern, _)| matches(pattern, image));
                    found.extend(fitting.map(|(_, login)| login.clone()));
                }
                Err(error) => {
                    tracing::warn!(provider = provider.config.name, image, %error, "no credentials from the provider");
                }
            }
        }
        found
    }
}

impl Provider {
    async fn logins(&self, image: &str) -> Result<Arc<BTreeMap<String, Login>>, ProviderError> {
        let mut answers = self.answers.lock().await;
        let now = clock::now().mono;
        answers.retain(|_, kept| kept.until > now);
        for key in [KeyType::Image, KeyType::Registry, KeyType::Global] {
            if let Some(kept) = answers.get(&key.of(image)) {
                return Ok(kept.logins.clone());
            }
        }
        let response = self.ask(image).await?;
        let login = |(pattern, auth): (String, AuthConfig)| (pattern, (auth.username, auth.password));
        let logins = Arc::new(response.auth.unwrap_or_default().into_iter().map(login).collect());
        let lasts =
            response.cache_duration.or(self.config.default_cache_duration).map_or(Duration::ZERO, |d| d.to_std());
        if let Some(until) = clock::now().mono.checked_add(lasts).filter(|_| !lasts.is_zero()) {
            if answers.len() >= MAX_ANSWERS {
                answers.clear();
            }
            answers.insert(response.cache_key_type.of(image), Kept { until, logins: Arc::clone(&logins) });
        }
        Ok(logins)
    }

    async fn ask(&self, image: &str) -> Result<Response, ProviderError> {
        let expected = &self.config.api_version;
        let request = json!({"kind": "CredentialProviderRequest", "apiVersion": expected, "image": image});
        // What it says on standard error belongs into our own log.
        let mut child = tokio::process::Command::new(&self.program)
            .args(&self.config.args)
            .envs(self.config.env.iter().map(|variable| (&variable.name, &variable.value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let exchange = async {
            if let Some(mut stdin) = stdin {
                // One that answers without reading closes the pipe; the answer counts.
                drop(stdin.write_all(request.to_string().as_bytes()).await);
            }
            let mut answer = Vec::new();
            if let Some(stdout) = stdout {
                stdout.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
            }
            Ok::<_, std::io::Error>((child.wait().await?, answer))
        };
        let (status, answer) =
            tokio::time::timeout(DEADLINE, exchange).await.map_err(|_| ProviderError::Deadline)??;
        if !status.success() {
            return Err(ProviderError::Failed(status));
        }
        let response: Response = serde_json::from_slice(&answer)?;
        if response.kind != "CredentialProviderResponse" || response.api_version != *expected {
            let Response { kind, api_version, .. } = response;
            return Err(ProviderError::Version { kind, api_version, expected: expected.clone() });
        }
        Ok(response)
    }
}

impl KeyType {
    fn of(self, image: &str) -> CacheKey {
        match self {
            Self::Image => CacheKey::Image(image.to_owned()),
            Self::Registry => CacheKey::Registry(image.split('/').next().unwrap_or(image).to_owned()),
            Self::Global => CacheKey::Global,
        }
    }
}

#[cfg(test)]
mod tests;
