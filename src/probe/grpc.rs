//! The gRPC health protocol (`grpc.health.v1.Health/Check`): SERVING passes.

use super::Verdict;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

/// grpc-go's first wait before it dials again.
const REDIAL: Duration = Duration::from_secs(1);

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

impl ServingStatus {
    /// As protobuf names it.
    fn name(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Serving => "SERVING",
            Self::NotServing => "NOT_SERVING",
            Self::ServiceUnknown => "SERVICE_UNKNOWN",
        }
    }
}

/// Asks once; the texts are the kubelet's (`pkg/probe/grpc`).
pub async fn run(ip: IpAddr, port: u16, service: &str, timeout: Duration) -> Verdict {
    let address = SocketAddr::new(ip, port);
    let within = timeout.as_secs();
    let deadline = crate::clock::now().mono + timeout;
    let channel = match tokio::time::timeout_at(deadline, dial(address)).await {
        Ok(channel) => channel,
        Err(_) => {
            let text = format!("timeout: failed to connect service \"{address}\" within {within}s");
            return Verdict::Failed(format!("{text}: context deadline exceeded"));
        }
    };
    match tokio::time::timeout_at(deadline, check(channel, service)).await {
        Ok(Ok(ServingStatus::Serving)) => Verdict::Passed,
        Ok(Ok(status)) => Verdict::Failed(format!("service unhealthy (responded with {:?})", status.name())),
        Ok(Err(error)) => Verdict::Failed(match error.code() {
            Code::Unimplemented => format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
                error.message()
            ),
            Code::DeadlineExceeded => format!("timeout: health rpc did not complete within {within}s"),
            code => {
                format!("error: health rpc probe failed: rpc error: code = {code:?} desc = {}", error.message())
            }
        }),
        Err(_) => Verdict::Failed(format!("timeout: health rpc did not complete within {within}s")),
    }
}

/// Until there is a connection: nobody may be listening yet.
async fn dial(address: SocketAddr) -> Channel {
    loop {
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let endpoint = endpoint.and_then(|endpoint| endpoint.user_agent("kube-probe/1.36"));
        // An address is always a valid URI.
        if let Ok(endpoint) = endpoint
            && let Ok(channel) = endpoint.connect().await
        {
            return channel;
        }
        tokio::time::sleep(REDIAL).await;
    }
}

async fn check(channel: Channel, service: &str) -> Result<ServingStatus, tonic::Status> {
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let request = Request::new(HealthCheckRequest { service: service.to_owned() });
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec: ProstCodec<HealthCheckRequest, HealthCheckResponse> = ProstCodec::default();
    let answer = client.unary(request, path, codec).await?;
    Ok(answer.into_inner().status())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::Ipv4Addr;
    use std::net::TcpListener;

    /// A server that answers one check with that status: HTTP/2 frames written out.
    fn server(status: u8) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // SETTINGS, and the acknowledgement of the client's.
            stream.write_all(b"\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0").unwrap();
            let mut request = [0; 4096];
            let mut seen = Vec::new();
            // The answer must not come before the request: a DATA frame of stream 1 with an empty message, five bytes.
            let asked = |seen: &[u8]| seen.windows(9).any(|w| w[..4] == [0, 0, 5, 0] && w[5..] == [0, 0, 0, 1]);
            while !asked(&seen) {
                let length = stream.read(&mut request).unwrap();
                seen.extend_from_slice(&request[..length]);
            }
            // HEADERS :status 200, content-type application/grpc; DATA {status}; trailers grpc-status 0.
            let mut answer = b"\0\0\x14\x01\x04\0\0\0\x01\x88\x0f\x10\x10application/grpc".to_vec();
            answer.extend_from_slice(&[0, 0, 7, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 8, status]);
            answer.extend_from_slice(b"\0\0\x0f\x01\x05\0\0\0\x01\0\x0bgrpc-status\x010");
            stream.write_all(&answer).unwrap();
            // Open until the client has gone.
            while stream.read(&mut request).is_ok_and(|length| length > 0) {}
        });
        port
    }

    #[tokio::test]
    async fn what_the_service_answers_is_the_verdict() {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let timeout = Duration::from_secs(10);
        assert_eq!(run(ip, server(1), "", timeout).await, Verdict::Passed);
        assert_eq!(
            run(ip, server(2), "", timeout).await,
            Verdict::Failed("service unhealthy (responded with \"NOT_SERVING\")".to_owned())
        );
    }

    #[tokio::test]
    async fn nobody_listening_is_a_failure_to_connect() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let verdict = run(IpAddr::V4(Ipv4Addr::LOCALHOST), port, "", Duration::from_secs(1)).await;
        let text =
            format!("timeout: failed to connect service \"127.0.0.1:{port}\" within 1s: context deadline exceeded");
        assert_eq!(verdict, Verdict::Failed(text));
    }
}
