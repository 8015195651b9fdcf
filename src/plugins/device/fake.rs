//! A device plugin for tests, behind a real socket: says what it is told to say, and notes what it is asked.

use crate::model::devices::Edits;
use crate::plugins::proto::device as pb;
use crate::plugins::registry::pb as registration;
use crate::plugins::rpc::{self, PluginError};
use futures::{FutureExt, StreamExt, stream};
use prost::Message;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tonic::Status;

const TIMEOUT: Duration = Duration::from_secs(30);

/// What it does; cheap to clone.
#[derive(Clone)]
pub struct FakePlugin {
    /// `None` ends its list, as if it had died.
    devices: watch::Sender<Option<Vec<pb::Device>>>,
    options: pb::DevicePluginOptions,
    /// The resource that it says it is of where it is found by its socket.
    resource: String,
    /// Its answer to Allocate; `Err` refuses.
    answer: Arc<Mutex<Result<Edits, String>>>,
    /// Which it prefers.
    prefers: Arc<Mutex<Vec<String>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl FakePlugin {
    /// With healthy devices of these names.
    pub fn new(devices: &[&str], options: pb::DevicePluginOptions) -> Self {
        Self {
            devices: watch::Sender::new(Some(devices.iter().map(|id| device(id, true)).collect())),
            options,
            resource: String::new(),
            answer: Arc::new(Mutex::new(Ok(Edits::default()))),
            prefers: Arc::default(),
            asked: Arc::default(),
        }
    }

    /// One that can be found in the watched folder.
    pub fn of(self, resource: &str) -> Self {
        Self { resource: resource.to_owned(), ..self }
    }

    /// Lists these from now on.
    pub fn list(&self, devices: Vec<pb::Device>) {
        self.devices.send_replace(Some(devices));
    }

    pub fn end(&self) {
        self.devices.send_replace(None);
    }

    pub fn answer(&self, answer: Result<Edits, String>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    pub fn prefer(&self, ids: &[&str]) {
        *self.prefers.lock().unwrap_or_else(PoisonError::into_inner) = ids.iter().map(|id| (*id).to_owned()).collect();
    }

    /// What it was asked since the last time this was called.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, call: String) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }

    /// Listens at `socket`; what is returned serves until it is dropped.
    pub fn listen(self, socket: &Path) -> io::Result<impl Future<Output = ()> + Send + use<>> {
        let listener = crate::plugins::listen(socket)?;
        let service = tower::service_fn(move |request: tonic::codegen::http::Request<tonic::body::Body>| {
            let plugin = self.clone();
            async move { Ok(plugin.handle(request).await) }.boxed()
        });
        Ok(async move {
            if let Err(error) = rpc::serve(listener, service).await {
                tracing::error!(%error, "fake plugin ended");
            }
        })
    }

    async fn handle(
        &self,
        request: tonic::codegen::http::Request<tonic::body::Body>,
    ) -> tonic::codegen::http::Response<tonic::body::Body> {
        let path = request.uri().path().to_owned();
        match path.as_str() {
            "/pluginregistration.Registration/GetInfo" => {
                rpc::answer(request, |_: registration::InfoRequest| async {
                    Ok(registration::PluginInfo {
                        kind: "DevicePlugin".to_owned(),
                        name: self.resource.clone(),
                        endpoint: String::new(),
                        supported_versions: vec![super::VERSION.to_owned()],
                    })
                })
                .await
            }
            "/pluginregistration.Registration/NotifyRegistrationStatus" => {
                rpc::answer(request, |_: registration::RegistrationStatus| async {
                    Ok(registration::RegistrationStatusResponse {})
                })
                .await
            }
            "/v1beta1.DevicePlugin/GetDevicePluginOptions" => {
                rpc::answer(request, |_: pb::Empty| async move { Ok(self.options) }).await
            }
            "/v1beta1.DevicePlugin/ListAndWatch" => {
                let lists = stream::unfold((self.devices.subscribe(), true), |(mut devices, first)| async move {
                    if !first && devices.changed().await.is_err() {
                        return None;
                    }
                    let list = devices.borrow_and_update().clone()?;
                    Some((Ok::<_, Status>(pb::ListAndWatchResponse { devices: list }), (devices, false)))
                });
                rpc::answer_many::<pb::Empty, _, _>(request, lists.boxed()).await
            }
            "/v1beta1.DevicePlugin/GetPreferredAllocation" => {
                rpc::answer(request, |request: pb::PreferredAllocationRequest| async move {
                    for one in &request.container_requests {
                        let (from, with) = (one.available_device_ids.join(","), one.must_include_device_ids.join(","));
                        self.note(format!("prefer {} of {from} with [{with}]", one.allocation_size));
                    }
                    let device_ids = self.prefers.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    let container_responses = vec![pb::ContainerPreferredAllocationResponse { device_ids }];
                    Ok(pb::PreferredAllocationResponse { container_responses })
                })
                .await
            }
            "/v1beta1.DevicePlugin/Allocate" => {
                rpc::answer(request, |request: pb::AllocateRequest| async move {
                    for one in &request.container_requests {
                        self.note(format!("allocate {}", one.devices_ids.join(",")));
                    }
                    let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    let given = answer.map_err(Status::unknown)?;
                    Ok(pb::AllocateResponse { container_responses: vec![(&given).into()] })
                })
                .await
            }
            "/v1beta1.DevicePlugin/PreStartContainer" => {
                rpc::answer(request, |request: pb::PreStartContainerRequest| async move {
                    self.note(format!("pre-start {}", request.devices_ids.join(",")));
                    Ok(pb::Empty {})
                })
                .await
            }
            _ => rpc::unknown(&path),
        }
    }
}

/// A device as plugins list it.
pub fn device(id: &str, healthy: bool) -> pb::Device {
    let health = if healthy { "Healthy" } else { "Unhealthy" };
    pb::Device { id: id.to_owned(), health: health.to_owned(), topology: None }
}

/// Calls whoever listens at `socket`.
pub async fn call<Q, A>(socket: &Path, path: &'static str, request: Q) -> Result<A, PluginError>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    rpc::unary(&rpc::connect(socket).await?, path, request, TIMEOUT).await
}

/// Registers a plugin whose socket lies beside the kubelet's.
pub async fn register(kubelet: &Path, resource: &str, endpoint: &str) -> Result<(), PluginError> {
    let request = pb::RegisterRequest {
        version: super::VERSION.to_owned(),
        endpoint: endpoint.to_owned(),
        resource_name: resource.to_owned(),
        options: None,
    };
    call::<_, pb::Empty>(kubelet, "/v1beta1.Registration/Register", request).await.map(drop)
}
