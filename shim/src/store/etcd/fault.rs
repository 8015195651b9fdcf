//! What an error of etcd, or of the way to it, means: for the request, for the next member, and for whoever must mend it.

use crate::store::StoreError;
use etcd_client::Error;
use rustls::{AlertDescription, CertificateError};
use std::error::Error as StdError;
use tonic::{Code, Status};

/// Why a request had no success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The revision asked for has been compacted.
    Compacted,
    /// A revision from the future was asked for.
    Future,
    /// The lease has run out, or was revoked.
    LeaseGone,
    /// The space quota is used up.
    Full(String),
    /// More than `--max-request-bytes`.
    TooLarge,
    Corrupt(String),
    /// etcd answered, and will not do it.
    Refused(String),
    /// The member did nothing with it: it has no leader, or too much to do.
    Busy(String),
    /// No connection, so nothing was done. A `lasting` one does not heal by waiting: somebody must act.
    Unreachable {
        why: String,
        lasting: bool,
    },
    /// The connection or the member broke off with the request under way.
    Broken(String),
}

/// What a fault says about the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// This is the answer: another member would say the same.
    Answered,
    /// It was not carried out; another member may do it.
    NotDone,
    /// It may have been carried out.
    Unknown,
}

impl Fault {
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::GRpcStatus(status) => Self::of_status(status),
            Error::TransportError(error) => of_connection(error),
            Error::IoError(error) => Self::Broken(error.to_string()),
            Error::WatchError(text) => Self::Broken(text.clone()),
            other => Self::Refused(other.to_string()),
        }
    }

    fn of_status(status: &Status) -> Self {
        let local = status.source().filter(|source| chain(*source).any(is_of_connection));
        match local {
            Some(source) => of_connection(source),
            None => match status.source() {
                // Not etcd's word: what is innermost says what broke.
                Some(source) => Self::Broken(innermost(source)),
                None => Self::of_answer(status.code(), status.message()),
            },
        }
    }

    /// The texts are those of etcd's `rpctypes`, part of its API.
    fn of_answer(code: Code, message: &str) -> Self {
        let text = || message.to_owned();
        match (code, message.strip_prefix("etcdserver: ").unwrap_or_default()) {
            (_, "mvcc: required revision has been compacted") => Self::Compacted,
            (_, "mvcc: required revision is a future revision") => Self::Future,
            (_, "requested lease not found") => Self::LeaseGone,
            (_, "mvcc: database space exceeded") => {
                Self::Full(format!("{message}: compact and defragment etcd, then disarm its alarm; or raise its quota"))
            }
            (_, "request is too large") => Self::TooLarge,
            // Half a megabyte more than the limit is not even read.
            (Code::ResourceExhausted, _) if message.contains("message larger than max") => Self::TooLarge,
            (_, "no leader") => Self::Busy(format!("{message}: too few of its members are up")),
            (_, "too many requests" | "not leader") => Self::Busy(text()),
            (Code::DataLoss, _) => Self::Corrupt(text()),
            (Code::Unimplemented, _) => Self::Refused(format!("{message}: is it an etcd of version 3?")),
            (Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled | Code::DeadlineExceeded, _) => {
                Self::Broken(text())
            }
            _ => Self::Refused(text()),
        }
    }

    pub(super) fn silent() -> Self {
        Self::Broken("no answer in time".to_owned())
    }

    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Compacted | Self::Future | Self::LeaseGone | Self::TooLarge => Outcome::Answered,
            Self::Full(_) | Self::Corrupt(_) | Self::Refused(_) => Outcome::Answered,
            Self::Busy(_) | Self::Unreachable { .. } => Outcome::NotDone,
            Self::Broken(_) => Outcome::Unknown,
        }
    }

    /// For callers that branch on nothing in particular.
    pub(super) fn into_store_error(self) -> StoreError {
        match self {
            Self::Full(text) => StoreError::Full(text),
            too_large @ Self::TooLarge => StoreError::TooLarge(too_large.to_string()),
            Self::Corrupt(text) => StoreError::Corrupt(text),
            other => StoreError::Unavailable(format!("etcd: {other}")),
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Compacted => "the revision has been compacted",
            Self::Future => "the revision is in the future",
            Self::LeaseGone => "the lease has run out",
            Self::TooLarge => "etcdserver: request is too large",
            Self::Full(text) | Self::Corrupt(text) | Self::Refused(text) | Self::Busy(text) | Self::Broken(text) => {
                text
            }
            Self::Unreachable { why, .. } => why,
        })
    }
}

/// The address says https.
pub(super) const NO_TLS: &str = "it does not speak TLS: write http:// in --etcd-servers, or give etcd a certificate";
/// The address says http.
pub(super) const ONLY_TLS: &str = "it speaks TLS only: write https:// in --etcd-servers";

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

