//! The API server as its clients meet it, each test with one of its own: over TLS, in the process, on real file systems.
//! One binary for all: each links the whole server.

mod addresses;
mod api;
mod encodings;
mod garbage;
mod reads;
mod scheduler;
mod store_disk;
mod support;
