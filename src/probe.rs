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
    /// It passed, and there is something to tell.
    Warned(String),
    /// The output or error, as the Unhealthy event shows it.
    Failed(String),
    /// It could not be run: that says nothing about the container.
    Unknown(String),
}

/// A port by number or by the name of one of the container's ports (`ResolveContainerPort`).
pub(crate) fn port(port: &IntOrString, container: &k8s_openapi::api::core::v1::Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            match ports.find(|port| port.name.as_deref() == Some(name)) {
                Some(port) => port.container_port,
                None => name.parse().map_err(|_| format!("strconv.Atoi: parsing {name:?}: invalid syntax"))?,
            }
        }
    };
    let valid = u16::try_from(number).ok().filter(|number| *number > 0);
    valid.ok_or_else(|| format!("invalid port number: {number}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_are_numbers_or_names_of_the_container() {
        let container = json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]});
        let container = serde_json::from_value(container).unwrap();
        for (written, expected) in [
            (json!(80), Ok(80)),
            (json!("web"), Ok(8080)),
            (json!("81"), Ok(81)),
            (json!("none"), Err("strconv.Atoi: parsing \"none\": invalid syntax".to_owned())),
            (json!(0), Err("invalid port number: 0".to_owned())),
            (json!("70000"), Err("invalid port number: 70000".to_owned())),
        ] {
            let written = serde_json::from_value(written).unwrap();
            assert_eq!(port(&written, &container), expected, "{written:?}");
        }
    }
}
