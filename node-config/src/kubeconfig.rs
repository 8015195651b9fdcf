//! Kubeconfig files: written with everything embedded, read as kubectl reads them.

use crate::files::{self, FileError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// Why a kubeconfig cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{} is not a kubeconfig: {message}", path.display())]
    Malformed { path: PathBuf, message: String },
    #[error("{} has no {what} {name:?}", path.display())]
    Missing { path: PathBuf, what: &'static str, name: String },
}

/// What a client needs to reach and convince an API server.
#[derive(Clone, PartialEq, Eq)]
pub struct Access {
    /// `https://127.0.0.1:6443`.
    pub server: String,
    /// PEM.
    pub certificate_authority: Vec<u8>,
    pub client_certificate: Vec<u8>,
    pub client_key: Vec<u8>,
}

/// Writes a kubeconfig of one context, 0600; keeps the file when nothing changed.
pub fn write(path: &Path, cluster: &str, user: &str, access: &Access) -> Result<(), KubeconfigError> {
    files::write_if_changed(path, render(cluster, user, access), files::PRIVATE)?;
    Ok(())
}

/// The text kubeadm writes, for these names.
fn render(cluster: &str, user: &str, access: &Access) -> String {
    let context = format!("{user}@{cluster}");
    let Access { server, certificate_authority, client_certificate, client_key } = access;
    let [ca, cert, key] = [certificate_authority, client_certificate, client_key].map(|pem| STANDARD.encode(pem));
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: {cluster}
  cluster:
    certificate-authority-data: {ca}
    server: {server}
contexts:
- name: {context}
  context:
    cluster: {cluster}
    user: {user}
current-context: {context}
preferences: {{}}
users:
- name: {user}
  user:
    client-certificate-data: {cert}
    client-key-data: {key}
"
    )
}

#[derive(Deserialize, Serialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    current_context: String,
    clusters: Vec<NamedCluster>,
    contexts: Vec<NamedContext>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(default)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(default)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(default)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    username: Option<String>,
    exec: Option<serde_json::Value>,
    auth_provider: Option<serde_json::Value>,
}

/// What a kubeconfig's current context has, as far as it has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub server: String,
    /// PEM.
    pub certificate_authority: Option<Vec<u8>>,
    pub client_certificate: Option<Vec<u8>>,
    pub client_key: Option<Vec<u8>>,
    /// A token, a password, or a program that gets one: the kube client's business.
    pub other_credentials: bool,
}

/// Reads the current context's access (client certificates; other credentials are the kube client's business).
pub fn read(path: &Path) -> Result<Access, KubeconfigError> {
    let seen = look(path)?;
    let missing = |what| KubeconfigError::Missing { path: path.to_owned(), what, name: String::new() };
    Ok(Access {
        server: seen.server,
        certificate_authority: seen.certificate_authority.ok_or_else(|| missing("certificate-authority"))?,
        client_certificate: seen.client_certificate.ok_or_else(|| missing("client-certificate"))?,
        client_key: seen.client_key.ok_or_else(|| missing("client-key"))?,
    })
}

/// Reads what the current context has.
pub fn look(path: &Path) -> Result<Seen, KubeconfigError> {
    let text = fs::read_to_string(path).map_err(FileError::on("read", path))?;
    let malformed = |message: String| KubeconfigError::Malformed { path: path.to_owned(), message };
    let file: File = serde_saphyr::from_str(&text).map_err(|error| malformed(first_line(&error)))?;
    let missing = |what, name: &str| KubeconfigError::Missing { path: path.to_owned(), what, name: name.to_owned() };
    let context = file.contexts.iter().find(|context| context.name == file.current_context);
    let context = &context.ok_or_else(|| missing("context", &file.current_context))?.context;
    let cluster = file.clusters.iter().find(|cluster| cluster.name == context.cluster);
    let cluster = &cluster.ok_or_else(|| missing("cluster", &context.cluster))?.cluster;
    let user = file.users.iter().find(|user| user.name == context.user);
    let user = &user.ok_or_else(|| missing("user", &context.user))?.user;
    let load = |data: &Option<String>, file: &Option<PathBuf>, what| match (data, file) {
        (Some(data), _) => {
            let decoded = STANDARD.decode(data.trim());
            decoded.map(Some).map_err(|error| malformed(format!("{what}-data: {error}")))
        }
        // Relative to the kubeconfig, as kubectl has it.
        (None, Some(file)) => {
            let file = path.parent().unwrap_or(Path::new("")).join(file);
            Ok(Some(fs::read(&file).map_err(FileError::on("read", &file))?))
        }
        (None, None) => Ok(None),
    };
    let secrets = [user.token.is_some(), user.token_file.is_some(), user.username.is_some()];
    Ok(Seen {
        server: cluster.server.clone(),
        certificate_authority: load(
            &cluster.certificate_authority_data,
            &cluster.certificate_authority,
            "certificate-authority",
        )?,
        client_certificate: load(&user.client_certificate_data, &user.client_certificate, "client-certificate")?,
        client_key: load(&user.client_key_data, &user.client_key, "client-key")?,
        other_credentials: secrets.contains(&true) || user.exec.is_some() || user.auth_provider.is_some(),
    })
}

