//! Passwords for images from the node's credential providers: programs that are asked on standard input and answer on
//! standard output (`credentialprovider.kubelet.k8s.io`), as cloud registries have them.

use super::keyring::{Coordinates, Credential, Keyring, Login, Source};
use super::matching::matches;
use crate::clock;
use crate::cluster::{Cluster, ClusterError};
use crate::metrics::catalog;
use k8s_openapi::api::core::v1::Pod;
use node_config::credential_provider::{CredentialConfigError, CredentialProvider, Sources, TokenAttributes};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long a program may take (kubelet `pluginExecTimeout`).
const DEADLINE: Duration = Duration::from_secs(60);
/// Of an answer at most this much is read; a token has a few kilobytes.
const MAX_ANSWER_BYTES: u64 = 1024 * 1024;
/// Answers kept of one program for one account: one an image, should it ask so, of the images that a node pulls in a while.
const MAX_ANSWERS: usize = 256;
/// Accounts whose answers are kept of one program: more than a full node has pods.
const MAX_BOOKS: usize = 256;

/// All programs of the node; cheap to clone. Without programs it holds nothing and does nothing.
#[derive(Clone, Default)]
pub struct CredentialProviders {
    providers: Arc<[Provider]>,
}

struct Provider {
    config: CredentialProvider,
    program: PathBuf,
    books: std::sync::Mutex<BTreeMap<AccountKey, Book>>,
}

/// The answers for one account. Held while the program runs: pulls that start together ask it once, and those of others
/// are not held up.
type Book = Arc<Mutex<BTreeMap<CacheKey, Kept>>>;

/// For whom an answer holds: a digest of the service account that the program was told of; `None`: for everyone.
type AccountKey = Option<[u8; 32]>;

/// For whom an image is pulled.
#[derive(Clone, Copy)]
pub struct Puller<'a> {
    pub cluster: &'a dyn Cluster,
    pub pod: &'a Pod,
}

/// What a program is told of the pod's service account, beside a token.
struct Account {
    coordinates: Coordinates,
    annotations: BTreeMap<String, String>,
}

