//! `PUT /debug/flags/v`: how much is logged, changed while the process runs.

use super::{Reply, text};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use std::sync::OnceLock;

/// A verbosity has two digits.
const MAX_BODY_BYTES: usize = 64;

/// klog's levels have meanings up to here.
const MOST_VERBOSE: i32 = 10;

/// Makes the process log at klog's level.
pub type SetVerbosity = Box<dyn Fn(u32) -> Result<(), String> + Send + Sync>;

/// The log is the process's, and so is what changes it.
static SET_VERBOSITY: OnceLock<SetVerbosity> = OnceLock::new();

/// Says what changes the verbosity; the first one counts.
pub fn verbosity_is_set_by(set: SetVerbosity) {
    // Err: somebody said so before.
    drop(SET_VERBOSITY.set(set));
}

/// Makes the process log as the configuration says (`logging.verbosity`).
pub fn set_verbosity(level: u32) -> Result<(), String> {
    SET_VERBOSITY.get().map_or(Ok(()), |set| set(level))
}

pub(super) async fn put_verbosity(request: Request<Incoming>) -> Reply {
    match Limited::new(request.into_body(), MAX_BODY_BYTES).collect().await {
        Ok(body) => set(&String::from_utf8_lossy(&body.to_bytes()), SET_VERBOSITY.get()),
        Err(error) => text(StatusCode::BAD_REQUEST, format!("error reading request body: {error}")),
    }
}

fn set(value: &str, set: Option<&SetVerbosity>) -> Reply {
    let result = match (value.trim().parse::<i32>(), set) {
        // Below the least and above the most there is nothing else.
        (Ok(level), Some(set)) => set(level.clamp(0, MOST_VERBOSE).unsigned_abs()),
        (Ok(_), None) => Err("nothing is logged by this process".to_owned()),
        (Err(_), _) => Err(format!("strconv.ParseInt: parsing {value:?}: invalid syntax")),
    };
    match result {
        Ok(()) => text(StatusCode::OK, format!("successfully set klog.logging.verbosity to {value}")),
        Err(why) => text(StatusCode::BAD_REQUEST, format!("failed set klog.logging.verbosity {value}: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn levels_are_set_and_what_is_none_is_refused() {
        let level = Arc::new(AtomicU32::new(2));
        let known = level.clone();
        let setter: SetVerbosity = Box::new(move |to| {
            known.store(to, Ordering::Relaxed);
            Ok(())
        });
        for (value, status, expected) in
            [("6", 200, 6), ("x", 400, 6), ("", 400, 6), ("-1", 200, 0), ("1000", 200, 10), ("0\n", 200, 0)]
        {
            assert_eq!(set(value, Some(&setter)).status(), status, "{value}");
            assert_eq!(level.load(Ordering::Relaxed), expected, "{value}");
        }
        assert_eq!(set("1", None).status(), 400);
    }
}
