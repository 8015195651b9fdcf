//! The event recorder: core/v1 Events as client-go's `tools/record` writes them (count, aggregation, spam filter, rate limit).

mod correlate;

use self::correlate::{Correlator, Outcome};
use super::{Cluster, ClusterError, EventSubject};
use crate::clock::crowd::Crowd;
use crate::clock::rate::TokenBucket;
use crate::clock::{self, Now};
use crate::model::eviction::Removal;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Events that wait while the API server is slow or away: client-go's broadcaster queues 1000 too.
const QUEUE_EVENTS: usize = 1000;
/// client-go's `maxTriesPerEvent` and `defaultSleepDuration`.
const TRIES: u32 = 12;
const RETRY_SLEEP: Duration = Duration::from_secs(10);
/// While more pods are to be started than processors can, an event waits at most so long: by then all that a node may
/// hold have begun.
const GIVE_WAY: Duration = Duration::from_secs(10);

/// Records events as client-go's recorder does (count, aggregation, rate limit). Never blocks; cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Noted>,
    dropped: Arc<AtomicU64>,
    node_name: Arc<str>,
}

/// An event as it was noted, before correlation.
#[derive(Clone, Debug)]
struct Noted {
    subject: EventSubject,
    warning: bool,
    reason: Cow<'static, str>,
    message: String,
    annotations: BTreeMap<String, String>,
    at: Now,
}

impl Recorder {
    /// The recorder, and the task that writes (run it under the supervisor). `qps` and `burst` are
    /// `eventRecordQPS` and `eventBurst`; a `qps` of 0 is no limit. Events give way to `crowd`.
    pub fn new(
        cluster: Arc<dyn Cluster>,
        node_name: &str,
        qps: u32,
        burst: u32,
        crowd: Crowd,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, noted) = mpsc::channel(QUEUE_EVENTS);
        let dropped = Arc::new(AtomicU64::new(0));
        let recorder = Self { queue, dropped: dropped.clone(), node_name: node_name.into() };
        let writer = Writer {
            cluster,
            host: node_name.to_owned(),
            correlator: Correlator::default(),
            limit: TokenBucket::new(f64::from(qps), f64::from(burst.max(1))),
            crowd,
            dropped,
        };
        (recorder, writer.run(noted))
    }

    /// An event on a pod; `container` becomes the fieldPath `spec.containers{name}` (already formed by the caller).
    pub fn pod(
        &self,
        pod: &Pod,
        field_path: Option<String>,
        warning: bool,
        reason: impl Into<Cow<'static, str>>,
        message: String,
    ) {
        self.note(of_pod(pod, field_path), warning, reason.into(), message, BTreeMap::new());
    }

    /// The warning that a pod has to leave, with figures for programs in its annotations.
    pub fn removal(&self, pod: &Pod, removal: &Removal) {
        let Removal { reason, message, annotations, .. } = removal;
        self.note(of_pod(pod, None), true, Cow::Borrowed(reason), message.clone(), annotations.clone());
    }

    /// An event on a claim.
    pub fn claim(&self, meta: &ObjectMeta, warning: bool, reason: &'static str, message: String) {
        let reference = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("PersistentVolumeClaim".into()),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: None,
        };
        self.note(EventSubject { reference }, warning, reason.into(), message, BTreeMap::new());
    }

    /// An event on the node. Its uid is the node's name, as the kubelet has it: the object may not exist yet.
    pub fn node(&self, warning: bool, reason: &'static str, message: String) {
        let reference = ObjectReference {
            kind: Some("Node".into()),
            name: Some(self.node_name.to_string()),
            uid: Some(self.node_name.to_string()),
            ..Default::default()
        };
        self.note(EventSubject { reference }, warning, reason.into(), message, BTreeMap::new());
    }

    fn note(
        &self,
        subject: EventSubject,
        warning: bool,
        reason: Cow<'static, str>,
        message: String,
        annotations: BTreeMap<String, String>,
    ) {
        let noted = Noted { subject, warning, reason, message, annotations, at: clock::now() };
        if self.queue.try_send(noted).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn of_pod(pod: &Pod, field_path: Option<String>) -> EventSubject {
    let meta = &pod.metadata;
    let reference = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path,
    };
    EventSubject { reference }
}

/// The one task that writes events, in the order they were noted.
struct Writer {
    cluster: Arc<dyn Cluster>,
    host: String,
    correlator: Correlator,
    limit: TokenBucket,
    crowd: Crowd,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Noted>) {
        while let Some(noted) = queue.recv().await {
            // The queue is for an API server that is slow; half of it is left to that.
            if queue.len() < QUEUE_EVENTS / 2 {
                self.crowd.disperse(noted.at.mono + GIVE_WAY).await;
            }
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                tracing::warn!(dropped, "events were dropped: the API server takes them too slowly");
            }
            let now = noted.at;
            let outcome = self.correlator.correlate(event(noted, &self.host), now);
            match outcome {
                Outcome::Skip => {}
                Outcome::Create(event) => self.write(event, None).await,
                Outcome::Repeat(event, patch) => self.write(event, Some(patch)).await,
            }
        }
    }

    /// One event, with client-go's retries: only while the API server cannot be asked.
    async fn write(&mut self, event: Event, patch: Option<serde_json::Value>) {
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let name = event.metadata.name.clone().unwrap_or_default();
        for attempt in 1..=TRIES {
            let wait = self.limit.take(clock::now());
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let answer = match &patch {
                Some(patch) => match self.cluster.patch_event(&namespace, &name, patch).await {
                    // Its time to live is over: it begins anew under the same name.
                    Err(ClusterError::NotFound(_)) => self.cluster.create_event(&event).await,
                    answer => answer,
                },
                None => self.cluster.create_event(&event).await,
            };
            match answer {
                Ok(()) => return,
                Err(ClusterError::Unavailable(error)) if attempt < TRIES => {
                    tracing::debug!(%error, attempt, "event not written, retrying");
                    tokio::time::sleep(RETRY_SLEEP.mul_f64(if attempt == 1 { rand::random() } else { 1.0 })).await;
                }
                // The namespace is terminating or gone, or the name is taken: client-go gives up as well.
                Err(error) => {
                    tracing::warn!(%error, event = name, "server rejected event");
                    return;
                }
            }
        }
    }
}

