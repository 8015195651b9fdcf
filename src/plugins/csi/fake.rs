//! A CSI driver for tests, behind a real socket: its volumes are folders that it binds, or files that it shows as loop
//! devices, and it notes what it is asked.

use super::proto::{self as pb, AccessType};
use crate::plugins::registry::pb as registration;
use crate::plugins::rpc;
use futures::FutureExt;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;

/// What it does; cheap to clone.
#[derive(Clone)]
pub struct FakeDriver {
    pub name: String,
    /// `CSIPlugin`, unless a test says otherwise.
    pub kind: String,
    pub node: pb::NodeGetInfoResponse,
    pub capabilities: Vec<pb::NodeRpcType>,
    /// Holds a folder for each volume.
    pub volumes: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
    published: Arc<Mutex<Vec<pb::NodePublishVolumeRequest>>>,
    staged: Arc<Mutex<Vec<pb::NodeStageVolumeRequest>>>,
    measured: Arc<Mutex<Vec<pb::NodeGetVolumeStatsRequest>>>,
    /// What it says to calls that it does not do, by their names.
    refusals: Arc<Mutex<BTreeMap<&'static str, Status>>>,
    /// While it is true, calls wait.
    held: watch::Sender<bool>,
    /// What it was told came of its registration: "" is good.
    told: watch::Sender<Option<String>>,
}

impl FakeDriver {
    /// Whose volumes are kept in that folder.
    pub fn new(name: &str, volumes: &Path, capabilities: &[pb::NodeRpcType]) -> Self {
        Self {
            name: name.to_owned(),
            kind: "CSIPlugin".to_owned(),
            node: pb::NodeGetInfoResponse { node_id: format!("id-of-{name}"), ..Default::default() },
            capabilities: capabilities.to_vec(),
            volumes: volumes.to_owned(),
            asked: Arc::default(),
            published: Arc::default(),
            staged: Arc::default(),
            measured: Arc::default(),
            refusals: Arc::default(),
            held: watch::Sender::new(false),
            told: watch::Sender::new(None),
        }
    }

