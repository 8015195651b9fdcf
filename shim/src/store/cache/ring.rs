//! The recent changes of one resource, for watches that resume and lists at an old revision.

use super::Change;
use crate::revision::Revision;
use std::collections::VecDeque;
use std::sync::Arc;

/// Changes kept per resource.
const CHANGES: usize = 1000;
/// Bytes that they may pin (old objects; the new ones are in the map anyway).
const BYTES: usize = 4 << 20;

/// Every change above `floor`, oldest first.
pub(super) struct Ring {
    floor: Revision,
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
}

impl Ring {
    pub(super) fn new(floor: Revision) -> Self {
        Self { floor, changes: VecDeque::new(), bytes: 0 }
    }

    /// Nothing at or below is kept.
    pub(super) fn floor(&self) -> Revision {
        self.floor
    }

    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    pub(super) fn after(&self, revision: Revision) -> impl Iterator<Item = &Arc<Change>> {
        let first = self.changes.partition_point(|c| c.revision <= revision);
        self.changes.range(first..)
    }

    pub(super) fn newest_first(&self) -> impl Iterator<Item = &Arc<Change>> {
        self.changes.iter().rev()
    }

    pub(super) fn push(&mut self, change: Arc<Change>) {
        self.bytes += change.weight();
        self.changes.push_back(change);
        while self.changes.len() > CHANGES || (self.bytes > BYTES && self.changes.len() > 1) {
            let Some(oldest) = self.changes.pop_front() else { break };
            self.bytes -= oldest.weight();
            self.floor = oldest.revision;
            // Changes of one revision leave together: a watch above `floor` must see all of the next one.
            while self.changes.front().is_some_and(|c| c.revision == oldest.revision) {
                if let Some(same) = self.changes.pop_front() {
                    self.bytes -= same.weight();
                }
            }
        }
    }
}
