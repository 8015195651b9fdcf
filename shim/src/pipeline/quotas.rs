//! ResourceQuotas in the pipeline: what a write uses is charged to the quotas of its namespace before it is committed.

use super::stored::{ATTEMPTS, Stored, Written, value};
use super::{Stage, managed};
use crate::admission::resource_quota::{self, applies};
use crate::admission::{Operation, Review};
use crate::error::ApiError;
use crate::meta::{Meta, Object};
use crate::registry::Def;
use crate::registry::core::resourcequota::DEF;
use crate::registry::value::{object_entry, root};
use crate::store::Expect;
use crate::store::key::StoreKey;

/// Charges the quotas, or says why the write does not fit. What is charged for a write that then fails is given back by
/// the quota controller, which counts what there is; upstream leaves it as well.
pub(super) async fn charge(
    stage: &Stage<'_>,
    operation: Operation,
    object: &Object,
    old: Option<&Object>,
    dry_run: bool,
) -> Result<(), ApiError> {
    let (def, sub) = (&stage.target.def, stage.target.sub);
    if !applies(def, sub, operation) {
        return Ok(());
    }
    let snapshot = stage.api.cache(DEF.storage)?.latest().await?;
    let prefix = StoreKey::prefix(DEF.storage, Some(stage.namespace()));
    let mut quotas = Vec::new();
    for entry in snapshot.range(&prefix, None) {
        quotas.push(Stored { revision: entry.revision, bytes: entry.bytes.clone(), value: value(&entry.bytes)? });
    }
    if quotas.is_empty() {
        return Ok(());
    }
    let (namespace, name) = (stage.namespace(), object.name());
    let review = Review { namespace, name, old, ..Review::bare(stage.user, def, operation, sub) };
    let values: Vec<Object> = quotas.iter().map(|quota| quota.value.clone()).collect();
    let charges = resource_quota::charge(&review, object, &values)?;
    if dry_run {
        return Ok(());
    }
    for (index, used) in charges {
        let (mut quota, mut used) = (quotas[index].clone(), used);
        let mut attempt = 1;
        loop {
            let mut charged = quota.value.clone();
            object_entry(root(&mut charged), "status").insert("used".to_owned(), used.value());
            managed::track_own(stage, &Def::BuiltIn(&DEF), &quota.value, &mut charged)?;
            match stage.api.write(&DEF, charged, Expect::At(quota.revision), false).await? {
                // A quota that has just been deleted limits nothing.
                Written::Done(_) | Written::Lost(None) => break,
                Written::Lost(Some(_)) if attempt == ATTEMPTS => {
                    return Err(ApiError::modified(&DEF, quota.value.name()));
                }
                Written::Lost(Some(now)) => quota = now,
            }
            attempt += 1;
            // Others were charged meanwhile: it must still fit.
            match resource_quota::charge(&review, object, std::slice::from_ref(&quota.value))?.pop() {
                Some((_, again)) => used = again,
                None => break,
            }
        }
    }
    Ok(())
}
