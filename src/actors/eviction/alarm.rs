//! The kernel's word that memory runs short, between two looks (`kernelMemcgNotification`).

use crate::cgroups::{Cgroups, MemoryMark};
use crate::clock;
use futures::future::select_all;
use std::time::Duration;
use tokio::time::Instant;

/// Marks are set anew this often, since page cache moves them (`notifierRefreshInterval`).
const REFRESH: Duration = Duration::from_secs(10);
/// Memory that hovers about a mark passes it all the time: so long after one look none follows.
const REST: Duration = Duration::from_secs(1);

/// The marks that are set; there are none unless the configuration asks for them.
pub(super) struct Alarm {
    cgroups: Option<Cgroups>,
    marks: Vec<MemoryMark>,
    set: Option<Instant>,
}

impl Alarm {
    /// `None`: silent.
    pub(super) fn new(cgroups: Option<Cgroups>) -> Self {
        Self { cgroups, marks: Vec::new(), set: None }
    }

    /// Takes what a look has found: cgroups and where their use of memory gets too much.
    pub(super) fn set(&mut self, wanted: &[(String, Vec<u64>)]) {
        let now = clock::now().mono;
        let Some(cgroups) = self.cgroups.as_ref().filter(|_| self.set.is_none_or(|set| now - set >= REFRESH)) else {
            return;
        };
        self.set = Some(now);
        let each = wanted.iter().flat_map(|(path, marks)| marks.iter().map(move |mark| (path, *mark)));
        let told = |(path, mark): (&String, u64)| {
            let made = cgroups.memory_mark(path, mark);
            made.map_err(|error| tracing::warn!(cgroup = path, %error, "the kernel will not tell of short memory")).ok()
        };
        self.marks = each.filter_map(told).collect();
    }

    /// Waits for the next look: `period`, or until memory runs short.
    pub(super) async fn wait(&self, period: Duration) {
        if self.marks.is_empty() {
            return tokio::time::sleep(period).await;
        }
        tokio::time::sleep(REST).await;
        let told = select_all(self.marks.iter().map(|mark| Box::pin(mark.crossed())));
        if tokio::time::timeout(period.saturating_sub(REST), told).await.is_ok() {
            tracing::info!("the kernel tells that memory runs short");
        }
    }
}
