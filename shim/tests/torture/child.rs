//! The process that is killed: 16 writers and some watches on one store, each telling what happened to it.

use crate::line::Line;
use bytes::Bytes;
use skiff_shim::revision::Revision;
use skiff_shim::store::key::StoreKey;
use skiff_shim::store::sqlite::{SqliteOptions, SqliteStore};
use skiff_shim::store::{Class, Expect, Store, StoreError, Watched, Write};
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

/// First argument of the process that is the child.
pub const NAME: &str = "--child";
pub const WRITERS: usize = 16;
pub const FILE: &str = "store.db";
/// Set in the environment, it has the child make this many lazy writes and then do nothing.
pub const IDLE: &str = "TORTURE_IDLE";
/// The key that all writers increment.
pub const COUNTER: &str = "counter";

pub fn key(name: &str) -> StoreKey {
    StoreKey::object("configmaps", Some("torture"), name)
}

pub fn open(dir: &Path) -> SqliteStore {
    SqliteStore::open(&dir.join(FILE), SqliteOptions::default()).unwrap()
}

/// A running child, seen from its parent.
pub struct Running {
    child: Child,
    lines: Receiver<Line>,
}

impl Running {
    /// Starts a child on the store in `dir`; `round` makes its keys unique; its watches resume after `resume`.
    pub fn start(dir: &Path, round: u32, resume: &[u64], environment: &[(&str, PathBuf)]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(NAME).arg(dir).arg(round.to_string()).args(resume.iter().map(u64::to_string));
        command.envs(environment.iter().map(|(name, value)| (name, value))).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        // Reads until the pipe is closed; the last line may be cut off.
        std::thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                if let Some(line) = std::str::from_utf8(&line).ok().and_then(|line| line.parse().ok())
                    && sender.send(line).is_err()
                {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line; `None` when the child has ended.
    pub fn next(&self) -> Option<Line> {
        self.lines.recv().ok()
    }

    /// `kill -9` after that many lines, and everything that it said.
    pub fn kill_after(mut self, lines: usize) -> Vec<Line> {
        let mut heard: Vec<Line> = self.lines.iter().take(lines).collect();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        heard.extend(self.lines.iter());
        heard
    }
}

/// Runs until killed.
pub fn run(arguments: &[String]) {
    let [dir, round, resume @ ..] = arguments else { panic!("{arguments:?}") };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let store = Arc::new(open(Path::new(dir)));
    runtime.block_on(async {
        tell(&Line::Ready(store.current().await.unwrap().0));
        for (watch, after) in resume.iter().enumerate() {
            tokio::spawn(follow(store.clone(), watch, Revision(after.parse().unwrap())));
        }
        if let Some(count) = std::env::var_os(IDLE) {
            idle(&store, count.to_str().unwrap().parse().unwrap()).await;
        }
        // Every second child syncs so seldom that a power cut finds much to lose.
        let mostly_lazy = round.parse::<u32>().unwrap() % 2 == 1;
        let writers =
            (0..WRITERS).map(|writer| tokio::spawn(write(store.clone(), format!("{round}-{writer}"), mostly_lazy)));
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        // Only a disk that fails ends the writers; the parent ends the rest.
        std::future::pending::<()>().await;
    });
}

/// One line, whole, in one write.
fn tell(line: &Line) {
    let mut out = std::io::stdout().lock();
    // A parent that is gone hears nothing any more.
    drop(out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()));
}

async fn write(store: Arc<SqliteStore>, name: String, mostly_lazy: bool) {
    for n in 0_u64.. {
        let lazy = if mostly_lazy { !n.is_multiple_of(100) } else { n.is_multiple_of(3) };
        let class = if lazy { Class::Lazy } else { Class::Ordinary };
        let name = format!("{name}-{n}");
        let value = format!("{name} {}", "x".repeat(usize::try_from(n * 37 % 900).unwrap()));
        let put = Some(Bytes::from(value));
        let write = Write { key: key(&name), expect: Expect::Absent, put, ttl: None, class };
        match store.commit(write).await {
            Ok(revision) => {
                tell(&Line::Wrote { revision: revision.0, key: name, durable: class == Class::Ordinary });
            }
            Err(error) => return tell(&Line::Failed(error.to_string())),
        }
        if !lazy
            && n.is_multiple_of(4)
            && let Err(error) = count(&store).await
        {
            return tell(&Line::Failed(error.to_string()));
        }
    }
}

/// Some lazy writes, then silence.
async fn idle(store: &SqliteStore, count: usize) {
    for n in 0..count {
        let name = format!("idle-{n}");
        let put = Some(Bytes::from_static(b"1"));
        let write = Write { key: key(&name), expect: Expect::Any, put, ttl: None, class: Class::Lazy };
        let revision = store.commit(write).await.unwrap().0;
        tell(&Line::Wrote { revision, key: name, durable: false });
    }
    std::future::pending::<()>().await;
}

async fn count(store: &SqliteStore) -> Result<(), StoreError> {
    let key = key(COUNTER);
    let mut have = store.get(&key).await?.1;
    loop {
        let (expect, to) = match &have {
            None => (Expect::Absent, 1),
            Some(kv) => (Expect::At(kv.revision), number(&kv.value) + 1),
        };
        let put = Some(Bytes::from(to.to_string()));
        let write = Write { key: key.clone(), expect, put, ttl: None, class: Class::Ordinary };
        match store.commit(write).await {
            Ok(revision) => {
                tell(&Line::Counted { revision: revision.0, to });
                return Ok(());
            }
            Err(StoreError::Lost(current)) => have = current,
            Err(other) => return Err(other),
        }
    }
}

pub fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

async fn follow(store: Arc<SqliteStore>, watch: usize, mut after: Revision) {
    loop {
        let mut stream = match store.watch("/registry/", after).await {
            Ok(stream) => stream,
            Err(StoreError::Compacted { .. }) => return tell(&Line::Refused { watch }),
            Err(error) => return tell(&Line::Failed(error.to_string())),
        };
        // One that lags too far behind ends, and is resumed.
        while let Some(Ok(message)) = stream.next().await {
            match message {
                Watched::Events(events) => {
                    for event in events {
                        after = event.revision;
                        tell(&Line::Saw { watch, revision: after.0, key: event.key.name().to_owned() });
                    }
                }
                Watched::Progress(revision) => {
                    after = after.max(revision);
                    tell(&Line::Passed { watch, revision: after.0 });
                }
            }
        }
    }
}
