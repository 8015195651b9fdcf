//! Runs one probe once: exec, gRPC, HTTP, TCP. Whether it passed and what it said; thresholds are the probes actor's business.

pub mod exec;
pub mod grpc;
pub mod http;
pub mod tcp;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// What one probe said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// The output or error, as the Unhealthy event shows it.
    Failed(String),
    /// It could not be run: that says nothing about the container.
    Unknown(String),
}

/// A port by number or by the name of one of the container's ports.
pub(crate) fn port(port: &IntOrString, container: &k8s_openapi::api::core::v1::Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("invalid port number: {port:?}"))
}