fn innermost(error: &(dyn StdError + 'static)) -> String {
    chain(error).last().map_or_else(|| error.to_string(), ToString::to_string)
}

fn is_of_connection(error: &(dyn StdError + 'static)) -> bool {
    error.is::<tonic::ConnectError>() || tls(error).is_some_and(is_final)
}

/// TLS errors hide inside I/O errors, whose `source` skips them.
pub(super) fn tls<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let inner = || error.downcast_ref::<std::io::Error>()?.get_ref()?.downcast_ref();
    error.downcast_ref().or_else(inner)
}

/// Whether no connection can come of it. An alert may also arrive after the handshake (TLS 1.3: a client certificate
/// is judged after it), yet before any request was looked at.
fn is_final(error: &rustls::Error) -> bool {
    match error {
        rustls::Error::AlertReceived(alert) => !matches!(alert, AlertDescription::CloseNotify),
        rustls::Error::InvalidCertificate(_) | rustls::Error::InvalidMessage(_) => true,
        _ => false,
    }
}

pub(super) fn of_connection(error: &(dyn StdError + 'static)) -> Fault {
    let found = chain(error).find_map(tls);
    if let Some(why) = found.and_then(of_tls) {
        return Fault::Unreachable { why, lasting: true };
    }
    let refused = chain(error)
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
    let why = if refused {
        "nothing listens there: start it, or correct --etcd-servers".to_owned()
    } else {
        // The innermost error names what happened; those around it say "transport error".
        innermost(error)
    };
    Fault::Unreachable { why, lasting: false }
}

/// What is wrong with a certificate, and whose; `None` where no certificate is to blame.
fn of_tls(error: &rustls::Error) -> Option<String> {
    Some(match error {
        rustls::Error::InvalidCertificate(error) => match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired: renew etcd's serving certificate (or set this machine's clock)".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet: set this machine's clock".to_owned()
            }
            // A bad signature: another CA of the same name, as after etcd's was made anew.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate was signed by another CA: name the CA of etcd in --etcd-cafile".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate is for other names: use one of those in --etcd-servers, or add this one to it"
                    .to_owned()
            }
            other => format!("its certificate cannot be used: {other}"),
        },
        rustls::Error::AlertReceived(alert) => format!(
            "it refuses our client certificate ({alert:?}): --etcd-certfile and --etcd-keyfile must be valid and signed \
             by the CA that etcd trusts"
        ),
        rustls::Error::InvalidMessage(_) => NO_TLS.to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_etcd_are_told_from_failures_on_the_way() {
        use Outcome::{Answered, NotDone, Unknown};
        for (code, message, outcome) in [
            (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", Answered),
            (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision", Answered),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", Answered),
            (Code::NotFound, "etcdserver: requested lease not found", Answered),
            (Code::InvalidArgument, "etcdserver: request is too large", Answered),
            (Code::ResourceExhausted, "grpc: received message larger than max (3000072 vs. 2097152)", Answered),
            (Code::PermissionDenied, "etcdserver: permission denied", Answered),
            (Code::Unavailable, "etcdserver: no leader", NotDone),
            (Code::ResourceExhausted, "etcdserver: too many requests", NotDone),
            (Code::Unavailable, "etcdserver: leader changed", Unknown),
            (Code::Unavailable, "etcdserver: request timed out, possibly due to previous leader failure", Unknown),
            (Code::Unavailable, "etcdserver: server stopped", Unknown),
            (Code::Unknown, "transport error", Unknown),
        ] {
            assert_eq!(Fault::of_answer(code, message).outcome(), outcome, "{message}");
        }
    }

    #[test]
    fn a_connection_that_fails_says_whose_fault_it_is() {
        let io = |error: rustls::Error| std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        let expired = rustls::Error::InvalidCertificate(CertificateError::Expired);
        let foreign = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let alert = rustls::Error::AlertReceived(AlertDescription::UnknownCA);
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        for (error, says, lasting) in [
            (io(expired), "has expired", true),
            (io(foreign), "--etcd-cafile", true),
            (io(alert), "--etcd-certfile", true),
            (refused, "nothing listens there", false),
            (std::io::Error::other("no route"), "no route", false),
        ] {
            let mut status = Status::unavailable("transport error");
            status.set_source(std::sync::Arc::new(tonic::ConnectError(error.into())));
            let fault = Fault::of(&Error::GRpcStatus(status));
            assert_eq!(fault.outcome(), Outcome::NotDone);
            assert!(
                matches!(&fault, Fault::Unreachable { why, lasting: l } if why.contains(says) && *l == lasting),
                "{fault:?}"
            );
        }
    }
}