/// The Event object of a noted event (`recorder.makeEvent`).
fn event(noted: Noted, host: &str) -> Event {
    let subject = noted.subject.reference;
    let namespace = match subject.namespace.as_deref() {
        None | Some("") => "default".to_owned(),
        Some(namespace) => namespace.to_owned(),
    };
    let time = Time(noted.at.wall);
    Event {
        metadata: ObjectMeta {
            name: Some(event_name(subject.name.as_deref().unwrap_or_default(), noted.at.wall)),
            namespace: Some(namespace),
            annotations: (!noted.annotations.is_empty()).then_some(noted.annotations),
            ..Default::default()
        },
        involved_object: subject,
        reason: Some(noted.reason.clone().into_owned()),
        message: Some(noted.message),
        first_timestamp: Some(time.clone()),
        last_timestamp: Some(time),
        count: Some(1),
        type_: Some(if noted.warning { "Warning" } else { "Normal" }.to_owned()),
        source: Some(EventSource { component: Some("kubelet".into()), host: Some(host.to_owned()) }),
        reporting_component: Some("kubelet".into()),
        reporting_instance: Some(host.to_owned()),
        ..Default::default()
    }
}

/// `<object>.<hex of unix nanoseconds>`.
fn event_name(object: &str, at: Timestamp) -> String {
    format!("{object}.{:x}", at.as_nanosecond())
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeCluster;
    use super::*;
    use crate::clock::crowd::Door;

    fn pod() -> Pod {
        Pod {
            metadata: ObjectMeta {
                name: Some("p".into()),
                namespace: Some("ns".into()),
                uid: Some("u-1".into()),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeated_event_is_counted_by_patch_and_an_outage_only_delays() {
        let fake = Arc::new(FakeCluster::default());
        let (recorder, task) = Recorder::new(fake.clone(), "n1", 50, 100, Crowd::none());
        fake.fail("create_event", ClusterError::Unavailable("down".into()));
        for _ in 0..3 {
            recorder.pod(&pod(), Some("spec.containers{c}".into()), true, "BackOff", "Back-off restarting".into());
        }
        recorder.node(false, "Starting", "Starting kubelet.".into());
        drop(recorder);
        task.await;
        let events = fake.events();
        let lines: Vec<String> = events
            .iter()
            .map(|e| {
                let subject = &e.involved_object;
                format!(
                    "{} {} {} x{} {} {}",
                    e.type_.as_deref().unwrap(),
                    e.reason.as_deref().unwrap(),
                    e.message.as_deref().unwrap(),
                    e.count.unwrap(),
                    subject.kind.as_deref().unwrap(),
                    subject.field_path.as_deref().unwrap_or("-"),
                )
            })
            .collect();
        assert_eq!(
            lines,
            [
                "Normal Starting Starting kubelet. x1 Node -",
                "Warning BackOff Back-off restarting x3 Pod spec.containers{c}"
            ]
        );
        let name = events[1].metadata.name.clone().unwrap();
        let (object, nanos) = name.split_once('.').unwrap();
        assert_eq!(object, "p");
        assert!(i128::from_str_radix(nanos, 16).is_ok());
        assert_eq!(events[1].reporting_component.as_deref(), Some("kubelet"));
        assert_eq!(events[1].source.as_ref().unwrap().host.as_deref(), Some("n1"));
    }

    #[tokio::test(start_paused = true)]
    async fn events_give_way_while_pods_wait_to_be_started_but_not_for_long() {
        let fake = Arc::new(FakeCluster::default());
        let door = Door::default();
        let (recorder, task) = Recorder::new(fake.clone(), "n1", 0, 1, door.crowd());
        let written = async |after: Duration| {
            tokio::time::sleep(after).await;
            fake.events().len()
        };
        let noting = async {
            let waiting = door.wait();
            recorder.node(false, "Starting", "Starting kubelet.".into());
            assert_eq!(written(GIVE_WAY - Duration::from_millis(1)).await, 0);
            assert_eq!(written(Duration::from_millis(2)).await, 1);
            recorder.node(false, "NodeReady", "ready".into());
            assert_eq!(written(Duration::from_millis(1)).await, 1);
            drop(waiting);
            assert_eq!(written(Duration::from_secs(1)).await, 2);
            drop(recorder);
        };
        tokio::join!(task, noting);
    }

    #[test]
    fn the_bucket_gives_its_burst_and_then_its_rate() {
        let start = clock::now();
        let mut bucket = TokenBucket::new(50.0, 2.0);
        assert_eq!([bucket.take(start), bucket.take(start)], [Duration::ZERO; 2]);
        assert_eq!(bucket.take(start), Duration::from_millis(20));
        let later = Now { mono: start.mono + Duration::from_secs(1), ..start };
        assert_eq!(bucket.take(later), Duration::ZERO);
    }
}