/// Seconds that a program's token is good for: what the API server gives where nobody asks for more or less.
const TOKEN_SECONDS: i64 = 3600;

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
    #[error("the pod's service account: {0}")]
    Account(#[from] ClusterError),
    #[error("it cannot be run: {0}")]
    Run(#[from] std::io::Error),
    #[error("it did not answer within {} s", DEADLINE.as_secs())]
    Deadline,
    #[error("it ended with {0}")]
    Failed(std::process::ExitStatus),
    /// Why is not said: it would name what was found, which may be a password.
    #[error("its answer is no CredentialProviderResponse")]
    Answer,
    /// The token is one pod's, and the answer would be kept for others.
    #[error("it gave the service account's token back as the password, which only cacheType: Token allows")]
    Echo,
    #[error("its answer is a {kind} of {api_version}, not a CredentialProviderResponse of {expected}")]
    Version { kind: String, api_version: String, expected: String },
}

impl CredentialProviders {
    pub fn load(sources: &Sources) -> Result<Self, CredentialConfigError> {
        let provider = |config: CredentialProvider| Provider {
            program: sources.bin_dir.join(&config.name),
            config,
            books: Default::default(),
        };
        Ok(Self { providers: sources.load()?.into_iter().map(provider).collect() })
    }

    /// What the programs know for an image (`host/path`, without tag or digest).
    pub async fn keyring(&self, image: &str, puller: Puller<'_>) -> Keyring {
        let mut found = Keyring::default();
        for provider in self.providers.iter() {
            if !provider.config.match_images.iter().any(|pattern| matches(pattern, image)) {
                continue;
            }
            match provider.logins(image, puller).await {
                Ok((logins, source)) => {
                    for (place, login) in logins.iter() {
                        found.add(place, Credential::new(login.clone(), source.clone()));
                    }
                }
                Err(error) => {
                    tracing::warn!(provider = provider.config.name, image, %error, "no credentials from the provider");
                }
            }
        }
        found
    }
}

type Logins = Arc<BTreeMap<String, Login>>;

impl Provider {
    /// Logins by what they are for, and who has them.
    async fn logins(&self, image: &str, puller: Puller<'_>) -> Result<(Logins, Source), ProviderError> {
        let meant = match &self.config.token_attributes {
            None => None,
            Some(attributes) => match account(attributes, puller).await? {
                Subject::Account(account) => Some((attributes, account)),
                Subject::Anyone => None,
                Subject::NotMeant => return Ok((Arc::default(), Source::Node)),
            },
        };
        let source = match &meant {
            Some((_, account)) => Source::ServiceAccount(account.coordinates.clone()),
            None => Source::Node,
        };
        // Answers that hold for one token are looked for with one; for others it is asked for with the program only.
        let mut token = None;
        if let Some((attributes, _)) = meant.as_ref().filter(|(attributes, _)| is_of_token(attributes)) {
            token = Some(puller.token(attributes).await?);
        }
        let whose = meant.as_ref().map(|(_, account)| account.key(token.as_deref()));
        let book = self.book(whose);
        let mut answers = book.lock().await;
        let now = clock::now().mono;
        answers.retain(|_, kept| kept.until > now);
        for key in [KeyType::Image, KeyType::Registry, KeyType::Global] {
            if let Some(kept) = answers.get(&key.of(image)) {
                return Ok((kept.logins.clone(), source));
            }
        }
        if let (None, Some((attributes, _))) = (&token, &meant) {
            token = Some(puller.token(attributes).await?);
        }
        let response = self.ask(image, token.as_deref().zip(meant.as_ref().map(|(_, account)| account))).await?;
        let login = |(pattern, auth): (String, AuthConfig)| (pattern, (auth.username, auth.password));
        let logins: Logins = Arc::new(response.auth.unwrap_or_default().into_iter().map(login).collect());
        let is_token = |(_, password): &Login| token.as_ref() == Some(password);
        if meant.is_some_and(|(attributes, _)| !is_of_token(attributes)) && logins.values().any(is_token) {
            return Err(ProviderError::Echo);
        }
        let lasts =
            response.cache_duration.or(self.config.default_cache_duration).map_or(Duration::ZERO, |d| d.to_std());
        if let Some(until) = clock::now().mono.checked_add(lasts).filter(|_| !lasts.is_zero()) {
            if answers.len() >= MAX_ANSWERS {
                answers.clear();
            }
            answers.insert(response.cache_key_type.of(image), Kept { until, logins: Arc::clone(&logins) });
        }
        Ok((logins, source))
    }

    fn book(&self, whose: AccountKey) -> Book {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        if books.len() >= MAX_BOOKS {
            // Those that nobody reads at the moment.
            books.retain(|_, book| Arc::strong_count(book) > 1);
        }
        books.entry(whose).or_default().clone()
    }

    async fn ask(&self, image: &str, account: Option<(&str, &Account)>) -> Result<Response, ProviderError> {
        let expected = &self.config.api_version;
        let mut request = json!({"kind": "CredentialProviderRequest", "apiVersion": expected, "image": image});
        if let Some((token, account)) = account {
            request["serviceAccountToken"] = json!(token);
            if !account.annotations.is_empty() {
                request["serviceAccountAnnotations"] = json!(account.annotations);
            }
        }
        let begun = clock::now().mono;
        let ran = self.run(request.to_string()).await;
        catalog::PROVIDER_DURATION.observe([self.config.name.clone()], begun.elapsed());
        let answer = ran.inspect_err(|_| catalog::PROVIDER_ERRORS.inc([self.config.name.clone()]))?;
        let response: Response = serde_json::from_slice(&answer).map_err(|_| ProviderError::Answer)?;
        if response.kind != "CredentialProviderResponse" || response.api_version != *expected {
            let Response { kind, api_version, .. } = response;
            return Err(ProviderError::Version { kind, api_version, expected: expected.clone() });
        }
        Ok(response)
    }

    /// Runs the program on a request: what it says.
    async fn run(&self, request: String) -> Result<Vec<u8>, ProviderError> {
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
                drop(stdin.write_all(request.as_bytes()).await);
            }
            let mut answer = Vec::new();
            if let Some(stdout) = stdout {
                stdout.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
            }
            Ok::<_, std::io::Error>((child.wait().await?, answer))
        };
        let (status, answer) =
            tokio::time::timeout(DEADLINE, exchange).await.map_err(|_| ProviderError::Deadline)??;
        if status.success() { Ok(answer) } else { Err(ProviderError::Failed(status)) }
    }
}

/// Whom a program is asked for.
enum Subject {
    Account(Account),
    /// The pod has no service account, and the program does without.
    Anyone,
    /// The pod, or its service account, has not what the program requires: it is not asked.
    NotMeant,
}

async fn account(attributes: &TokenAttributes, puller: Puller<'_>) -> Result<Subject, ProviderError> {
    let name = puller.pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        let required = attributes.require_service_account == Some(true);
        return Ok(if required { Subject::NotMeant } else { Subject::Anyone });
    };
    let namespace = puller.pod.metadata.namespace.as_deref().unwrap_or_default();
    let found = puller.cluster.service_account(namespace, name).await?;
    let all = found.metadata.annotations.unwrap_or_default();
    let required = &attributes.required_service_account_annotation_keys;
    if required.iter().any(|key| !all.contains_key(key)) {
        return Ok(Subject::NotMeant);
    }
    let wanted = required.iter().chain(&attributes.optional_service_account_annotation_keys);
    let annotations: BTreeMap<String, String> =
        wanted.filter_map(|key| Some((key.clone(), all.get(key)?.clone()))).collect();
    let coordinates = Coordinates {
        uid: found.metadata.uid.unwrap_or_default(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    Ok(Subject::Account(Account { coordinates, annotations }))
}

/// Whether an answer holds for the token that it was given for, and no other (`cacheType`).
fn is_of_token(attributes: &TokenAttributes) -> bool {
    attributes.cache_type == "Token"
}

impl Puller<'_> {
    /// A token of the pod's service account, for the program's audience.
    async fn token(&self, attributes: &TokenAttributes) -> Result<String, ClusterError> {
        let audience = Some(attributes.service_account_token_audience.as_str());
        let (token, _) = self.cluster.service_account_token(self.pod, audience, TOKEN_SECONDS).await?;
        Ok(token)
    }
}

impl Account {
    fn key(&self, token: Option<&str>) -> [u8; 32] {
        Sha256::digest(json!([self.coordinates, self.annotations, token]).to_string()).into()
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
