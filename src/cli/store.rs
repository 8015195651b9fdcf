//! `skiff store`: backup, restore, check, compaction and statistics of the embedded store, and copies between engines.

mod copy;

use super::flags::database;
use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use node_config::data_dir::{DEFAULT_PATH, DataDir, Layout};
use skiff_shim::store::sqlite::tools::{self, Stats};
use std::path::PathBuf;
use std::process::ExitCode;

/// As etcd's documentation advises for `etcdutl snapshot restore --bump-revision`: more than is written between backups.
const BUMP_REVISION: u64 = 1_000_000_000;

#[derive(Args, Debug)]
pub(crate) struct Flags {
    /// Data directory whose store is meant
    #[arg(long, default_value = DEFAULT_PATH, value_name = "path", global = true)]
    data_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a consistent copy of the store to a new file; a running server is not disturbed
    Backup {
        #[arg(value_name = "file")]
        file: PathBuf,
    },
    /// Put a backup in the store's place, while no server runs; what was there is kept beside it
    Restore {
        #[arg(value_name = "file")]
        file: PathBuf,
        /// How far above the backup's revisions go on, where there is no old store to tell: further than anything
        /// that was written since the backup
        #[arg(long, default_value_t = BUMP_REVISION, value_name = "count")]
        bump_revision: u64,
    },
    /// Look for damage; a running server is not disturbed
    Check {
        /// A backup to look at, instead of the store
        #[arg(value_name = "file")]
        file: Option<PathBuf>,
    },
    /// Drop all history and make the file as small as it can be, while no server runs (one that runs compacts by itself)
    Compact,
    /// Tell how much the store holds, by resource; a running server is not disturbed
    Stats {
        /// A backup to look at, instead of the store
        #[arg(value_name = "file")]
        file: Option<PathBuf>,
        /// One of json; otherwise text
        #[arg(short, long, value_enum, value_name = "format")]
        output: Option<Output>,
    },
    /// Copy everything from one store to another, empty one
    Copy(copy::Flags),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Json,
}

pub(crate) async fn run(flags: Flags) -> anyhow::Result<ExitCode> {
    let path = database(&Layout::new(&flags.data_dir));
    match flags.command {
        Command::Backup { file } => {
            let made = tools::backup(&path, &file).context("the backup was not made")?;
            println!("{}: {} keys at revision {}, {}", file.display(), made.keys, made.revision, bytes(made.bytes));
        }
        Command::Restore { file, bump_revision } => {
            let data = DataDir::open(&flags.data_dir)?;
            let path = database(data.layout());
            let done = tools::restore(&file, &path, bump_revision).context("nothing was restored")?;
            println!("{}: {} keys; revisions go on at {}", path.display(), done.keys, done.revision);
            if let Some(replaced) = done.replaced {
                println!("the store that was there is now {}", replaced.display());
            }
        }
        Command::Check { file } => {
            let path = file.unwrap_or(path);
            let found = tools::check(&path)?;
            for line in &found {
                println!("{line}");
            }
            anyhow::ensure!(
                found.is_empty(),
                "{} is damaged: restore a backup with skiff store restore, or move the file away to start empty",
                path.display()
            );
            println!("{}: sound", path.display());
        }
        Command::Compact => {
            let done = tools::compact(&path)?;
            let (before, after) = (bytes(done.bytes_before), bytes(done.bytes_after));
            println!("{}: compacted at revision {}, {before} → {after}", path.display(), done.revision);
        }
        Command::Stats { file, output } => {
            let stats = tools::stats(&file.unwrap_or(path))?;
            match output {
                None => print!("{}", text(&stats)),
                Some(Output::Json) => println!("{:#}", json(&stats)),
            }
        }
        Command::Copy(flags) => copy::run(flags).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Bytes for people: `1.5 MiB`.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (0..UNITS.len() - 1).find(|unit| count >> (10 * (unit + 1)) == 0).unwrap_or(UNITS.len() - 1);
    if unit == 0 {
        format!("{count} B")
    } else {
        format!("{:.1} {}", count as f64 / f64::from(1 << 10).powi(unit as i32), UNITS[unit])
    }
}

fn text(stats: &Stats) -> String {
    let mut text = format!(
        "revision    {} (history from {}, {} changes kept)\nkeys        {}, {}\nfile        {}, of it free {}; log {}\n",
        stats.revision,
        stats.compacted,
        stats.changes,
        stats.keys,
        bytes(stats.bytes),
        bytes(stats.file_bytes),
        bytes(stats.free_bytes),
        bytes(stats.log_bytes),
    );
    let width = stats.resources.keys().map(String::len).max().unwrap_or(0).max("RESOURCE".len());
    if !stats.resources.is_empty() {
        text.push_str(&format!("\n{:width$}   {:>8}   {:>10}\n", "RESOURCE", "KEYS", "BYTES"));
    }
    for (resource, share) in &stats.resources {
        text.push_str(&format!("{resource:width$}   {:>8}   {:>10}\n", share.keys, share.bytes));
    }
    text
}

fn json(stats: &Stats) -> serde_json::Value {
    let resources: serde_json::Map<String, serde_json::Value> = stats
        .resources
        .iter()
        .map(|(name, share)| (name.clone(), serde_json::json!({"keys": share.keys, "bytes": share.bytes})))
        .collect();
    serde_json::json!({
        "revision": stats.revision.0,
        "compactedRevision": stats.compacted.0,
        "changes": stats.changes,
        "keys": stats.keys,
        "bytes": stats.bytes,
        "fileBytes": stats.file_bytes,
        "freeBytes": stats.free_bytes,
        "logBytes": stats.log_bytes,
        "resources": resources,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_shim::revision::Revision;
    use skiff_shim::store::sqlite::tools::ResourceStats;

    #[test]
    fn sizes_are_for_people() {
        for (count, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_572_864, "1.5 MiB"),
            (5 << 40, "5.0 TiB"),
            (9 << 50, "9216.0 TiB"),
        ] {
            assert_eq!(bytes(count), shown);
        }
    }

    #[test]
    fn stats_are_a_table_or_json() {
        let stats = Stats {
            revision: Revision(9),
            compacted: Revision(1),
            changes: 5,
            keys: 2,
            bytes: 3,
            file_bytes: 4096,
            free_bytes: 0,
            log_bytes: 0,
            resources: [("services/specs".to_owned(), ResourceStats { keys: 2, bytes: 3 })].into(),
        };
        let shown = text(&stats);
        assert!(shown.starts_with("revision    9 (history from 1, 5 changes kept)\n"), "{shown}");
        assert!(
            shown.ends_with("RESOURCE             KEYS        BYTES\nservices/specs          2            3\n"),
            "{shown}"
        );
        assert_eq!(json(&stats)["resources"]["services/specs"]["keys"], 2);
    }
}
