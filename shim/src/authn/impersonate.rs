//! `Impersonate-*` headers → the user asked for, and what the caller must be allowed to take it.

use super::{AUTHENTICATED, UNAUTHENTICATED, User};
use crate::error::ApiError;
use crate::request::query::decode;
use http::HeaderMap;

/// One thing that the caller must be allowed to `impersonate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub group: &'static str,
    pub resource: &'static str,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

/// The user that the headers ask for; `None` when there are none.
///
/// # Errors
/// 400 for groups, uids or extras without a user.
pub fn requested(headers: &HeaderMap) -> Result<Option<(User, Vec<Claim>)>, ApiError> {
    let all = |name: &str| {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect::<Vec<_>>()
    };
    let name = all("impersonate-user").into_iter().next();
    let groups = all("impersonate-group");
    let uid = all("impersonate-uid").into_iter().next();
    let extra: Vec<(String, String)> = headers
        .iter()
        .filter_map(|(k, v)| {
            Some((decode(k.as_str().strip_prefix("impersonate-extra-")?, false), v.to_str().ok()?.to_owned()))
        })
        .collect();
    let Some(name) = name else {
        if groups.is_empty() && uid.is_none() && extra.is_empty() {
            return Ok(None);
        }
        return Err(ApiError::Internal("requested impersonation without impersonating a user".into()));
    };
    let mut claims = Vec::new();
    let mut claim = |group, resource, subresource: &str, namespace: &str, name: &str| {
        claims.push(Claim {
            group,
            resource,
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
        });
    };
    let mut user = User { name: name.clone(), ..User::default() };
    match user.as_service_account() {
        Some((namespace, account)) => {
            claim("", "serviceaccounts", "", namespace, account);
            if groups.is_empty() {
                user.groups = User::service_account(namespace, account, "").groups;
            }
        }
        None => claim("", "users", "", "", &name),
    }
    for group in groups {
        claim("", "groups", "", "", &group);
        user.groups.push(group);
    }
    for (key, value) in extra {
        claim("authentication.k8s.io", "userextras", &key, "", &value);
        user.extra.entry(key).or_default().push(value);
    }
    if let Some(uid) = uid {
        claim("authentication.k8s.io", "uids", "", "", &uid);
        user.uid = uid;
    }
    let anonymous = name == "system:anonymous";
    let follows = if anonymous { UNAUTHENTICATED } else { AUTHENTICATED };
    if !user.is_in(follows) && !user.is_in(UNAUTHENTICATED) {
        user.groups.push(follows.into());
    }
    Ok(Some((user, claims)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn a_service_account_brings_its_groups() {
        let (user, claims) =
            requested(&headers(&[("impersonate-user", "system:serviceaccount:ns:bot")])).unwrap().unwrap();
        assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]);
        assert_eq!(
            (claims[0].resource, claims[0].namespace.as_str(), claims[0].name.as_str()),
            ("serviceaccounts", "ns", "bot")
        );
    }

    #[test]
    fn groups_without_a_user_are_refused_and_nothing_asks_for_nothing() {
        assert!(requested(&headers(&[("impersonate-group", "g")])).is_err());
        assert!(requested(&headers(&[])).unwrap().is_none());
    }
}
