//! Plugins of the node, each behind a unix socket: CSI drivers, and how a plugin makes itself known.

pub mod csi;
pub mod registry;
mod rpc;

pub use rpc::{PluginError, listen};
