//! `/logs/`: the files under `/var/log`, and the query form (`?query=kubelet`) that asks the journal or a service's file.

use super::{Deps, Reply, text};
use crate::clock;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use jiff::Timestamp;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::Command;

const ROOT: &str = "/var/log";
/// A service's name: what systemd and file names allow, and nothing that could be an option or a path.
const MAX_NAME: usize = 255;
/// As the kubelet's `--since` context: a journal that takes longer is cut off.
const JOURNAL_DEADLINE: Duration = Duration::from_secs(30);
/// Read from a file at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// A query of the node's logs (`NodeLogQuery`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogQuery {
    pub(super) services: Vec<String>,
    pub(super) since: Option<Timestamp>,
    pub(super) until: Option<Timestamp>,
    pub(super) tail_lines: Option<u32>,
    pub(super) pattern: Option<String>,
    pub(super) boot: Option<i32>,
}

impl LogQuery {
    /// Why the kubelet would refuse it.
    pub(super) fn check(&self) -> Result<(), String> {
        for service in &self.services {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "_.@:-/\\".contains(c);
            if service.is_empty()
                || service.len() > MAX_NAME
                || service.starts_with('-')
                || !service.chars().all(allowed)
            {
                return Err(format!("query: Invalid value: {service:?}: not a service or a file name"));
            }
        }
        if let (Some(since), Some(until)) = (self.since, self.until)
            && until < since
        {
            return Err(format!("untilTime: Invalid value: {until}: must be after `sinceTime`"));
        }
        if self.boot.is_some_and(|boot| boot > 0) {
            return Err("boot: Invalid value: must be less than 1".to_owned());
        }
        Ok(())
    }

    /// Arguments of `journalctl`, as the kubelet calls it.
    fn journal_arguments(&self) -> Vec<String> {
        let mut out: Vec<String> = ["--utc", "--no-pager", "--output=short-precise"].map(str::to_owned).to_vec();
        let time = |at: Timestamp| at.strftime("%Y-%m-%d %H:%M:%S").to_string();
        out.extend(self.since.map(|at| format!("--since={}", time(at))));
        out.extend(self.until.map(|at| format!("--until={}", time(at))));
        out.extend(self.tail_lines.map(|lines| format!("--lines={lines}")));
        out.extend(self.services.iter().map(|service| format!("--unit={service}")));
        if let Some(pattern) = &self.pattern {
            out.push(format!("--grep={pattern}"));
            out.push("--case-sensitive=false".to_owned());
        }
        out.extend(self.boot.map(|boot| format!("--boot={boot}")));
        out
    }
}

pub(super) async fn query(deps: &Deps, query: &LogQuery) -> Reply {
    if deps.kubelet.enable_system_log_query != Some(true) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "System log query is disabled; set enableSystemLogQuery\n");
    }
    if let Err(why) = query.check() {
        return text(StatusCode::NOT_ACCEPTABLE, why);
    }
    let files: Vec<&String> = query.services.iter().filter(|service| service.contains('/')).collect();
    match files.as_slice() {
        [] => journal(query).await,
        [file] if query.services.len() == 1 => serve(deps, file).await,
        _ => text(StatusCode::NOT_ACCEPTABLE, "query: Invalid value: only one file can be read at a time"),
    }
}

async fn journal(query: &LogQuery) -> Reply {
    let mut command = Command::new("journalctl");
    command.args(query.journal_arguments());
    said_by(command).unwrap_or_else(|error| {
        tracing::debug!(%error, "journalctl");
        text(StatusCode::OK, "\nerror: journal output not available\n")
    })
}

/// What a program writes, as it comes: a journal may be larger than the memory. It is cut off by the deadline, and by a
/// caller who goes.
fn said_by(mut command: Command) -> io::Result<Reply> {
    let (reader, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).kill_on_drop(true);
    let child = command.spawn()?;
    let end = clock::now().mono + JOURNAL_DEADLINE;
    let output = pipe::Receiver::from_owned_fd(reader.into())?;
    let chunks = futures::stream::try_unfold((child, output), move |(mut child, mut output)| async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        // Cut off: the child is killed as it is dropped.
        let Ok(read) = tokio::time::timeout_at(end, output.read(&mut chunk)).await else { return Ok(None) };
        let read = read?;
        chunk.truncate(read);
        if read == 0 {
            drop(tokio::time::timeout_at(end, child.wait()).await);
            return Ok(None);
        }
        Ok::<_, super::Error>(Some((Bytes::from(chunk), (child, output))))
    });
    let mut reply = super::streamed(chunks);
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(reply)
}

/// A file or folder below `/var/log`.
pub(super) async fn serve(deps: &Deps, path: &str) -> Reply {
    if deps.kubelet.enable_system_log_handler != Some(true) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "logs endpoint is disabled.\n");
    }
    let Some(path) = below(Path::new(ROOT), path) else {
        return text(StatusCode::BAD_REQUEST, "invalid URL path\n");
    };
    match answer(&path).await {
        Ok(reply) => reply,
        Err(error) if error.kind() == io::ErrorKind::NotFound => super::not_found(),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => text(StatusCode::FORBIDDEN, "403 Forbidden\n"),
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "log file not read");
            text(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error\n")
        }
    }
}

