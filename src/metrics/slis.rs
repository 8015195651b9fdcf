//! `/metrics/slis`: what health checks found (`component-base/metrics/prometheus/slis`).

use super::{Counter, Family, Gauge};

static HEALTHCHECK: Gauge<2> = Gauge::labelled(
    "kubernetes_healthcheck",
    "[STABLE] This metric records the result of a single healthcheck.",
    ["name", "type"],
);
static HEALTHCHECKS: Counter<2> = Counter::new(
    "kubernetes_healthchecks_total",
    "[STABLE] This metric records the results of all healthcheck.",
    ["name", "status"],
);

pub static ALL: [&dyn Family; 2] = [&HEALTHCHECK, &HEALTHCHECKS];

/// A check of `/healthz` has passed.
pub fn passed(check: &'static str) {
    HEALTHCHECK.set_for([check, "healthz"], 1.0);
    HEALTHCHECKS.inc([check, "success"]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::text::Text;

    #[test]
    fn checks_are_counted() {
        passed("ping");
        let mut text = Text::default();
        ALL.iter().for_each(|family| family.write(&mut text));
        let text = text.take();
        assert!(text.contains("kubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1"), "{text}");
        assert!(text.contains("kubernetes_healthchecks_total{name=\"ping\",status=\"success\"} "), "{text}");
    }
}
