//! The audit log's file: JSON lines, rotated by size, old ones removed by number and age (as upstream's lumberjack).

use crate::clock;
use jiff::Timestamp;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// Lines written at once when many wait.
const BATCH: usize = 256;
/// In the names of rotated files, as lumberjack writes it: `audit-2026-01-31T12-00-00.000.log`.
const STAMP: &str = "%Y-%m-%dT%H-%M-%S%.3f";
const DAY_SECONDS: i64 = 86_400;

/// `--audit-log-path` and its kin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `-` is standard output.
    pub path: PathBuf,
    /// `--audit-log-maxsize`, in MiB, before the file is rotated.
    pub max_size_mib: u64,
    /// `--audit-log-maxbackup`: rotated files kept; 0 is all.
    pub max_backups: usize,
    /// `--audit-log-maxage`: days for which they are kept; 0 is for ever.
    pub max_age_days: u32,
}

enum Target {
    Stdout,
    File { file: File, size: u64 },
}

/// The open log, owned by its thread.
pub(super) struct Log {
    config: LogConfig,
    target: Target,
}

impl Log {
    /// Opens the file, removing rotated ones that are due.
    pub(super) fn open(config: LogConfig, now: Timestamp) -> io::Result<Self> {
        if config.path == Path::new("-") {
            return Ok(Self { config, target: Target::Stdout });
        }
        if let Some(folder) = config.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)?;
        }
        let target = open(&config.path)?;
        let log = Self { config, target };
        log.remove_old(now);
        Ok(log)
    }

    /// Writes lines until nobody can send any more.
    pub(super) fn write_all(&mut self, mut lines: mpsc::Receiver<String>) {
        let mut waiting = Vec::new();
        let mut batch = Vec::new();
        while lines.blocking_recv_many(&mut waiting, BATCH) > 0 {
            batch.clear();
            for line in waiting.drain(..) {
                batch.extend_from_slice(line.as_bytes());
                batch.push(b'\n');
            }
            if let Err(error) = self.write(&batch, clock::now().wall) {
                tracing::error!(path = %self.config.path.display(), %error, "the audit log cannot be written");
            }
        }
    }

    fn write(&mut self, lines: &[u8], now: Timestamp) -> io::Result<()> {
        let limit = self.config.max_size_mib << 20;
        if let Target::File { size, .. } = &self.target
            && *size > 0
            && *size + lines.len() as u64 > limit
        {
            std::fs::rename(&self.config.path, rotated(&self.config.path, now))?;
            self.target = open(&self.config.path)?;
            self.remove_old(now);
        }
        match &mut self.target {
            Target::Stdout => io::stdout().lock().write_all(lines),
            Target::File { file, size } => {
                *size += lines.len() as u64;
                file.write_all(lines)
            }
        }
    }

    /// Removes rotated files beyond number and age. What cannot be removed is left for the next time.
    fn remove_old(&self, now: Timestamp) {
        let LogConfig { path, max_backups, max_age_days, .. } = &self.config;
        let Some(folder) = path.parent() else { return };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        for name in due(path, names, *max_backups, *max_age_days, now) {
            if let Err(error) = std::fs::remove_file(folder.join(&name)) {
                tracing::warn!(name, %error, "an old audit log cannot be removed");
            }
        }
    }
}

fn open(path: &Path) -> io::Result<Target> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok(Target::File { file, size })
}

/// `dir/audit.log` → (`audit-`, `.log`).
fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned());
    let extension = text(path.extension()).map(|extension| format!(".{extension}")).unwrap_or_default();
    (text(path.file_stem()).unwrap_or_default() + "-", extension)
}

fn rotated(path: &Path, now: Timestamp) -> PathBuf {
    let (stem, extension) = parts(path);
    path.with_file_name(format!("{stem}{}{extension}", now.strftime(STAMP)))
}

/// Which of a folder's files are rotated logs that have to go: beyond the newest `keep`, or older than `days`.
fn due(path: &Path, names: Vec<String>, keep: usize, days: u32, now: Timestamp) -> Vec<String> {
    let (stem, extension) = parts(path);
    let age_limit = i64::from(days) * DAY_SECONDS;
    let mut rotated: Vec<(i64, String)> = names
        .into_iter()
        .filter_map(|name| {
            let stamp = name.strip_prefix(stem.as_str())?.strip_suffix(extension.as_str())?;
            let at = jiff::civil::DateTime::strptime(STAMP, stamp).ok()?;
            let at = at.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
            Some((at.as_millisecond(), name))
        })
        .collect();
    rotated.sort_unstable_by(|a, b| b.cmp(a));
    let beyond = |index: usize| keep > 0 && index >= keep;
    let old = |at: i64| days > 0 && now.as_millisecond() - at > age_limit * 1000;
    let due = rotated.into_iter().enumerate().filter(|(index, (at, _))| beyond(*index) || old(*at));
    due.map(|(_, (_, name))| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotated_files_go_by_number_and_by_age() {
        let now: Timestamp = "2026-06-10T00:00:00Z".parse().unwrap();
        let path = Path::new("/var/log/audit.log");
        let name = |day: u32| format!("audit-2026-06-{day:02}T00-00-00.000.log");
        assert_eq!(rotated(path, now), Path::new("/var/log/audit-2026-06-10T00-00-00.000.log"));
        let names = || {
            let others = ["audit.log", "audit-x.log", "other-2026-06-01T00-00-00.000.log"].map(str::to_owned);
            [1, 9, 5].map(name).into_iter().chain(others).collect::<Vec<_>>()
        };
        for (keep, days, wanted) in
            [(0, 0, vec![]), (2, 0, vec![1]), (1, 0, vec![5, 1]), (0, 5, vec![1]), (5, 3, vec![5, 1])]
        {
            let wanted: Vec<String> = wanted.into_iter().map(name).collect();
            assert_eq!(due(path, names(), keep, days, now), wanted, "{keep} {days}");
        }
    }

    #[test]
    fn a_full_file_is_rotated_and_nothing_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/audit.log");
        let config = LogConfig { path: path.clone(), max_size_mib: 1, max_backups: 2, max_age_days: 0 };
        let start: Timestamp = "2026-06-10T00:00:00Z".parse().unwrap();
        let mut log = Log::open(config, start).unwrap();
        let line = vec![b'x'; 700 << 10];
        for second in 0..5 {
            log.write(&line, start + jiff::SignedDuration::from_secs(second)).unwrap();
        }
        let mut files: Vec<(String, u64)> = std::fs::read_dir(path.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()))
            .collect();
        files.sort();
        let size = line.len() as u64;
        let kept = ["audit-2026-06-10T00-00-03.000.log", "audit-2026-06-10T00-00-04.000.log", "audit.log"];
        assert_eq!(files, kept.map(|name| (name.to_owned(), size)));
    }
}
