//! Tests of the queue: order, backoff, and who is tried again when.

use super::key;
use crate::clock;
use crate::control::scheduler::queue::{Chance, PodQueue};
use std::time::Duration;
use tokio::time::Instant;

/// A queue and its time, in milliseconds from its start.
struct Line {
    queue: PodQueue,
    start: Instant,
}

impl Line {
    fn new() -> Self {
        Self { queue: PodQueue::default(), start: clock::now().mono }
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    fn add(&mut self, name: &str, priority: i32, millis: u64) {
        self.queue.add(&key(name), priority, self.at(millis));
    }

    fn unschedulable(&mut self, name: &str, room_helps: bool, millis: u64) {
        self.queue.unschedulable(&key(name), room_helps, self.at(millis));
    }

    fn chance(&mut self, chance: Chance, millis: u64) {
        self.queue.chance(chance, self.at(millis));
    }

    /// The names that are due, in order.
    fn due(&mut self, millis: u64) -> String {
        self.queue.advance(self.at(millis));
        let names: Vec<String> = std::iter::from_fn(|| self.queue.pop()).map(|key| key.name.to_string()).collect();
        names.join(" ")
    }

    fn wake(&self) -> Option<u128> {
        self.queue.next_due().map(|at| (at - self.start).as_millis())
    }
}

#[test]
fn pods_are_popped_once_by_priority_then_age() {
    let mut line = Line::new();
    line.add("a", 0, 0);
    line.add("b", 5, 0);
    line.add("c", 0, 0);
    line.add("gone", 9, 0);
    line.queue.remove(&key("gone"));
    assert_eq!(line.due(0), "b a c");
    // What was popped has its outcome to come.
    line.add("a", 0, 1);
    assert_eq!((line.due(1), line.wake()), (String::new(), None));
}

#[test]
fn an_unschedulable_pod_waits_for_a_chance_that_helps_it() {
    let mut line = Line::new();
    line.add("room", 0, 0);
    line.add("node", 0, 0);
    line.due(0);
    line.unschedulable("room", true, 0);
    line.unschedulable("node", false, 0);
    assert_eq!(line.due(200_000), "");
    line.chance(Chance::Room, 200_000);
    assert_eq!(line.due(200_000), "room");
    line.unschedulable("room", true, 200_000);
    line.chance(Chance::Node, 200_500);
    // The last failure of one is too near.
    assert_eq!((line.due(200_500), line.wake()), ("node".into(), Some(202_000)));
    assert_eq!(line.due(202_000), "room");
}

#[test]
fn without_any_chance_it_is_tried_again_after_five_minutes() {
    let mut line = Line::new();
    line.add("a", 0, 0);
    line.due(0);
    line.unschedulable("a", false, 0);
    assert_eq!(line.wake(), Some(300_000));
    assert_eq!(line.due(300_000), "a");
}

#[test]
fn backoff_doubles_from_one_second_to_ten() {
    let mut line = Line::new();
    line.add("a", 0, 0);
    let waits: Vec<u128> = (0..6)
        .map(|_| {
            line.due(100_000);
            line.queue.error(&key("a"), line.at(0));
            line.wake().unwrap()
        })
        .collect();
    assert_eq!(waits, [1000, 2000, 4000, 8000, 10_000, 10_000]);
}

#[test]
fn a_changed_wish_is_tried_again_and_a_removed_pod_leaves_no_timer() {
    let mut line = Line::new();
    line.add("a", 0, 0);
    line.add("b", 0, 0);
    line.due(0);
    line.unschedulable("a", false, 0);
    line.unschedulable("b", false, 0);
    line.add("a", 1, 5000);
    assert_eq!(line.due(5000), "a");
    line.queue.remove(&key("b"));
    assert_eq!(line.wake(), None);
    // A pod of that name comes anew, without the failures of the old one.
    line.add("b", 0, 5000);
    assert_eq!(line.due(5000), "b");
}
