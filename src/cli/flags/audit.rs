//! kube-apiserver's flags of the audit log.

use clap::Args;
use skiff_shim::audit::{AuditConfig, LogConfig};
use std::path::PathBuf;

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Audit")]
pub(crate) struct AuditFlags {
    /// audit.k8s.io/v1 Policy of what is recorded; without one nothing is
    #[arg(long, value_name = "path")]
    audit_policy_file: Option<PathBuf>,
    /// Where requests are recorded, one JSON object a line; '-' is standard output
    #[arg(long, value_name = "path")]
    audit_log_path: Option<PathBuf>,
    /// MiB after which the audit log is rotated
    #[arg(long, default_value_t = 100, value_name = "MiB")]
    audit_log_maxsize: u64,
    /// Rotated audit logs that are kept; 0 is all
    #[arg(long, default_value_t = 100, value_name = "count")]
    audit_log_maxbackup: usize,
    /// Days for which rotated audit logs are kept; 0 is for ever
    #[arg(long, default_value_t = 366, value_name = "days")]
    audit_log_maxage: u32,
}

impl AuditFlags {
    pub(super) fn resolve(&self) -> AuditConfig {
        let log = self.audit_log_path.clone().map(|path| LogConfig {
            path,
            max_size_mib: self.audit_log_maxsize,
            max_backups: self.audit_log_maxbackup,
            max_age_days: self.audit_log_maxage,
        });
        AuditConfig { policy_file: self.audit_policy_file.clone(), log }
    }
}
