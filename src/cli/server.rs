//! `skiff server`: the API server with its store, scheduler and controllers, and nothing else.

use super::flags::{DataDirFlags, ServerFlags};
use super::logging::Format;
use super::progress::Progress;
use super::signals::{Signals, notify_ready};
use super::watchdog;
use super::{machine, standalone::certificates};
use anyhow::Context;
use clap::Args;
use node_config::data_dir::DataDir;
use skiff::supervisor::Supervisor;
use skiff_shim::app::Server;
use std::time::Duration;

#[derive(Args, Debug)]
pub(crate) struct Flags {
    #[command(flatten)]
    data: DataDirFlags,
    #[command(flatten)]
    server: ServerFlags,
}

pub(crate) async fn run(flags: Flags, format: Format) -> anyhow::Result<()> {
    let progress = Progress::new(format);
    let tasks = Supervisor::new();
    let stop = tasks.stopping();
    tasks.spawn("signals", Signals::listen()?.watch(stop.clone()));
    tasks.spawn("watchdog", watchdog::run());

    let controllers = controllers(&flags.server)?;
    let data = DataDir::open(&flags.data.data_dir)?;
    machine::port_is_free("secure-port", flags.server.bind_address, flags.server.secure_port)?;
    let names = certificates::server_names(&flags.server, machine::default_address());
    let issued = certificates::ensure(data.layout(), &names)?;
    progress.ready("certificates", issued);
    let config = flags.server.resolve(data.layout(), machine::default_address(), controllers)?;
    let starting = Server::start(config);
    let server = progress.wait("the API server", Duration::from_secs(60), starting).await?;
    let server = server.context("the API server cannot start")?;
    certificates::write_admin_kubeconfig(data.layout(), &flags.server, server.address().port())?;
    progress.ready("API server", format!("https://{}", server.address()));
    notify_ready();

    stop.cancelled().await;
    server.stop().await;
    Ok(())
}

/// `--controllers`, resolved; an unknown name is an error that names the nearest.
pub(crate) fn controllers(flags: &ServerFlags) -> anyhow::Result<Vec<&'static str>> {
    skiff_shim::control::select(&flags.controllers).map_err(|problem| anyhow::anyhow!("--controllers: {problem}"))
}
