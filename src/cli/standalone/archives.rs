//! The air gap: every archive in `<data-dir>/images/` is imported at start, and when it appears.

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{EventKind, RecursiveMode, Watcher};
use skiff::images::Images;
use std::fs;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// Files that may wait while one is imported; beyond it the whole directory is read again.
const QUEUE: usize = 64;

/// What the watch saw.
enum Seen {
    /// A file was closed after writing, or moved here.
    Complete(PathBuf),
    /// More than could be told.
    Many,
}

/// Runs until dropped. One archive at a time: an import is disk work.
pub(super) async fn follow(directory: PathBuf, images: Images) {
    let (sender, mut seen) = mpsc::channel(QUEUE);
    // A full queue is told by its last free place: after `Many`, everything is looked at again.
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let message = match event {
            Ok(event) if event.need_rescan() => vec![Seen::Many],
            Ok(event) if completes_a_file(event.kind) => event.paths.into_iter().map(Seen::Complete).collect(),
            Ok(_) => Vec::new(),
            Err(_) => vec![Seen::Many],
        };
        for message in message {
            let message = if sender.capacity() > 1 { message } else { Seen::Many };
            // Full: a `Many` waits already, and stands for this one too.
            let _ = sender.try_send(message);
        }
    });
    // Watched before it is read: what appears in between is seen.
    let watcher = watcher.and_then(|mut watcher| {
        watcher.watch(&directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    if let Err(error) = &watcher {
        tracing::warn!(directory = %directory.display(), %error, "archives are imported at start only: cannot watch");
    }
    import_all(&directory, &images).await;
    while let Some(message) = seen.recv().await {
        match message {
            Seen::Complete(path) => import(&path, &images).await,
            Seen::Many => import_all(&directory, &images).await,
        }
    }
    // Without a watch there is nothing left to do, with one we never come here.
}

fn completes_a_file(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Modify(ModifyKind::Name(RenameMode::To))
    )
}

async fn import_all(directory: &Path, images: &Images) {
    let mut archives: Vec<PathBuf> = match fs::read_dir(directory) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) => return tracing::warn!(directory = %directory.display(), %error, "cannot list archives"),
    };
    archives.sort();
    for archive in archives {
        import(&archive, images).await;
    }
}

async fn import(archive: &Path, images: &Images) {
    if !is_archive(archive) {
        return;
    }
    match images.import_archive(archive).await {
        Ok(imported) => {
            for image in imported {
                tracing::info!(archive = %archive.display(), image = %image.name, "image imported");
            }
        }
        Err(error) => {
            tracing::error!(archive = %archive.display(), error = %anyhow::Error::from(error), "image not imported");
        }
    }
}

/// Hidden files are someone's copy in progress.
fn is_archive(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let ends = [".tar", ".tar.gz", ".tgz", ".tar.zst"];
    !name.starts_with('.') && ends.iter().any(|end| name.ends_with(end)) && path.is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_known_by_their_names() {
        let dir = tempfile::tempdir().unwrap();
        for (name, expected) in
            [("busybox.tar", true), ("a.tar.gz", true), ("a.tgz", true), (".a.tar", false), ("README", false)]
        {
            let path = dir.path().join(name);
            fs::write(&path, "").unwrap();
            assert_eq!(is_archive(&path), expected, "{name}");
        }
        assert!(!is_archive(&dir.path().join("absent.tar")));
    }
}
