//! Answers of the API server, remembered for as long as the configuration says; bounded.

use std::collections::BTreeMap;
use tokio::time::Instant;

/// Answers at once: each caller of a node asks a handful of questions. When full, what ends soonest goes.
const CAPACITY: usize = 4096;

/// Question → answer, and until when it holds.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    answers: BTreeMap<K, (Instant, V)>,
}

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self { answers: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, V: Clone> Cache<K, V> {
    pub(super) fn get(&self, question: &K, now: Instant) -> Option<V> {
        self.answers.get(question).filter(|(end, _)| now < *end).map(|(_, answer)| answer.clone())
    }

    pub(super) fn put(&mut self, question: K, answer: V, end: Instant, now: Instant) {
        if end <= now {
            return;
        }
        if self.answers.len() >= CAPACITY && !self.answers.contains_key(&question) {
            self.answers.retain(|_, (end, _)| now < *end);
            if self.answers.len() >= CAPACITY {
                let soonest =
                    self.answers.iter().min_by_key(|(_, (end, _))| *end).map(|(question, _)| question.clone());
                soonest.map(|question| self.answers.remove(&question));
            }
        }
        self.answers.insert(question, (end, answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use std::time::Duration;

    #[test]
    fn answers_end_and_there_are_never_too_many() {
        let mut cache = Cache::default();
        let now = clock::now().mono;
        let after = |seconds| now + Duration::from_secs(seconds);
        cache.put("short", 1, after(1), now);
        cache.put("none", 1, now, now);
        assert_eq!(cache.get(&"short", now), Some(1));
        assert_eq!((cache.get(&"short", after(1)), cache.get(&"none", now)), (None, None));
        let mut cache = Cache::default();
        for number in 0..=CAPACITY as u64 {
            cache.put(number, (), after(10 + number), now);
        }
        assert_eq!(cache.answers.len(), CAPACITY);
        assert_eq!((cache.get(&0, now), cache.get(&1, now)), (None, Some(())));
    }
}
