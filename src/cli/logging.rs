//! How the process logs: text for people, JSON for collectors, klog's verbosity levels.

use clap::{Args, ValueEnum};
use skiff::server::{SetVerbosity, verbosity_is_set_by};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::Handle;

#[derive(Args, Clone, Debug)]
pub(crate) struct Flags {
    /// How much to log: 0 to 3 say what changes, 4 to 7 why, 8 to 10 every request [default: 2]
    #[arg(short = 'v', long = "v", global = true, value_name = "level", help_heading = "Logging")]
    pub(crate) verbosity: Option<u32>,
    /// How to write the log
    #[arg(
        long = "log-format",
        alias = "logging-format",
        global = true,
        value_enum,
        default_value = "text",
        value_name = "format",
        help_heading = "Logging"
    )]
    pub(crate) format: Format,
}

/// What kubeadm and kind give the kubelet.
const DEFAULT_VERBOSITY: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

impl Flags {
    /// Sends everything that is logged from here on to stderr.
    pub(crate) fn install(&self) {
        let filter = EnvFilter::new(directives(self.verbosity.unwrap_or(DEFAULT_VERBOSITY)));
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        match self.format {
            Format::Text => {
                let builder = builder.with_target(false).with_ansi(std::io::stderr().is_terminal());
                let builder = builder.with_filter_reloading();
                verbosity_is_set_by(changing(builder.reload_handle()));
                builder.init();
            }
            Format::Json => {
                let builder = builder.json().flatten_event(true).with_filter_reloading();
                verbosity_is_set_by(changing(builder.reload_handle()));
                builder.init();
            }
        }
    }
}

/// What `/debug/flags/v` does.
fn changing<S: 'static>(filter: Handle<EnvFilter, S>) -> SetVerbosity {
    Box::new(move |verbosity| filter.reload(EnvFilter::new(directives(verbosity))).map_err(|error| error.to_string()))
}

/// klog's numbers as levels; libraries speak up only when everything is asked for.
fn directives(verbosity: u32) -> String {
    let (ours, others) = match verbosity {
        0..=3 => ("info", "warn"),
        4..=7 => ("debug", "warn"),
        8..=9 => ("trace", "info"),
        10.. => ("trace", "debug"),
    };
    // The kube client reports every failed call and ended watch as an error of its own; we do, once, where it is handled.
    let kube = if verbosity < 8 { "off" } else { others };
    format!("{others},skiff={ours},skiff_shim={ours},node_config={ours},kube_client={kube}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_klogs() {
        for (verbosity, expected) in [(0, "warn,skiff=info"), (4, "warn,skiff=debug"), (10, "debug,skiff=trace")] {
            assert!(directives(verbosity).starts_with(expected), "{verbosity}");
        }
    }
}
