//! The scheduler's events (events.k8s.io/v1), written beside its work and never waited for.

use super::view::SCHEDULER_NAME;
use crate::clock;
use crate::control::call::{CallError, call};
use crate::control::informer::ObjectKey;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Events that wait to be written: a burst of several hundred pods; about half a kilobyte each.
const WAITING_EVENTS: usize = 1024;
/// Events that may still be repeated (client-go keeps a series for 6 minutes after its last event).
const SERIES: usize = 1024;
const SERIES_LIFE: Duration = Duration::from_secs(360);
/// Longest note the API takes, in bytes.
const NOTE_BYTES: usize = 1024;

/// What happened to which pod.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Happening {
    pub pod: ObjectKey,
    pub uid: Box<str>,
    pub resource_version: Box<str>,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    Scheduled { node: std::sync::Arc<str> },
    FailedScheduling { message: Box<str> },
}

/// The end that the scheduler holds.
pub(super) struct Recorder {
    sender: mpsc::Sender<Happening>,
}

/// The end that writes.
pub(super) struct Writer {
    client: Client,
    receiver: mpsc::Receiver<Happening>,
    instance: String,
    series: BTreeMap<Box<str>, Series>,
}

/// A FailedScheduling event that was written.
struct Series {
    name: String,
    count: i32,
    last: Instant,
}

pub(super) fn recorder(client: Client) -> (Recorder, Writer) {
    let (sender, receiver) = mpsc::channel(WAITING_EVENTS);
    // As os.Hostname: the kernel's word.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let instance = format!("{SCHEDULER_NAME}-{}", host.trim());
    (Recorder { sender }, Writer { client, receiver, instance, series: BTreeMap::new() })
}

impl Recorder {
    /// Hands the event over; when too many wait it is lost, which the log tells.
    pub(super) fn record(&self, happening: Happening) {
        if let Err(error) = self.sender.try_send(happening) {
            tracing::warn!(%error, "event dropped");
        }
    }
}

impl Writer {
    /// Writes events until the recorder is gone.
    pub(super) async fn run(mut self) {
        while let Some(happening) = self.receiver.recv().await {
            let pod = happening.pod.clone();
            if let Err(error) = self.write(happening).await {
                match error {
                    // The namespace is going: nobody is left to read it.
                    CallError::NamespaceTerminating(_) | CallError::NotFound(_) => {}
                    error => tracing::warn!(%pod, %error, "event not written"),
                }
            }
        }
    }

    async fn write(&mut self, happening: Happening) -> Result<(), CallError> {
        let now = clock::now();
        let api = Api::<Event>::namespaced(self.client.clone(), &happening.pod.namespace);
        let repeats = matches!(happening.what, What::FailedScheduling { .. });
        if repeats && let Some(series) = self.series.get_mut(&happening.uid) {
            series.count += 1;
            series.last = now.mono;
            let patch = json!({"series": {"count": series.count, "lastObservedTime": MicroTime(now.wall)}});
            match call(api.patch(&series.name, &PatchParams::default(), &Patch::Strategic(patch))).await {
                // It outlived its time to live: a new one begins.
                Err(CallError::NotFound(_)) => {}
                result => return result.map(drop),
            }
        }
        let name = format!("{}.{:x}", happening.pod.name, now.wall.as_nanosecond());
        let uid = happening.uid.clone();
        call(api.create(&PostParams::default(), &self.event(happening, &name, now.wall))).await?;
        if repeats {
            self.series.retain(|_, series| now.mono - series.last < SERIES_LIFE);
            if self.series.len() < SERIES {
                self.series.insert(uid, Series { name, count: 1, last: now.mono });
            }
        }
        Ok(())
    }

    fn event(&self, happening: Happening, name: &str, now: jiff::Timestamp) -> Event {
        let pod = &happening.pod;
        let (kind, reason, action, note) = match happening.what {
            What::Scheduled { node } => (
                "Normal",
                "Scheduled",
                "Binding",
                format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name),
            ),
            What::FailedScheduling { message } => {
                ("Warning", "FailedScheduling", "Scheduling", shortened(message.into_string()))
            }
        };
        Event {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some(pod.namespace.to_string()),
                ..ObjectMeta::default()
            },
            type_: Some(kind.into()),
            reason: Some(reason.into()),
            action: Some(action.into()),
            note: Some(note),
            event_time: Some(MicroTime(now)),
            regarding: Some(ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                namespace: Some(pod.namespace.to_string()),
                name: Some(pod.name.to_string()),
                uid: Some(happening.uid.into_string()),
                resource_version: Some(happening.resource_version.into_string()),
                field_path: None,
            }),
            reporting_controller: Some(SCHEDULER_NAME.into()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        }
    }
}

/// Cut to what the API takes, as upstream's truncateMessage.
fn shortened(mut note: String) -> String {
    const SUFFIX: &str = " ...";
    if note.len() > NOTE_BYTES {
        // Not within a character; the start of the text always is a boundary.
        let end = (0..=NOTE_BYTES - SUFFIX.len()).rev().find(|at| note.is_char_boundary(*at)).unwrap_or(0);
        note.truncate(end);
        note.push_str(SUFFIX);
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_cut_to_what_the_api_takes_but_never_within_a_character() {
        for (note, bytes) in [("x".repeat(1024), 1024), ("x".repeat(1025), 1024), ("€".repeat(400), 1024)] {
            let short = shortened(note.clone());
            assert!(short.len() <= bytes && short.len() > bytes - 3, "{short}");
            assert_eq!(short.ends_with(" ..."), note.len() > NOTE_BYTES);
        }
    }
}
