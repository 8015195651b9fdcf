//! The test image, made on the spot: Debian's static busybox as `docker.io/library/busybox:1.36`, an OCI archive.

use sha2::{Digest, Sha256};
use std::fs::File;
use std::path::Path;

pub const BUSYBOX: &str = "docker.io/library/busybox:1.36";

/// Writes an archive that holds busybox under `reference`.
pub fn write(to: &Path, reference: &str) {
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static: run `make deps`");
    let layer = layer(&busybox);
    let config = serde_json::to_vec(&serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["sh"],
            // Images of two names are two images.
            "Labels": {"skiff.test/name": reference}},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        "history": [{"created_by": "busybox-static"}],
    }))
    .expect("JSON");
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    }))
    .expect("JSON");
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = serde_json::json!({"io.containerd.image.name": reference});
    let index = serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": [entry]})).expect("JSON");

    let mut archive = tar::Builder::new(File::create(to).expect("the archive"));
    add(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644);
    add(&mut archive, "index.json", &index, 0o644);
    for blob in [&layer, &config, &manifest] {
        add(&mut archive, &format!("blobs/sha256/{}", &digest(blob)["sha256:".len()..]), blob, 0o644);
    }
    archive.finish().expect("the archive");
}

/// `/bin/busybox`, a link for each applet that it has, and the folders that programs expect.
fn layer(busybox: &[u8]) -> Vec<u8> {
    let applets = std::process::Command::new("/bin/busybox").arg("--list").output().expect("busybox --list").stdout;
    let mut layer = tar::Builder::new(Vec::new());
    for (folder, mode) in
        [("bin/", 0o755), ("etc/", 0o755), ("root/", 0o700), ("tmp/", 0o1777), ("var/", 0o755), ("usr/", 0o755)]
    {
        let mut header = header(tar::EntryType::Directory, 0, mode);
        layer.append_data(&mut header, folder, &[][..]).expect("a tar entry");
    }
    add(&mut layer, "bin/busybox", busybox, 0o755);
    add(&mut layer, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", 0o644);
    add(&mut layer, "etc/group", b"root:x:0:\n", 0o644);
    for applet in String::from_utf8_lossy(&applets).lines().filter(|applet| *applet != "busybox") {
        let mut header = header(tar::EntryType::Symlink, 0, 0o777);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox").expect("a tar entry");
    }
    layer.into_inner().expect("a tar")
}

fn header(kind: tar::EntryType, size: usize, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_mode(mode);
    header
}

fn add<W: std::io::Write>(archive: &mut tar::Builder<W>, path: &str, data: &[u8], mode: u32) {
    let mut header = header(tar::EntryType::Regular, data.len(), mode);
    archive.append_data(&mut header, path, data).expect("a tar entry");
}

fn digest(data: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(data) {
        write!(text, "{byte:02x}").expect("a String");
    }
    text
}

fn descriptor(media_type: &str, data: &[u8]) -> serde_json::Value {
    serde_json::json!({"mediaType": media_type, "digest": digest(data), "size": data.len()})
}
