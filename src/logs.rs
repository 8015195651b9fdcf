//! CRI log files read as `kubectl logs` shows them (`pkg/kubelet/kuberuntime/logs`).

mod lines;
pub mod rotate;

use crate::clock;
use bytes::Bytes;
use futures::future::{BoxFuture, FusedFuture};
use futures::{FutureExt, Stream, stream};
use jiff::Timestamp;
use lines::Lines;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Notify;

/// Read from the file, and at most about as much given out, at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// `v1.PodLogOptions`, but for what chooses the container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    pub timestamps: bool,
    pub since_seconds: Option<i64>,
    pub since_time: Option<Timestamp>,
    pub tail_lines: Option<u64>,
    pub limit_bytes: Option<u64>,
    /// `None` is both.
    pub stream: Option<LogStream>,
}

/// One of a container's two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    Stdout,
    Stderr,
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("failed to try resolving symlinks in path {path:?}: lstat {}: {}", .path.display(), go_text(.source))]
    Resolve { path: PathBuf, source: io::Error },
    #[error("failed to open log file {path:?}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("failed to read log file {path:?}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("failed to watch log file {path:?}: {source}")]
    Watch { path: PathBuf, source: notify::Error },
}

/// What the kubelet answers to a query that it cannot read, and to one that makes no sense.
const UNREADABLE: &str = r#"{"message": "Unable to decode query."}"#;
const INVALID: &str = r#"{"message": "Invalid request."}"#;

impl LogOptions {
    /// Reads the query of `/containerLogs`; the error is the kubelet's answer.
    pub fn from_query<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Self, String> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let flag = |name: &str| match get(name) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(_) => Err(UNREADABLE.to_owned()),
        };
        let number = |name: &str, least: i64| match get(name).map(str::parse::<i64>) {
            None => Ok(None),
            Some(Ok(value)) if value >= least => Ok(Some(value)),
            Some(Ok(_)) => Err(INVALID.to_owned()),
            Some(Err(_)) => Err(UNREADABLE.to_owned()),
        };
        let options = Self {
            follow: flag("follow")?,
            timestamps: flag("timestamps")?,
            since_seconds: number("sinceSeconds", 1)?,
            since_time: get("sinceTime").map(str::parse).transpose().map_err(|_| UNREADABLE.to_owned())?,
            tail_lines: number("tailLines", 0)?.map(i64::unsigned_abs),
            limit_bytes: number("limitBytes", 1)?.map(i64::unsigned_abs),
            stream: match get("stream") {
                None | Some("All") => None,
                Some("Stdout") => Some(LogStream::Stdout),
                Some("Stderr") => Some(LogStream::Stderr),
                Some(_) => return Err(INVALID.to_owned()),
            },
        };
        let two_starts = options.since_seconds.is_some() && options.since_time.is_some();
        let tail_of_one = options.tail_lines.is_some() && options.stream.is_some();
        if two_starts || tail_of_one { Err(INVALID.to_owned()) } else { Ok(options) }
    }

    /// Lines before this are left out.
    fn since(&self) -> Option<Timestamp> {
        let seconds = self.since_seconds.map(|seconds| {
            clock::now().wall.checked_sub(jiff::SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN)
        });
        seconds.or(self.since_time)
    }
}

/// The log as text, in chunks made as they are asked for. Following goes on over rotations and ends with what is there
/// when `ended` (the container no longer runs) completes.
pub fn stream(
    path: impl AsRef<Path>,
    options: LogOptions,
    ended: impl Future<Output = ()> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, LogError>> + Send + 'static {
    let path = path.as_ref().to_owned();
    let opening = Some((path, options, ended.boxed()));
    stream::try_unfold((opening, None::<Follower>), |(opening, follower)| async move {
        let mut follower = match (opening, follower) {
            (Some((path, options, ended)), _) => Follower::open(path, options, ended).await?,
            (None, Some(follower)) => follower,
            (None, None) => return Ok(None),
        };
        let chunk = follower.next().await?;
        Ok(chunk.map(|chunk| (chunk, (None, Some(follower)))))
    })
}

/// The file and what tells that there is more of it.
struct Follower {
    /// `None` only while a read is under way (or was cancelled).
    reader: Option<Reader>,
    path: PathBuf,
    watch: Option<Watch>,
    ended: futures::future::Fuse<BoxFuture<'static, ()>>,
}

/// Tells of changes in the log's folder.
struct Watch {
    /// Watching stops when this is dropped.
    _watcher: RecommendedWatcher,
    changed: Arc<Notify>,
}

impl Follower {
    async fn open(path: PathBuf, options: LogOptions, ended: BoxFuture<'static, ()>) -> Result<Self, LogError> {
        // `/var/log/containers` holds links.
        let resolved = tokio::fs::canonicalize(&path).await;
        let path = resolved.map_err(|source| LogError::Resolve { path, source })?;
        let error = |source| LogError::Open { path: path.clone(), source };
        // First the watch, then the reading: nothing written in between is missed.
        let watch = if options.follow { Some(Watch::start(&path)?) } else { None };
        let (opened, since) = (path.clone(), options.since());
        let reader = blocking(move || Reader::open(&opened, &options, since)).await.map_err(error)?;
        Ok(Self { reader: Some(reader), path, watch, ended: ended.fuse() })
    }

