//! Images made on the spot: no registry can be reached.

use anyhow::{Context, Result};
use sha2::Digest as _;
use std::fs;
use std::path::{Path, PathBuf};

/// `docker save` of busybox as `docker.io/library/busybox:1.36`, with the usual applets in `/bin`.
pub(crate) fn busybox_archive(folder: &Path) -> Result<PathBuf> {
    let busybox = fs::read("/bin/busybox").context("the package busybox-static is needed")?;
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(busybox.len() as u64);
    header.set_mode(0o755);
    layer.append_data(&mut header, "bin/busybox", busybox.as_slice())?;
    for applet in ["sh", "sleep", "cat", "echo", "id", "hostname", "true", "false", "env", "ls", "kill"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        layer.append_link(&mut header, format!("bin/{applet}"), "/bin/busybox")?;
    }
    let layer = layer.into_inner()?;
    let hex = |bytes: &[u8]| sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
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
    for (name, bytes) in [
        (format!("{}.json", hex(&config)), &config),
        ("layer/layer.tar".into(), &layer),
        ("manifest.json".into(), &manifest),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes.as_slice())?;
    }
    archive.into_inner()?;
    Ok(path)
}
