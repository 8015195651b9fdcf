//! Fields of CRI that are younger than the API that we are generated from: sent beside the rest of their message.
//!
//! A protobuf message that comes in two parts is one (its lists are joined), so what the generated types cannot say is
//! appended as a second part. A runtime that does not know a field leaves it out, as it would from anyone.

use k8s_cri::v1 as pb;
use prost::bytes::{Buf, BufMut};
use prost::encoding::{DecodeContext, WireType};
use prost::{DecodeError, Message};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// `CreateContainerRequest` and what its generated type lacks.
#[derive(Clone, Debug)]
pub(super) struct CreateContainer {
    pub(super) request: pb::CreateContainerRequest,
    pub(super) more: More,
}

/// The second part of a `CreateContainerRequest`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct More {
    #[prost(message, optional, tag = "2")]
    config: Option<MoreConfig>,
}

/// The second part of a `ContainerConfig`.
#[derive(Clone, PartialEq, Message)]
struct MoreConfig {
    #[prost(message, repeated, tag = "7")]
    mounts: Vec<PartOfImage>,
}

/// A `Mount` of a path within an image (CRI of Kubernetes 1.33).
#[derive(Clone, PartialEq, Message)]
pub(super) struct PartOfImage {
    #[prost(string, tag = "1")]
    pub(super) container_path: String,
    #[prost(bool, tag = "3")]
    pub(super) readonly: bool,
    #[prost(message, optional, tag = "9")]
    pub(super) image: Option<pb::ImageSpec>,
    #[prost(string, tag = "10")]
    pub(super) image_sub_path: String,
}

/// The call, as the generated client makes it.
pub(super) async fn create_container(
    channel: Channel,
    request: CreateContainer,
) -> Result<Response<pb::CreateContainerResponse>, Status> {
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static("/runtime.v1.RuntimeService/CreateContainer");
    let codec: ProstCodec<CreateContainer, pb::CreateContainerResponse> = ProstCodec::default();
    client.unary(Request::new(request), path, codec).await
}

impl More {
    /// `None`: the generated type says it all.
    pub(super) fn new(mounts: Vec<PartOfImage>) -> Option<Self> {
        (!mounts.is_empty()).then_some(Self { config: Some(MoreConfig { mounts }) })
    }
}

impl Message for CreateContainer {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        self.request.encode_raw(buf);
        self.more.encode_raw(buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        self.request.merge_field(tag, wire_type, buf, ctx)
    }

    fn encoded_len(&self) -> usize {
        self.request.encoded_len() + self.more.encoded_len()
    }

    fn clear(&mut self) {
        self.request.clear();
        self.more.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_arrive_as_one_message() {
        let mount = |path: &str| pb::Mount { container_path: path.to_owned(), ..Default::default() };
        let request = pb::CreateContainerRequest {
            pod_sandbox_id: "s".to_owned(),
            config: Some(pb::ContainerConfig { mounts: vec![mount("/a")], tty: true, ..Default::default() }),
            sandbox_config: Some(pb::PodSandboxConfig { hostname: "h".to_owned(), ..Default::default() }),
        };
        assert_eq!(More::new(Vec::new()), None);
        let part = PartOfImage {
            container_path: "/b".to_owned(),
            readonly: true,
            image: Some(pb::ImageSpec { image: "i".to_owned(), ..Default::default() }),
            image_sub_path: "etc".to_owned(),
        };
        let whole = CreateContainer { request: request.clone(), more: More::new(vec![part]).unwrap() };
        let read = pb::CreateContainerRequest::decode(whole.encode_to_vec().as_slice()).unwrap();
        let mut expected = request;
        let image = Some(pb::ImageSpec { image: "i".to_owned(), ..Default::default() });
        let second = pb::Mount { readonly: true, image, ..mount("/b") };
        expected.config.as_mut().unwrap().mounts.push(second);
        assert_eq!(read, expected, "a reader of the older API sees all but the path");
        assert!(whole.encode_to_vec().windows(5).any(|bytes| bytes == [0x52, 3, b'e', b't', b'c']));
    }
}
