//! Method, path and query of a request → a closed `Route`. Pure; the paths are the kubelet's.

use super::node_logs::LogQuery;
use crate::ids::{PodKey, PodUid};
use crate::logs::LogOptions;
use http::Method;

/// What a request asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Route {
    /// All checks or one of them.
    Healthz {
        check: Option<String>,
        verbose: bool,
    },
    Statusz,
    Flagz,
    /// `/debug/flags/v`.
    Verbosity,
    Configz,
    Pods,
    RunningPods,
    Summary {
        only_cpu_and_memory: bool,
    },
    Metrics,
    ProbeMetrics,
    ResourceMetrics,
    CadvisorMetrics,
    /// What health checks found.
    SliMetrics,
    /// A path below `/var/log`.
    NodeLogs {
        path: String,
    },
    NodeLogQuery(LogQuery),
    Run {
        target: Target,
        command: Vec<String>,
    },
    Checkpoint {
        target: Target,
        timeout: i64,
    },
    Logs {
        target: Target,
        previous: bool,
        options: LogOptions,
    },
    Exec {
        target: Target,
        streams: Streams,
        command: Vec<String>,
    },
    Attach {
        target: Target,
        streams: Streams,
    },
    PortForward {
        pod: PodRef,
        ports: Vec<u16>,
    },
}

/// The pod of a path; with a uid it must be that very pod.
#[derive(Debug, PartialEq)]
pub(super) struct PodRef {
    pub(super) key: PodKey,
    pub(super) uid: Option<PodUid>,
}

/// The container of a path.
#[derive(Debug, PartialEq)]
pub(super) struct Target {
    pub(super) pod: PodRef,
    pub(super) container: String,
}