/// What is wrong and where; the picture of the text that follows is for editors.
fn first_line(error: &serde_saphyr::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().trim_end_matches(':').to_owned()
}

/// A kubeconfig whose client certificate lies in a file that is renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub server: String,
    /// PEM; `None`: the system's own CAs.
    pub certificate_authority: Option<Vec<u8>>,
    /// Certificate and key.
    pub client_pem: PathBuf,
}

/// Writes such a kubeconfig, 0600, in the words of the kubelet.
pub fn write_reference(path: &Path, reference: &Reference) -> Result<(), KubeconfigError> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        files::make_dir(dir, 0o755)?;
    }
    let Reference { server, certificate_authority, client_pem } = reference;
    let ca = certificate_authority.as_ref();
    let ca = ca.map(|pem| format!("    certificate-authority-data: {}\n", STANDARD.encode(pem))).unwrap_or_default();
    let pem = client_pem.display();
    let text = format!(
        "apiVersion: v1
clusters:
- cluster:
{ca}    server: {server}
  name: default-cluster
contexts:
- context:
    cluster: default-cluster
    namespace: default
    user: default-auth
  name: default-context
current-context: default-context
kind: Config
users:
- name: default-auth
  user:
    client-certificate: {pem}
    client-key: {pem}
"
    );
    files::write_if_changed(path, text, files::PRIVATE)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn access() -> Access {
        Access {
            server: "https://127.0.0.1:6443".into(),
            certificate_authority: b"ca".to_vec(),
            client_certificate: b"cert".to_vec(),
            client_key: b"key".to_vec(),
        }
    }

    #[test]
    fn what_is_written_is_private_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.kubeconfig");
        write(&path, "skiff", "kubernetes-admin", &access()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(read(&path).unwrap() == access());
    }

    #[test]
    fn a_node_s_kubeconfig_refers_to_the_certificate_that_is_renewed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, client_pem) = (dir.path().join("etc/kubelet.conf"), dir.path().join("kubelet-client-current.pem"));
        fs::write(&client_pem, "pair").unwrap();
        let server = "https://10.0.0.1:6443".to_owned();
        let reference = Reference { server, certificate_authority: Some(b"ca".to_vec()), client_pem };
        write_reference(&path, &reference).unwrap();
        let seen = look(&path).unwrap();
        assert_eq!((seen.server, seen.certificate_authority), (reference.server, Some(b"ca".to_vec())));
        assert_eq!((seen.client_certificate, seen.client_key), (Some(b"pair".to_vec()), Some(b"pair".to_vec())));
    }

    #[test]
    fn files_beside_the_kubeconfig_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let text = render("skiff", "me", &access()).replace("client-key-data: a2V5", "client-key: me.key");
        fs::write(&path, text).unwrap();
        fs::write(dir.path().join("me.key"), "key").unwrap();
        assert!(read(&path).unwrap() == access());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        for (text, expected) in [
            ("a: [", "is not a kubeconfig"),
            ("current-context: x", "has no context \"x\""),
            ("current-context: x\ncontexts: [{name: x, context: {cluster: c}}]", "has no cluster \"c\""),
        ] {
            fs::write(&path, text).unwrap();
            let error = read(&path).err().unwrap().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
