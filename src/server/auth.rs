//! Who may use the node's HTTPS API: as the kubelet, by client certificate (`authentication.x509`), bearer token
//! (`authentication.webhook`: TokenReview) or as nobody (`authentication.anonymous`); what each may do is the API
//! server's to say (`authorization.mode: Webhook`: SubjectAccessReview), or everything (`AlwaysAllow`).
//!
//! | module | what |
//! |---|---|
//! | `tls` | certificates, read again when they change |
//! | `attributes` | request → subresource of the node |
//! | `cache` | answers of the API server |

mod attributes;
mod cache;
mod tls;

pub use tls::TlsError;
pub(super) use tls::{Tls, TlsFiles, TlsTerms};

use crate::clock;
use crate::cluster::{Cluster, ClusterError};
use attributes::{Attributes, attributes};
use cache::Cache;
use http::{HeaderMap, Method, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use node_config::kubelet::KubeletConfiguration;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The group that every API server lets do everything: not worth a question.
const MASTERS: &str = "system:masters";
const AUTHENTICATED: &str = "system:authenticated";

/// A caller.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) groups: Vec<String>,
    pub(super) extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Common name and organizations of a certificate that TLS has verified.
    pub(super) fn from_certificate(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, cert) = x509_parser::parse_x509_certificate(der).ok()?;
        let subject = cert.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned);
        Some(Self { name, groups: groups.chain([AUTHENTICATED.to_owned()]).collect(), ..Self::default() })
    }

    fn from_review(info: UserInfo) -> Self {
        let mut groups = info.groups.unwrap_or_default();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self {
            name: info.username.unwrap_or_default(),
            uid: info.uid.unwrap_or_default(),
            groups,
            extra: info.extra.unwrap_or_default().into_iter().collect(),
        }
    }

    fn anonymous() -> Self {
        Self { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()], ..Self::default() }
    }
}

/// The answer to a caller.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Access {
    Allowed,
    /// 401.
    Unauthorized,
    /// 403 with this text.
    Forbidden(String),
    /// 500 with this text: the API server could not be asked.
    Unknown(String),
}

/// What the configuration says about callers.
#[derive(Clone, Debug)]
struct Rules {
    anonymous: bool,
    /// For how long whose a token is stays known; `None`: tokens are not looked at.
    tokens: Option<Duration>,
    /// For how long a permission and a refusal stay known; `None`: everyone may do everything.
    webhook: Option<(Duration, Duration)>,
}

impl Rules {
    fn new(config: &KubeletConfiguration) -> Self {
        let (authn, authz) = (&config.authentication, &config.authorization);
        let tokens = authn.webhook.enabled.unwrap_or(true);
        let caches = &authz.webhook;
        Self {
            anonymous: authn.anonymous.enabled.unwrap_or(false),
            tokens: tokens.then(|| authn.webhook.cache_ttl.to_std()),
            webhook: (authz.mode != "AlwaysAllow")
                .then(|| (caches.cache_authorized_ttl.to_std(), caches.cache_unauthorized_ttl.to_std())),
        }
    }
}

/// A token's digest: tokens themselves are not kept.
type TokenKey = [u8; 32];

/// Decides on callers; remembers what the API server said.
pub(super) struct Auth {
    rules: Rules,
    node: Arc<str>,
    cluster: Arc<dyn Cluster>,
    tokens: Mutex<Cache<TokenKey, Option<User>>>,
    answers: Mutex<Cache<(User, &'static str, &'static str), bool>>,
}

impl Auth {
    pub(super) fn new(config: &KubeletConfiguration, node: Arc<str>, cluster: Arc<dyn Cluster>) -> Self {
        Self { rules: Rules::new(config), node, cluster, tokens: Mutex::default(), answers: Mutex::default() }
    }

    /// Decides on one request; `certificate`: whom TLS has verified.
    pub(super) async fn decide(
        &self,
        certificate: Option<&User>,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Access {
        let user = match self.authenticate(certificate, headers).await {
            Ok(Some(user)) => user,
            Ok(None) => return Access::Unauthorized,
            Err(error) => {
                tracing::warn!(%error, "bearer token not reviewed");
                return Access::Unauthorized;
            }
        };
        self.authorize(&user, &attributes(method, path)).await
    }

    async fn authenticate(
        &self,
        certificate: Option<&User>,
        headers: &HeaderMap,
    ) -> Result<Option<User>, ClusterError> {
        if let Some(user) = certificate {
            return Ok(Some(user.clone()));
        }
        if let (Some(ttl), Some(token)) = (self.rules.tokens, bearer(headers)) {
            // A token that is nobody's does not make its sender anonymous.
            return self.of_token(token, ttl).await;
        }
        Ok(self.rules.anonymous.then(User::anonymous))
    }

    async fn of_token(&self, token: &str, ttl: Duration) -> Result<Option<User>, ClusterError> {
        let key: TokenKey = Sha256::digest(token.as_bytes()).into();
        if let Some(known) = lock(&self.tokens).get(&key, clock::now().mono) {
            return Ok(known);
        }
        let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
        let review = self.cluster.review_token(&TokenReview { spec, ..TokenReview::default() }).await?;
        let status = review.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true)).map(User::from_review);
        let now = clock::now().mono;
        lock(&self.tokens).put(key, user.clone(), now + ttl, now);
        Ok(user)
    }

    async fn authorize(&self, user: &User, asked: &Attributes) -> Access {
        let Some(ttls) = self.rules.webhook else { return Access::Allowed };
        if user.groups.iter().any(|group| group == MASTERS) {
            return Access::Allowed;
        }
        let verb = asked.verb;
        for subresource in &asked.subresources {
            match self.may(user, verb, subresource, ttls).await {
                Ok(true) => return Access::Allowed,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(user = user.name, verb, subresource, %error, "access not reviewed");
                    return Access::Unknown(format!(
                        "Authorization error (user={}, verb={verb}, resource=nodes, subresource={subresource})",
                        user.name
                    ));
                }
            }
        }
        let subresources = asked.subresources.join(" ");
        Access::Forbidden(format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{subresources}])",
            user.name
        ))
    }

    async fn may(
        &self,
        user: &User,
        verb: &'static str,
        subresource: &'static str,
        (authorized, unauthorized): (Duration, Duration),
    ) -> Result<bool, ClusterError> {
        let question = (user.clone(), verb, subresource);
        if let Some(known) = lock(&self.answers).get(&question, clock::now().mono) {
            return Ok(known);
        }
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: some(&user.name),
                uid: some(&user.uid),
                groups: Some(user.groups.clone()),
                extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
                resource_attributes: Some(ResourceAttributes {
                    verb: some(verb),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: some(subresource),
                    name: some(&self.node),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = self.cluster.review_access(&review).await?;
        let allowed = answer.status.is_some_and(|status| status.allowed);
        let now = clock::now().mono;
        lock(&self.answers).put(question, allowed, now + if allowed { authorized } else { unauthorized }, now);
        Ok(allowed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    Some(token.trim()).filter(|token| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
}

#[cfg(test)]
mod tests;
