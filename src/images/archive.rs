//! Reads an archive's table of contents and plans what to store; layers stay in the file.

use super::{Blob, BlobSource, Descriptor, ImageError, ImagePlan, architecture, digest, hex_digest};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Indexes, manifests and configs are read into memory; a larger one is not an image's.
const MAX_JSON_BYTES: u64 = 8 * 1024 * 1024;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Plans the import of an open archive. `path` only names it in errors.
pub(super) fn plan(file: File, path: &Path) -> Result<ImagePlan, ImageError> {
    let error = |source| ImageError::Read { path: path.to_owned(), source };
    let mut magic = [0; 4];
    let read = file.read_at(&mut magic, 0).map_err(error)?;
    let file = if magic.starts_with(&GZIP_MAGIC) {
        inflate(&file).map_err(|e| ImageError::NotTar(e.to_string()))?
    } else if read == 4 && magic == ZSTD_MAGIC {
        return Err(ImageError::Zstd);
    } else {
        file
    };
    let archive = Archive::open(file)?;
    if archive.entries.contains_key("index.json") {
        archive.oci()
    } else if archive.entries.contains_key("manifest.json") {
        archive.docker()
    } else {
        Err(ImageError::NoIndex)
    }
}

/// Unpacks into an unnamed temporary file, so that blobs can be read in any order.
fn inflate(file: &File) -> std::io::Result<File> {
    let mut out = tempfile::tempfile()?;
    let mut file = file.try_clone()?;
    file.seek(SeekFrom::Start(0))?;
    std::io::copy(&mut flate2::read::MultiGzDecoder::new(file), &mut out)?;
    out.flush()?;
    Ok(out)
}

/// Where each file of the archive is.
struct Archive {
    file: Arc<File>,
    entries: HashMap<String, Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    offset: u64,
    size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    platform: Option<OciPlatform>,
}

#[derive(Deserialize)]
struct OciPlatform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct OciIndex {
    #[serde(default)]
    manifests: Vec<OciDescriptor>,
}