    /// What it was asked to change since the last time this was called.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.asked))
    }

    /// How often it was asked for that.
    pub fn count(&self) -> usize {
        lock(&self.asked).len()
    }

    /// The last publication that was asked for.
    pub fn published(&self) -> Option<pb::NodePublishVolumeRequest> {
        lock(&self.published).last().cloned()
    }

    /// The last staging that was asked for.
    pub fn staged(&self) -> Option<pb::NodeStageVolumeRequest> {
        lock(&self.staged).last().cloned()
    }

    /// The measurements that were asked for since the last time this was called.
    pub fn measured(&self) -> Vec<pb::NodeGetVolumeStatsRequest> {
        std::mem::take(&mut lock(&self.measured))
    }

    /// Waits to be told what came of its registration.
    pub async fn told(&self) -> String {
        let mut told = self.told.subscribe();
        let told = told.wait_for(Option::is_some).await.map(|told| told.clone());
        told.ok().flatten().unwrap_or_default()
    }

    /// Listens at `socket`, as a driver and for its registration; what is returned serves until it is dropped.
    pub fn listen(self, socket: &Path) -> io::Result<impl Future<Output = ()> + Send + 'static> {
        let listener = crate::plugins::listen(socket)?;
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let driver = self.clone();
            async move { Ok(driver.handle(request).await) }.boxed()
        });
        Ok(async move {
            if let Err(error) = rpc::serve(listener, service).await {
                tracing::error!(%error, "fake driver ended");
            }
        })
    }

    async fn handle(&self, request: http::Request<Body>) -> http::Response<Body> {
        let path = request.uri().path().to_owned();
        match path.as_str() {
            "/pluginregistration.Registration/GetInfo" => {
                rpc::answer(request, |_: registration::InfoRequest| async {
                    Ok(registration::PluginInfo {
                        kind: self.kind.clone(),
                        name: self.name.clone(),
                        endpoint: String::new(),
                        supported_versions: vec!["1.0.0".to_owned()],
                    })
                })
                .await
            }
            "/pluginregistration.Registration/NotifyRegistrationStatus" => {
                rpc::answer(request, |status: registration::RegistrationStatus| async move {
                    self.told.send_replace(Some(status.error));
                    Ok(registration::RegistrationStatusResponse {})
                })
                .await
            }
            "/csi.v1.Node/NodeGetInfo" => rpc::answer(request, |_: pb::Empty| async { Ok(self.node.clone()) }).await,
            "/csi.v1.Node/NodeGetCapabilities" => {
                rpc::answer(request, |_: pb::Empty| async {
                    let rpc = |kind: &pb::NodeRpcType| Some(pb::NodeRpc { kind: (*kind).into() });
                    let all = self.capabilities.iter().map(|kind| pb::NodeServiceCapability { rpc: rpc(kind) });
                    Ok(pb::NodeGetCapabilitiesResponse { capabilities: all.collect() })
                })
                .await
            }
            "/csi.v1.Node/NodeStageVolume" => {
                rpc::answer(request, |request: pb::NodeStageVolumeRequest| async move {
                    self.note("stage", &request.volume_id).await?;
                    // A device is made where it is published.
                    if !is_block(&request.volume_capability) {
                        self.show(&request.volume_id, &request.staging_target_path)?;
                    }
                    lock(&self.staged).push(request);
                    Ok(pb::Empty {})
                })
                .await
            }
            "/csi.v1.Node/NodePublishVolume" => {
                rpc::answer(request, |request: pb::NodePublishVolumeRequest| async move {
                    self.note("publish", &request.volume_id).await?;
                    match is_block(&request.volume_capability) {
                        true => self.show_device(&request.volume_id, &request.target_path)?,
                        false => self.show(&request.volume_id, &request.target_path)?,
                    }
                    lock(&self.published).push(request);
                    Ok(pb::Empty {})
                })
                .await
            }
            "/csi.v1.Node/NodeUnpublishVolume" => {
                rpc::answer(request, |request: pb::NodeUnpublishVolumeRequest| async move {
                    self.note("unpublish", &request.volume_id).await?;
                    hide(&request.target_path)?;
                    Ok(pb::Empty {})
                })
                .await
            }
            "/csi.v1.Node/NodeUnstageVolume" => {
                rpc::answer(request, |request: pb::NodeUnstageVolumeRequest| async move {
                    self.note("unstage", &request.volume_id).await?;
                    hide(&request.staging_target_path)?;
                    Ok(pb::Empty {})
                })
                .await
            }
            "/csi.v1.Node/NodeExpandVolume" => {
                rpc::answer(request, |request: pb::NodeExpandVolumeRequest| async move {
                    let bytes = request.capacity_range.map_or(0, |range| range.required_bytes);
                    self.note("expand", &format!("{} to {bytes}", request.volume_id)).await?;
                    Ok(pb::NodeExpandVolumeResponse { capacity_bytes: bytes })
                })
                .await
            }
            "/csi.v1.Node/NodeGetVolumeStats" => {
                rpc::answer(request, |request: pb::NodeGetVolumeStatsRequest| async move {
                    lock(&self.measured).push(request);
                    let usage = |unit: pb::UsageUnit, total: i64, used: i64| pb::VolumeUsage {
                        available: total - used,
                        total,
                        used,
                        unit: unit.into(),
                    };
                    Ok(pb::NodeGetVolumeStatsResponse {
                        usage: vec![usage(pb::UsageUnit::Bytes, 1000, 400), usage(pb::UsageUnit::Inodes, 10, 3)],
                        volume_condition: Some(pb::VolumeCondition { abnormal: true, message: "worn out".to_owned() }),
                    })
                })
                .await
            }
            path => rpc::unknown(path),
        }
    }

    /// What it says from now on to who asks it to `stage`, `publish`, `expand` and so on; `None`: it does so.
    pub fn refuse(&self, call: &'static str, refusal: Option<Status>) {
        let mut refusals = lock(&self.refusals);
        match refusal {
            Some(refusal) => drop(refusals.insert(call, refusal)),
            None => drop(refusals.remove(call)),
        }
    }

    /// Whether it takes its time until told otherwise.
    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    async fn note(&self, call: &str, volume: &str) -> Result<(), Status> {
        lock(&self.asked).push(format!("{call} {volume}"));
        // Who holds it lives as long as the driver.
        let _ = self.held.subscribe().wait_for(|held| !held).await;
        lock(&self.refusals).get(call).cloned().map_or(Ok(()), Err)
    }

    /// Binds the volume's folder; one that is named `broken` cannot be had.
    fn show(&self, volume: &str, at: &str) -> Result<(), Status> {
        if volume == "broken" {
            return Err(Status::internal("the disk is broken"));
        }
        let folder = self.volumes.join(volume);
        std::fs::create_dir_all(&folder)?;
        std::fs::create_dir_all(at)?;
        mount(Some(&folder), at, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|errno| Status::internal(format!("bind {at}: {errno}")))
    }
}

impl FakeDriver {
    /// Binds a loop device that stands on the volume's file.
    fn show_device(&self, volume: &str, at: &str) -> Result<(), Status> {
        let file = self.volumes.join(volume);
        if std::fs::metadata(at).is_ok_and(|meta| meta.file_type().is_block_device()) {
            return Ok(());
        }
        let output = Command::new("losetup").args(["--find", "--show"]).arg(&file).output()?;
        if !output.status.success() {
            return Err(Status::internal(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        let device = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        std::fs::File::create(at)?;
        let bound = mount(Some(device.as_str()), at, None::<&str>, MsFlags::MS_BIND, None::<&str>);
        bound.map_err(|errno| Status::internal(format!("bind {device}: {errno}")))
    }
}

fn is_block(capability: &Option<pb::VolumeCapability>) -> bool {
    let access = capability.as_ref().and_then(|capability| capability.access_type.as_ref());
    matches!(access, Some(AccessType::Block(_)))
}

/// Takes back what was bound; what is not there is fine.
fn hide(at: &str) -> Result<(), Status> {
    let is_device = std::fs::metadata(at).is_ok_and(|meta| meta.file_type().is_block_device());
    if is_device {
        let ended = Command::new("losetup").args(["--detach", at]).status()?;
        if !ended.success() {
            return Err(Status::internal(format!("losetup --detach {at} failed")));
        }
    }
    // Not mounted (any more): what was wanted.
    let _ = umount2(at, MntFlags::UMOUNT_NOFOLLOW);
    let removed = if is_device { std::fs::remove_file(at) } else { std::fs::remove_dir(at) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Status::internal(format!("remove {at}: {error}"))),
        _ => Ok(()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
