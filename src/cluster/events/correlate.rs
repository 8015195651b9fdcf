//! Which events are written, counted up, combined or left out: client-go's `EventCorrelator`, as a pure state machine.

use super::{TokenBucket, event_name};
use crate::clock::Now;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;
use tokio::time::Instant;

/// Entries of each memory (client-go's `maxLruCacheEntries`).
const MEMORY_ENTRIES: usize = 4096;
/// Different messages of one reason within the interval before they are combined.
const AGGREGATE_MESSAGES: usize = 10;
const AGGREGATE_INTERVAL: Duration = Duration::from_secs(600);
/// Per source and object: 25 at once, then one every 5 minutes.
const SPAM_BURST: f64 = 25.0;
const SPAM_PER_SECOND: f64 = 1.0 / 300.0;

/// What to do with an event.
#[derive(Debug)]
pub(super) enum Outcome {
    Create(Event),
    /// Seen before: the whole event with its new count, and the patch that says so.
    Repeat(Event, Value),
    /// Its object has too many.
    Skip,
}

/// The memory of what was written.
#[derive(Default)]
pub(super) struct Correlator {
    similar: Recent<Similar>,
    written: Recent<Written>,
    spam: Recent<TokenBucket>,
}

struct Similar {
    /// Hashes of the messages seen.
    messages: HashSet<u64>,
    last: Instant,
}

#[derive(Clone)]
struct Written {
    name: Option<String>,
    count: i32,
    first: Option<Time>,
}

impl Correlator {
    pub(super) fn correlate(&mut self, event: Event, now: Now) -> Outcome {
        let spam_key = hash(&object_parts(&event));
        let (mut event, key) = self.aggregate(event, now);
        let patch = self.written.get(key).cloned().map(|last| {
            event.metadata.name = last.name;
            event.first_timestamp = last.first;
            event.count = Some(last.count + 1);
            json!({"count": event.count, "lastTimestamp": event.last_timestamp, "message": event.message})
        });
        let written = Written {
            name: event.metadata.name.clone(),
            count: event.count.unwrap_or(1),
            first: event.first_timestamp.clone(),
        };
        self.written.put(key, written);
        let bucket = self.spam.get_or_insert(spam_key, || TokenBucket::new(SPAM_PER_SECOND, SPAM_BURST));
        if !bucket.try_take(now) {
            return Outcome::Skip;
        }
        match patch {
            Some(patch) => Outcome::Repeat(event, patch),
            None => Outcome::Create(event),
        }
    }

    /// The event, or the combined one in its place, and the key it is counted under.
    fn aggregate(&mut self, event: Event, now: Now) -> (Event, u64) {
        let own_key = hash(&(
            object_parts(&event),
            &event.involved_object.field_path,
            &event.type_,
            &event.reason,
            &event.message,
        ));
        let combined_key = hash(&(object_parts(&event), &event.type_, &event.reason, "combined"));
        let fresh = || Similar { messages: HashSet::new(), last: now.mono };
        let similar = self.similar.get_or_insert(combined_key, fresh);
        if now.mono.saturating_duration_since(similar.last) > AGGREGATE_INTERVAL {
            *similar = fresh();
        }
        similar.last = now.mono;
        // Never more than the threshold: beyond it only their number counts.
        if similar.messages.len() < AGGREGATE_MESSAGES {
            similar.messages.insert(hash(&event.message));
        }
        if similar.messages.len() < AGGREGATE_MESSAGES {
            return (event, own_key);
        }
        // client-go takes one message out again, so that the next known one does not combine by itself.
        if let Some(&any) = similar.messages.iter().next() {
            similar.messages.remove(&any);
        }
        let time = Time(now.wall);
        let combined = Event {
            metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                name: Some(event_name(event.involved_object.name.as_deref().unwrap_or_default(), now.wall)),
                namespace: event.metadata.namespace,
                ..Default::default()
            },
            count: Some(1),
            first_timestamp: Some(time.clone()),
            last_timestamp: Some(time),
            message: Some(format!("(combined from similar events): {}", event.message.unwrap_or_default())),
            involved_object: event.involved_object,
            type_: event.type_,
            reason: event.reason,
            source: event.source,
            ..Default::default()
        };
        (combined, combined_key)
    }
}

/// What names the object (source included: one recorder has one source, so it is left out).
fn object_parts(event: &Event) -> [Option<&str>; 5] {
    let subject = &event.involved_object;
    [&subject.kind, &subject.namespace, &subject.name, &subject.uid, &subject.api_version].map(|part| part.as_deref())
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A bounded map that forgets what was used longest ago, a quarter at a time.
struct Recent<V> {
    entries: HashMap<u64, (u64, V)>,
    uses: u64,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), uses: 0 }
    }
}

