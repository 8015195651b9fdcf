//! What a driver is asked, from what is wanted. Pure.

use super::wanted::Wanted;
use crate::plugins::csi::Capabilities;
pub(super) use crate::plugins::csi::proto::Map;
use crate::plugins::csi::proto::{self as pb, AccessType, Mode};
use std::path::Path;

/// Where the volume is made ready and shown, and what was fetched for it.
pub(super) struct Call<'a> {
    pub wanted: &'a Wanted,
    pub able: Capabilities,
    /// From the VolumeAttachment.
    pub attachment: &'a Map,
    /// The pod's fsGroup.
    pub group: Option<u32>,
}

impl Call<'_> {
    pub(super) fn stage(&self, staging: &Path, secrets: Map) -> pb::NodeStageVolumeRequest {
        pb::NodeStageVolumeRequest {
            volume_id: self.wanted.handle.clone(),
            publish_context: self.attachment.clone(),
            staging_target_path: text(staging),
            volume_capability: Some(self.capability()),
            secrets,
            volume_context: self.wanted.attributes.clone(),
        }
    }

    /// `more` joins the volume's own attributes.
    pub(super) fn publish(
        &self,
        staging: Option<&Path>,
        target: &Path,
        secrets: Map,
        more: Map,
    ) -> pb::NodePublishVolumeRequest {
        let mut volume_context = self.wanted.attributes.clone();
        volume_context.extend(more);
        pb::NodePublishVolumeRequest {
            volume_id: self.wanted.handle.clone(),
            publish_context: self.attachment.clone(),
            staging_target_path: staging.map(text).unwrap_or_default(),
            target_path: text(target),
            volume_capability: Some(self.capability()),
            readonly: self.wanted.read_only,
            secrets,
            volume_context,
        }
    }

    pub(super) fn expand(
        &self,
        staging: Option<&Path>,
        target: &Path,
        to_bytes: i64,
        secrets: Map,
    ) -> pb::NodeExpandVolumeRequest {
        pb::NodeExpandVolumeRequest {
            volume_id: self.wanted.handle.clone(),
            volume_path: text(target),
            capacity_range: Some(pb::CapacityRange { required_bytes: to_bytes, limit_bytes: 0 }),
            staging_target_path: staging.map(text).unwrap_or_default(),
            volume_capability: Some(self.capability()),
            secrets,
        }
    }

    fn capability(&self) -> pb::VolumeCapability {
        let group = self.group.filter(|_| self.able.mount_group);
        let access_type = match self.wanted.block {
            true => AccessType::Block(pb::Empty {}),
            false => AccessType::Mount(pb::MountVolume {
                fs_type: self.wanted.fs_type.clone(),
                mount_flags: self.wanted.mount_options.clone(),
                volume_mount_group: group.map(|group| group.to_string()).unwrap_or_default(),
            }),
        };
        pb::VolumeCapability {
            access_type: Some(access_type),
            access_mode: Some(pb::AccessMode { mode: self.mode().into() }),
        }
    }

    /// `asCSIAccessModeV1` and `asSingleNodeMultiWriterCapableCSIAccessModeV1`: the first mode counts.
    fn mode(&self) -> Mode {
        let multi_writer = self.able.multi_writer;
        match self.wanted.access_modes.first().map_or("ReadWriteOnce", String::as_str) {
            "ReadWriteOnce" if multi_writer => Mode::SingleNodeMultiWriter,
            "ReadWriteOnce" => Mode::SingleNodeWriter,
            "ReadOnlyMany" => Mode::MultiNodeReaderOnly,
            "ReadWriteMany" => Mode::MultiNodeMultiWriter,
            "ReadWriteOncePod" if multi_writer => Mode::SingleNodeSingleWriter,
            "ReadWriteOncePod" => Mode::SingleNodeWriter,
            _ => Mode::Unknown,
        }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
