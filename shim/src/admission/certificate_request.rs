//! Who asks for a certificate is written into the request by the server (`CertificateSigningRequest`'s strategy), and
//! nobody asks for a client certificate of the masters' group (`CertificateSubjectRestriction`).

use super::{Operation, Review};
use crate::error::ApiError;
use crate::meta::Object;
use crate::registry::certificates::certificatesigningrequest::{DEF, set_requester};
use serde_json::{Map, Value};

pub(super) fn admit(review: &Review<'_>, object: &mut Object) {
    let creates = review.operation == Operation::Create && review.sub.is_none();
    if !creates || review.def.resource != DEF.resource || review.def.gv != DEF.gv {
        return;
    }
    let user = review.user;
    let extra: Map<String, Value> =
        user.extra.iter().map(|(key, values)| (key.clone(), Value::from(values.clone()))).collect();
    let or_null = |value: Value, empty: bool| if empty { Value::Null } else { value };
    set_requester(
        object,
        &[
            ("username", user.name.as_str().into()),
            ("uid", or_null(user.uid.as_str().into(), user.uid.is_empty())),
            ("groups", user.groups.clone().into()),
            ("extra", or_null(extra.into(), user.extra.is_empty())),
        ],
    );
}

/// Of an admitted request for a client certificate.
///
/// # Errors
/// When its subject is in `system:masters`.
pub(super) fn check_subject(review: &Review<'_>, object: &Object) -> Result<(), ApiError> {
    let creates = review.operation == Operation::Create && review.def.resource == DEF.resource;
    if !creates || object["spec"]["signerName"] != "kubernetes.io/kube-apiserver-client" {
        return Ok(());
    }
    let masters = crate::registry::certificates::certificatesigningrequest::organizations(object)
        .iter()
        .any(|organization| organization == crate::authn::MASTERS);
    if !masters {
        return Ok(());
    }
    let why = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
    Err(ApiError::forbidden(review.def, review.name, why))
}
