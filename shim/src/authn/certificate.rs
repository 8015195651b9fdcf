//! A verified client certificate → the user it names: CN is the name, every O a group.

use super::User;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The user of a certificate that the TLS layer has verified; `None` without a common name.
pub fn user(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned);
    Some(User::authenticated(name, groups))
}
