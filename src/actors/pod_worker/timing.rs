//! How long a worker takes, as the kubelet counts it: each round of work, and a pod's way to Running.

use crate::clock::Now;
use crate::metrics::catalog;
use jiff::Timestamp;
use std::time::Duration;
use tokio::time::Instant;

/// What one worker has to tell.
#[derive(Debug)]
pub(super) struct Timing {
    seen: Instant,
    /// When the API object was made; `None` for pods that were there before us: their start is not ours to tell.
    created: Option<Timestamp>,
    /// Since when there is work, and what it is called.
    round: Option<(Instant, &'static str)>,
    next_round: &'static str,
    pulling: Option<Instant>,
    pulled: Duration,
    started: bool,
}

impl Timing {
    /// `created`: the creation time of a pod that is new to the runtime.
    pub(super) fn new(now: Instant, created: Option<Timestamp>) -> Self {
        Self {
            seen: now,
            round: None,
            next_round: if created.is_some() { "create" } else { "sync" },
            pulling: None,
            pulled: Duration::ZERO,
            started: created.is_none(),
            created,
        }
    }

    /// The API object changed: the next round is an update.
    pub(super) fn updated(&mut self) {
        self.next_round = "update";
    }

    /// There is something to look at or to do.
    pub(super) fn busy(&mut self, now: Instant) {
        if self.round.is_none() {
            if self.next_round == "create" {
                catalog::POD_WORKER_START.observe_one(now - self.seen);
            }
            self.round = Some((now, std::mem::replace(&mut self.next_round, "sync")));
        }
    }

    /// Nothing is left to do for now.
    pub(super) fn idle(&mut self, now: Instant) {
        if let Some((begun, kind)) = self.round.take() {
            catalog::POD_WORKER.observe([kind], now - begun);
        }
    }

    /// Whether images are being pulled.
    pub(super) fn pulls(&mut self, pulling: bool, now: Instant) {
        match (self.pulling, pulling) {
            (None, true) => self.pulling = Some(now),
            (Some(since), false) => {
                self.pulled += now - since;
                self.pulling = None;
            }
            (None, false) | (Some(_), true) => {}
        }
    }

    /// The pod is Running: told once.
    pub(super) fn running(&mut self, now: Now) {
        let Some(created) = self.created.filter(|_| !std::mem::replace(&mut self.started, true)) else { return };
        catalog::POD_STARTS.observe_one(now.mono - self.seen);
        // The clock of the API server may be ahead of ours.
        let total = now.wall.duration_since(created).try_into().unwrap_or(Duration::ZERO);
        catalog::POD_START_TOTAL.observe_one(total);
        catalog::POD_START_SLI.observe_one(total.saturating_sub(self.pulled));
    }
}
