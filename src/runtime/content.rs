//! containerd's content and image services (native API): storing images without pulling them.

use super::events::native::in_namespace;
use super::rpc::{self, call};
use super::{ImageInfo, Runtime, RuntimeError};
use crate::clock;
use crate::images::{Blob, BlobSource, ImagePlan, ImportedImage};
use bytes::Bytes;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{
    AddResourceRequest, CreateImageRequest, CreateRequest, DeleteRequest, Image, Info, InfoRequest, ListImagesRequest,
    Resource, UpdateImageRequest, UpdateRequest, WriteAction, WriteContentRequest,
};
use containerd_client::types;
use futures::{Stream, StreamExt, stream};
use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Channel;

/// Containerd's label of images that are never collected.
const PINNED: &str = "io.cri-containerd.pinned";
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// A layer of several gigabytes on a slow disk.
const WRITE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Bytes of a blob in one message; two are under way at a time.
const CHUNK_BYTES: u64 = 512 * 1024;
/// After this long containerd drops a lease that an importer left behind.
const LEASE_HOURS: i64 = 2;
/// How long CRI may take to notice an image, and the pauses between looks.
const CRI_NOTICES_WITHIN: Duration = Duration::from_secs(30);
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LAST_LOOK: Duration = Duration::from_millis(500);

/// The native API of one containerd.
#[derive(Debug)]
pub(crate) struct ContentStore {
    channel: Channel,
    cri: super::cri::CriRuntime,
}

/// Keeps new blobs from the garbage collector until an image refers to them.
pub(crate) struct Lease(String);

impl ContentStore {
    pub(crate) fn new(socket: &Path) -> Self {
        Self { channel: rpc::channel(socket), cri: super::cri::CriRuntime::lazy(socket) }
    }

    pub(crate) async fn lease(&self) -> Result<Lease, RuntimeError> {
        let id = format!("skiff-import-{}", uuid::Uuid::new_v4());
        let expires = clock::now().wall + jiff::SignedDuration::from_hours(LEASE_HOURS);
        let labels = HashMap::from([("containerd.io/gc.expire".to_owned(), expires.to_string())]);
        let request = in_namespace(CreateRequest { id: id.clone(), labels });
        call("Leases.Create", REQUEST_TIMEOUT, LeasesClient::new(self.channel.clone()).create(request)).await?;
        Ok(Lease(id))
    }

    pub(crate) async fn release(&self, lease: Lease) -> Result<(), RuntimeError> {
        let request = in_namespace(DeleteRequest { id: lease.0, sync: false });
        call("Leases.Delete", REQUEST_TIMEOUT, LeasesClient::new(self.channel.clone()).delete(request)).await
    }

    /// Has containerd free what nothing refers to any more, and waits for it: left alone it does so at some later change.
    pub(crate) async fn sweep(&self) -> Result<(), RuntimeError> {
        let Lease(id) = self.lease().await?;
        let request = in_namespace(DeleteRequest { id, sync: true });
        call("Leases.Delete", REQUEST_TIMEOUT, LeasesClient::new(self.channel.clone()).delete(request)).await
    }

    /// Writes blobs in order, then the images that name them.
    pub(crate) async fn store(&self, lease: &Lease, plan: &ImagePlan, pinned: bool) -> Result<(), RuntimeError> {
        for blob in &plan.blobs {
            self.put(lease, blob).await?;
        }
        for (name, target) in &plan.images {
            let mut labels = HashMap::from([("io.cri-containerd.image".to_owned(), "managed".to_owned())]);
            if pinned {
                labels.insert(PINNED.to_owned(), "pinned".to_owned());
            }
            let target = types::Descriptor {
                media_type: target.media_type.clone(),
                digest: target.digest.clone(),
                size: i64::try_from(target.size).unwrap_or(i64::MAX),
                annotations: HashMap::new(),
            };
            let image = Image { name: name.clone(), labels, target: Some(target), ..Default::default() };
            self.tag(image).await?;
        }
        Ok(())
    }

    async fn tag(&self, image: Image) -> Result<(), RuntimeError> {
        let mut client = ImagesClient::new(self.channel.clone());
        let request = in_namespace(CreateImageRequest { image: Some(image.clone()), source_date_epoch: None });
        match call("Images.Create", REQUEST_TIMEOUT, client.create(request)).await {
            Err(RuntimeError::Rpc { code: "AlreadyExists", .. }) => {
                let paths = image.labels.keys().map(|key| format!("labels.{key}"));
                let paths = std::iter::once("target".to_owned()).chain(paths).collect();
                let update_mask = Some(prost_types::FieldMask { paths });
                let request = UpdateImageRequest { image: Some(image), update_mask, source_date_epoch: None };
                call("Images.Update", REQUEST_TIMEOUT, client.update(in_namespace(request))).await.map(drop)
            }
            other => other.map(drop),
        }
    }

