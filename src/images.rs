//! Images from archives: what `docker save`, `podman save`, `ctr export` and `skopeo` write, into containerd.
//!
//! | module | what |
//! |---|---|
//! | `archive` `pause` | what an archive holds; the sandbox image from our own binary |
//! | `reference` `matching` | names of images, and patterns of them |
//! | `keyring` `credential` | logins of pull secrets; programs that give others |
//! | `pulls` | what is kept of pulls, so that an image is used only by who may pull it |

mod archive;
pub mod credential;
pub mod keyring;
mod matching;
mod pause;
pub mod pulls;
pub(crate) mod reference;

use crate::runtime::RuntimeError;
use crate::runtime::content::ContentStore;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why an archive could not be imported; each text names what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("not a tar archive (nor one compressed with gzip): {0}")]
    NotTar(String),
    #[error("compressed with zstd, which is not supported: decompress it first (zstd -d)")]
    Zstd,
    #[error("no image in the archive: neither index.json (OCI) nor manifest.json (docker save) is at its top")]
    NoIndex,
    #[error("{file}: {problem}")]
    Malformed { file: String, problem: String },
    #[error("the archive lacks {0}")]
    MissingBlob(String),
    #[error("the archive's image has no name: save it by name and tag, not by id")]
    NoName,
    #[error("no image in the archive is for {0}")]
    WrongPlatform(String),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// An image that containerd now holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedImage {
    /// As in the archive, in full: `docker.io/library/busybox:1.36`.
    pub name: String,
    /// Digest of its index or manifest.
    pub digest: String,
}

/// A typed reference to a blob (OCI descriptor).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
}

/// A blob to store, with the labels by which containerd's garbage collector finds what it refers to.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) descriptor: Descriptor,
    pub(crate) source: BlobSource,
    pub(crate) labels: BTreeMap<String, String>,
}

/// Where a blob's bytes are.
#[derive(Clone, Debug)]
pub(crate) enum BlobSource {
    Memory(Bytes),
    File { file: Arc<File>, offset: u64 },
}

/// What to store: blobs, each before those that refer to it, then names.
#[derive(Debug, Default)]
pub(crate) struct ImagePlan {
    pub(crate) blobs: Vec<Blob>,
    pub(crate) images: Vec<(String, Descriptor)>,
}

/// Imports into containerd's namespace `k8s.io`, where CRI finds them.
#[derive(Debug)]
pub struct Images {
    store: ContentStore,
}

impl Images {
    /// Connects to containerd when first used. Must be called within a tokio runtime.
    pub fn new(socket: &Path) -> Self {
        Self { store: ContentStore::new(socket) }
    }

    /// Imports every image of an OCI or docker archive; CRI knows them when this returns.
    ///
    /// Layers are unpacked by the runtime when a container first needs them.
    pub async fn import_archive(&self, path: &Path) -> Result<Vec<ImportedImage>, ImageError> {
        let path = path.to_owned();
        let plan = tokio::task::spawn_blocking(move || {
            let error = |source| ImageError::Read { path: path.clone(), source };
            archive::plan(File::open(&path).map_err(error)?, &path)
        });
        // The join fails only if the reading panicked.
        let plan = plan.await.map_err(|panic| ImageError::NotTar(panic.to_string()))??;
        // It cannot be pulled again: the collection of unused images must leave it.
        self.import(plan, true).await
    }

    /// Makes the sandbox image from the static pause binary and pins it under `reference`.
    pub async fn import_pause(&self, binary: &[u8], reference: &str) -> Result<ImportedImage, ImageError> {
        let plan = pause::plan(binary, reference);
        self.import(plan, true).await?.pop().ok_or(ImageError::NoIndex)
    }

    /// Names and digests of the images in `k8s.io`.
    pub async fn list(&self) -> Result<Vec<ImportedImage>, ImageError> {
        Ok(self.store.images().await?)
    }

    /// Names of the images that are to be kept whatever uses them.
    pub(crate) async fn pinned(&self) -> Result<Vec<String>, RuntimeError> {
        self.store.pinned().await
    }

    /// Frees what removed containers and images took.
    pub(crate) async fn sweep(&self) -> Result<(), RuntimeError> {
        self.store.sweep().await
    }

    async fn import(&self, plan: ImagePlan, pinned: bool) -> Result<Vec<ImportedImage>, ImageError> {
        let lease = self.store.lease().await?;
        let stored = self.store.store(&lease, &plan, pinned).await;
        // The images hold their blobs now; a lease that cannot be deleted expires.
        if let Err(error) = self.store.release(lease).await {
            tracing::warn!(%error, "cannot delete the import's lease; it expires by itself");
        }
        stored?;
        for (name, _) in &plan.images {
            self.store.wait_until_cri_knows(name).await?;
        }
        let imported = plan.images.into_iter();
        Ok(imported.map(|(name, target)| ImportedImage { name, digest: target.digest }).collect())
    }
}

/// `sha256:<hex>` of some bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    hex_digest(sha2::Sha256::digest(bytes).as_slice())
}

fn hex_digest(hash: &[u8]) -> String {
    format!("sha256:{}", hex(hash))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The machine's architecture as images name it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}
