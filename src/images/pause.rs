//! The sandbox image, made from the static pause binary.

use super::{Blob, BlobSource, Descriptor, ImagePlan, architecture, digest};
use bytes::Bytes;
use std::collections::BTreeMap;

/// One layer with `/pause` in it, run as the user that upstream's pause image names. The same bytes give the same image.
pub(super) fn plan(binary: &[u8], reference: &str) -> ImagePlan {
    let layer = layer(binary);
    let layer = blob("application/vnd.oci.image.layer.v1.tar", layer, BTreeMap::new());
    let config = serde_json::json!({
        "architecture": architecture(),
        "os": "linux",
        "config": { "Entrypoint": ["/pause"], "User": "65535:65535", "Env": ["PATH=/"], "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [layer.descriptor.digest] },
    });
    let config = blob("application/vnd.oci.image.config.v1+json", config.to_string().into_bytes(), BTreeMap::new());
    let describe = |blob: &Blob| {
        let Descriptor { media_type, digest, size } = &blob.descriptor;
        serde_json::json!({ "mediaType": media_type, "digest": digest, "size": size })
    };
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": describe(&config),
        "layers": [describe(&layer)],
    });
    let labels = BTreeMap::from([
        ("containerd.io/gc.ref.content.config".to_owned(), config.descriptor.digest.clone()),
        ("containerd.io/gc.ref.content.l.0".to_owned(), layer.descriptor.digest.clone()),
    ]);
    let manifest = blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().into_bytes(), labels);
    let images = vec![(reference.to_owned(), manifest.descriptor.clone())];
    ImagePlan { blobs: vec![layer, config, manifest], images }
}

fn blob(media_type: &str, bytes: Vec<u8>, labels: BTreeMap<String, String>) -> Blob {
    let descriptor = Descriptor { media_type: media_type.to_owned(), digest: digest(&bytes), size: bytes.len() as u64 };
    Blob { descriptor, source: BlobSource::Memory(Bytes::from(bytes)), labels }
}

fn layer(binary: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_size(binary.len() as u64);
    header.set_mode(0o755);
    header.set_mtime(0);
    let mut tar = tar::Builder::new(Vec::with_capacity(binary.len() + 2048));
    // Into memory, with a short constant name: neither can fail.
    tar.append_data(&mut header, "pause", binary).and_then(|()| tar.into_inner()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_binary_gives_the_same_image() {
        let (a, b) = (plan(b"binary", "localhost/pause:1"), plan(b"binary", "localhost/pause:1"));
        assert_eq!(a.images, b.images);
        assert_ne!(a.images[0].1.digest, plan(b"other", "localhost/pause:1").images[0].1.digest);
        assert_eq!(a.blobs.len(), 3);
        assert_eq!(a.blobs[2].labels["containerd.io/gc.ref.content.l.0"], a.blobs[0].descriptor.digest);
    }
}
