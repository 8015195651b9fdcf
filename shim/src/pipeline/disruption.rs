//! What an eviction takes from the disruption budget of its pod.

use super::stored::{ATTEMPTS, Stored, Written, value};
use super::{Stage, managed};
use crate::error::{ApiError, Qualified};
use crate::meta::{Meta, Object};
use crate::registry::Def;
use crate::registry::policy::poddisruptionbudget::{DEF, Refusal, covers, take};
use crate::store::Expect;
use crate::store::key::StoreKey;

/// Lets the pod go, or says why it must stay. Pods that run nothing need no budget.
pub(super) async fn allow(stage: &Stage<'_>, pod: &Object, dry_run: bool) -> Result<(), ApiError> {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed" | "Pending") || pod.deletion_timestamp().is_some() {
        return Ok(());
    }
    let snapshot = stage.api.cache_of(&DEF)?.consistent().await?;
    let prefix = StoreKey::prefix(DEF.storage, Some(stage.namespace()));
    let mut found: Option<Stored> = None;
    for entry in snapshot.range(&prefix, None) {
        let budget = value(&entry.bytes)?;
        if !covers(&budget, pod) {
            continue;
        }
        if found.is_some() {
            return Err(ApiError::Plain(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
                    .into(),
            ));
        }
        found = Some(Stored { revision: entry.revision, bytes: entry.bytes.clone(), value: budget });
    }
    for _ in 0..ATTEMPTS {
        let Some(budget) = found else { return Ok(()) };
        let mut object = budget.value.clone();
        match take(&mut object, pod, &super::create::rfc3339()) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(Refusal::NotNow { cause, seconds }) => {
                return Err(ApiError::Disrupting { cause, retry_after_seconds: seconds });
            }
            Err(Refusal::Unable(why)) => {
                let what = Qualified::resource(&DEF);
                return Err(ApiError::Forbidden { what, name: budget.value.name().into(), why, causes: Vec::new() });
            }
        }
        managed::track_own(stage, &Def::BuiltIn(&DEF), &budget.value, &mut object)?;
        match stage.api.write(&DEF, object, Expect::At(budget.revision), dry_run).await? {
            Written::Done(_) => return Ok(()),
            Written::Lost(now) => found = now,
        }
    }
    // As upstream answers when the budget keeps moving: try again later.
    Err(ApiError::TooManyRequests {
        message: format!("couldn't update PodDisruptionBudget for pod \"{}\": conflicting updates", pod.name()),
        retry_after_seconds: 10,
    })
}
