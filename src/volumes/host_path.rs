//! hostPath: nothing is placed; the path is checked against its type, or made.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Component, Path};

/// `kind` as in the API: empty, `Directory`, `FileOrCreate`, …
pub(super) fn check(path: &Path, kind: &str) -> Result<(), String> {
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("invalid HostPath `{}`: must not contain '..'", path.display()));
    }
    // `stat`, as the kubelet: a link counts as what it points to.
    let found = match fs::metadata(path) {
        Ok(meta) => Some(meta.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        // As the kubelet: a path that cannot be looked at is none of any type.
        Err(_) => None,
    };
    let is = |test: fn(&fs::FileType) -> bool| found.as_ref().is_some_and(test);
    let (fits, noun) = match kind {
        "" => return Ok(()),
        "DirectoryOrCreate" if found.is_none() => {
            let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
            // Of what is in the way Go names the path itself (`os.MkdirAll`).
            let at = |error: &io::Error| match error.kind() {
                io::ErrorKind::NotADirectory => path.ancestors().find(|above| above.exists()).unwrap_or(path),
                _ => path,
            };
            return made.map_err(|error| format!("mkdir {}: {}", at(&error).display(), go_error(&error)));
        }
        "FileOrCreate" if found.is_none() => {
            let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path);
            return made.map(drop).map_err(|error| format!("open {}: {}", path.display(), go_error(&error)));
        }
        "Directory" | "DirectoryOrCreate" => (is(fs::FileType::is_dir), "a directory"),
        "File" | "FileOrCreate" => (is(fs::FileType::is_file), "a file"),
        "Socket" => (is(FileTypeExt::is_socket), "a socket file"),
        "CharDevice" => (is(FileTypeExt::is_char_device), "a character device"),
        "BlockDevice" => (is(FileTypeExt::is_block_device), "a block device"),
        kind => return Err(format!("{kind} is an invalid volume type")),
    };
    if fits { Ok(()) } else { Err(format!("hostPath type check failed: {} is not {noun}", path.display())) }
}

/// As Go words it: without a capital and the number.
fn go_error(error: &io::Error) -> String {
    let mut text = error.to_string();
    text.truncate(text.find(" (os error").unwrap_or(text.len()));
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_fits_or_says_what_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let absent = dir.path().join("absent");
        fs::write(&file, "").unwrap();
        let (dir_name, absent_name) = (dir.path().display(), absent.display());
        for (path, kind, want) in [
            (dir.path(), "", String::new()),
            (&absent, "", String::new()),
            (dir.path(), "Directory", String::new()),
            (dir.path(), "File", format!("hostPath type check failed: {dir_name} is not a file")),
            (dir.path(), "CharDevice", format!("hostPath type check failed: {dir_name} is not a character device")),
            (&absent, "Directory", format!("hostPath type check failed: {absent_name} is not a directory")),
            (&absent, "BlockDevice", format!("hostPath type check failed: {absent_name} is not a block device")),
            (&file, "File", String::new()),
            (&file, "Socket", format!("hostPath type check failed: {} is not a socket file", file.display())),
            (Path::new("/dev/null"), "CharDevice", String::new()),
            (Path::new("/tmp/../etc"), "Directory", "invalid HostPath `/tmp/../etc`: must not contain '..'".into()),
            (Path::new("/dev/null"), "File", "hostPath type check failed: /dev/null is not a file".into()),
            (&absent.join("f"), "FileOrCreate", format!("open {absent_name}/f: no such file or directory")),
            (&file.join("f"), "FileOrCreate", format!("open {}/f: not a directory", file.display())),
            (&file.join("d/e"), "DirectoryOrCreate", format!("mkdir {}: not a directory", file.display())),
            (&dir.path().join("made/deep"), "DirectoryOrCreate", String::new()),
            (&dir.path().join("made/file"), "FileOrCreate", String::new()),
            (dir.path(), "Volume", "Volume is an invalid volume type".into()),
        ] {
            assert_eq!(check(path, kind).err().unwrap_or_default(), want, "{} as {kind}", path.display());
        }
        assert!(dir.path().join("made/deep").is_dir() && dir.path().join("made/file").is_file());
    }
}
