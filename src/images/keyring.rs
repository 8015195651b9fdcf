//! Logins by the registries and paths that they are for, and which of them an image is pulled with, in the order in which
//! they are tried (`pkg/credentialprovider/keyring.go`).

use super::hex;
use super::matching::matches;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use k8s_openapi::api::core::v1::Secret;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// User and password.
pub type Login = (String, String);

/// Which object of the API a login came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Coordinates {
    pub uid: String,
    pub namespace: String,
    pub name: String,
}

/// Who has a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Every pod of the node.
    Node,
    /// Pods that name this pull secret.
    Secret(Coordinates),
    /// Pods of this service account, for which a credential provider was asked.
    ServiceAccount(Coordinates),
}

/// A login, and what is kept of it once it has pulled an image. Without `Debug`: no password reaches a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    pub login: Login,
    pub source: Source,
    /// By which it is known again; passwords are not kept.
    pub digest: String,
}

impl Credential {
    pub fn new(login: Login, source: Source) -> Self {
        Self { digest: digest(&login, ""), login, source }
    }
}

/// Logins by what they are for: a host, perhaps with a port and the beginning of a path.
#[derive(Default)]
pub struct Keyring {
    places: BTreeMap<String, Vec<Credential>>,
}

/// Logins of docker's default registry go by this name, whatever the image calls it.
const DEFAULT_REGISTRY: &str = "index.docker.io";

impl Keyring {
    /// Those of a pod's pull secrets; a secret that cannot be read has none.
    pub fn of_secrets(secrets: &[Arc<Secret>]) -> Self {
        let mut keyring = Self::default();
        for secret in secrets {
            let Some(entries) = docker_config(secret) else { continue };
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            let meta = &secret.metadata;
            let source = Source::Secret(Coordinates {
                uid: text(&meta.uid),
                namespace: text(&meta.namespace),
                name: text(&meta.name),
            });
            for (place, entry) in entries {
                let Some(login) = entry.login() else { continue };
                let digest = digest(&login, entry.email.as_deref().unwrap_or_default());
                keyring.add(&place, Credential { login, source: source.clone(), digest });
            }
        }
        keyring
    }

    /// Adds a login for a place, which may be written as a URL; docker's API versions in it mean nothing.
    pub fn add(&mut self, place: &str, credential: Credential) {
        let place = ["https://", "http://"].iter().find_map(|scheme| place.strip_prefix(scheme)).unwrap_or(place);
        let (host, path) = place.split_at(place.find('/').unwrap_or(place.len()));
        let versioned = path.starts_with("/v1/") || path.starts_with("/v2/");
        let path = if versioned { &path["/v1".len()..] } else { path };
        let path = if path == "/" { "" } else { path };
        self.places.entry(format!("{host}{path}")).or_default().push(credential);
    }

    /// What an image (`host/path`, without tag or digest) may be pulled with: longer paths first.
    pub fn lookup(&self, image: &str) -> Vec<Credential> {
        let fitting = self.places.iter().rev().filter(|(place, _)| matches(place, image));
        let found: Vec<Credential> = fitting.flat_map(|(_, credentials)| credentials.iter().cloned()).collect();
        match self.places.get(DEFAULT_REGISTRY) {
            Some(credentials) if found.is_empty() && image.starts_with("docker.io/") => credentials.clone(),
            Some(_) | None => found,
        }
    }
}

/// One login in a docker configuration.
#[derive(Deserialize)]
struct Entry {
    username: Option<String>,
    password: Option<String>,
    email: Option<String>,
    /// Both in one, which beats them.
    auth: Option<String>,
}

impl Entry {
    /// `None`: its `auth` is none.
    fn login(&self) -> Option<Login> {
        let Some(auth) = self.auth.as_deref().filter(|auth| !auth.is_empty()) else {
            return Some((self.username.clone().unwrap_or_default(), self.password.clone().unwrap_or_default()));
        };
        let auth: String = auth.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        let engine = if auth.trim().ends_with('=') { &STANDARD } else { &STANDARD_NO_PAD };
        let decoded = String::from_utf8(engine.decode(auth).ok()?).ok()?;
        let (user, password) = decoded.split_once(':')?;
        Some((user.to_owned(), password.to_owned()))
    }
}

/// The entries of a secret of docker's newer or older form.
fn docker_config(secret: &Secret) -> Option<BTreeMap<String, Entry>> {
    #[derive(Deserialize)]
    struct Config {
        auths: Option<BTreeMap<String, Entry>>,
    }
    let data = |key: &str| secret.data.as_ref()?.get(key);
    match secret.type_.as_deref()? {
        "kubernetes.io/dockerconfigjson" => serde_json::from_slice::<Config>(&data(".dockerconfigjson")?.0).ok()?.auths,
        "kubernetes.io/dockercfg" => serde_json::from_slice(&data(".dockercfg")?.0).ok(),
        _ => None,
    }
}

