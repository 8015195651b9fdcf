//! How a plugin in the watched folder says what it is (`pluginregistration.Registration`, v1), and hears what came of it.

use super::rpc::{self, PluginError};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::transport::Channel;

/// As the kubelet: a plugin says at once what it is.
const INFO_TIMEOUT: Duration = Duration::from_secs(1);
/// `notifyTimeoutDuration`.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(5);

/// `pluginregistration.v1`'s messages.
pub(super) mod pb {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct InfoRequest {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct PluginInfo {
        #[prost(string, tag = "1")]
        pub kind: String,
        #[prost(string, tag = "2")]
        pub name: String,
        #[prost(string, tag = "3")]
        pub endpoint: String,
        #[prost(string, repeated, tag = "4")]
        pub supported_versions: Vec<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct RegistrationStatus {
        #[prost(bool, tag = "1")]
        pub plugin_registered: bool,
        #[prost(string, tag = "2")]
        pub error: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct RegistrationStatusResponse {}
}

/// What a plugin says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginInfo {
    /// `CSIPlugin`, `DevicePlugin`, …
    pub kind: String,
    /// Of a CSI driver its name, of a device plugin its resource.
    pub name: String,
    /// Where its service listens: the socket it registered with, unless it says another.
    pub endpoint: PathBuf,
    pub versions: Vec<String>,
}

/// A plugin that waits to hear whether it is taken.
pub struct Applicant {
    channel: Channel,
    pub info: PluginInfo,
}

impl Applicant {
    /// Asks whoever listens at `socket` what it is.
    pub async fn meet(socket: &Path) -> Result<Self, PluginError> {
        let channel = rpc::connect(socket).await?;
        let path = "/pluginregistration.Registration/GetInfo";
        let info: pb::PluginInfo = rpc::unary(&channel, path, pb::InfoRequest {}, INFO_TIMEOUT).await?;
        let endpoint = if info.endpoint.is_empty() { socket.to_owned() } else { PathBuf::from(info.endpoint) };
        let info = PluginInfo { kind: info.kind, name: info.name, endpoint, versions: info.supported_versions };
        Ok(Self { channel, info })
    }

    /// Tells it what came of its registration.
    pub async fn tell(&self, outcome: Result<(), String>) -> Result<(), PluginError> {
        let status =
            pb::RegistrationStatus { plugin_registered: outcome.is_ok(), error: outcome.err().unwrap_or_default() };
        let path = "/pluginregistration.Registration/NotifyRegistrationStatus";
        rpc::unary::<_, pb::RegistrationStatusResponse>(&self.channel, path, status, NOTIFY_TIMEOUT).await.map(drop)
    }
}
