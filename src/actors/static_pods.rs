//! Reads the manifests of static pods: a folder or file, followed by inotify, and a URL, asked now and then.

use crate::clock;
use crate::cluster::Recorder;
use crate::decide::static_pod::{self, Origin};
use crate::probe::http;
use k8s_openapi::api::core::v1::Pod;
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Everything is read again this often, whatever inotify says (`fileCheckFrequency`).
const FILE_CHECK: Duration = Duration::from_secs(20);

/// All static pods that are wanted now.
pub type StaticPods = Arc<Vec<Arc<Pod>>>;

/// A web server that has manifests.
#[derive(Clone, Debug)]
pub struct ManifestUrl {
    pub url: String,
    pub headers: Vec<(String, String)>,
    /// How often it is asked.
    pub period: Duration,
}

/// The reader; `run` it under the supervisor.
pub struct StaticPodsTask {
    path: Option<PathBuf>,
    url: Option<ManifestUrl>,
    node_name: String,
    recorder: Recorder,
    found: Found,
}

/// What the sources gave last.
#[derive(Default)]
struct Found {
    files: Vec<Arc<Pod>>,
    from_url: Vec<Arc<Pod>>,
    /// What was wrong with a manifest, by its place: told once.
    told: BTreeMap<String, String>,
}

impl StaticPodsTask {
    pub fn new(path: Option<PathBuf>, url: Option<ManifestUrl>, node_name: &str, recorder: Recorder) -> Self {
        Self { path, url, node_name: node_name.to_owned(), recorder, found: Found::default() }
    }

    /// Reads the files once, so that what runs of them is known from the start, and returns what follows them.
    pub fn start(mut self) -> (watch::Receiver<StaticPods>, impl Future<Output = ()> + Send + 'static) {
        self.read_files();
        let (sender, receiver) = watch::channel(self.all());
        (receiver, self.run(sender))
    }

