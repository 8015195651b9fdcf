//! The choice of devices for one container and one resource (`devicesToAllocate`).

use super::{Book, Grant, Ids};
use crate::decide::topology::NumaMask;
use crate::ids::PodUid;
use crate::model::devices::Device;
use k8s_openapi::api::core::v1::Pod;

/// A container's wish for devices of one resource.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    pub pod: &'a Pod,
    pub uid: &'a PodUid,
    pub container: &'a str,
    pub resource: &'a str,
    pub count: usize,
    /// Devices close to these NUMA nodes come first.
    pub nodes: Option<NumaMask>,
}

/// Is one of the device's nodes among these?
pub(super) fn is_close(device: &Device, nodes: NumaMask) -> bool {
    device.nodes.iter().any(|node| u32::try_from(*node).is_ok_and(|node| nodes.has(node)))
}

/// Why a container cannot have its devices, in the kubelet's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    #[error("cannot allocate unregistered device {0}")]
    Unregistered(String),
    #[error("no healthy devices present; cannot allocate unhealthy devices {0}")]
    Unhealthy(String),
    #[error("previously allocated devices are no longer healthy; cannot allocate unhealthy devices {0}")]
    Lost(String),
    #[error("requested number of devices unavailable for {resource}. Requested: {wanted}, Available: {available}")]
    TooFew { resource: String, wanted: usize, available: usize },
    #[error("pod {pod:?} container {container:?} changed request for resource {resource:?} from {held} to {wanted}")]
    Changed { pod: String, container: String, resource: String, held: usize, wanted: usize },
}

/// What a claim can get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Nothing is to be done: it holds them already, or wants none.
    Held,
    /// These; there is nothing to choose.
    Settled(Ids),
    /// The plugin may say what it prefers.
    Open(Open),
}

/// A choice that is still to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Certain already.
    pub taken: Ids,
    /// Free devices to choose from.
    free: Ids,
    /// Where these do not suffice, or the plugin prefers them.
    last: Ids,
    /// How many it will be, with those that are taken.
    pub count: usize,
}

impl Open {
    /// All devices of which the choice will consist.
    pub fn available(&self) -> Ids {
        self.free.iter().chain(&self.last).chain(&self.taken).cloned().collect()
    }

    /// The choice: what the plugin prefers first, then any.
    pub fn settle(self, preferred: &Ids) -> Ids {
        let mut chosen = self.taken;
        let all = || self.free.iter().chain(&self.last);
        let (first, rest) = (all().filter(|id| preferred.contains(*id)), all().filter(|id| !preferred.contains(*id)));
        let missing = self.count.saturating_sub(chosen.len());
        chosen.extend(first.chain(rest).take(missing).cloned());
        chosen
    }
}

impl Book {
    /// What there is for `claim`.
    pub fn offer(&self, claim: &Claim<'_>) -> Result<Offer, Lack> {
        let resource = claim.resource;
        let held = self.held(claim.uid, claim.container).and_then(|held| held.get(resource)).map(Grant::ids);
        if let Some(held) = held {
            if held.len() != claim.count {
                return Err(Lack::Changed {
                    pod: claim.uid.to_string(),
                    container: claim.container.to_owned(),
                    resource: resource.to_owned(),
                    held: held.len(),
                    wanted: claim.count,
                });
            }
            return Ok(Offer::Held);
        }
        let known = self.resources.get(resource).ok_or_else(|| Lack::Unregistered(resource.to_owned()))?;
        if known.healthy().next().is_none() {
            return Err(Lack::Unhealthy(resource.to_owned()));
        }
        if claim.count == 0 {
            return Ok(Offer::Held);
        }
        let taken: Ids = self.reusable(claim.pod, claim.uid, resource).into_iter().take(claim.count).collect();
        let wanted = claim.count - taken.len();
        if wanted == 0 {
            return Ok(Offer::Settled(taken));
        }
        let free = self.free(resource);
        if free.len() < wanted {
            return Err(Lack::TooFew { resource: resource.to_owned(), wanted, available: free.len() });
        }
        let count = claim.count;
        let Some(nodes) = claim.nodes else {
            return Ok(Offer::Open(Open { taken, free, last: Ids::new(), count }));
        };
        let is = |id: &String, holds: &dyn Fn(&Device) -> bool| known.devices.get(id).is_some_and(holds);
        let (near, rest): (Ids, Ids) = free.into_iter().partition(|id| is(id, &|device| is_close(device, nodes)));
        if wanted < near.len() {
            return Ok(Offer::Open(Open { taken, free: near, last: Ids::new(), count }));
        }
        // All that are close, whatever the plugin prefers; beyond them those that are close to no node come last.
        let taken: Ids = taken.into_iter().chain(near).collect();
        if taken.len() == count {
            return Ok(Offer::Settled(taken));
        }
        let (far, last) = rest.into_iter().partition(|id| is(id, &|device| !device.nodes.is_empty()));
        Ok(Offer::Open(Open { taken, free: far, last, count }))
    }
}
