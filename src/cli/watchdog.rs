//! systemd's watchdog (`WatchdogSec=`): a process that no longer says that it lives is ended and started anew.

use std::time::Duration;

/// Says so twice in each of systemd's periods, from the same threads that do the work; at once over where systemd does
/// not ask.
pub(crate) async fn run() {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    let every = (period / 2).max(Duration::from_millis(1));
    loop {
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]) {
            tracing::warn!(%error, "systemd's watchdog cannot be told that the process lives");
        }
        tokio::time::sleep(every).await;
    }
}
