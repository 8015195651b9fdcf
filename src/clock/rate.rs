//! Rates: a token bucket on the monotonic clock.

use super::Now;
use std::time::Duration;
use tokio::time::Instant;

/// A rate limit on monotonic time.
#[derive(Clone, Debug)]
pub(crate) struct TokenBucket {
    /// Tokens per second; 0: no limit.
    rate: f64,
    burst: f64,
    tokens: f64,
    read: Option<Instant>,
}

impl TokenBucket {
    pub(crate) fn new(rate: f64, burst: f64) -> Self {
        Self { rate, burst, tokens: burst, read: None }
    }

    fn refill(&mut self, now: Now) {
        if let Some(read) = self.read {
            let passed = now.mono.saturating_duration_since(read).as_secs_f64();
            self.tokens = (self.tokens + passed * self.rate).min(self.burst);
        }
        self.read = Some(now.mono);
    }

    /// Takes a token if there is one.
    pub(crate) fn try_take(&mut self, now: Now) -> bool {
        self.refill(now);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    /// Takes a token, on credit if need be: how long to wait for it.
    pub(crate) fn take(&mut self, now: Now) -> Duration {
        if self.rate <= 0.0 {
            return Duration::ZERO;
        }
        self.refill(now);
        self.tokens -= 1.0;
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / self.rate) }
    }
}
