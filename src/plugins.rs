//! Plugins of the node, each behind a unix socket: device plugins, CSI drivers, how a plugin makes itself known, and
//! those who ask what pods hold.

pub mod csi;
pub mod device;
pub mod podresources;
pub mod proto;
pub mod registry;
mod rpc;

pub use rpc::{PluginError, Verdict, listen};