/// `None` for a path that leads out by its own names. Links are followed, as Go's file server does: whoever can make one
/// below `/var/log` is root already.
fn below(root: &Path, path: &str) -> Option<PathBuf> {
    let path = Path::new(path.trim_start_matches('/'));
    let path = path.strip_prefix(root.strip_prefix("/").ok()?).unwrap_or(path);
    let stays = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    (stays && !path.as_os_str().as_encoded_bytes().contains(&0)).then(|| root.join(path))
}

async fn answer(path: &Path) -> io::Result<Reply> {
    let meta = tokio::fs::metadata(path).await?;
    if meta.is_dir() {
        let mut names = Vec::new();
        let mut entries = tokio::fs::read_dir(path).await?;
        while let Some(entry) = entries.next_entry().await? {
            let slash = if entry.file_type().await?.is_dir() { "/" } else { "" };
            names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
        }
        names.sort();
        let mut reply = text(StatusCode::OK, listing(&names));
        reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        return Ok(reply);
    }
    if !meta.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    // What is written meanwhile belongs to the next request.
    let file = tokio::fs::File::open(path).await?.take(meta.len());
    let chunks = futures::stream::try_unfold(file, |mut file| async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        let read = file.read(&mut chunk).await?;
        chunk.truncate(read);
        io::Result::Ok((read > 0).then(|| (http_body::Frame::data(Bytes::from(chunk)), file)))
    });
    let chunks = futures::TryStreamExt::map_err(chunks, Into::into);
    let mut reply = Response::new(http_body_util::StreamBody::new(chunks).boxed_unsync());
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(reply)
}

/// As Go's `http.FileServer` lists a folder.
fn listing(names: &[String]) -> String {
    let mut out = String::from("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n");
    for name in names {
        let shown = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
        let mut link = String::new();
        for byte in name.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' | b'@' => {
                    link.push(byte.into())
                }
                other => link += &format!("%{other:02X}"),
            }
        }
        out += &format!("<a href=\"{link}\">{shown}</a>\n");
    }
    out + "</pre>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_below_the_log_folder_is_served() {
        let root = Path::new("/var/log");
        for (path, expected) in [
            ("", Some("/var/log/")),
            ("syslog", Some("/var/log/syslog")),
            ("/var/log/syslog", Some("/var/log/syslog")),
            ("pods/a/b.log", Some("/var/log/pods/a/b.log")),
            ("../../etc/shadow", None),
            ("pods/../../lib", None),
        ] {
            assert_eq!(below(root, path).as_deref(), expected.map(Path::new), "{path}");
        }
    }

    #[test]
    fn a_query_becomes_arguments_of_journalctl_and_nothing_else() {
        let at = |seconds| Timestamp::from_second(seconds).ok();
        let query = LogQuery {
            services: vec!["kubelet".into()],
            since: at(0),
            until: at(60),
            tail_lines: Some(5),
            pattern: Some("error".into()),
            boot: Some(-1),
        };
        assert_eq!(query.check(), Ok(()));
        let arguments = query.journal_arguments().join(" ");
        assert_eq!(
            arguments,
            "--utc --no-pager --output=short-precise --since=1970-01-01 00:00:00 --until=1970-01-01 00:01:00 --lines=5 \
             --unit=kubelet --grep=error --case-sensitive=false --boot=-1"
        );
        let bad = |query: LogQuery| assert!(query.check().is_err(), "{query:?}");
        bad(LogQuery { services: vec!["--file=/etc/shadow".into()], ..LogQuery::default() });
        bad(LogQuery { services: vec!["a b".into()], ..LogQuery::default() });
        bad(LogQuery { since: at(60), until: at(0), ..LogQuery::default() });
        bad(LogQuery { boot: Some(1), ..LogQuery::default() });
    }

    #[test]
    fn a_folder_is_listed_as_go_lists_it() {
        assert_eq!(
            listing(&["a b".into(), "pods/".into(), "<x>".into()]),
            "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n<a href=\"a%20b\">a b</a>\n\
             <a href=\"pods/\">pods/</a>\n<a href=\"%3Cx%3E\">&lt;x&gt;</a>\n</pre>\n"
        );
    }

    #[tokio::test]
    async fn what_a_program_says_is_passed_on_as_it_comes_whatever_comes_of_it() {
        let say = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            said_by(command).unwrap()
        };
        let body = async |reply: Reply| reply.into_body().collect().await.unwrap().to_bytes();
        let reply = say("echo out; echo err >&2; exit 3");
        assert_eq!(reply.status(), StatusCode::OK);
        assert_eq!(body(reply).await, "out\nerr\n");
        assert_eq!(body(say("head -c 5000000 /dev/zero")).await.len(), 5_000_000);
        // One that never ends is not waited for: its first words are there, and it ends with its reader.
        let first = say("echo first; exec sleep 1000").into_body().frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "first\n");
        assert!(said_by(Command::new("/no/such/program")).is_err());
    }
}
