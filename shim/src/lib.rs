//! The API server, store, scheduler and controllers of skiff.
//!
//! Flow of a request: `http` → `request` → `authn` → `authz` → `admission` → `registry` → `store` → (watch) → `http`.
//! Imports go to lower layers only; `tests/suite/layering.rs` reads the `use` lines against this map.
//!
//! | layer | modules |
//! |---|---|
//! | base | `meta` `gvr` `revision` `selector` `clock` `task` |
//! | store | `store` (trait, engines, watch cache) |
//! | schema | `schema` (one structural schema for everything) |
//! | rules | `registry` (resource table, strategies), `authn`, `authz`, `admission` |
//! | pipeline | `request`, `pipeline` |
//! | http | `http` |
//! | control | `client`, `control` |
//! | top | `config`, `app` |
//!
//! Never: `schema` and `registry` see no store, clock or runtime; only `pipeline` calls `commit`; controllers see
//! `client` and nothing under it; only `http` names hyper.

pub mod app;
pub mod clock;
pub mod config;
pub mod control;
pub mod gvr;
pub mod meta;
pub mod registry;
pub mod revision;
pub mod schema;
pub mod selector;
pub mod store;
pub mod task;
