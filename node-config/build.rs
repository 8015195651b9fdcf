//! Compiles the pause binary that `shipped::PAUSE` embeds: static, without libc, for the target of this build.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=pause/main.rs");
    println!("cargo::rerun-if-changed=build.rs");
    let var = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let out = PathBuf::from(var("OUT_DIR")).join("pause");
    let mut rustc = Command::new(var("RUSTC"));
    rustc.args(["--edition", "2024", "--crate-name", "pause", "--crate-type", "bin"]);
    rustc.args(["--target", &var("TARGET"), "pause/main.rs", "-o"]).arg(&out);
    for option in [
        "panic=abort",
        "opt-level=s",
        "strip=symbols",
        "relocation-model=static",
        "target-feature=+crt-static",
        "link-arg=-nostartfiles",
        "link-arg=-nostdlib",
        "link-arg=-static",
        "link-arg=-Wl,--build-id=none",
    ] {
        rustc.args(["-C", option]);
    }
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.args(["-C", &format!("linker={linker}")]);
    }
    let status = rustc.status().unwrap_or_else(|error| panic!("{rustc:?} cannot run: {error}"));
    assert!(status.success(), "the pause binary did not compile: {rustc:?}");
}