    /// Stores a blob, or labels the one that is there.
    async fn put(&self, lease: &Lease, blob: &Blob) -> Result<(), RuntimeError> {
        let mut client = ContentClient::new(self.channel.clone());
        let digest = &blob.descriptor.digest;
        let request = in_namespace(InfoRequest { digest: digest.clone() });
        match call("Content.Info", REQUEST_TIMEOUT, client.info(request)).await {
            Ok(found) => return self.adopt(lease, blob, found.info.unwrap_or_default()).await,
            Err(RuntimeError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        let mut request = in_namespace(write_requests(&lease.0, blob.clone()));
        let lease_header = lease.0.parse().map_err(|_| RuntimeError::Rpc {
            code: "InvalidArgument",
            message: format!("lease id {:?} is not a header value", lease.0),
        })?;
        request.metadata_mut().insert("containerd-lease", lease_header);
        let write = async {
            let mut answers = client.write(request).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok(tonic::Response::new(()))
        };
        match call("Content.Write", WRITE_TIMEOUT, write).await {
            // Someone else wrote it meanwhile.
            Err(RuntimeError::Rpc { code: "AlreadyExists", .. }) => self.adopt(lease, blob, Info::default()).await,
            other => other,
        }
    }

    async fn adopt(&self, lease: &Lease, blob: &Blob, known: Info) -> Result<(), RuntimeError> {
        let digest = &blob.descriptor.digest;
        let resource = Some(Resource { id: digest.clone(), r#type: "content".to_owned() });
        let request = in_namespace(AddResourceRequest { id: lease.0.clone(), resource });
        call("Leases.AddResource", REQUEST_TIMEOUT, LeasesClient::new(self.channel.clone()).add_resource(request))
            .await?;
        if blob.labels.iter().all(|(key, value)| known.labels.get(key) == Some(value)) {
            return Ok(());
        }
        let info =
            Info { digest: digest.clone(), labels: blob.labels.clone().into_iter().collect(), ..Default::default() };
        let paths = blob.labels.keys().map(|key| format!("labels.{key}")).collect();
        let request = UpdateRequest { info: Some(info), update_mask: Some(prost_types::FieldMask { paths }) };
        let mut client = ContentClient::new(self.channel.clone());
        call("Content.Update", REQUEST_TIMEOUT, client.update(in_namespace(request))).await.map(drop)
    }

    pub(crate) async fn images(&self) -> Result<Vec<ImportedImage>, RuntimeError> {
        let request = in_namespace(ListImagesRequest { filters: Vec::new() });
        let answer =
            call("Images.List", REQUEST_TIMEOUT, ImagesClient::new(self.channel.clone()).list(request)).await?;
        let named = answer.images.into_iter().map(|image| ImportedImage {
            name: image.name,
            digest: image.target.map(|target| target.digest).unwrap_or_default(),
        });
        Ok(named.collect())
    }

    /// Names of the images that bear containerd's label for those to keep; CRI tells them from containerd 1.7 on only.
    pub(crate) async fn pinned(&self) -> Result<Vec<String>, RuntimeError> {
        let request = in_namespace(ListImagesRequest { filters: vec![format!("labels.\"{PINNED}\"==pinned")] });
        let answer =
            call("Images.List", REQUEST_TIMEOUT, ImagesClient::new(self.channel.clone()).list(request)).await?;
        Ok(answer.images.into_iter().map(|image| image.name).collect())
    }

    /// CRI learns of images by containerd's events, a moment later.
    pub(crate) async fn wait_until_cri_knows(&self, name: &str) -> Result<ImageInfo, RuntimeError> {
        let mut pause = FIRST_LOOK;
        let looks = async {
            loop {
                match self.cri.image(name).await {
                    Ok(Some(image)) => return Ok(image),
                    Ok(None) => tokio::time::sleep(pause).await,
                    Err(error) => return Err(error),
                }
                pause = (pause * 2).min(LAST_LOOK);
            }
        };
        let late = RuntimeError::Deadline { call: "ImageStatus of an imported image", after: CRI_NOTICES_WITHIN };
        tokio::time::timeout(CRI_NOTICES_WITHIN, looks).await.unwrap_or(Err(late))
    }
}

/// The messages that write one blob: data in chunks, then the commit. A read error ends them early, and the commit's
/// absence makes the write fail.
fn write_requests(lease: &str, blob: Blob) -> impl Stream<Item = WriteContentRequest> + Send + use<> {
    let total = blob.descriptor.size;
    let digest: Arc<str> = blob.descriptor.digest.as_str().into();
    // The ingest is the lease's own: what an interrupted import left under another name expires with its lease.
    let reference = format!("{lease}-{digest}");
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let message = move |action: WriteAction, offset: u64, data: Vec<u8>| WriteContentRequest {
        action: action.into(),
        r#ref: reference.clone(),
        total: signed(total),
        expected: digest.to_string(),
        offset: signed(offset),
        data,
        labels: HashMap::new(),
    };
    let commit_labels: HashMap<_, _> = blob.labels.into_iter().collect();
    let commit = message(WriteAction::Commit, total, Vec::new());
    let commit = WriteContentRequest { labels: commit_labels, ..commit };
    let source = blob.source;
    let chunks = stream::unfold(0, move |offset| {
        let source = source.clone();
        async move {
            if offset >= total {
                return None;
            }
            let data = read(source, offset, (total - offset).min(CHUNK_BYTES)).await;
            let next = if data.is_empty() { total } else { offset + data.len() as u64 };
            Some(((offset, data), next))
        }
    });
    chunks.map(move |(offset, data)| message(WriteAction::Write, offset, data)).chain(stream::once(async { commit }))
}

/// Empty on a read error: containerd then refuses the commit for its size.
async fn read(source: BlobSource, offset: u64, length: u64) -> Vec<u8> {
    let length = usize::try_from(length).unwrap_or_default();
    match source {
        BlobSource::Memory(bytes) => slice(&bytes, offset, length).to_vec(),
        BlobSource::File { file, offset: start } => {
            let read = tokio::task::spawn_blocking(move || {
                let mut data = vec![0; length];
                file.read_exact_at(&mut data, start + offset).map(|()| data)
            });
            match read.await {
                Ok(Ok(data)) => data,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "cannot read a blob of the archive");
                    Vec::new()
                }
                Err(_) => Vec::new(),
            }
        }
    }
}

fn slice(bytes: &Bytes, offset: u64, length: usize) -> &[u8] {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    &bytes[start..bytes.len().min(start + length)]
}