    async fn run(mut self, out: watch::Sender<StaticPods>) {
        if self.path.is_none() && self.url.is_none() {
            // Nothing will ever come; the sender must live, or its receivers would see an end.
            out.closed().await;
            return;
        }
        let changed = Arc::new(Notify::new());
        let mut watcher = None;
        let mut url_at = clock::now().mono;
        let period = self.url.as_ref().map_or(FILE_CHECK, |url| url.period);
        loop {
            if watcher.is_none() {
                watcher = self.path.as_deref().and_then(|path| follow(path, changed.clone()));
            }
            self.read_files();
            if clock::now().mono >= url_at {
                self.read_url().await;
                url_at = clock::now().mono + period;
            }
            let all = self.all();
            out.send_if_modified(|old| {
                let differs = **old != *all;
                if differs {
                    *old = all;
                }
                differs
            });
            let wait = FILE_CHECK.min(period);
            // Both arms are cancel-safe: a notification is kept until it is taken.
            tokio::select! {
                () = changed.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn all(&self) -> StaticPods {
        Arc::new(self.found.files.iter().chain(&self.found.from_url).cloned().collect())
    }

    fn read_files(&mut self) {
        let Some(path) = self.path.clone() else { return };
        match manifests(&path) {
            Ok(files) => {
                let mut pods = Vec::new();
                for file in files {
                    let place = file.display().to_string();
                    match std::fs::read_to_string(&file) {
                        // Made and not written yet.
                        Ok(text) if text.trim().is_empty() => {}
                        Ok(text) => pods.extend(self.parse(&text, Origin::File, &place)),
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => self.tell(&place, error.to_string()),
                    }
                }
                self.found.files = keep(&self.found.files, pods);
            }
            // Could not look: what ran goes on.
            Err(error) => self.tell(&path.display().to_string(), error.to_string()),
        }
    }

    async fn read_url(&mut self) {
        let Some(ManifestUrl { url, headers, .. }) = self.url.clone() else { return };
        match http::fetch(&url, headers).await {
            Ok(text) => {
                let pods = self.parse(&text, Origin::Http, &url);
                self.found.from_url = keep(&self.found.from_url, pods);
            }
            Err(error) => self.tell(&url, error),
        }
    }

    fn parse(&mut self, text: &str, origin: Origin, place: &str) -> Vec<Pod> {
        let parsed = serde_saphyr::from_str::<Value>(text).map_err(|error| error.to_string());
        let now = clock::now().wall;
        let pods = parsed.and_then(|manifest| {
            static_pod::pods(manifest, origin, place, &self.node_name, now).map_err(|error| error.to_string())
        });
        match pods {
            Ok(pods) => {
                self.found.told.remove(place);
                pods
            }
            Err(error) => {
                self.tell(place, error);
                Vec::new()
            }
        }
    }

    /// An event on the node, once for each new fault of a place.
    fn tell(&mut self, place: &str, error: String) {
        if self.found.told.get(place) == Some(&error) {
            return;
        }
        tracing::warn!(place, error, "static pod manifest not used");
        self.recorder.node(true, "InvalidStaticPod", format!("Could not use static pod manifest {place}: {error}"));
        self.found.told.insert(place.to_owned(), error);
    }
}

/// The pods as they were, where they are the same: when one was first seen stays.
fn keep(old: &[Arc<Pod>], new: Vec<Pod>) -> Vec<Arc<Pod>> {
    let same = |pod: &Pod| old.iter().find(|known| known.metadata.uid == pod.metadata.uid).cloned();
    new.into_iter().map(|pod| same(&pod).unwrap_or_else(|| Arc::new(pod))).collect()
}

/// The files of a folder, in order, hidden ones left out; or the one file. An absent path has none.
fn manifests(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(vec![path.to_owned()]),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if !hidden && std::fs::metadata(entry.path()).is_ok_and(|meta| meta.is_file()) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Notifies when a file is written to its end, renamed or removed; `None` where the path cannot be watched (yet).
fn follow(path: &Path, changed: Arc<Notify>) -> Option<RecommendedWatcher> {
    let told = move |event: notify::Result<notify::Event>| {
        // An error (an overflow) may hide a change. A file that is being written is read once it is closed.
        let matters = event.is_err()
            || event.is_ok_and(|event| {
                matches!(
                    event.kind,
                    EventKind::Access(AccessKind::Close(AccessMode::Write))
                        | EventKind::Modify(ModifyKind::Name(_))
                        | EventKind::Remove(_)
                )
            });
        if matters {
            changed.notify_one();
        }
    };
    let mut watcher = notify::recommended_watcher(told).ok()?;
    watcher.watch(path, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::crowd::Crowd;
    use crate::cluster::Cluster;
    use crate::cluster::fake::FakeCluster;
    use crate::supervisor::Supervisor;

    fn manifest(name: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  containers:\n  - name: c\n    image: i:1\n"
        )
    }

    fn names(pods: &StaticPods) -> Vec<String> {
        pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect()
    }

    #[tokio::test]
    async fn files_that_come_and_go_are_followed_and_a_bad_one_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.yaml"), manifest("a")).unwrap();
        std::fs::write(dir.path().join(".hidden"), manifest("h")).unwrap();
        std::fs::write(dir.path().join("bad.yaml"), "kind: Service\napiVersion: v1\n").unwrap();
        let cluster = Arc::new(FakeCluster::default());
        let writer: Arc<dyn Cluster> = cluster.clone();
        let (recorder, recording) = Recorder::new(writer, "n", 0, 1000, Crowd::none());
        let tasks = Supervisor::new();
        tasks.spawn("recorder", recording);
        let path = Some(dir.path().to_owned());
        let (mut pods, task) = StaticPodsTask::new(path, None, "n", recorder).start();
        assert_eq!(names(&pods.borrow()), ["a-n"]);
        tasks.spawn("static_pods", task);

        // The first look of the task may come before or after the write: both end with it seen.
        let second = async {
            std::fs::write(dir.path().join("b.yaml"), manifest("b")).unwrap();
            pods.wait_for(|pods| names(pods) == ["a-n", "b-n"]).await.map(|pods| pods.clone()).unwrap()
        };
        let before = tokio::time::timeout(Duration::from_secs(60), second).await.expect("a new file is seen");
        std::fs::remove_file(dir.path().join("a.yaml")).unwrap();
        let third = pods.wait_for(|pods| names(pods) == ["b-n"]);
        let after =
            tokio::time::timeout(Duration::from_secs(60), third).await.expect("a removed file is seen").unwrap();
        assert!(Arc::ptr_eq(&before[1], &after[0]), "an unchanged manifest is the same pod");
        drop(after);
        tasks.stop().await;
        let told = cluster.events().iter().filter(|e| e.reason.as_deref() == Some("InvalidStaticPod")).count();
        assert!(told <= 1, "told {told} times");
    }

    /// A server of one manifest for those who show the header.
    async fn manifest_server() -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/pods", listener.local_addr().unwrap());
        let serve = async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut asked = vec![0; 4096];
                let length = stream.read(&mut asked).await.unwrap_or(0);
                let asked = String::from_utf8_lossy(&asked[..length]).to_lowercase();
                let (status, body) = match asked.contains("x-node: n") {
                    true => ("200 OK", manifest("u")),
                    false => ("403 Forbidden", "no".to_owned()),
                };
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
                // The client may have gone.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        };
        Supervisor::new().spawn("server", serve);
        url
    }

    #[tokio::test]
    async fn manifests_come_from_a_url_with_its_headers_and_a_refusal_is_told() {
        for (header, expected, refused) in [("n", vec!["u-n"], false), ("other", vec![], true)] {
            let url = manifest_server().await;
            let headers = vec![("X-Node".to_owned(), header.to_owned())];
            let source = ManifestUrl { url: url.clone(), headers, period: Duration::from_secs(20) };
            let cluster = Arc::new(FakeCluster::default());
            let writer: Arc<dyn Cluster> = cluster.clone();
            let (recorder, recording) = Recorder::new(writer, "n", 0, 1000, Crowd::none());
            let tasks = Supervisor::new();
            tasks.spawn("recorder", recording);
            let mut task = StaticPodsTask::new(None, Some(source), "n", recorder);
            task.read_url().await;
            assert_eq!(names(&task.all()), expected);
            assert_eq!(task.found.told.get(&url).is_some_and(|why| why.contains("status 403")), refused);
            for pod in task.all().iter() {
                let source = pod.metadata.annotations.as_ref().and_then(|all| all.get("kubernetes.io/config.source"));
                assert_eq!(source.map(String::as_str), Some("http"));
            }
            tasks.stop().await;
        }
    }
}
