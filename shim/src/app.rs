//! Wiring of the server: store, caches, pipeline, listener, controllers.

use crate::config::ServerConfig;
use std::net::SocketAddr;

/// A running API server.
pub struct Server {}

/// Why the server could not start; each names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {}

impl Server {
    /// Opens the store, listens and serves; returns once /readyz answers ok. Controllers run behind it.
    pub async fn start(_config: ServerConfig) -> Result<Self, StartError> {
        todo!("S4")
    }
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        todo!("S4")
    }
    /// An in-process client with that identity (no socket, no TLS); it enters at the pipeline.
    pub fn client(&self, _user: &str, _groups: &[&str]) -> kube::Client {
        todo!("S4")
    }
    /// Closes watches, finishes requests (10 s at most), flushes the store.
    pub async fn stop(self) {
        todo!("S4")
    }
}
