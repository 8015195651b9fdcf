//! Files written whole or not at all, never readable by others before they are closed to them.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What could not be done with which path.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct FileError {
    pub action: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

impl FileError {
    pub(crate) fn on<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| Self { action, path: path.to_owned(), source }
    }
}

/// Readable by the owner only: keys, kubeconfigs.
pub const PRIVATE: u32 = 0o600;
/// Readable by all: certificates, generated configuration.
pub const PUBLIC: u32 = 0o644;

/// Replaces `path` by `bytes`: a reader, or a crash at any moment, sees the old file or the new one.
pub fn write_atomic(path: &Path, bytes: impl AsRef<[u8]>, mode: u32) -> Result<(), FileError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || {
        // 0600 from its first moment.
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(bytes.as_ref())?;
        file.as_file().set_permissions(Permissions::from_mode(mode))?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(FileError::on("write", path))
}

/// Writes only when the content differs, so that watchers of the file are not woken for nothing. True: written.
pub fn write_if_changed(path: &Path, bytes: impl AsRef<[u8]>, mode: u32) -> Result<bool, FileError> {
    if fs::read(path).is_ok_and(|old| old == bytes.as_ref()) {
        return Ok(false);
    }
    write_atomic(path, bytes, mode).map(|()| true)
}

/// Makes a directory and its parents; the directory itself gets `mode`.
pub fn make_dir(path: &Path, mode: u32) -> Result<(), FileError> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(FileError::on("create", path))?;
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(FileError::on("set the mode of", path))
}

/// Reads a file; `None` when there is none.
pub fn read_optional(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::on("read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_is_replaced_whole_and_stays_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_atomic(&path, "one", PRIVATE).unwrap();
        write_atomic(&path, "two", PRIVATE).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn an_unchanged_file_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("conf");
        assert!(write_if_changed(&path, "one", PUBLIC).unwrap());
        assert!(!write_if_changed(&path, "one", PUBLIC).unwrap());
        assert!(write_if_changed(&path, "two", PUBLIC).unwrap());
    }

    #[test]
    fn an_error_names_action_and_path() {
        let error = write_atomic(Path::new("/nonexistent/x"), "", PUBLIC).unwrap_err();
        assert_eq!(error.to_string(), "cannot write /nonexistent/x");
        assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
    }
}
