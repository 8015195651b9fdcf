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
//! | registry | `registry` (resource table, strategies), `cel` (rules that definitions and policies bring along) |
//! | request | `request`, `error`: what is asked, and how it can fail |
//! | rules | `authn`, `authz`, `admission`, `audit` |
//! | pipeline | `config`, `pipeline` |
//! | http | `http` |
//! | control | `client`, `control` |
//! | top | `app` |
//!
//! Never: `schema` and `registry` see no store, clock or runtime; only `pipeline` calls `commit`; controllers see
//! `client` and nothing under it; only `http` names hyper.

pub mod admission;
pub mod app;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod cel;
pub mod client;
pub mod clock;
pub mod config;
pub mod control;
pub mod error;
pub mod gvr;
pub mod http;
pub mod meta;
pub mod pipeline;
pub mod registry;
pub mod request;
pub mod revision;
pub mod schema;
pub mod selector;
pub mod store;
pub mod task;
