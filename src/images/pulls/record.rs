//! The records as files hold them (`ImagePullIntent`, `ImagePulledRecord` of kubelet.config.k8s.io/v1beta1), and what they
//! say of who may use an image.

use crate::images::keyring::{Coordinates, Credential, Source};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What we write; kubelets before 1.35 wrote v1alpha1, with the same fields.
const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// Logins that are seen to be as good as those that pulled are kept up to that number (`writeRecordWhileMatchingLimit`).
const MOST_SECRETS: usize = 100;

/// A pull has begun.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ImagePullIntent {
    kind: String,
    api_version: String,
    /// As the pod names it.
    pub(super) image: String,
}

impl ImagePullIntent {
    pub(super) fn new(image: &str) -> Self {
        Self { kind: "ImagePullIntent".into(), api_version: API_VERSION.into(), image: image.to_owned() }
    }
}

/// An image was pulled.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ImagePulledRecord {
    kind: String,
    api_version: String,
    #[serde(with = "seconds")]
    pub(super) last_updated_time: Timestamp,
    /// As the runtime names it.
    pub(super) image_ref: String,
    /// By the name that pods gave it, without tag and digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) credential_mapping: BTreeMap<String, ImagePullCredentials>,
}

/// With what it was pulled under one name.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ImagePullCredentials {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_secrets: Vec<ImagePullSecret>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_service_accounts: Vec<Coordinates>,
    /// Without a login, or with one that every pod of the node has.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) node_pods_accessible: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ImagePullSecret {
    uid: String,
    namespace: String,
    name: String,
    credential_hash: String,
}

impl ImagePullSecret {
    fn is_of(&self, other: &Self) -> bool {
        (&self.uid, &self.namespace, &self.name) == (&other.uid, &other.namespace, &other.name)
    }
}

/// Whose login pulled an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PulledWith {
    Node,
    Secret(ImagePullSecret),
    ServiceAccount(Coordinates),
}

impl PulledWith {
    /// `None`: no login was needed.
    pub(super) fn of(credential: Option<&Credential>) -> Self {
        let Some(credential) = credential else { return Self::Node };
        match credential.source.clone() {
            Source::Node => Self::Node,
            Source::Secret(Coordinates { uid, namespace, name }) => {
                Self::Secret(ImagePullSecret { uid, namespace, name, credential_hash: credential.digest.clone() })
            }
            Source::ServiceAccount(account) => Self::ServiceAccount(account),
        }
    }
}

/// Whether a pod's logins open an image.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Refused,
    Known,
    /// They do, by a secret that is to be kept beside those that pulled.
    Another(PulledWith),
}

impl ImagePullCredentials {
    /// Nobody is known who could pull it.
    pub(super) fn is_nobodys(&self) -> bool {
        self.kubernetes_secrets.is_empty() && self.kubernetes_service_accounts.is_empty()
    }

    /// A secret with the same content as one that pulled, the same secret with other content (somebody rotated it), or the
    /// same service account.
    pub(super) fn admit(&self, offered: &[Credential]) -> Admission {
        let has_room = self.kubernetes_secrets.len() < MOST_SECRETS;
        let mut account = None;
        for credential in offered {
            match PulledWith::of(Some(credential)) {
                PulledWith::Node => {}
                // A pod has one service account.
                PulledWith::ServiceAccount(of) => account = account.or(Some(of)),
                PulledWith::Secret(secret) => {
                    for known in &self.kubernetes_secrets {
                        let has_hash = !known.credential_hash.is_empty();
                        let same_content = has_hash && known.credential_hash == secret.credential_hash;
                        match (same_content, known.is_of(&secret)) {
                            (true, false) | (false, true) if has_room => {
                                return Admission::Another(PulledWith::Secret(secret));
                            }
                            (true, _) => return Admission::Known,
                            (false, _) => {}
                        }
                    }
                }
            }
        }
        match account.is_some_and(|account| self.kubernetes_service_accounts.contains(&account)) {
            true => Admission::Known,
            false => Admission::Refused,
        }
    }

    /// Adds a login; false: it says nothing new.
    fn add(&mut self, with: PulledWith) -> bool {
        if self.node_pods_accessible {
            return false;
        }
        match with {
            PulledWith::Node => *self = Self { node_pods_accessible: true, ..Self::default() },
            PulledWith::Secret(secret) => {
                if self.kubernetes_secrets.contains(&secret) {
                    return false;
                }
                self.kubernetes_secrets.retain(|known| !known.is_of(&secret));
                self.kubernetes_secrets.push(secret);
                let order =
                    |secret: &ImagePullSecret| (secret.namespace.clone(), secret.name.clone(), secret.uid.clone());
                self.kubernetes_secrets.sort_by_key(order);
            }
            PulledWith::ServiceAccount(account) => {
                if self.kubernetes_service_accounts.contains(&account) {
                    return false;
                }
                self.kubernetes_service_accounts.push(account);
                let order =
                    |account: &Coordinates| (account.namespace.clone(), account.name.clone(), account.uid.clone());
                self.kubernetes_service_accounts.sort_by_key(order);
            }
        }
        true
    }
}

/// The record of image `id` once it was pulled under the name `repository` too; `None`: it says that already. `with: None`
/// is a pull of which only that it happened is known: who wants the image has to show a login.
pub(super) fn merged(
    known: Option<ImagePulledRecord>,
    id: &str,
    repository: &str,
    with: Option<PulledWith>,
    now: Timestamp,
) -> Option<ImagePulledRecord> {
    let is_new = known.is_none();
    let mut record = known.unwrap_or_else(|| ImagePulledRecord {
        kind: "ImagePulledRecord".into(),
        api_version: API_VERSION.into(),
        last_updated_time: now,
        image_ref: id.to_owned(),
        credential_mapping: BTreeMap::new(),
    });
    let changed =
        with.is_some_and(|with| record.credential_mapping.entry(repository.to_owned()).or_default().add(with));
    (is_new || changed).then(|| ImagePulledRecord { api_version: API_VERSION.into(), last_updated_time: now, ..record })
}

/// Times in whole seconds, as `metav1.Time` has them.
mod seconds {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(time: &Timestamp, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(&time.strftime("%Y-%m-%dT%H:%M:%SZ"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}