    /// The next text, or `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, LogError> {
        loop {
            let Some(mut reader) = self.reader.take() else { return Ok(None) };
            // Asked before the read: what was written before the end is then read.
            let over = self.ended.is_terminated() || (&mut self.ended).now_or_never().is_some();
            let (path, follow) = (self.path.clone(), self.watch.is_some() && !over);
            let read = blocking(move || reader.read(&path, follow).map(|step| (reader, step))).await;
            let (reader, step) = read.map_err(|source| LogError::Read { path: self.path.clone(), source })?;
            self.reader = Some(reader);
            match step {
                Step::Text(text) if text.is_empty() => {}
                Step::Text(text) => return Ok(Some(text)),
                Step::End => return Ok(None),
                Step::Wait => self.wait().await,
            }
        }
    }

    async fn wait(&mut self) {
        let Some(watch) = &self.watch else { return };
        // Both arms are cancel-safe: a notification is kept until taken, and the future is ours.
        tokio::select! {
            () = watch.changed.notified() => {}
            () = &mut self.ended, if !self.ended.is_terminated() => {}
        }
    }
}

impl Watch {
    fn start(path: &Path) -> Result<Self, LogError> {
        let changed = Arc::new(Notify::new());
        let notify = changed.clone();
        let error = |source| LogError::Watch { path: path.to_owned(), source };
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reading is an access. An error (an overflow) may hide a change.
            if event.is_err() || event.is_ok_and(|event| !event.kind.is_access()) {
                notify.notify_one();
            }
        })
        .map_err(error)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        watcher.watch(folder, RecursiveMode::NonRecursive).map_err(error)?;
        Ok(Self { _watcher: watcher, changed })
    }
}

/// What a read gave.
enum Step {
    /// May be empty: all that was read has been filtered out.
    Text(Bytes),
    /// All there is for now.
    Wait,
    End,
}

/// Reads one file after the other, blocking.
struct Reader {
    file: File,
    lines: Lines,
    /// A new file has taken the path: the old one is read to its end first.
    rotated: bool,
    buffer: Vec<u8>,
}

impl Reader {
    fn open(path: &Path, options: &LogOptions, since: Option<Timestamp>) -> io::Result<Self> {
        let mut file = File::open(path)?;
        if let Some(tail) = options.tail_lines {
            let start = tail_start(&mut file, tail)?;
            file.seek(SeekFrom::Start(start))?;
        }
        // Without following, lines that come while we read do not make the tail longer.
        let line_limit = options.tail_lines.filter(|_| !options.follow);
        Ok(Self { file, lines: Lines::new(options, since, line_limit), rotated: false, buffer: vec![0; CHUNK_BYTES] })
    }

    fn read(&mut self, path: &Path, follow: bool) -> io::Result<Step> {
        if self.lines.is_full() {
            return Ok(Step::End);
        }
        let length = self.file.read(&mut self.buffer)?;
        let mut text = Vec::new();
        if length > 0 {
            self.lines.feed(&self.buffer[..length], &mut text);
            return Ok(Step::Text(text.into()));
        }
        if self.rotated {
            self.lines.finish(&mut text);
            self.file = File::open(path)?;
            self.rotated = false;
            return Ok(Step::Text(text.into()));
        }
        // The file that is written now may be another one, also when the container has ended since.
        self.rotated = self.lines.follows() && self.is_replaced(path)?;
        match (self.rotated, follow) {
            // The last that was written to the old one may have come after our read.
            (true, _) => Ok(Step::Text(Bytes::new())),
            (false, true) => Ok(Step::Wait),
            (false, false) => {
                self.lines.finish(&mut text);
                Ok(if text.is_empty() { Step::End } else { Step::Text(text.into()) })
            }
        }
    }

    /// Between the renaming and the making of the new file there is none: not replaced yet.
    fn is_replaced(&self, path: &Path) -> io::Result<bool> {
        match std::fs::metadata(path) {
            Ok(now) => {
                let ours = self.file.metadata()?;
                Ok((now.dev(), now.ino()) != (ours.dev(), ours.ino()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Where the last `lines` lines begin (`tail.FindTailLineStartIndex`), read backwards.
fn tail_start(file: &mut File, lines: u64) -> io::Result<u64> {
    let mut right = file.seek(SeekFrom::End(0))?;
    let mut ends = 0;
    let mut block = vec![0; CHUNK_BYTES];
    while right > 0 {
        let length = usize::try_from(right).unwrap_or(usize::MAX).min(block.len());
        let left = right - length as u64;
        file.seek(SeekFrom::Start(left))?;
        file.read_exact(&mut block[..length])?;
        for (i, _) in block[..length].iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            if ends == lines {
                return Ok(left + i as u64 + 1);
            }
            ends += 1;
        }
        right = left;
    }
    Ok(0)
}

/// Makes a folder for logs and those above it; the error is Go's.
pub(crate) async fn make_folder(path: &Path) -> Result<(), String> {
    let made = tokio::fs::create_dir_all(path).await;
    made.map_err(|error| format!("mkdir {}: {}", path.display(), go_text(&error)))
}

/// An I/O error as Go prints it, for what users know from the kubelet.
fn go_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::StorageFull => "no space left on device".to_owned(),
        _ => error.to_string(),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // Only a panic in the work gets here.
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

#[cfg(test)]
mod tests;
