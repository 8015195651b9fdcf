//! Who holds which devices, for monitoring agents (`v1.PodResourcesLister`, `pkg/kubelet/apis/podresources`).

use super::proto::podresources as pb;
use super::rpc;
use crate::clock;
use crate::clock::rate::TokenBucket;
use crate::metrics::catalog;
use futures::FutureExt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::UnixListener;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;

/// Labels of the versions that are served.
const V1: [&str; 1] = ["v1"];
const V1ALPHA1: [&str; 1] = ["v1alpha1"];
/// `DefaultQPS` and `DefaultBurstTokens` (`pkg/kubelet/apis/podresources/grpc`).
const QUERIES_PER_SECOND: f64 = 100.0;
const QUERIES_AT_ONCE: f64 = 10.0;

/// What can be asked for.
pub trait Source: Send + Sync + 'static {
    /// Every pod that has not ended.
    fn list(&self) -> Vec<pb::PodResources>;
    fn get(&self, namespace: &str, name: &str) -> Option<pb::PodResources>;
    /// All that pods could be given, whether or not they have it.
    fn allocatable(&self) -> pb::AllocatableResourcesResponse;
}

/// Serves until dropped.
pub async fn serve(listener: UnixListener, source: Arc<dyn Source>) -> Result<(), tonic::transport::Error> {
    let limit = Arc::new(Mutex::new(TokenBucket::new(QUERIES_PER_SECOND, QUERIES_AT_ONCE)));
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (source, limit) = (source.clone(), limit.clone());
        async move {
            let allowed = limit.lock().unwrap_or_else(PoisonError::into_inner).try_take(clock::now());
            Ok(if allowed {
                answer(request, &*source).await
            } else {
                Status::resource_exhausted("rejected by rate limit").into_http()
            })
        }
        .boxed()
    });
    rpc::serve(listener, service).await
}

async fn answer(request: http::Request<Body>, source: &dyn Source) -> http::Response<Body> {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/v1.PodResourcesLister/List" => {
            catalog::POD_RESOURCES_REQUESTS.inc(V1);
            catalog::POD_RESOURCES_LIST.inc(V1);
            rpc::answer(request, |_: pb::ListPodResourcesRequest| async move {
                Ok(pb::ListPodResourcesResponse { pod_resources: source.list() })
            })
            .await
        }
        "/v1.PodResourcesLister/Get" => {
            catalog::POD_RESOURCES_REQUESTS.inc(V1);
            catalog::POD_RESOURCES_GET.inc(V1);
            rpc::answer(request, |request: pb::GetPodResourcesRequest| async move {
                let (namespace, name) = (&request.pod_namespace, &request.pod_name);
                let Some(found) = source.get(namespace, name) else {
                    catalog::POD_RESOURCES_GET_ERRORS.inc(V1);
                    return Err(Status::unknown(format!("pod {name} in namespace {namespace} not found")));
                };
                Ok(pb::GetPodResourcesResponse { pod_resources: Some(found) })
            })
            .await
        }
        "/v1.PodResourcesLister/GetAllocatableResources" => {
            catalog::POD_RESOURCES_REQUESTS.inc(V1);
            catalog::POD_RESOURCES_GET_ALLOCATABLE.inc(V1);
            rpc::answer(request, |_: pb::AllocatableResourcesRequest| async move { Ok(source.allocatable()) }).await
        }
        // The messages of the first version are those of `v1` with fewer fields.
        "/v1alpha1.PodResourcesLister/List" => {
            catalog::POD_RESOURCES_REQUESTS.inc(V1ALPHA1);
            rpc::answer(request, |_: pb::ListPodResourcesRequest| async move {
                Ok(pb::ListPodResourcesResponse { pod_resources: source.list().into_iter().map(names_only).collect() })
            })
            .await
        }
        path => rpc::unknown(path),
    }
}

/// What `v1alpha1` tells of a pod: names and ids of its devices.
fn names_only(mut pod: pb::PodResources) -> pb::PodResources {
    for container in &mut pod.containers {
        container.cpu_ids.clear();
        container.memory.clear();
        container.devices.iter_mut().for_each(|device| device.topology = None);
    }
    pod
}
