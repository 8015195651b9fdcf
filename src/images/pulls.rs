//! What is kept of pulls under `<root-dir>/image_manager`, so that an image on the node is used only by pods that may pull
//! it (KEP-2535, `pkg/kubelet/images/pullmanager`). A kubelet goes on with these files, and we with a kubelet's.
//!
//! `pulling/` has a file for each image whose pull has begun, `pulled/` one for each that was pulled, with whose login. An
//! image of which there is neither was brought here by somebody else.

mod record;
mod verification;

pub use verification::Verification;

use super::hex;
use super::keyring::Credential;
use super::reference::repository_of;
use crate::clock;
use crate::decide::image_gc::full_name;
use crate::metrics::catalog;
use crate::runtime::Runtime;
use jiff::Timestamp;
use node_config::files::{FileError, PRIVATE, make_dir, write_atomic};
use record::{Admission, ImagePullIntent, ImagePulledRecord, PulledWith};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the names of records begin with; others in their folders are not ours.
const PREFIX: &str = "sha256-";
/// Of the records and of their folders' owner only.
const PRIVATE_DIR: u32 = 0o700;

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error(transparent)]
    Write(#[from] FileError),
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is no record of a pull: {source}", path.display())]
    Content { path: PathBuf, source: serde_json::Error },
    #[error("cannot remove {}: {source}", path.display())]
    Remove { path: PathBuf, source: io::Error },
}

/// The records of one node.
pub struct PullRecords {
    pulling: PathBuf,
    pulled: PathBuf,
    verification: Verification,
    /// How many pulls of an image are under way. Held while records are read and written: nobody sees one half made, and
    /// none is lost between two that end at once.
    running: Mutex<BTreeMap<String, usize>>,
}

/// Leave to read and write records.
type Leave<'a> = MutexGuard<'a, BTreeMap<String, usize>>;

/// What the records tell of an image.
enum Known {
    Nothing,
    /// Its pull began: whose login it may be used with is not known.
    Begun,
    Pulled(ImagePulledRecord),
}

impl PullRecords {
    /// Reads and writes nothing yet.
    pub fn new(root_dir: &Path, verification: Verification) -> Self {
        let folder = root_dir.join("image_manager");
        let (pulling, pulled) = (folder.join("pulling"), folder.join("pulled"));
        Self { pulling, pulled, verification, running: Mutex::default() }
    }

