//! ServiceAccount: a pod runs as an account that exists, gets its pull secrets and a volume with its token.

use super::{Review, suffix};
use crate::error::ApiError;
use crate::meta::{Meta, Object};
use crate::registry::core::pod::admit;

/// Runs after `admit::admit_create`, which named the account.
pub fn admit(review: &Review<'_>, pod: &mut Object) -> Result<(), ApiError> {
    if pod.annotations().is_some_and(|a| a.contains_key(admit::MIRROR_ANNOTATION)) {
        // What mirrors a static pod has been running since before it could ask for anything.
        return match pod["spec"]["serviceAccountName"].as_str() {
            None | Some("") => Ok(()),
            Some(_) => {
                let why = "a mirror pod may not reference service accounts";
                Err(ApiError::forbidden(review.def, review.name, why))
            }
        };
    }
    let Some(account) = review.service_account else {
        let name = account_name(pod);
        let why = format!(
            "error looking up service account {}/{name}: serviceaccount \"{name}\" not found",
            review.namespace
        );
        return Err(ApiError::forbidden(review.def, review.name, why));
    };
    admit::inherit_image_pull_secrets(pod, account);
    if admit::wants_service_account_token(pod, account) {
        admit::mount_service_account_token(pod, &suffix());
    }
    Ok(())
}

/// The account that a pod runs as.
pub fn account_name(pod: &Object) -> &str {
    pod["spec"]["serviceAccountName"].as_str().filter(|n| !n.is_empty()).unwrap_or("default")
}
