//! Volumes that have grown: their driver is asked to make what the node has of them as large, and the claim is told
//! (`NodeExpander`).

use super::wanted::{Growth, GrowthStage};
use super::{Job, Map, wanted};
use crate::clock;
use crate::plugins::{PluginError, Verdict};
use serde_json::{Value, json};
use std::path::Path;

/// What a claim says while it grows and cannot (`knownResizeConditions`).
const CONDITIONS: [&str; 4] = ["ControllerResizeError", "FileSystemResizePending", "NodeResizeError", "Resizing"];

impl Job<'_> {
    /// `in_use`: pods have it already, which goes on whatever comes of this.
    pub(super) async fn grow(&self, staging: Option<&Path>, target: &Path, in_use: bool) -> Result<(), String> {
        let Some(growth) = self.wanted.growth.as_ref().filter(|_| self.able.expand) else { return Ok(()) };
        let name = &self.wanted.name;
        if self.wanted.read_only {
            if !in_use {
                let text = "MountVolume.NodeExpandVolume failed for volume";
                let message = format!("{text} {name:?} requested read-only file system");
                self.tell_growth(growth, true, "FileSystemResizeFailed", &message);
            }
            return Ok(());
        }
        match self.grow_to(growth, staging, target).await {
            Err(why) if in_use => {
                let message = format!("NodeExpandVolume.NodeExpandVolume failed for volume {name:?} : {why}");
                if let Some(recorder) = &self.volumes.recorder {
                    recorder.pod(self.pod, None, true, "VolumeResizeFailed", message);
                }
                Ok(())
            }
            done => done,
        }
    }

    async fn grow_to(&self, growth: &Growth, staging: Option<&Path>, target: &Path) -> Result<(), String> {
        let unique = wanted::unique_name(&self.wanted.driver, &self.wanted.handle);
        if self.volumes.inner.csi.fixed().contains(&unique) {
            return Ok(());
        }
        if growth.stage == GrowthStage::Pending {
            let begun = json!({"allocatedResourceStatuses": {"storage": "NodeResizeInProgress"}});
            self.tell_claim(growth, begun).await?;
        }
        let secrets: Result<Map, String> = self
            .secrets(self.wanted.expand_secret.as_ref())
            .await
            .map_err(|no| format!("expander.NodeExpand failed to get NodeExpandSecretRef {}: {}", no.place, no.why));
        let request = self.call().expand(staging, target, growth.to.0, secrets?);
        match self.driver.expand(request).await {
            Ok(()) => {
                let node = self.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
                let message =
                    format!("MountVolume.NodeExpandVolume succeeded for volume {:?} {node}", self.wanted.name);
                self.tell_growth(growth, false, "FileSystemResizeSuccessful", &message);
                self.tell_claim(growth, finished(growth)).await
            }
            // Not while it is in use: no reason to keep it from who wants it.
            Err(error) if error.verdict() == Verdict::Precondition => {
                tracing::warn!(volume = self.wanted.name, %error, "volume does not grow while it is in use");
                self.volumes.inner.csi.fixed().insert(unique);
                Ok(())
            }
            Err(error) => {
                if let Some(told) = failed(growth, &error, clock::now().wall) {
                    self.tell_claim(growth, told).await?;
                }
                Err(format!("Expander.NodeExpand failed to expand the volume : {error}"))
            }
        }
    }

    async fn tell_claim(&self, growth: &Growth, status: Value) -> Result<(), String> {
        let cluster = &self.volumes.inner.cluster;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let (namespace, claim) = (text(&growth.claim.namespace), text(&growth.claim.name));
        let told = cluster.patch_claim_status(&namespace, &claim, &json!({"status": status})).await;
        told.map_err(|error| format!("mountVolume.NodeExpandVolume update PVC status failed : {error}"))
    }

    /// On the pod and on the claim.
    fn tell_growth(&self, growth: &Growth, warning: bool, reason: &'static str, message: &str) {
        let Some(recorder) = &self.volumes.recorder else { return };
        recorder.pod(self.pod, None, warning, reason, message.to_owned());
        recorder.claim(&growth.claim, warning, reason, message.to_owned());
    }
}

/// Its size is what was asked for, and none of what was said on the way holds any more (`MarkFSResizeFinished`).
fn finished(growth: &Growth) -> Value {
    let conditions: Vec<Value> = CONDITIONS.iter().map(|kind| json!({"type": kind, "$patch": "delete"})).collect();
    let mut status = json!({"capacity": {"storage": growth.capacity.0}, "conditions": conditions});
    if growth.stage != GrowthStage::Untold {
        status["allocatedResourceStatuses"] = Value::Null;
    }
    status
}

/// That it failed for good; `None`: it may yet come to something, or whoever resizes the claim does not read such words.
fn failed(growth: &Growth, error: &PluginError, now: jiff::Timestamp) -> Option<Value> {
    let verdict = error.verdict();
    if growth.stage == GrowthStage::Untold || verdict == Verdict::Open {
        return None;
    }
    let why = format!("failed to expand pvc with Expander.NodeExpand failed to expand the volume : {error}");
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = json!({"type": "NodeResizeError", "status": "True", "lastTransitionTime": now, "message": why});
    let mut status = json!({"conditions": [condition]});
    if verdict == Verdict::Infeasible {
        status["allocatedResourceStatuses"] = json!({"storage": "NodeResizeInfeasible"});
    }
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Bytes;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    #[test]
    fn only_what_failed_for_good_is_said_of_the_claim() {
        let growth = |stage| Growth { to: Bytes(1), capacity: Quantity("1".into()), claim: Default::default(), stage };
        let check = |stage, code: i32, expected: &[Option<&str>]| {
            let told = failed(&growth(stage), &PluginError::of_code(code, "no"), jiff::Timestamp::UNIX_EPOCH);
            let shown = told.map(|told| told["allocatedResourceStatuses"]["storage"].as_str().map(str::to_owned));
            assert_eq!(shown.as_ref().map(|status| status.as_deref()).as_slice(), expected, "{stage:?} {code}");
        };
        // Unavailable, Internal, InvalidArgument.
        check(GrowthStage::InProgress, 14, &[]);
        check(GrowthStage::InProgress, 13, &[None]);
        check(GrowthStage::Pending, 3, &[Some("NodeResizeInfeasible")]);
        check(GrowthStage::Untold, 13, &[]);
    }
}
