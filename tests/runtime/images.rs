//! Images made on the spot: no registry can be reached.

use anyhow::{Context, Result};
use sha2::Digest as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The image of `archive`, saved by docker, as an OCI layout compressed with gzip and under another name.
pub(crate) fn as_oci_layout(archive: &Path, name: &str) -> Result<PathBuf> {
    let mut files = std::collections::HashMap::new();
    for entry in tar::Archive::new(fs::File::open(archive)?).entries()? {
        let mut entry = entry?;
        let mut bytes = Vec::new();
        std::io::copy(&mut entry, &mut bytes)?;
        files.insert(entry.path()?.to_string_lossy().into_owned(), bytes);
    }
    let table: serde_json::Value = serde_json::from_slice(&files["manifest.json"])?;
    let config = &files[table[0]["Config"].as_str().context("Config")?];
    let layer = &files[table[0]["Layers"][0].as_str().context("Layers")?];
    let describe = |kind: &str, bytes: &[u8]| {
        serde_json::json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": format!("sha256:{}", hex(bytes)),
            "size": bytes.len(),
        })
    };
    let manifest = serde_json::json!({
        "schemaVersion": 2, "config": describe("config.v1+json", config), "layers": [describe("layer.v1.tar", layer)],
    })
    .to_string()
    .into_bytes();
    let mut target = describe("manifest.v1+json", &manifest);
    target["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": name });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [target] }).to_string().into_bytes();
    let path = archive.with_extension("oci.tar.gz");
    let gzip = flate2::write::GzEncoder::new(fs::File::create(&path)?, flate2::Compression::fast());
    let mut tar = tar::Builder::new(gzip);
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", hex(bytes));
    append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append(&mut tar, "index.json", &index)?;
    for bytes in [manifest.as_slice(), config, layer] {
        append(&mut tar, &blob(bytes), bytes)?;
    }
    tar.into_inner()?.finish()?;
    Ok(path)
}

fn hex(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn append(tar: &mut tar::Builder<impl std::io::Write>, name: &str, bytes: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    Ok(tar.append_data(&mut header, name, bytes)?)
}

/// `docker save` of busybox as `docker.io/library/busybox:1.36`, with the usual applets in `/bin`.
pub(crate) fn busybox_archive(folder: &Path) -> Result<PathBuf> {
    let busybox = fs::read("/bin/busybox").context("the package busybox-static is needed")?;
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(busybox.len() as u64);
    header.set_mode(0o755);
    layer.append_data(&mut header, "bin/busybox", busybox.as_slice())?;
    for applet in ["sh", "sleep", "cat", "echo", "id", "hostname", "true", "false", "env", "ls", "kill", "tail"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        layer.append_link(&mut header, format!("bin/{applet}"), "/bin/busybox")?;
    }
    let layer = layer.into_inner()?;
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": { "Cmd": ["sh"], "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))] },
    })
    .to_string()
    .into_bytes();
    let manifest = serde_json::json!([{
        "Config": format!("{}.json", hex(&config)), "RepoTags": ["busybox:1.36"], "Layers": ["layer/layer.tar"],
    }])
    .to_string()
    .into_bytes();
    let path = folder.join("busybox.tar");
    let mut archive = tar::Builder::new(fs::File::create(&path)?);
    append(&mut archive, &format!("{}.json", hex(&config)), &config)?;
    append(&mut archive, "layer/layer.tar", &layer)?;
    append(&mut archive, "manifest.json", &manifest)?;
    archive.into_inner()?;
    Ok(path)
}