    /// Takes up what the life before left: images whose pull had begun, and which are here, were pulled by a login that is
    /// not known.
    pub async fn recover(&self, runtime: &dyn Runtime) {
        let mut begun: Vec<ImagePullIntent> = Vec::new();
        for file in files(&self.pulling) {
            match read(&file) {
                Ok(Some(intent)) => begun.push(intent),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "a pull that had begun is not known"),
            }
        }
        if begun.is_empty() {
            return;
        }
        let images = match runtime.images().await {
            Ok(images) => images,
            Err(error) => return tracing::warn!(%error, "images not listed: pulls that had begun stay recorded"),
        };
        let leave = self.lock();
        for intent in begun {
            let name = full_name(&intent.image);
            let here =
                images.iter().filter(|image| image.tags.iter().chain(&image.digests).any(|known| *known == name));
            for image in here {
                let recorded = self.record(&leave, &intent.image, &image.id, None);
                if let Err(error) = recorded.and_then(|()| remove(&self.intent_file(&intent.image))) {
                    tracing::warn!(image = intent.image, %error, "a pull that had begun is not recorded as done");
                }
            }
        }
        self.count();
    }

    /// Whether a pod may use an image that is here: `image` as it names it, `id` as the runtime does. What it could pull
    /// the image with is looked up only where that decides.
    pub async fn allows<'a>(
        &self,
        image: &str,
        id: &str,
        credentials: impl Future<Output = &'a Vec<Credential>>,
    ) -> bool {
        let (result, allowed) = match self.look(image, id) {
            Ok(known) => self.judge(image, id, &known, credentials).await,
            Err(error) => {
                tracing::warn!(image, %error, "whether the pod may use the image is asked of the registry");
                ("error", false)
            }
        };
        catalog::IMAGE_CHECKS.inc([result]);
        allowed
    }

    async fn judge<'a>(
        &self,
        image: &str,
        id: &str,
        known: &Known,
        credentials: impl Future<Output = &'a Vec<Credential>>,
    ) -> (&'static str, bool) {
        const UNPROVEN: (&str, bool) = ("mustAuthenticate", false);
        const PROVEN: (&str, bool) = ("credentialRecordFound", true);
        let repository = repository_of(image);
        if self.verification.exempts(&repository, !matches!(known, Known::Nothing)) {
            return ("credentialPolicyAllowed", true);
        }
        let Known::Pulled(record) = known else { return UNPROVEN };
        let Some(pulled_with) = record.credential_mapping.get(&repository) else { return UNPROVEN };
        if pulled_with.node_pods_accessible {
            return PROVEN;
        }
        if pulled_with.is_nobodys() {
            return UNPROVEN;
        }
        match pulled_with.admit(credentials.await) {
            Admission::Refused => UNPROVEN,
            Admission::Known => PROVEN,
            Admission::Another(credential) => {
                let recorded = self.record(&self.lock(), image, id, Some(credential));
                if let Err(error) = recorded {
                    tracing::warn!(image, %error, "another login of the image is not kept");
                }
                PROVEN
            }
        }
    }

    /// A pull begins. Until the answer is told what came of it, and over a crash, the image counts as pulled.
    pub fn begin(self: &Arc<Self>, image: &str) -> Result<Pull, RecordError> {
        let mut running = self.lock();
        make_dir(&self.pulling, PRIVATE_DIR)?;
        write(&self.intent_file(image), &ImagePullIntent::new(image))?;
        *running.entry(image.to_owned()).or_default() += 1;
        self.count();
        Ok(Pull { records: self.clone(), image: image.to_owned(), is_told: false })
    }

    /// Forgets pulls of images that are gone; a record of `before` or later stays: its image came meanwhile.
    pub fn prune(&self, ids: &BTreeSet<String>, before: Timestamp) {
        let _leave = self.lock();
        for file in files(&self.pulled) {
            let gone = match read::<ImagePulledRecord>(&file) {
                Ok(Some(record)) => record.last_updated_time < before && !ids.contains(&record.image_ref),
                Ok(None) => false,
                Err(error) => {
                    tracing::warn!(%error, "a record of a pull stays");
                    false
                }
            };
            if gone && let Err(error) = remove(&file) {
                tracing::warn!(%error, "a record of a pull stays");
            }
        }
        self.count();
    }

    /// Whether there is anything to prune.
    pub fn is_empty(&self) -> bool {
        files(&self.pulled).is_empty()
    }

    fn look(&self, image: &str, id: &str) -> Result<Known, RecordError> {
        let running = self.lock();
        if let Some(record) = self.pulled_record(id)? {
            return Ok(Known::Pulled(record));
        }
        let begun = running.contains_key(image)
            || read::<ImagePullIntent>(&self.intent_file(image))?.is_some_and(|intent| intent.image == image);
        Ok(if begun { Known::Begun } else { Known::Nothing })
    }

    /// Keeps with what an image was pulled; `None`: nobody knows.
    fn record(&self, _: &Leave<'_>, image: &str, id: &str, with: Option<PulledWith>) -> Result<(), RecordError> {
        let repository = repository_of(image);
        let known = self.pulled_record(id).unwrap_or_else(|error| {
            tracing::warn!(image, %error, "a record of a pull is made anew");
            None
        });
        let Some(record) = record::merged(known, id, &repository, with, clock::now().wall) else { return Ok(()) };
        make_dir(&self.pulled, PRIVATE_DIR)?;
        write(&self.pulled.join(file_name(id)), &record)
    }

    fn pulled_record(&self, id: &str) -> Result<Option<ImagePulledRecord>, RecordError> {
        let record: Option<ImagePulledRecord> = read(&self.pulled.join(file_name(id)))?;
        Ok(record.filter(|record| record.image_ref == id))
    }

    fn intent_file(&self, image: &str) -> PathBuf {
        self.pulling.join(file_name(image))
    }

    /// Every value is whole at any moment: a poisoned lock holds what was counted.
    fn lock(&self) -> Leave<'_> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pull is over, and recorded where it succeeded.
    fn end(&self, running: &mut Leave<'_>, image: &str) {
        match running.get_mut(image) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => {
                running.remove(image);
                if let Err(error) = remove(&self.intent_file(image)) {
                    tracing::warn!(image, %error, "a pull that is over counts as begun");
                }
            }
        }
        self.count();
    }

    fn count(&self) {
        catalog::PULLS_BEGUN.set(files(&self.pulling).len() as f64);
        catalog::PULLS_KEPT.set(files(&self.pulled).len() as f64);
    }
}

/// A pull under way; dropped, it has failed.
pub struct Pull {
    records: Arc<PullRecords>,
    image: String,
    is_told: bool,
}

impl Pull {
    /// It succeeded with that login, or without any.
    pub fn succeeded(mut self, id: &str, credential: Option<&Credential>) {
        let mut running = self.records.lock();
        self.is_told = true;
        match self.records.record(&running, &self.image, id, Some(PulledWith::of(credential))) {
            Ok(()) => self.records.end(&mut running, &self.image),
            // It goes on counting as begun, which keeps the image from those who show nothing.
            Err(error) => tracing::warn!(image = self.image, %error, "a pull is not recorded"),
        }
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        if !self.is_told {
            self.records.end(&mut self.records.lock(), &self.image);
        }
    }
}

/// `sha256-<hex>`: names of images have slashes.
fn file_name(name: &str) -> String {
    format!("{PREFIX}{}", hex(&Sha256::digest(name)))
}

/// The records of a folder; none where there is no folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_ours = |name: &str| name.starts_with(PREFIX) && !name.ends_with(".tmp");
    entries.filter(|entry| entry.file_name().to_str().is_some_and(is_ours)).map(|entry| entry.path()).collect()
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RecordError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| RecordError::Content { path: path.to_owned(), source }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RecordError::Read { path: path.to_owned(), source }),
    }
}

fn write(path: &Path, record: &impl Serialize) -> Result<(), RecordError> {
    // As Go's encoder ends what it writes.
    let text = serde_json::to_string(record).map(|text| text + "\n");
    let text = text.map_err(|source| RecordError::Content { path: path.to_owned(), source })?;
    Ok(write_atomic(path, text, PRIVATE)?)
}

fn remove(path: &Path) -> Result<(), RecordError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(RecordError::Remove { path: path.to_owned(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