/// SHA-256 of the login as Go writes its JSON: a kubelet that reads our records knows it again, as we those of a kubelet.
fn digest((user, password): &Login, email: &str) -> String {
    let fields = [("username", user.as_str()), ("password", password), ("email", email)];
    let said = fields.into_iter().filter(|(_, value)| !value.is_empty());
    let fields: Vec<String> = said.map(|(name, value)| format!("\"{name}\":{}", go_string(value))).collect();
    hex(&Sha256::digest(format!("{{{}}}", fields.join(","))))
}

/// A JSON string as `encoding/json` writes it, which escapes what HTML would read.
fn go_string(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            _ => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use serde_json::{Value, json};

    fn secret(name: &str, kind: &str, key: &str, content: &Value) -> Arc<Secret> {
        let mut secret = Secret { type_: Some(kind.to_owned()), ..Secret::default() };
        secret.metadata.name = Some(name.to_owned());
        secret.data = Some([(key.to_owned(), ByteString(content.to_string().into_bytes()))].into());
        Arc::new(secret)
    }

    fn docker(name: &str, auths: Value) -> Arc<Secret> {
        secret(name, "kubernetes.io/dockerconfigjson", ".dockerconfigjson", &json!({"auths": auths}))
    }

    fn users(secrets: &[Arc<Secret>], image: &str) -> Vec<String> {
        Keyring::of_secrets(secrets).lookup(image).into_iter().map(|found| found.login.0).collect()
    }

    #[test]
    fn every_login_that_fits_is_tried_the_one_for_the_longer_path_first_and_no_other() {
        let of = |user: &str| json!({"username": user, "password": "p"});
        let secrets = [
            docker("a", json!({"r.io": of("host"), "r.io/team": of("team"), "r.io/other": of("other")})),
            docker("b", json!({"https://r.io/v2/": of("second"), "*.r.io": of("glob"), "r.io:5000": of("port")})),
            docker("c", json!({"https://index.docker.io/v1/": of("hub")})),
        ];
        for (image, expected) in [
            ("r.io/team/app", &["team", "host", "second"][..]),
            ("r.io/app", &["host", "second"]),
            ("r.io:5000/app", &["port"]),
            ("eu.r.io/app", &["glob"]),
            ("docker.io/library/busybox", &["hub"]),
            ("localhost/app", &[]),
            ("evil.io/r.io/team/app", &[]),
        ] {
            assert_eq!(users(&secrets, image), expected, "{image}");
        }
    }

    #[test]
    fn secrets_of_both_forms_are_read_and_what_is_none_has_no_login() {
        let auth = |text: &str| json!({"r.io": {"username": "field", "auth": text}});
        let older = secret("o", "kubernetes.io/dockercfg", ".dockercfg", &json!({"r.io": {"username": "older"}}));
        let opaque = secret("o", "Opaque", ".dockerconfigjson", &json!({"auths": {"r.io": {"username": "u"}}}));
        for (secret, expected) in [
            (older, Some("older")),
            (opaque, None),
            // `u:p` and `us:p`, the former with and without what fills it up.
            (docker("s", auth("dTpw")), Some("u")),
            (docker("s", auth("dXM6cA==")), Some("us")),
            (docker("s", auth("dXM6cA")), Some("us")),
            (docker("s", auth("dXM6\ncA==\n")), Some("us")),
            (docker("s", auth("")), Some("field")),
            (docker("s", auth("!")), None),
            (docker("s", auth("dXA=")), None),
            (docker("s", json!("none")), None),
        ] {
            assert_eq!(
                users(std::slice::from_ref(&secret), "r.io/app").first().map(String::as_str),
                expected,
                "{secret:?}"
            );
        }
    }

    #[test]
    fn a_login_has_the_digest_that_a_kubelet_gives_it() {
        let of = |user: &str, password: &str, email: &str| digest(&(user.to_owned(), password.to_owned()), email);
        // sha256 of `{"username":"u","password":"p"}` and so on.
        let expected = |text: &str| hex(&Sha256::digest(text));
        assert_eq!(of("u", "p", ""), expected(r#"{"username":"u","password":"p"}"#));
        assert_eq!(of("u", "p", "e@x"), expected(r#"{"username":"u","password":"p","email":"e@x"}"#));
        assert_eq!(of("", "p", ""), expected(r#"{"password":"p"}"#));
        assert_eq!(of("a<b&\"\\\u{1}ä", "", ""), expected("{\"username\":\"a\\u003cb\\u0026\\\"\\\\\\u0001ä\"}"));
        assert_eq!(of("", "", ""), "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
    }
}
