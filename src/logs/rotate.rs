//! Rotation of container logs as `pkg/kubelet/logs` does it: the written file is renamed, older ones are compressed,
//! the oldest go. What reads the directory finds the same names as with the kubelet.

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

const COMPRESSED: &str = ".gz";
/// Of a file that is being compressed.
const UNFINISHED: &str = ".tmp";

/// Is the log larger than it may be? One that is not there is not.
pub fn is_due(log: &Path, max_bytes: u64) -> io::Result<bool> {
    match fs::metadata(log) {
        Ok(metadata) => Ok(metadata.len() > max_bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes room for one more rotated file (`max_files` counts the one being written), compresses those that are not, and
/// renames the log. The runtime then has to open it anew; `undo` gives it its name back where it cannot.
pub fn rotate(log: &Path, max_files: u32, now: Timestamp) -> io::Result<PathBuf> {
    let rotated = drop_excess(rotated(log)?, max_files)?;
    for old in rotated.iter().filter(|old| !has_suffix(old, COMPRESSED)) {
        compress(old)?;
    }
    let target = append(log, &format!(".{}", now.strftime("%Y%m%d-%H%M%S")));
    fs::rename(log, &target)?;
    Ok(target)
}

/// The runtime goes on writing to the renamed file.
pub fn undo(log: &Path, rotated: &Path) -> io::Result<()> {
    fs::rename(rotated, log)
}

/// Rotated files of a log, the oldest first; what an interrupted compression left is removed.
fn rotated(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(folder), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{name}.");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if !path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&prefix)) {
            continue;
        }
        if has_suffix(&path, UNFINISHED) {
            fs::remove_file(&path)?;
        } else {
            found.push(path);
        }
    }
    // The time in the name sorts; a compressed file comes after its original, which is then the one to go.
    found.sort();
    let originals: Vec<_> = found.iter().filter(|path| found.contains(&append(path, COMPRESSED))).cloned().collect();
    for original in &originals {
        fs::remove_file(original)?;
    }
    found.retain(|path| !originals.contains(path));
    Ok(found)
}

/// Two stay free: for the log that is about to be renamed, and for the new one.
fn drop_excess(mut rotated: Vec<PathBuf>, max_files: u32) -> io::Result<Vec<PathBuf>> {
    let keep = usize::try_from(max_files.saturating_sub(2)).unwrap_or(usize::MAX);
    let excess = rotated.len().saturating_sub(keep);
    for old in rotated.drain(..excess) {
        fs::remove_file(old)?;
    }
    Ok(rotated)
}

fn compress(log: &Path) -> io::Result<()> {
    let unfinished = append(log, UNFINISHED);
    let mut encoder = GzEncoder::new(File::create(&unfinished)?, Compression::default());
    io::copy(&mut File::open(log)?, &mut encoder)?;
    encoder.finish()?;
    fs::rename(&unfinished, append(log, COMPRESSED))?;
    fs::remove_file(log)
}

fn append(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn has_suffix(path: &Path, suffix: &str) -> bool {
    path.as_os_str().to_string_lossy().ends_with(suffix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn five_files_stay_and_all_but_the_newest_rotated_one_are_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        for second in 0..7 {
            fs::write(&log, format!("round {second}\n")).unwrap();
            rotate(&log, 5, Timestamp::from_second(second).unwrap()).unwrap();
        }
        fs::write(&log, "now\n").unwrap();
        let stamp = |second: u32| format!("0.log.19700101-00000{second}");
        let expected = [
            "0.log".to_owned(),
            format!("{}.gz", stamp(3)),
            format!("{}.gz", stamp(4)),
            format!("{}.gz", stamp(5)),
            stamp(6),
        ];
        assert_eq!(names(dir.path()), expected);
        let mut text = String::new();
        let file = File::open(dir.path().join(format!("{}.gz", stamp(3)))).unwrap();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "round 3\n");
    }

    #[test]
    fn an_interrupted_compression_is_begun_anew_and_nothing_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        for (name, text) in [("0.log", "now"), ("0.log.1", "old"), ("0.log.1.tmp", "half"), ("1.log.1", "other")] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let target = rotate(&log, 5, Timestamp::from_second(0).unwrap()).unwrap();
        assert_eq!(names(dir.path()), ["0.log.1.gz", "0.log.19700101-000000", "1.log.1"]);
        undo(&log, &target).unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "now");
    }

    #[test]
    fn only_what_is_larger_than_allowed_is_due() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        assert!(!is_due(&log, 3).unwrap(), "a log that is not there");
        fs::write(&log, "abc").unwrap();
        assert!(!is_due(&log, 3).unwrap());
        fs::write(&log, "abcd").unwrap();
        assert!(is_due(&log, 3).unwrap());
    }
}