#[derive(Deserialize)]
struct OciManifest {
    config: OciDescriptor,
    layers: Vec<OciDescriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Archive {
    fn open(file: File) -> Result<Self, ImageError> {
        let not_tar = |error: std::io::Error| ImageError::NotTar(error.to_string());
        let mut reader = file.try_clone().map_err(not_tar)?;
        reader.seek(SeekFrom::Start(0)).map_err(not_tar)?;
        let mut entries = HashMap::new();
        let mut links = Vec::new();
        for entry in tar::Archive::new(reader).entries_with_seek().map_err(not_tar)? {
            let entry = entry.map_err(not_tar)?;
            let name = normal(&entry.path().map_err(not_tar)?.to_string_lossy());
            if let Ok(Some(target)) = entry.link_name() {
                // Old `docker save` shares layers between images by links relative to the entry's folder.
                let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                links.push((name.clone(), resolve(folder, &target.to_string_lossy())));
            } else if entry.header().entry_type().is_file() {
                entries.insert(name, Entry { offset: entry.raw_file_position(), size: entry.size() });
            }
        }
        for (name, target) in links {
            if let Some(&entry) = entries.get(&target) {
                entries.insert(name, entry);
            }
        }
        Ok(Self { file: Arc::new(file), entries })
    }

    fn entry(&self, name: &str) -> Result<Entry, ImageError> {
        self.entries.get(&normal(name)).copied().ok_or_else(|| ImageError::MissingBlob(name.to_owned()))
    }

    /// A small file whole.
    fn read(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let entry = self.entry(name)?;
        let malformed = |problem: String| ImageError::Malformed { file: name.to_owned(), problem };
        if entry.size > MAX_JSON_BYTES {
            return Err(malformed(format!("{} bytes are too many for a JSON document", entry.size)));
        }
        let mut bytes = vec![0; usize::try_from(entry.size).unwrap_or_default()];
        self.file.read_exact_at(&mut bytes, entry.offset).map_err(|error| malformed(error.to_string()))?;
        Ok(bytes)
    }

    fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, ImageError> {
        let error = |e: serde_json::Error| ImageError::Malformed { file: name.to_owned(), problem: e.to_string() };
        serde_json::from_slice(&self.read(name)?).map_err(error)
    }

    fn blob(&self, name: &str, descriptor: Descriptor, labels: BTreeMap<String, String>) -> Result<Blob, ImageError> {
        let Entry { offset, size } = self.entry(name)?;
        if size != descriptor.size {
            let problem = format!("is {size} bytes long, not {} as its descriptor says", descriptor.size);
            return Err(ImageError::Malformed { file: name.to_owned(), problem });
        }
        Ok(Blob { descriptor, source: BlobSource::File { file: self.file.clone(), offset }, labels })
    }

    /// An OCI image layout.
    fn oci(&self) -> Result<ImagePlan, ImageError> {
        let index: OciIndex = self.json("index.json")?;
        let docker_names = self.docker_names();
        let mut plan = ImagePlan::default();
        let mut unnamed = false;
        for image in &index.manifests {
            let mut names: Vec<String> = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
                .iter()
                .filter_map(|key| image.annotations.get(*key))
                // A bare tag (`latest`) names no image.
                .filter(|name| name.contains(['/', ':']))
                .take(1)
                .map(|name| full_name(name))
                .collect();
            if names.is_empty() {
                let config = self.json::<OciManifest>(&blob_path(&image.digest)).map(|manifest| manifest.config.digest);
                names = config.ok().and_then(|digest| docker_names.get(&digest).cloned()).unwrap_or_default();
            }
            unnamed |= names.is_empty();
            if !names.is_empty() {
                let target = self.oci_node(image, &mut plan)?;
                plan.images.extend(names.into_iter().map(|name| (name, target.clone())));
            }
        }
        match plan.images.is_empty() {
            true if unnamed => Err(ImageError::NoName),
            true => Err(ImageError::NoIndex),
            false => Ok(plan),
        }
    }

    /// Adds an index or manifest and what it refers to, children first.
    fn oci_node(&self, node: &OciDescriptor, plan: &mut ImagePlan) -> Result<Descriptor, ImageError> {
        let path = blob_path(&node.digest);
        let mut labels = BTreeMap::new();
        if node.media_type.ends_with("image.index.v1+json") || node.media_type.ends_with("manifest.list.v2+json") {
            let index: OciIndex = self.json(&path)?;
            let mut runnable = false;
            for (i, child) in index.manifests.iter().enumerate() {
                labels.insert(format!("containerd.io/gc.ref.content.m.{i}"), child.digest.clone());
                // An archive need not hold the other platforms' images.
                if self.entries.contains_key(&blob_path(&child.digest)) {
                    self.oci_node(child, plan)?;
                    runnable |=
                        child.platform.as_ref().is_none_or(|p| p.os == "linux" && p.architecture == architecture());
                }
            }
            if !runnable {
                return Err(ImageError::WrongPlatform(format!("linux/{}", architecture())));
            }
        } else {
            let manifest: OciManifest = self.json(&path)?;
            labels.insert("containerd.io/gc.ref.content.config".into(), manifest.config.digest.clone());
            for (i, layer) in manifest.layers.iter().enumerate() {
                labels.insert(format!("containerd.io/gc.ref.content.l.{i}"), layer.digest.clone());
                self.oci_leaf(layer, plan)?;
            }
            self.oci_leaf(&manifest.config, plan)?;
        }
        plan.blobs.push(self.blob(&path, descriptor(node), labels)?);
        Ok(descriptor(node))
    }

    fn oci_leaf(&self, leaf: &OciDescriptor, plan: &mut ImagePlan) -> Result<(), ImageError> {
        if !plan.blobs.iter().any(|blob| blob.descriptor.digest == leaf.digest) {
            plan.blobs.push(self.blob(&blob_path(&leaf.digest), descriptor(leaf), BTreeMap::new())?);
        }
        Ok(())
    }

    /// Names by config digest, where `docker save` wrote both tables.
    fn docker_names(&self) -> HashMap<String, Vec<String>> {
        let images: Vec<DockerImage> = self.json("manifest.json").unwrap_or_default();
        let name = |image: DockerImage| {
            let digest = digest(&self.read(&image.config).ok()?);
            Some((digest, image.repo_tags.unwrap_or_default().iter().map(|tag| full_name(tag)).collect()))
        };
        images.into_iter().filter_map(name).collect()
    }

    /// What `docker save` wrote before it wrote OCI layouts: the manifest is made here.
    fn docker(&self) -> Result<ImagePlan, ImageError> {
        let images: Vec<DockerImage> = self.json("manifest.json")?;
        let mut plan = ImagePlan::default();
        for image in &images {
            let names = image.repo_tags.iter().flatten().map(|tag| full_name(tag)).collect::<Vec<_>>();
            if names.is_empty() {
                continue;
            }
            let config = self.read(&image.config)?;
            let mut labels = BTreeMap::new();
            let mut layers = Vec::new();
            for (i, name) in image.layers.iter().enumerate() {
                let layer = self.docker_layer(name)?;
                labels.insert(format!("containerd.io/gc.ref.content.l.{i}"), layer.digest.clone());
                layers.push(json_descriptor(&layer));
                if !plan.blobs.iter().any(|blob| blob.descriptor.digest == layer.digest) {
                    plan.blobs.push(self.blob(name, layer, BTreeMap::new())?);
                }
            }
            let config = in_memory("application/vnd.docker.container.image.v1+json", config, BTreeMap::new());
            labels.insert("containerd.io/gc.ref.content.config".into(), config.descriptor.digest.clone());
            let media_type = "application/vnd.docker.distribution.manifest.v2+json";
            let manifest = serde_json::json!({
                "schemaVersion": 2,
                "mediaType": media_type,
                "config": json_descriptor(&config.descriptor),
                "layers": layers,
            });
            let manifest = in_memory(media_type, manifest.to_string().into_bytes(), labels);
            plan.images.extend(names.into_iter().map(|name| (name, manifest.descriptor.clone())));
            plan.blobs.extend([config, manifest]);
        }
        if plan.images.is_empty() {
            return Err(if images.is_empty() { ImageError::NoIndex } else { ImageError::NoName });
        }
        Ok(plan)
    }

    /// Layers of a docker archive have no descriptors: their digests are taken here.
    fn docker_layer(&self, name: &str) -> Result<Descriptor, ImageError> {
        use sha2::Digest as _;
        let Entry { offset, size } = self.entry(name)?;
        let mut hash = sha2::Sha256::new();
        let mut buffer = vec![0; 256 * 1024];
        let mut done = 0;
        let mut gzip = false;
        while done < size {
            let want = usize::try_from(size - done).unwrap_or(usize::MAX).min(buffer.len());
            let part = &mut buffer[..want];
            let error = |e: std::io::Error| ImageError::Malformed { file: name.to_owned(), problem: e.to_string() };
            self.file.read_exact_at(part, offset + done).map_err(error)?;
            gzip |= done == 0 && part.starts_with(&GZIP_MAGIC);
            hash.update(&*part);
            done += want as u64;
        }
        let media_type = if gzip {
            "application/vnd.docker.image.rootfs.diff.tar.gzip"
        } else {
            "application/vnd.docker.image.rootfs.diff.tar"
        };
        Ok(Descriptor { media_type: media_type.into(), digest: hex_digest(hash.finalize().as_slice()), size })
    }
}

fn in_memory(media_type: &str, bytes: Vec<u8>, labels: BTreeMap<String, String>) -> Blob {
    let descriptor = Descriptor { media_type: media_type.into(), digest: digest(&bytes), size: bytes.len() as u64 };
    Blob { descriptor, source: BlobSource::Memory(Bytes::from(bytes)), labels }
}

fn json_descriptor(descriptor: &Descriptor) -> serde_json::Value {
    let Descriptor { media_type, digest, size } = descriptor;
    serde_json::json!({ "mediaType": media_type, "size": size, "digest": digest })
}

fn descriptor(of: &OciDescriptor) -> Descriptor {
    Descriptor { media_type: of.media_type.clone(), digest: of.digest.clone(), size: of.size }
}

/// `sha256:abc` → `blobs/sha256/abc`.
fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

fn normal(path: &str) -> String {
    path.trim_start_matches("./").trim_start_matches('/').to_owned()
}

fn resolve(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A name with registry, `library/` and tag filled in as docker does.
fn full_name(name: &str) -> String {
    let first = name.split('/').next().unwrap_or_default();
    let has_registry = name.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    let name = match (has_registry, name.contains('/')) {
        (true, _) => name.to_owned(),
        (false, true) => format!("docker.io/{name}"),
        (false, false) => format!("docker.io/library/{name}"),
    };
    let last = name.rsplit('/').next().unwrap_or_default();
    if last.contains([':', '@']) { name } else { format!("{name}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar_of(files: &[(&str, &[u8])]) -> File {
        let mut tar = tar::Builder::new(tempfile::tempfile().unwrap());
        for (name, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, *bytes).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn error_of(file: File) -> String {
        plan(file, Path::new("x.tar")).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_an_image_says_why() {
        let mut text = tempfile::tempfile().unwrap();
        text.write_all(&b"hello, I am a text file of some length, long enough for a tar header".repeat(20)).unwrap();
        assert!(error_of(text).starts_with("not a tar archive"));
        let mut zstd = tempfile::tempfile().unwrap();
        zstd.write_all(&ZSTD_MAGIC).unwrap();
        assert!(error_of(zstd).contains("zstd -d"));
        assert!(error_of(tar_of(&[("hello", b"world")])).starts_with("no image in the archive"));
        assert_eq!(
            error_of(tar_of(&[("manifest.json", br#"[{"Config":"c.json","Layers":[]}]"#)])),
            ImageError::NoName.to_string()
        );
        assert_eq!(
            error_of(tar_of(&[("manifest.json", br#"[{"Config":"c.json","RepoTags":["a:b"],"Layers":[]}]"#)])),
            "the archive lacks c.json"
        );
        assert!(error_of(tar_of(&[("index.json", b"{")])).starts_with("index.json: EOF"));
    }

    #[test]
    fn docker_archives_get_a_manifest_and_full_names() {
        let manifest = br#"[{"Config":"c.json","RepoTags":["busybox:1.36","me/app"],"Layers":["l/layer.tar"]}]"#;
        let file = tar_of(&[("manifest.json", manifest), ("c.json", b"{}"), ("l/layer.tar", b"layer")]);
        let plan = plan(file, Path::new("x.tar")).unwrap();
        let names: Vec<_> = plan.images.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["docker.io/library/busybox:1.36", "docker.io/me/app:latest"]);
        let kinds: Vec<_> = plan.blobs.iter().map(|blob| blob.descriptor.media_type.as_str()).collect();
        assert_eq!(
            kinds,
            [
                "application/vnd.docker.image.rootfs.diff.tar",
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.distribution.manifest.v2+json"
            ]
        );
        assert_eq!(plan.blobs[0].descriptor.digest, digest(b"layer"));
        assert_eq!(plan.blobs[2].labels["containerd.io/gc.ref.content.l.0"], digest(b"layer"));
    }

    #[test]
    fn names_are_filled_in_as_docker_does() {
        for (short, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("a/b:1", "docker.io/a/b:1"),
            ("localhost/x", "localhost/x:latest"),
            ("reg.example:5000/x/y:2", "reg.example:5000/x/y:2"),
        ] {
            assert_eq!(full_name(short), full);
        }
    }
}
