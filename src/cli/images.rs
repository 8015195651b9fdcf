//! `skiff images import` and `skiff images list`.

use super::standalone::containerd::SYSTEM_SOCKET;
use anyhow::Context;
use clap::{Args, Subcommand};
use node_config::data_dir::{DEFAULT_PATH, Layout};
use skiff::images::Images;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(crate) struct Flags {
    /// Data directory of the node whose containerd is meant
    #[arg(long, default_value = DEFAULT_PATH, value_name = "path", global = true)]
    data_dir: PathBuf,
    /// The containerd to talk to, as in unix:///run/containerd/containerd.sock
    #[arg(long, value_name = "endpoint", global = true, value_parser = super::flags::endpoint)]
    container_runtime_endpoint: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Import OCI or docker archives (tar, plain or gzip)
    Import {
        #[arg(required = true, value_name = "file")]
        archives: Vec<PathBuf>,
    },
    /// List the images of the node
    List,
}

pub(crate) async fn run(flags: Flags) -> anyhow::Result<()> {
    let socket = flags.container_runtime_endpoint.unwrap_or_else(|| {
        let own = Layout::new(flags.data_dir).containerd_socket();
        if own.exists() { own } else { SYSTEM_SOCKET.into() }
    });
    if !socket.exists() {
        let socket = socket.display();
        anyhow::bail!(
            "no containerd answers at {socket}; start skiff standalone, or give --container-runtime-endpoint"
        );
    }
    let images = Images::new(&socket);
    match flags.command {
        Command::Import { archives } => {
            for archive in archives {
                let imported = images.import_archive(&archive).await;
                for image in imported.with_context(|| format!("cannot import {}", archive.display()))? {
                    println!("{}", image.name);
                }
            }
        }
        Command::List => {
            let list = images.list().await.context("cannot list images")?;
            let width = list.iter().map(|image| image.name.len()).max().unwrap_or(0).max("NAME".len());
            println!("{:width$}   DIGEST", "NAME");
            for image in list {
                println!("{:width$}   {}", image.name, image.digest);
            }
        }
    }
    Ok(())
}
