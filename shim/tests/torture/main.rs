//! The embedded store under `kill -9`, power cuts, disks that fail and endless updates. `make torture` runs it long, with
//! `--long`; `make test` a short version.
//!
//! A child process (this binary again) uses the engine and tells over a pipe what was acknowledged and what its watches
//! saw; the parent kills it at random moments and holds what is left against that.

// A real process, real time, and random moments to be killed at.
#![allow(clippy::disallowed_methods)]

mod child;
mod crash;
mod line;
mod power;
mod size;

use std::time::Instant;

/// How much is done.
#[derive(Clone, Copy)]
struct Length {
    crashes: u32,
    power_cuts: u32,
    updates: usize,
}

const SHORT: Length = Length { crashes: 12, power_cuts: 12, updates: 60_000 };
const LONG: Length = Length { crashes: 200, power_cuts: 200, updates: 1_000_000 };

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == child::NAME) {
        return child::run(&arguments[1..]);
    }
    let length = if arguments.iter().any(|argument| argument == "--long") { LONG } else { SHORT };
    let seed: u64 = std::env::var("TORTURE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("TORTURE_SEED={seed} repeats the choices that are ours (not the scheduler's)");
    let parts: [(&str, &dyn Fn() -> String); 5] = [
        ("kill -9", &|| crash::run(length.crashes, seed)),
        ("power cut", &|| power::cut(length.power_cuts, seed)),
        ("idle", &power::idle),
        ("failing disk", &power::fail),
        ("size", &|| size::run(length.updates)),
    ];
    for (name, part) in parts {
        let begun = Instant::now();
        let told = part();
        println!("{name:<14}{told} ({:.1} s)", begun.elapsed().as_secs_f64());
    }
}
