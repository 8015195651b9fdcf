//! `/healthz` and its checks, and the z-pages for people: `/statusz` and `/flagz`.

use super::{Deps, Reply, text};
use crate::clock;
use crate::metrics::slis;
use http::StatusCode;

/// The kubelet's checks, in its order.
const CHECKS: [&str; 3] = ["ping", "log", "syncloop"];
const NOT_FOR_MACHINES: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting \
                                compatibility guarantees and is for debugging purposes only.";

/// `check`: one of them, or all. That there is an answer is the proof: the loops end with the process if one fails.
pub(super) fn healthz(check: Option<&str>, verbose: bool) -> Reply {
    let asked: Vec<&'static str> =
        CHECKS.into_iter().filter(|known| check.is_none_or(|check| check == *known)).collect();
    if asked.is_empty() {
        return super::not_found();
    }
    asked.iter().for_each(|check| slis::passed(check));
    match (check, verbose) {
        (Some(_), _) | (None, false) => text(StatusCode::OK, "ok"),
        (None, true) => {
            let checks: String = CHECKS.iter().map(|check| format!("[+]{check} ok\n")).collect();
            text(StatusCode::OK, format!("{checks}healthz check passed\n"))
        }
    }
}

pub(super) fn statusz(deps: &Deps) -> Reply {
    let now = clock::now();
    let up = now.mono.duration_since(deps.started.mono).as_secs();
    let version = crate::actors::node::KUBELET_VERSION.trim_start_matches('v');
    let started = deps.started.wall.strftime("%a %b %e %H:%M:%S UTC %Y");
    text(
        StatusCode::OK,
        format!(
            "\nkubelet statusz\n{NOT_FOR_MACHINES}\n\nStarted: {started}\nUp: {} hr {:02} min {:02} sec\n\
             Binary version: {version}\nEmulation version: {version}\n\
             Paths: /configz /flagz /healthz /metrics\n",
            up / 3600,
            up / 60 % 60,
            up % 60,
        ),
    )
}

/// The flags of the command line; what secrets there are travel in files.
pub(super) fn flagz() -> Reply {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let flags: String = flags(&arguments).iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    text(StatusCode::OK, format!("\nkubelet flagz\n{NOT_FOR_MACHINES}\n\n{flags}"))
}

/// `--a=b`, `--a b` and `--a`, which is true.
fn flags(arguments: &[String]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = arguments.iter().peekable();
    while let Some(argument) = rest.next() {
        let Some(flag) = argument.strip_prefix("--") else { continue };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => {
                let next = rest.next_if(|next| !next.starts_with('-'));
                (flag, next.cloned().unwrap_or_else(|| "true".to_owned()))
            }
        };
        found.push((name.to_owned(), value));
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_shown_however_they_were_written() {
        let arguments = ["agent", "--v=2", "--root-dir", "/x", "--stop-pods"].map(str::to_owned);
        let shown: Vec<String> = flags(&arguments).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(shown, ["root-dir=/x", "stop-pods=true", "v=2"]);
    }

    #[test]
    fn checks_that_there_are_not_are_not_found() {
        assert_eq!(healthz(Some("ping"), false).status(), StatusCode::OK);
        assert_eq!(healthz(None, true).status(), StatusCode::OK);
        assert_eq!(healthz(Some("etcd"), false).status(), StatusCode::NOT_FOUND);
    }
}
