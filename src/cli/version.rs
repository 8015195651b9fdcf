//! `skiff version`.

use clap::{Args, ValueEnum};

/// The Kubernetes release whose API this is.
pub(crate) const KUBERNETES: &str = "v1.36.2";

#[derive(Args, Debug)]
pub(crate) struct Flags {
    /// One of json; otherwise text
    #[arg(short, long, value_enum, value_name = "format")]
    output: Option<Output>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Json,
}

pub(crate) fn print(flags: &Flags) {
    let skiff = env!("CARGO_PKG_VERSION");
    match flags.output {
        None => println!("skiff {skiff} (Kubernetes {KUBERNETES})"),
        Some(Output::Json) => {
            let version = serde_json::json!({
                "skiff": skiff,
                "kubernetes": KUBERNETES,
                "platform": format!("linux/{}", std::env::consts::ARCH),
            });
            println!("{version:#}");
        }
    }
}
