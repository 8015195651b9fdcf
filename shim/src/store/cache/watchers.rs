//! Who watches a resource, found by what they watch: a change costs as much as there are watchers it can concern.

use super::delivery::{Change, Delivery};
use super::objects::{Objects, Scope};
use super::queue::{Sender, Sent};
use crate::store::key::StoreKey;
use std::collections::HashMap;
use std::sync::Arc;

/// The watchers of one resource.
#[derive(Default)]
pub(super) struct Watchers {
    /// Of one object each: an agent watches each Secret and ConfigMap of its pods so.
    by_key: HashMap<StoreKey, Vec<Sender>>,
    /// Of one value of the indexed field: an agent watches its node's pods so.
    by_field: HashMap<Box<str>, Vec<(String, Sender)>>,
    by_prefix: Vec<(String, Sender)>,
    /// Registered, those that went away unnoticed included.
    count: usize,
    /// Above this count the ones that went away are looked for: their number stays in proportion.
    sweep_at: usize,
}

/// Least number of watchers that are worth a sweep.
const SWEEP_LEAST: usize = 64;

/// What a dispatch came to.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Dispatched {
    pub(super) queued: u64,
    pub(super) overflowed: u64,
}

impl Dispatched {
    /// Counts, and says whether the watcher stays.
    fn keep(&mut self, sent: Sent) -> bool {
        match sent {
            Sent::Queued => self.queued += 1,
            Sent::Overflowed => self.overflowed += 1,
            Sent::Gone => {}
        }
        sent == Sent::Queued
    }
}

impl Watchers {
    pub(super) fn add(&mut self, scope: Scope, sender: Sender) {
        if self.count >= self.sweep_at.max(SWEEP_LEAST) {
            self.sweep();
        }
        self.count += 1;
        match scope {
            Scope::Key(key) => self.by_key.entry(key).or_default().push(sender),
            Scope::Field { prefix, value } => self.by_field.entry(value).or_default().push((prefix, sender)),
            Scope::Prefix(prefix) => self.by_prefix.push((prefix, sender)),
        }
    }

    /// Hands the change to every watcher that it may concern. A watcher whose queue is full is dropped: it ends, and its
    /// client lists anew.
    pub(super) fn dispatch(&mut self, change: &Arc<Change>, objects: &Objects) -> Dispatched {
        let mut done = Dispatched::default();
        let Some(key) = change.key() else { return done };
        if self.count == 0 {
            return done;
        }
        let delivery = Delivery::new(change.clone());
        let before = self.count;
        let mut left = 0;
        if let Some(watchers) = self.by_key.get_mut(key) {
            let had = watchers.len();
            watchers.retain(|sender| done.keep(sender.send(&delivery)));
            left += had - watchers.len();
            if watchers.is_empty() {
                self.by_key.remove(key);
            }
        }
        let mut pass = |watchers: &mut Vec<(String, Sender)>| {
            let had = watchers.len();
            watchers.retain(|(prefix, sender)| {
                !key.as_str().starts_with(prefix.as_str()) || done.keep(sender.send(&delivery))
            });
            left += had - watchers.len();
        };
        pass(&mut self.by_prefix);
        let value = |entry: &Option<Arc<super::Entry>>| {
            entry.as_deref().and_then(|e| objects.value_of(e)).map(Box::<str>::from)
        };
        let (old, new) = (value(&change.old), value(&change.new));
        // An object that moves from one value to another concerns the watchers of both.
        for value in [old.as_ref().filter(|old| Some(*old) != new.as_ref()), new.as_ref()].into_iter().flatten() {
            if let Some(watchers) = self.by_field.get_mut(value) {
                pass(watchers);
                if watchers.is_empty() {
                    self.by_field.remove(value);
                }
            }
        }
        self.count = before - left;
        done
    }

    /// Watchers that still read.
    pub(super) fn open(&mut self) -> usize {
        self.sweep();
        self.count
    }

    fn sweep(&mut self) {
        self.by_key.retain(|_, watchers| {
            watchers.retain(Sender::is_open);
            !watchers.is_empty()
        });
        self.by_field.retain(|_, watchers| {
            watchers.retain(|(_, sender)| sender.is_open());
            !watchers.is_empty()
        });
        self.by_prefix.retain(|(_, sender)| sender.is_open());
        let keyed: usize = self.by_key.values().map(Vec::len).sum();
        let valued: usize = self.by_field.values().map(Vec::len).sum();
        self.count = keyed + valued + self.by_prefix.len();
        self.sweep_at = 2 * self.count;
    }
}
