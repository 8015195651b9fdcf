//! Tells a person what is ready, when, and what is still awaited and for how long.

use super::logging::Format;
use skiff::clock;
use std::fmt::Display;
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// Silence is patience up to here.
const FIRST_WORD: Duration = Duration::from_secs(2);
const THEN_EVERY: Duration = Duration::from_secs(10);

/// Counts from the start of the command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    started: Instant,
    format: Format,
}

/// A wait that took too long.
#[derive(Debug, thiserror::Error)]
#[error("{what} is not ready after {} s", after.as_secs())]
pub(crate) struct TooLong {
    what: String,
    after: Duration,
}

impl Progress {
    pub(crate) fn new(format: Format) -> Self {
        Self { started: clock::now().mono, format }
    }

    /// Time since the start of the command.
    pub(crate) fn elapsed(&self) -> Duration {
        clock::now().mono - self.started
    }

    /// A readiness line.
    pub(crate) fn ready(&self, what: &str, detail: impl Display) {
        match self.format {
            Format::Text => eprintln!("[{:>7.3}s] {what:<16} {detail}", self.elapsed().as_secs_f64()),
            Format::Json => {
                let seconds = self.elapsed().as_secs_f64();
                tracing::info!(component = what, seconds, %detail, "ready");
            }
        }
    }

    /// Waits for `future` up to `limit`, saying so when it takes long.
    pub(crate) async fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        future: impl Future<Output = T>,
    ) -> Result<T, TooLong> {
        let began = clock::now().mono;
        let mut next = began + FIRST_WORD;
        tokio::pin!(future);
        loop {
            // All arms are cancel-safe: the future is pinned outside the loop, sleeps hold nothing.
            tokio::select! {
                value = &mut future => return Ok(value),
                () = tokio::time::sleep_until(began + limit) => {
                    return Err(TooLong { what: what.to_owned(), after: limit });
                }
                () = tokio::time::sleep_until(next) => {
                    next += THEN_EVERY;
                    self.waiting(what, clock::now().mono - began, limit);
                }
            }
        }
    }

    fn waiting(&self, what: &str, since: Duration, limit: Duration) {
        let (since, limit) = (since.as_secs(), limit.as_secs());
        match self.format {
            Format::Text => {
                let elapsed = self.elapsed().as_secs_f64();
                eprintln!("[{elapsed:>7.3}s] waiting for {what} ({since} s, at most {limit} s)");
            }
            Format::Json => tracing::info!(component = what, seconds = since, limit, "waiting"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_without_end_is_an_error_that_names_what_and_how_long() {
        let progress = Progress::new(Format::Text);
        let error = progress.wait("containerd", Duration::from_secs(30), std::future::pending::<()>()).await;
        assert_eq!(error.unwrap_err().to_string(), "containerd is not ready after 30 s");
    }
}
