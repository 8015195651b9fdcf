//! `skiff store copy`: everything from one engine to another, at one revision.

use super::super::flags::etcd::{self, EtcdAccess};
use anyhow::Context;
use clap::Args;
use skiff::clock;
use skiff_shim::pipeline::canonical;
use skiff_shim::revision::Revision;
use skiff_shim::store::Store;
use skiff_shim::store::copy::{self, Progress};
use skiff_shim::store::etcd::EtcdStore;
use skiff_shim::store::sqlite::{SqliteOptions, SqliteStore, tools};
use skiff_shim::store::translated::Translated;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// Where output is no terminal, a line this often.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Characters of the bar.
const BAR: u64 = 30;

#[derive(Args, Debug)]
pub(crate) struct Flags {
    /// Where to read: sqlite:PATH, or etcd:URL,URL
    #[arg(long, value_name = "engine:where", value_parser = parse)]
    from: Place,
    /// Where to write: sqlite:PATH, or etcd:URL,URL
    #[arg(long, value_name = "engine:where", value_parser = parse)]
    to: Place,
    #[command(flatten)]
    access: EtcdAccess,
}

/// A store as `--from` and `--to` name it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Sqlite(PathBuf),
    /// Addresses of its members.
    Etcd(Vec<String>),
}

fn parse(text: &str) -> Result<Place, String> {
    match text.split_once(':') {
        Some(("sqlite", path)) if !path.is_empty() => Ok(Place::Sqlite(path.into())),
        Some(("etcd", urls)) => Ok(Place::Etcd(urls.split(',').map(etcd::server).collect::<Result<_, _>>()?)),
        _ => Err(format!(
            "{text:?} is no store, as in sqlite:/var/lib/skiff/store/state.db or etcd:https://10.0.0.1:2379"
        )),
    }
}

impl Place {
    /// Opens an existing store to be read.
    async fn source(&self, access: &EtcdAccess) -> anyhow::Result<Box<dyn Store>> {
        match self {
            Self::Sqlite(path) => {
                anyhow::ensure!(path.exists(), "there is no store at {}", path.display());
                Ok(Box::new(SqliteStore::open(path, SqliteOptions::default())?))
            }
            Self::Etcd(urls) => open_etcd(urls, access).await,
        }
    }

    /// Opens a store to be filled; an engine that can goes on above `revision`, so that clients of the source notice.
    async fn target(&self, access: &EtcdAccess, revision: Revision) -> anyhow::Result<Box<dyn Store>> {
        match self {
            Self::Sqlite(path) => {
                let empty = !path.exists() || tools::stats(path)?.keys == 0;
                anyhow::ensure!(empty, "the target is not empty: {} holds keys; copy to an empty one", path.display());
                tools::continue_above(path, revision)?;
                Ok(Box::new(SqliteStore::open(path, SqliteOptions::default())?))
            }
            Self::Etcd(urls) => open_etcd(urls, access).await,
        }
    }
}

/// What stock servers stored there is read as ours.
async fn open_etcd(urls: &[String], access: &EtcdAccess) -> anyhow::Result<Box<dyn Store>> {
    let store = EtcdStore::open(&access.resolve(urls.to_vec())).await?;
    Ok(Box::new(Translated::new(store, canonical)))
}

pub(super) async fn run(flags: Flags) -> anyhow::Result<()> {
    let from = flags.from.source(&flags.access).await.context("--from")?;
    let at = from.current().await.context("--from")?;
    let to = flags.to.target(&flags.access, at).await.context("--to")?;
    let mut bar = Bar::new();
    let done = copy::copy(from.as_ref(), to.as_ref(), at, |progress| bar.show(progress)).await;
    bar.end();
    let done = done?;
    let reached = to.current().await.context("--to")?;
    to.close().await.context("--to")?;
    println!("{} keys, {}, as they were at revision {at}", done.keys, super::bytes(done.bytes));
    if reached < at {
        println!("the target's revisions go on at {reached}, below the source's: restart what watched the source");
    }
    Ok(())
}

/// How far it got: a bar on a terminal, else a line now and then.
struct Bar {
    terminal: bool,
    last: Instant,
}

impl Bar {
    fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), last: clock::now().mono }
    }

    fn show(&mut self, progress: Progress) {
        let now = clock::now().mono;
        if self.terminal {
            eprint_now(&format!("\r{}", line(progress)));
        } else if now.duration_since(self.last) >= LINE_EVERY {
            self.last = now;
            eprint_now(&format!("{}\n", line(progress)));
        }
    }

    fn end(&self) {
        if self.terminal {
            eprint_now("\n");
        }
    }
}

/// Progress that cannot be shown holds nothing up.
fn eprint_now(text: &str) {
    let mut stderr = std::io::stderr();
    drop(stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()));
}

fn line(progress: Progress) -> String {
    // An empty store is copied as soon as that is known.
    let done = (progress.bytes * BAR).checked_div(progress.of_bytes).unwrap_or(BAR);
    let filled = "#".repeat(usize::try_from(done).unwrap_or(0));
    let (bytes, of) = (super::bytes(progress.bytes), super::bytes(progress.of_bytes));
    format!("[{filled:<30}] {} of {} keys, {bytes} of {of}", progress.keys, progress.of_keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_engine_and_where() {
        assert_eq!(parse("sqlite:/a/b:c.db"), Ok(Place::Sqlite("/a/b:c.db".into())));
        let urls = ["https://a:2379", "http://[::1]:2379"];
        assert_eq!(parse(&format!("etcd:{}", urls.join(","))), Ok(Place::Etcd(urls.map(str::to_owned).into())));
        for bad in ["/a/b.db", "sqlite:", "oracle:x"] {
            assert!(parse(bad).unwrap_err().contains("is no store"), "{bad}");
        }
        assert!(parse("etcd:a:2379").unwrap_err().contains("is not an address"));
    }

    #[test]
    fn progress_is_a_bar_with_counts() {
        let half = Progress { keys: 5, bytes: 512, of_keys: 10, of_bytes: 1024 };
        assert_eq!(line(half), "[###############               ] 5 of 10 keys, 512 B of 1.0 KiB");
        assert_eq!(line(Progress::default()), "[##############################] 0 of 0 keys, 0 B of 0 B");
    }
}
