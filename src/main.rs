//! The skiff binary: subcommands live under `cli`, which alone composes the agent and the API server.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