/// Which of a process's streams are wanted (`input`, `output`, `error`, `tty`).
#[derive(Debug, PartialEq, Clone, Copy)]
pub(super) struct Streams {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

/// Why a request has no route.
#[derive(Debug, PartialEq)]
pub(super) enum RouteError {
    NotFound,
    MethodNotAllowed,
    /// `/debug/flags/v` asked in another way.
    NotAPut,
    /// `/debug/pprof/`: the profiles are those of Go's runtime.
    NoProfiles,
    BadRequest(String),
}

pub(super) fn parse(method: &Method, path: &str, query: &str) -> Result<Route, RouteError> {
    let query = Query::parse(query);
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    let (name, rest) = segments.split_first().map_or(("", &[][..]), |(name, rest)| (*name, rest));
    let allowed: &[Method] = match name {
        "exec" | "attach" | "portForward" => &[Method::GET, Method::POST],
        "run" | "checkpoint" => &[Method::POST],
        "debug" if rest == ["flags", "v"] && *method != Method::PUT => return Err(RouteError::NotAPut),
        "debug" if rest.first() == Some(&"pprof") => return Err(RouteError::NoProfiles),
        "debug" => &[Method::GET, Method::PUT],
        _ => &[Method::GET],
    };
    if !allowed.contains(method) {
        return Err(RouteError::MethodNotAllowed);
    }
    match (name, rest) {
        ("healthz", []) => Ok(Route::Healthz { check: None, verbose: query.get("verbose").is_some() }),
        ("healthz", [check]) => Ok(Route::Healthz { check: Some((*check).to_owned()), verbose: false }),
        ("statusz", []) => Ok(Route::Statusz),
        ("flagz", []) => Ok(Route::Flagz),
        ("debug", ["flags", "v"]) => Ok(Route::Verbosity),
        ("pods", []) => Ok(Route::Pods),
        ("runningpods", []) => Ok(Route::RunningPods),
        ("metrics", []) => Ok(Route::Metrics),
        ("configz", []) => Ok(Route::Configz),
        ("metrics", ["probes"]) => Ok(Route::ProbeMetrics),
        ("metrics", ["resource"]) => Ok(Route::ResourceMetrics),
        ("metrics", ["cadvisor"]) => Ok(Route::CadvisorMetrics),
        ("metrics", ["slis"]) => Ok(Route::SliMetrics),
        ("stats", ["summary"]) => Ok(Route::Summary { only_cpu_and_memory: query.flag("only_cpu_and_memory") }),
        ("logs", []) if query.get("query").is_some() => log_query(&query),
        ("logs", below) => Ok(Route::NodeLogs { path: percent_decode_path(&below.join("/")) }),
        ("run", [namespace, pod, container]) => run(target(namespace, pod, None, container), &query),
        ("run", [namespace, pod, uid, container]) => run(target(namespace, pod, Some(uid), container), &query),
        ("checkpoint", [namespace, pod, container]) => checkpoint(target(namespace, pod, None, container), &query),
        ("containerLogs", [namespace, pod, container]) => Ok(Route::Logs {
            target: target(namespace, pod, None, container),
            previous: query.flag("previous"),
            options: LogOptions::from_query(|name| query.get(name)).map_err(RouteError::BadRequest)?,
        }),
        ("exec", [namespace, pod, container]) => exec(target(namespace, pod, None, container), &query),
        ("exec", [namespace, pod, uid, container]) => exec(target(namespace, pod, Some(uid), container), &query),
        ("attach", [namespace, pod, container]) => attach(target(namespace, pod, None, container), &query),
        ("attach", [namespace, pod, uid, container]) => attach(target(namespace, pod, Some(uid), container), &query),
        ("portForward", [namespace, pod]) => port_forward(pod_ref(namespace, pod, None), &query),
        ("portForward", [namespace, pod, uid]) => port_forward(pod_ref(namespace, pod, Some(uid)), &query),
        _ => Err(RouteError::NotFound),
    }
}

fn pod_ref(namespace: &str, pod: &str, uid: Option<&str>) -> PodRef {
    PodRef { key: PodKey::new(namespace, pod), uid: uid.map(PodUid::new) }
}

fn target(namespace: &str, pod: &str, uid: Option<&str>, container: &str) -> Target {
    Target { pod: pod_ref(namespace, pod, uid), container: container.to_owned() }
}

fn exec(target: Target, query: &Query) -> Result<Route, RouteError> {
    let command = query.all("command");
    if command.is_empty() {
        return Err(RouteError::BadRequest("you must specify a command to execute".to_owned()));
    }
    Ok(Route::Exec { target, streams: streams(query)?, command })
}

/// The command's words are separated by blanks; there are no quotes.
fn run(target: Target, query: &Query) -> Result<Route, RouteError> {
    let command = query.get("cmd").unwrap_or_default().split(' ').map(str::to_owned).collect();
    Ok(Route::Run { target, command })
}

fn checkpoint(target: Target, query: &Query) -> Result<Route, RouteError> {
    let timeout = match query.get("timeout").map(str::parse) {
        None => 0,
        Some(Ok(seconds)) => seconds,
        Some(Err(_)) => return Err(RouteError::BadRequest("invalid timeout: it must be whole seconds".to_owned())),
    };
    Ok(Route::Checkpoint { target, timeout })
}

fn log_query(query: &Query) -> Result<Route, RouteError> {
    fn parsed<T: std::str::FromStr>(query: &Query, name: &str) -> Result<Option<T>, RouteError> {
        let text = query.get(name).filter(|text| !text.is_empty());
        let unreadable = |_| RouteError::BadRequest(format!("{name}: Invalid value"));
        text.map(str::parse).transpose().map_err(unreadable)
    }
    Ok(Route::NodeLogQuery(LogQuery {
        services: query.all("query"),
        since: parsed(query, "sinceTime")?,
        until: parsed(query, "untilTime")?,
        tail_lines: parsed(query, "tailLines")?,
        pattern: query.get("pattern").filter(|pattern| !pattern.is_empty()).map(str::to_owned),
        boot: parsed(query, "boot")?,
    }))
}

fn attach(target: Target, query: &Query) -> Result<Route, RouteError> {
    Ok(Route::Attach { target, streams: streams(query)? })
}

/// `remotecommand.NewOptions`: at least one stream, and a terminal has no separate error stream.
fn streams(query: &Query) -> Result<Streams, RouteError> {
    let tty = query.flag("tty");
    let streams =
        Streams { stdin: query.flag("input"), stdout: query.flag("output"), stderr: query.flag("error") && !tty, tty };
    if !(streams.stdin || streams.stdout || streams.stderr) {
        return Err(RouteError::BadRequest("you must specify at least 1 of stdin, stdout, stderr".to_owned()));
    }
    Ok(streams)
}

fn port_forward(pod: PodRef, query: &Query) -> Result<Route, RouteError> {
    let ports = query
        .all("port")
        .iter()
        .flat_map(|ports| ports.split(','))
        .map(|port| match port.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            Ok(_) | Err(_) => Err(RouteError::BadRequest(format!("unable to parse {port:?} as a port"))),
        })
        .collect::<Result<_, _>>()?;
    Ok(Route::PortForward { pod, ports })
}

/// A decoded query string.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        Self(
            text.split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (percent_decode(name), percent_decode(value))
                })
                .collect(),
        )
    }
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(n, _)| n == name).map(|(_, value)| value.clone()).collect()
    }
    /// The kubelet's flags are `1` or `true`.
    fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("1" | "true"))
    }
}

