//! Pods that wait for a node: which is next, which wait out a failure, and which wait for the cluster to change.

use crate::control::informer::ObjectKey;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Wait after a failed attempt, doubling with each (upstream's podInitialBackoffSeconds, podMaxBackoffSeconds).
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(10);
/// A pod that fits nowhere is tried again after this even if nothing happened (podMaxInUnschedulablePodsDuration).
const UNSCHEDULABLE_FOR: Duration = Duration::from_secs(300);

/// What happened that may let a pod in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Chance {
    /// A node came or changed.
    Node,
    /// A pod left its node.
    Room,
}

/// The queue holds each pending pod once, so it is bounded by the pods there are.
#[derive(Debug, Default)]
pub(super) struct PodQueue {
    pods: BTreeMap<ObjectKey, Entry>,
    /// Highest priority first, then first come.
    active: BTreeSet<(Reverse<i32>, u64, ObjectKey)>,
    /// Everything that becomes active at a time.
    timed: BTreeSet<(Instant, ObjectKey)>,
    sequence: u64,
}

#[derive(Debug)]
struct Entry {
    priority: i32,
    failures: u32,
    /// End of the backoff of the last failure.
    not_before: Option<Instant>,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Active {
        sequence: u64,
        priority: i32,
    },
    /// Waits out its backoff.
    Backoff(Instant),
    /// Fits nowhere: waits for a chance, at most until then.
    Unschedulable {
        until: Instant,
        room_helps: bool,
    },
    /// Was popped; its outcome is not known yet.
    Taken,
}

impl PodQueue {
    /// The pod is new, or what it wishes changed: it is worth an attempt.
    pub(super) fn add(&mut self, key: &ObjectKey, priority: i32, now: Instant) {
        match self.pods.get_mut(key) {
            None => {
                let entry = Entry { priority, failures: 0, not_before: None, place: Place::Taken };
                self.pods.insert(key.clone(), entry);
                self.activate(key);
            }
            Some(entry) => {
                entry.priority = priority;
                if matches!(entry.place, Place::Unschedulable { .. } | Place::Active { .. }) {
                    self.retry(key, now);
                }
            }
        }
    }

    /// The pod needs no node any more.
    pub(super) fn remove(&mut self, key: &ObjectKey) {
        self.take_out(key);
        self.pods.remove(key);
    }

    /// The pod to handle next.
    pub(super) fn pop(&mut self) -> Option<ObjectKey> {
        let (_, _, key) = self.active.pop_first()?;
        if let Some(entry) = self.pods.get_mut(&key) {
            entry.place = Place::Taken;
        }
        Some(key)
    }

    /// No node takes the pod now.
    pub(super) fn unschedulable(&mut self, key: &ObjectKey, room_helps: bool, now: Instant) {
        self.failed(key, now);
        let until = now + UNSCHEDULABLE_FOR;
        self.put(key, until, Place::Unschedulable { until, room_helps });
    }

    /// The attempt failed for a reason that is not the cluster's: again after the backoff.
    pub(super) fn error(&mut self, key: &ObjectKey, now: Instant) {
        self.failed(key, now);
        self.retry(key, now);
    }

    /// Something happened: whom it may help is tried again, once its backoff is over.
    pub(super) fn chance(&mut self, chance: Chance, now: Instant) {
        let helped = |entry: &Entry| match entry.place {
            Place::Unschedulable { room_helps, .. } => chance == Chance::Node || room_helps,
            Place::Active { .. } | Place::Backoff(_) | Place::Taken => false,
        };
        let helped: Vec<ObjectKey> =
            self.pods.iter().filter(|(_, entry)| helped(entry)).map(|(key, _)| key.clone()).collect();
        helped.iter().for_each(|key| self.retry(key, now));
    }

    /// Makes active what waited long enough.
    pub(super) fn advance(&mut self, now: Instant) {
        while self.timed.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.timed.pop_first() {
                self.activate(&key);
            }
        }
    }

    /// When `advance` will have something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timed.first().map(|(at, _)| *at)
    }

    fn failed(&mut self, key: &ObjectKey, now: Instant) {
        if let Some(entry) = self.pods.get_mut(key) {
            let backoff = FIRST_BACKOFF.saturating_mul(1 << entry.failures.min(10)).min(LAST_BACKOFF);
            entry.failures += 1;
            entry.not_before = Some(now + backoff);
        }
    }

    fn retry(&mut self, key: &ObjectKey, now: Instant) {
        match self.pods.get(key).and_then(|entry| entry.not_before) {
            Some(at) if at > now => self.put(key, at, Place::Backoff(at)),
            Some(_) | None => self.activate(key),
        }
    }

    fn put(&mut self, key: &ObjectKey, at: Instant, place: Place) {
        self.take_out(key);
        if let Some(entry) = self.pods.get_mut(key) {
            entry.place = place;
            self.timed.insert((at, key.clone()));
        }
    }

    fn activate(&mut self, key: &ObjectKey) {
        self.take_out(key);
        if let Some(entry) = self.pods.get_mut(key) {
            self.sequence += 1;
            entry.place = Place::Active { sequence: self.sequence, priority: entry.priority };
            self.active.insert((Reverse(entry.priority), self.sequence, key.clone()));
        }
    }

    fn take_out(&mut self, key: &ObjectKey) {
        let Some(entry) = self.pods.get_mut(key) else { return };
        match std::mem::replace(&mut entry.place, Place::Taken) {
            Place::Active { sequence, priority } => {
                self.active.remove(&(Reverse(priority), sequence, key.clone()));
            }
            Place::Backoff(at) | Place::Unschedulable { until: at, .. } => {
                self.timed.remove(&(at, key.clone()));
            }
            Place::Taken => {}
        }
    }
}
