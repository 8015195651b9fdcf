//! What the audit log counts, read off it at each scrape.

use crate::audit::Auditor;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use std::fmt;
use std::sync::Arc;

pub(super) struct Audit(pub(super) Arc<Auditor>);

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Audit")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Plugin {
    plugin: &'static str,
}

impl Collector for Audit {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (events, lost) = self.0.counts();
        let help = "Counter of audit events generated and sent to the audit backend";
        let metric = encoder.encode_descriptor("apiserver_audit_event", help, None, MetricType::Counter)?;
        ConstCounter::new(events + lost).encode(metric)?;
        let help = "Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by \
                    the error";
        let mut metric = encoder.encode_descriptor("apiserver_audit_error", help, None, MetricType::Counter)?;
        ConstCounter::new(lost).encode(metric.encode_family(&Plugin { plugin: "log" })?)
    }
}
