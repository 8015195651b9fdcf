//! The node agent of skiff: a kubelet in small, as a library. The binary (`main.rs`) adds the command line.
//!
//! Flow: cluster watch → `actors::pods` → `actors::pod_worker` → `decide::plan` → `runtime` → status → cluster.
//!
//! | layer | modules |
//! |---|---|
//! | base | `ids` `units` `clock` `metrics` (what is counted) |
//! | model | `model` (data only) |
//! | decide | `decide` (pure: wanted, seen, memory, now → plan) |
//! | edge | `runtime` `cluster` `identity` `volumes` `plugins` `managers` `probe` `cgroups` `images` `logs` `disk` `stats` `logind` `sys` |
//! | spawn | `supervisor` (the only one that does) |
//! | actors | `actors`, one a file |
//! | serve | `server` (the kubelet HTTP API on :10250) |
//! | top | `app` (wiring); in the binary: `cli` |
//!
//! Never: `decide` sees `runtime`, a clock or an await; only `runtime/`, `plugins/` and `probe/grpc.rs` name tonic or
//! prost; only `cluster/` names the kube client; only `server` names hyper; nothing here imports `skiff_shim` (they
//! meet over the API; only the binary's `cli` composes both); nothing but `sys` is unsafe.

pub mod actors;
pub mod app;
pub mod cgroups;
pub mod clock;
pub mod cluster;
pub mod decide;
pub mod disk;
pub mod identity;
pub mod ids;
pub mod images;
pub mod logind;
pub mod logs;
pub mod managers;
pub mod metrics;
pub mod model;
pub mod plugins;
pub mod probe;
pub mod runtime;
pub mod server;
pub mod stats;
pub mod supervisor;
pub mod sys;
pub mod units;
pub mod volumes;
