//! End to end: what `skiff server` keeps, under `kill -9`, at its quota, and in the hands of `skiff store`.

// Real processes are waited for with real deadlines.
#![allow(clippy::disallowed_methods)]

mod crash;
#[path = "../../shim/tests/etcd/server.rs"]
mod etcd;
mod server;
mod shared;
mod tools;