impl<V> Recent<V> {
    fn get(&mut self, key: u64) -> Option<&mut V> {
        self.uses += 1;
        let uses = self.uses;
        self.entries.get_mut(&key).map(|(used, value)| {
            *used = uses;
            value
        })
    }

    fn put(&mut self, key: u64, value: V) {
        self.uses += 1;
        self.entries.insert(key, (self.uses, value));
        self.forget_oldest();
    }

    fn get_or_insert(&mut self, key: u64, fresh: impl FnOnce() -> V) -> &mut V {
        self.uses += 1;
        if !self.entries.contains_key(&key) {
            self.forget_oldest();
        }
        let entry = self.entries.entry(key).or_insert_with(|| (0, fresh()));
        entry.0 = self.uses;
        &mut entry.1
    }

    fn forget_oldest(&mut self) {
        if self.entries.len() < MEMORY_ENTRIES {
            return;
        }
        let mut uses: Vec<u64> = self.entries.values().map(|(used, _)| *used).collect();
        let (_, &mut limit, _) = uses.select_nth_unstable(MEMORY_ENTRIES / 4);
        self.entries.retain(|_, (used, _)| *used >= limit);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Noted, event};
    use super::*;
    use crate::clock;
    use crate::cluster::EventSubject;
    use k8s_openapi::api::core::v1::ObjectReference;

    fn noted(object: &str, message: &str, at: Now) -> Event {
        let reference = ObjectReference { name: Some(object.into()), kind: Some("Pod".into()), ..Default::default() };
        event(
            Noted {
                subject: EventSubject { reference },
                warning: true,
                reason: "Failed".into(),
                message: message.into(),
                annotations: Default::default(),
                at,
            },
            "n",
        )
    }

    /// One letter an outcome: Create, Repeat (with its count), Skip.
    fn show(outcome: &Outcome) -> String {
        match outcome {
            Outcome::Create(event) => format!("C {}", event.message.as_deref().unwrap()),
            Outcome::Repeat(event, patch) => {
                assert_eq!(patch["count"], event.count.unwrap());
                format!("R{} {}", event.count.unwrap(), event.message.as_deref().unwrap())
            }
            Outcome::Skip => "S".into(),
        }
    }

    #[test]
    fn the_tenth_different_message_is_combined_and_counted_from_then_on() {
        let now = clock::now();
        let mut correlator = Correlator::default();
        let seen: Vec<String> =
            (0..12).map(|n| show(&correlator.correlate(noted("p", &format!("m{n}"), now), now))).collect();
        assert_eq!(seen[8], "C m8");
        assert_eq!(
            seen[9..],
            [
                "C (combined from similar events): m9",
                "R2 (combined from similar events): m10",
                "R3 (combined from similar events): m11"
            ]
        );
        let later = Now { mono: now.mono + AGGREGATE_INTERVAL + Duration::from_secs(1), ..now };
        assert_eq!(show(&correlator.correlate(noted("p", "m12", later), later)), "C m12");
    }

    #[test]
    fn an_object_gets_twenty_five_events_and_then_one_in_five_minutes() {
        let now = clock::now();
        let mut correlator = Correlator::default();
        for n in 1..=25 {
            let outcome = show(&correlator.correlate(noted("p", "m", now), now));
            assert_eq!(outcome, if n == 1 { "C m".to_owned() } else { format!("R{n} m") });
        }
        assert_eq!(show(&correlator.correlate(noted("p", "m", now), now)), "S");
        assert_eq!(show(&correlator.correlate(noted("q", "m", now), now)), "C m");
        let later = Now { mono: now.mono + Duration::from_secs(301), ..now };
        assert_eq!(show(&correlator.correlate(noted("p", "m", later), later)), "R27 m");
    }

    #[test]
    fn the_memory_is_bounded() {
        let now = clock::now();
        let mut correlator = Correlator::default();
        for n in 0..3 * MEMORY_ENTRIES {
            correlator.correlate(noted(&format!("p{n}"), "m", now), now);
        }
        assert!(correlator.written.entries.len() <= MEMORY_ENTRIES);
        assert!(correlator.spam.entries.len() <= MEMORY_ENTRIES);
        assert!(correlator.similar.entries.len() <= MEMORY_ENTRIES);
    }
}
