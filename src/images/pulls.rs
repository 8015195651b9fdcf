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
    /// How many pulls of an image are under way.
    running: Mutex<BTreeMap<String, usize>>,
    /// Held from the reading of a record to its writing: what two pulls say at once is all kept. Only where it may block.
    recording: Mutex<()>,
}

/// Leave to change records.
type Leave<'a> = MutexGuard<'a, ()>;

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
        Self { pulling, pulled, verification, running: Mutex::default(), recording: Mutex::default() }
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
        let leave = lock(&self.recording);
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
        self: &Arc<Self>,
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
        self: &Arc<Self>,
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
                let (this, image, id) = (self.clone(), image.to_owned(), id.to_owned());
                blocking(move || {
                    if let Err(error) = this.record(&lock(&this.recording), &image, &id, Some(credential)) {
                        tracing::warn!(image, %error, "another login of the image is not kept");
                    }
                })
                .await;
                PROVEN
            }
        }
    }

    /// A pull begins. Until the answer is told what came of it, and over a crash, the image counts as pulled.
    pub async fn begin(self: &Arc<Self>, image: &str) -> Result<Pull, RecordError> {
        *lock(&self.running).entry(image.to_owned()).or_default() += 1;
        // Over where it is dropped: by the error, or by a caller who waits no longer.
        let pull = Pull { records: self.clone(), image: image.to_owned(), is_told: false };
        blocking(move || {
            let records = &pull.records;
            make_dir(&records.pulling, PRIVATE_DIR)?;
            write(&records.intent_file(&pull.image), &ImagePullIntent::new(&pull.image))?;
            records.count();
            Ok(pull)
        })
        .await
    }

    /// Forgets pulls of images that are gone; a record of `before` or later stays: its image came meanwhile.
    pub async fn prune(self: &Arc<Self>, ids: BTreeSet<String>, before: Timestamp) {
        let this = self.clone();
        blocking(move || this.prune_now(&ids, before)).await;
    }

    fn prune_now(&self, ids: &BTreeSet<String>, before: Timestamp) {
        let _leave = lock(&self.recording);
        for file in files(&self.pulled) {
            let gone = match read::<ImagePulledRecord>(&file) {
                // In whole seconds, as records have them: one of the same second may be later.
                Ok(Some(record)) => {
                    let is_older = record.last_updated_time.as_second() < before.as_second();
                    is_older && !ids.contains(&record.image_ref)
                }
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
        // First whether a pull began: one that ends meanwhile has its record before it is over.
        let begun = lock(&self.running).contains_key(image)
            || read::<ImagePullIntent>(&self.intent_file(image))?.is_some_and(|intent| intent.image == image);
        Ok(match self.pulled_record(id)? {
            Some(record) => Known::Pulled(record),
            None if begun => Known::Begun,
            None => Known::Nothing,
        })
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

    /// A pull is over, and recorded where it succeeded.
    fn end(&self, image: &str) {
        let mut running = lock(&self.running);
        match running.get_mut(image) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => {
                running.remove(image);
                // Under the lock, but for which this could be the file of a pull that begins now.
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
    pub async fn succeeded(self, id: &str, credential: Option<&Credential>) {
        let (id, with) = (id.to_owned(), PulledWith::of(credential));
        blocking(move || self.keep(&id, with)).await;
    }

    fn keep(mut self, id: &str, with: PulledWith) {
        self.is_told = true;
        let recorded = self.records.record(&lock(&self.records.recording), &self.image, id, Some(with));
        match recorded {
            Ok(()) => self.records.end(&self.image),
            // It goes on counting as begun, which keeps the image from those who show nothing.
            Err(error) => tracing::warn!(image = self.image, %error, "a pull is not recorded"),
        }
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        if !self.is_told {
            self.records.end(&self.image);
        }
    }
}

/// Every value is whole at any moment: a poisoned lock holds what was counted.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writing waits for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // Only a panic in the work gets here.
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
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