/// In a path `+` is itself.
fn percent_decode_path(text: &str) -> String {
    percent_decode(&text.replace('+', "%2B"))
}

/// `application/x-www-form-urlencoded`: `+` is a space.
fn percent_decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let mut ahead = bytes.clone();
                let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
                match (digit(ahead.next()), digit(ahead.next())) {
                    (Some(high), Some(low)) => {
                        out.push((high * 16 + low) as u8);
                        bytes = ahead;
                    }
                    _ => out.push(b'%'),
                }
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(request: &str, want: Result<Route, RouteError>) {
        let (method, rest) = request.split_once(' ').unwrap();
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        assert_eq!(parse(&method.parse().unwrap(), path, query), want, "{request}");
    }

    #[test]
    fn the_kubelets_paths_are_understood() {
        let streams = |stdin, stdout, stderr, tty| Streams { stdin, stdout, stderr, tty };
        check("GET /healthz", Ok(Route::Healthz { check: None, verbose: false }));
        check("GET /healthz?verbose", Ok(Route::Healthz { check: None, verbose: true }));
        check("GET /healthz/syncloop", Ok(Route::Healthz { check: Some("syncloop".into()), verbose: false }));
        check("GET /stats/summary?only_cpu_and_memory=true", Ok(Route::Summary { only_cpu_and_memory: true }));
        check("GET /metrics/cadvisor", Ok(Route::CadvisorMetrics));
        check("GET /metrics/resource/", Ok(Route::ResourceMetrics));
        check("GET /metrics/slis", Ok(Route::SliMetrics));
        check("GET /metrics/none", Err(RouteError::NotFound));
        check("GET /logs/pods/a%20b+c", Ok(Route::NodeLogs { path: "pods/a b+c".into() }));
        let query = LogQuery { services: vec!["kubelet".into()], tail_lines: Some(3), ..LogQuery::default() };
        check("GET /logs/?query=kubelet&tailLines=3", Ok(Route::NodeLogQuery(query)));
        let container = || target("ns", "p", None, "c");
        check(
            "POST /run/ns/p/c?cmd=ls+-l",
            Ok(Route::Run { target: container(), command: vec!["ls".into(), "-l".into()] }),
        );
        check("GET /run/ns/p/c?cmd=ls", Err(RouteError::MethodNotAllowed));
        check("POST /checkpoint/ns/p/c?timeout=5", Ok(Route::Checkpoint { target: container(), timeout: 5 }));
        check("PUT /debug/flags/v", Ok(Route::Verbosity));
        check("GET /debug/flags/v", Err(RouteError::NotAPut));
        check("GET /debug/pprof/heap", Err(RouteError::NoProfiles));
        check("GET /debug/none", Err(RouteError::NotFound));
        check("GET /pods", Ok(Route::Pods));
        check("GET /runningpods/", Ok(Route::RunningPods));
        check("GET /nope", Err(RouteError::NotFound));
        check("POST /pods", Err(RouteError::MethodNotAllowed));
        check(
            "POST /exec/ns/p/c?command=sh&command=-c&command=echo+a%20b%2B%zz&output=1&input=1",
            Ok(Route::Exec {
                target: target("ns", "p", None, "c"),
                streams: streams(true, true, false, false),
                command: vec!["sh".into(), "-c".into(), "echo a b+%zz".into()],
            }),
        );
        check(
            "GET /attach/ns/p/uid-1/c?output=1&error=1&tty=1",
            Ok(Route::Attach {
                target: target("ns", "p", Some("uid-1"), "c"),
                streams: streams(false, true, false, true),
            }),
        );
        check(
            "POST /portForward/ns/p?port=80&port=81,82",
            Ok(Route::PortForward { pod: pod_ref("ns", "p", None), ports: vec![80, 81, 82] }),
        );
    }

    #[test]
    fn bad_queries_are_refused_with_the_kubelets_words() {
        let bad = |message: &str| Err(RouteError::BadRequest(message.to_owned()));
        check("POST /exec/ns/p/c?command=x", bad("you must specify at least 1 of stdin, stdout, stderr"));
        check("POST /exec/ns/p/c?output=1", bad("you must specify a command to execute"));
        check("GET /portForward/ns/p?port=0", bad("unable to parse \"0\" as a port"));
        check("GET /portForward/ns/p?port=x", bad("unable to parse \"x\" as a port"));
        check("POST /checkpoint/ns/p/c?timeout=x", bad("invalid timeout: it must be whole seconds"));
        check("GET /logs/?query=kubelet&sinceTime=x", bad("sinceTime: Invalid value"));
    }
}
