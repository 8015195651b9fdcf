//! Who sent the request: certificate, service account or bootstrap token, or nobody.

use super::Api;
use crate::authn::User;
use crate::authn::bootstrap_token::{self, BootstrapToken};
use crate::authn::token::{Claims, Reference};
use crate::clock;
use crate::error::ApiError;
use crate::meta::Meta;
use crate::store::cache::Snapshot;
use crate::store::key::StoreKey;
use http::HeaderMap;

/// What the transport knows of the sender.
#[derive(Clone, Debug)]
pub enum Credential {
    /// Nothing: a bearer token in the headers may say more.
    None,
    /// A verified client certificate, or an in-process client.
    User(User),
}

/// A bearer token wins over nothing; a certificate wins over a token (as upstream's order of authenticators).
pub(super) async fn authenticate(api: &Api, credential: &Credential, headers: &HeaderMap) -> Result<User, ApiError> {
    if let Credential::User(user) = credential {
        return Ok(user.clone());
    }
    let Some(header) = headers.get(http::header::AUTHORIZATION) else { return Ok(User::anonymous()) };
    let token = header
        .to_str()
        .ok()
        .and_then(|h| h.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let Some((_, token)) = token else { return Ok(User::anonymous()) };
    of_token(api, token.trim()).await
}

/// Whose the token is.
///
/// # Errors
/// `Unauthorized` for a token that is not (or no longer) valid.
pub(super) async fn of_token(api: &Api, token: &str) -> Result<User, ApiError> {
    if let Some(token) = BootstrapToken::parse(token) {
        return of_bootstrap_token(api, token).await;
    }
    let claims = api.tokens.as_ref().and_then(|t| t.verify(token, clock::now().wall.as_second()));
    match claims {
        Some(claims) => account(api, claims).await,
        None => Err(ApiError::Unauthorized),
    }
}

/// The user of a bootstrap token, by its Secret as of now: a token that was just made works, a deleted one no longer.
async fn of_bootstrap_token(api: &Api, token: BootstrapToken<'_>) -> Result<User, ApiError> {
    let name = token.secret_name();
    let secret = api.read_core("secrets", bootstrap_token::NAMESPACE, &name).await?.ok_or(ApiError::Unauthorized)?;
    token.user(&secret.value, clock::now().wall).map_err(|why| {
        tracing::info!(secret = name, why, "bootstrap token refused");
        ApiError::Unauthorized
    })
}

/// The account of a valid token, if it and what the token is bound to still exist.
async fn account(api: &Api, claims: Claims) -> Result<User, ApiError> {
    let namespace = &claims.kubernetes.namespace;
    let account = &claims.kubernetes.serviceaccount;
    exists(api, "serviceaccounts", namespace, account).await?;
    let mut user = User::service_account(namespace, &account.name, &account.uid);
    if let Some(pod) = &claims.kubernetes.pod {
        exists(api, "pods", namespace, pod).await?;
        user.extra.insert("authentication.kubernetes.io/pod-name".into(), vec![pod.name.clone()]);
        user.extra.insert("authentication.kubernetes.io/pod-uid".into(), vec![pod.uid.clone()]);
    }
    if let Some(secret) = &claims.kubernetes.secret {
        exists(api, "secrets", namespace, secret).await?;
    }
    if let Some(node) = &claims.kubernetes.node {
        user.extra.insert("authentication.kubernetes.io/node-name".into(), vec![node.name.clone()]);
        user.extra.insert("authentication.kubernetes.io/node-uid".into(), vec![node.uid.clone()]);
    }
    if !claims.jti.is_empty() {
        user.extra.insert("authentication.kubernetes.io/credential-id".into(), vec![format!("JTI={}", claims.jti)]);
    }
    Ok(user)
}

/// Whether what a token is bound to is still there: as far as the cache knows, or else as of now.
async fn exists(api: &Api, resource: &str, namespace: &str, wanted: &Reference) -> Result<(), ApiError> {
    let cache = api.cache(resource)?;
    let key = StoreKey::object(resource, Some(namespace), &wanted.name);
    let is_there = |snapshot: &Snapshot| {
        snapshot.get(&key).is_some_and(|entry| super::stored::value(&entry.bytes).is_ok_and(|o| o.uid() == wanted.uid))
    };
    if is_there(&cache.latest().await?) || is_there(&cache.consistent().await?) {
        Ok(())
    } else {
        Err(ApiError::Unauthorized)
    }
}
