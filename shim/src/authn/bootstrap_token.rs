//! Bootstrap tokens: `<id>.<secret>`, kept in Secrets of `kube-system`, with which a machine asks for its first certificate.

use super::User;
use crate::meta::Object;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

/// Where the Secrets are.
pub const NAMESPACE: &str = "kube-system";
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const SECRET_PREFIX: &str = "bootstrap-token-";
/// The group of everyone who comes with such a token; all further ones start with it and a colon.
pub const BOOTSTRAPPERS: &str = "system:bootstrappers";
/// The longest name of a further group, after the prefix.
const MAX_GROUP_BYTES: usize = 256;

/// A bearer token that has the form of a bootstrap token: `[a-z0-9]{6}.[a-z0-9]{16}`.
#[derive(Clone, Copy)]
pub struct BootstrapToken<'a> {
    id: &'a str,
    secret: &'a str,
}

impl<'a> BootstrapToken<'a> {
    /// `None`: it is another kind of token.
    pub fn parse(token: &'a str) -> Option<Self> {
        let (id, secret) = token.split_once('.')?;
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some(Self { id, secret })
    }

    /// Name of the Secret that would hold it.
    pub fn secret_name(&self) -> String {
        format!("{SECRET_PREFIX}{}", self.id)
    }

    /// Whose the token is, by that Secret; why it is not valid goes to the log only.
    ///
    /// # Errors
    /// What is wrong with the Secret, as upstream's authenticator checks it.
    pub fn user(&self, secret: &Object, now: Timestamp) -> Result<User, &'static str> {
        let data = |key: &str| -> String {
            let decoded = secret["data"][key].as_str().and_then(|text| STANDARD.decode(text).ok());
            decoded.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
        };
        if !secret["metadata"]["deletionTimestamp"].is_null() {
            return Err("its Secret is being deleted");
        }
        if secret["type"] != SECRET_TYPE {
            return Err("its Secret is of another type");
        }
        if !same_in_constant_time(&data("token-secret"), self.secret) || data("token-id") != self.id {
            return Err("it differs from its Secret");
        }
        if has_expired(&data("expiration"), now) {
            return Err("it has expired");
        }
        if data("usage-bootstrap-authentication") != "true" {
            return Err("its usage-bootstrap-authentication is not true");
        }
        let groups = groups(&data("auth-extra-groups")).ok_or("its auth-extra-groups are not all bootstrap groups")?;
        Ok(User::authenticated(&format!("system:bootstrap:{}", self.id), groups))
    }
}

/// A time that cannot be read has passed, as upstream has it.
fn has_expired(expiration: &str, now: Timestamp) -> bool {
    !expiration.is_empty() && expiration.parse::<Timestamp>().map_or(true, |end| end <= now)
}

/// `system:bootstrappers` and the Secret's own; `None` when one of these is no bootstrap group.
fn groups(extra: &str) -> Option<Vec<String>> {
    let mut groups = vec![BOOTSTRAPPERS.to_owned()];
    for group in extra.split(',').filter(|_| !extra.is_empty()) {
        let name = group.strip_prefix(BOOTSTRAPPERS)?.strip_prefix(':')?;
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b':' | b'-');
        let ends_well = name.bytes().last().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if !name.bytes().all(allowed) || !ends_well || name.len() > MAX_GROUP_BYTES {
            return None;
        }
        groups.push(group.to_owned());
    }
    Some(groups)
}

/// How long the comparison takes says nothing about where the texts differ.
fn same_in_constant_time(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |differ, (x, y)| differ | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn secret(change: &[(&str, Option<&str>)]) -> Object {
        let mut data = json!({});
        for (key, value) in [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("expiration", "2026-01-01T00:00:01Z"),
            ("auth-extra-groups", "system:bootstrappers:kubeadm:default-node-token"),
        ] {
            data[key] = STANDARD.encode(value).into();
        }
        for (key, value) in change {
            data[*key] = value.map_or(serde_json::Value::Null, |value| STANDARD.encode(value).into());
        }
        json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": SECRET_TYPE, "data": data})
    }

    #[test]
    fn only_the_form_of_a_bootstrap_token_is_one() {
        assert!(BootstrapToken::parse("abcdef.0123456789abcdef").is_some());
        for other in
            ["", "abcdef", "abcdeF.0123456789abcdef", "abcdef.0123456789abcde", "a.b.c", "abcdef.0123456789abcde."]
        {
            assert!(BootstrapToken::parse(other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_token_is_held_against_its_secret_as_upstream_does() {
        let token = BootstrapToken::parse("abcdef.0123456789abcdef").unwrap();
        assert_eq!(token.secret_name(), "bootstrap-token-abcdef");
        let user = |change: &[(&str, Option<&str>)]| token.user(&secret(change), NOW.parse().unwrap());
        let found = user(&[]).unwrap();
        assert_eq!(found.name, "system:bootstrap:abcdef");
        let groups =
            ["system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token", "system:authenticated"];
        assert_eq!(found.groups, groups);
        for good in [&[("expiration", None)][..], &[("auth-extra-groups", None)], &[("auth-extra-groups", Some(""))]] {
            assert!(user(good).is_ok(), "{good:?}");
        }
        for bad in [
            ("token-secret", Some("0123456789abcdeX")),
            ("token-secret", None),
            ("token-id", Some("abcdeg")),
            ("expiration", Some(NOW)),
            ("expiration", Some("tomorrow")),
            ("usage-bootstrap-authentication", Some("false")),
            ("usage-bootstrap-authentication", None),
            ("auth-extra-groups", Some("system:masters")),
            ("auth-extra-groups", Some("system:bootstrappers:")),
            ("auth-extra-groups", Some("system:bootstrappers:a,system:nodes")),
        ] {
            assert!(user(&[bad]).is_err(), "{bad:?}");
        }
        let mut other = secret(&[]);
        other["type"] = "Opaque".into();
        assert!(token.user(&other, NOW.parse().unwrap()).is_err());
        let mut going = secret(&[]);
        going["metadata"]["deletionTimestamp"] = NOW.into();
        assert!(token.user(&going, NOW.parse().unwrap()).is_err());
    }
}
