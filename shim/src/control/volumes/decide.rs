//! Which claim gets which volume: static binding as `pkg/controller/volume/persistentvolume` does it, pure.

use crate::control::informer::ObjectKey;
use crate::registry::quantity::Nanos;
use crate::selector::{LabelSelector, Pairs};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is read of a volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Volume {
    pub uid: String,
    pub version: String,
    pub capacity: i128,
    pub modes: Vec<String>,
    pub class: String,
    pub mode: String,
    pub labels: Pairs,
    pub claim: Option<Holder>,
    pub phase: String,
    pub policy: String,
    pub deleting: bool,
    /// Capacity and access modes as they are written, for the claim's status.
    pub capacity_text: String,
}

/// `claimRef`; without a uid it reserves the volume for a claim of that name.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Holder {
    pub key: ObjectKey,
    pub uid: Option<String>,
}

/// What is read of a claim.
#[derive(Clone, Debug, Default)]
pub(super) struct Claim {
    pub uid: String,
    pub volume: String,
    pub request: i128,
    pub modes: Vec<String>,
    pub class: String,
    pub mode: String,
    pub selector: Option<LabelSelector>,
    pub phase: String,
    /// Annotated as bound for good.
    pub completed: bool,
    pub deleting: bool,
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// Gives the volume to the claim; `chosen`: we chose it, no `claimRef` had reserved it.
    Take {
        volume: Arc<str>,
        version: String,
        claim: ObjectKey,
        uid: String,
        chosen: bool,
    },
    /// Names the volume in the claim; `chosen` as above.
    Name {
        claim: ObjectKey,
        uid: String,
        volume: Arc<str>,
        chosen: bool,
    },
    /// The claim's status tells what it got.
    Bound {
        claim: ObjectKey,
        uid: String,
        capacity: String,
        modes: Vec<String>,
    },
    /// The volume of a bound claim is gone.
    Lost {
        claim: ObjectKey,
        uid: String,
    },
    Phase {
        volume: Arc<str>,
        uid: String,
        phase: &'static str,
        message: String,
    },
    /// No volume fits; said once of each claim.
    NoneFits {
        claim: ObjectKey,
        uid: String,
    },
}

pub(super) type Volumes<'a> = BTreeMap<&'a ObjectKey, &'a Volume>;
pub(super) type Claims<'a> = BTreeMap<&'a ObjectKey, &'a Claim>;

/// Everything that is to be written now. Each pass brings binding one step further; the watch brings the next pass.
pub(super) fn plan(volumes: &Volumes<'_>, claims: &Claims<'_>) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut taken: BTreeSet<&ObjectKey> = BTreeSet::new();
    for (key, claim) in claims.iter().filter(|(_, claim)| !claim.deleting) {
        if claim.volume.is_empty() {
            bind(key, claim, volumes, &mut taken, &mut actions);
        } else {
            settle(key, claim, volumes, &mut actions);
        }
    }
    for (key, volume) in volumes {
        phase(key, volume, claims, &mut actions);
    }
    actions
}

/// A claim that names no volume: the one that is reserved for it, or the smallest that fits.
fn bind<'a>(
    key: &ObjectKey,
    claim: &Claim,
    volumes: &Volumes<'a>,
    taken: &mut BTreeSet<&'a ObjectKey>,
    actions: &mut Vec<Action>,
) {
    let free = volumes.iter().filter(|(name, volume)| !volume.deleting && !taken.contains(*name));
    let reserved = |volume: &Volume| {
        volume.claim.as_ref().is_some_and(|holder| {
            holder.key == *key && holder.uid.as_deref().is_none_or(|uid| uid.is_empty() || uid == claim.uid)
        })
    };
    let mine = free.clone().find(|(_, volume)| reserved(volume));
    let fitting = || free.filter(|(_, v)| v.claim.is_none() && fits(v, claim)).min_by_key(|(_, v)| v.capacity);
    let Some((name, volume)) = mine.or_else(fitting) else {
        if claim.phase == "Pending" && claim.class.is_empty() {
            actions.push(Action::NoneFits { claim: key.clone(), uid: claim.uid.clone() });
        }
        return;
    };
    taken.insert(name);
    if volume.claim.as_ref().and_then(|holder| holder.uid.as_deref()) != Some(claim.uid.as_str()) {
        actions.push(Action::Take {
            volume: name.name.clone(),
            version: volume.version.clone(),
            claim: key.clone(),
            uid: claim.uid.clone(),
            chosen: volume.claim.is_none(),
        });
        return;
    }
    actions.push(Action::Name { claim: key.clone(), uid: claim.uid.clone(), volume: name.name.clone(), chosen: true });
}

/// A claim that names its volume: the volume must name it too; then it is bound.
fn settle(key: &ObjectKey, claim: &Claim, volumes: &Volumes<'_>, actions: &mut Vec<Action>) {
    let Some((name, volume)) = volumes.get_key_value(&ObjectKey::new("", &claim.volume)) else {
        if claim.phase == "Bound" {
            actions.push(Action::Lost { claim: key.clone(), uid: claim.uid.clone() });
        }
        return;
    };
    let (holder, uid) = match &volume.claim {
        Some(holder) => (Some(&holder.key), holder.uid.as_deref().filter(|uid| !uid.is_empty())),
        None => (None, None),
    };
    if uid == Some(claim.uid.as_str()) {
        if !claim.completed {
            let volume = name.name.clone();
            actions.push(Action::Name { claim: key.clone(), uid: claim.uid.clone(), volume, chosen: false });
        } else if claim.phase != "Bound" {
            actions.push(Action::Bound {
                claim: key.clone(),
                uid: claim.uid.clone(),
                capacity: volume.capacity_text.clone(),
                modes: volume.modes.clone(),
            });
        }
    } else if uid.is_none() && holder.is_none_or(|holder| holder == key) && !volume.deleting {
        actions.push(Action::Take {
            volume: name.name.clone(),
            version: volume.version.clone(),
            claim: key.clone(),
            uid: claim.uid.clone(),
            chosen: holder.is_none(),
        });
    }
}

fn fits(volume: &Volume, claim: &Claim) -> bool {
    volume.capacity >= claim.request
        && volume.class == claim.class
        && volume.mode == claim.mode
        && claim.modes.iter().all(|mode| volume.modes.contains(mode))
        && claim.selector.as_ref().is_none_or(|selector| selector.matches(&volume.labels))
}

/// What a volume's status is to say.
fn phase(key: &ObjectKey, volume: &Volume, claims: &Claims<'_>, actions: &mut Vec<Action>) {
    let mut set = |phase: &'static str, message: String| {
        if volume.phase != phase {
            let (volume, uid) = (key.name.clone(), volume.uid.clone());
            actions.push(Action::Phase { volume, uid, phase, message });
        }
    };
    let held = volume.claim.as_ref().and_then(|holder| Some((&holder.key, holder.uid.as_deref()?)));
    let Some((holder, uid)) = held.filter(|(_, uid)| !uid.is_empty()) else {
        return set("Available", String::new());
    };
    match claims.get(holder).filter(|claim| claim.uid == uid) {
        Some(claim) if *claim.volume == *key.name => set("Bound", String::new()),
        // On its way.
        Some(_) => {}
        None if volume.policy == "Delete" => {
            let text = format!(
                "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
                key.name
            );
            set("Failed", text);
        }
        None => set("Released", String::new()),
    }
}

/// An amount of storage; what cannot be read counts as nothing.
pub(super) fn amount(text: &str) -> i128 {
    Nanos::parse(&serde_json::Value::from(text)).map_or(0, |nanos| nanos.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(capacity: &str) -> Volume {
        Volume {
            uid: "v".into(),
            version: "1".into(),
            capacity: amount(capacity),
            capacity_text: capacity.into(),
            modes: vec!["ReadWriteOnce".into()],
            mode: "Filesystem".into(),
            phase: "Available".into(),
            policy: "Retain".into(),
            ..Volume::default()
        }
    }

    fn claim(request: &str) -> Claim {
        Claim {
            uid: "c".into(),
            request: amount(request),
            modes: vec!["ReadWriteOnce".into()],
            mode: "Filesystem".into(),
            phase: "Pending".into(),
            ..Claim::default()
        }
    }

    fn holder(uid: Option<&str>) -> Option<Holder> {
        Some(Holder { key: ObjectKey::new("d", "data"), uid: uid.map(str::to_owned) })
    }

    fn check(volumes: &[(&str, Volume)], claims: &[(&str, Claim)], expected: &[&str]) {
        let volumes: Vec<_> = volumes.iter().map(|(name, v)| (ObjectKey::new("", name), v)).collect();
        let claims: Vec<_> = claims.iter().map(|(name, c)| (ObjectKey::new("d", name), c)).collect();
        let volumes: Volumes<'_> = volumes.iter().map(|(key, v)| (key, *v)).collect();
        let claims: Claims<'_> = claims.iter().map(|(key, c)| (key, *c)).collect();
        let text = |action: &Action| match action {
            Action::Take { volume, claim, chosen, .. } => format!("{volume} takes {claim}, chosen {chosen}"),
            Action::Name { claim, volume, chosen, .. } => format!("{claim} names {volume}, chosen {chosen}"),
            Action::Bound { claim, capacity, .. } => format!("{claim} bound with {capacity}"),
            Action::Lost { claim, .. } => format!("{claim} lost"),
            Action::Phase { volume, phase, .. } => format!("{volume} is {phase}"),
            Action::NoneFits { claim, .. } => format!("nothing for {claim}"),
        };
        assert_eq!(plan(&volumes, &claims).iter().map(text).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_claim_gets_the_smallest_volume_that_fits() {
        let mut other_class = volume("2Gi");
        other_class.class = "fast".into();
        let mut read_only = volume("2Gi");
        read_only.modes = vec!["ReadOnlyMany".into()];
        let volumes = [
            ("big", volume("10Gi")),
            ("fits", volume("5Gi")),
            ("small", volume("1Gi")),
            ("x", other_class),
            ("y", read_only),
        ];
        check(&volumes, &[("data", claim("2Gi"))], &["fits takes d/data, chosen true"]);
    }

    #[test]
    fn two_claims_never_get_one_volume() {
        let second = Claim { uid: "c2".into(), ..claim("1Gi") };
        check(
            &[("a", volume("1Gi")), ("b", volume("2Gi"))],
            &[("data", claim("1Gi")), ("more", second)],
            &["a takes d/data, chosen true", "b takes d/more, chosen true"],
        );
    }

    #[test]
    fn binding_goes_step_by_step_and_ends() {
        let taken = Volume { claim: holder(Some("c")), ..volume("1Gi") };
        let named = Claim { volume: "a".into(), ..claim("1Gi") };
        let completed = Claim { completed: true, ..named.clone() };
        let bound = Claim { phase: "Bound".into(), ..completed.clone() };
        let done = Volume { phase: "Bound".into(), ..taken.clone() };
        check(&[("a", taken.clone())], &[("data", claim("1Gi"))], &["d/data names a, chosen true"]);
        check(&[("a", taken.clone())], &[("data", named)], &["d/data names a, chosen false", "a is Bound"]);
        check(&[("a", taken)], &[("data", completed)], &["d/data bound with 1Gi", "a is Bound"]);
        check(&[("a", done)], &[("data", bound)], &[]);
    }

    #[test]
    fn a_reserved_volume_is_for_its_claim_alone() {
        let reserved = Volume { claim: holder(None), ..volume("1Gi") };
        check(&[("a", reserved.clone())], &[("data", claim("1Gi"))], &["a takes d/data, chosen false"]);
        check(&[("a", reserved)], &[("other", claim("1Gi"))], &["nothing for d/other"]);
    }

    #[test]
    fn a_claim_that_names_a_volume_waits_for_that_one() {
        let named = Claim { volume: "a".into(), ..claim("1Gi") };
        check(&[("a", volume("1Gi"))], &[("data", named.clone())], &["a takes d/data, chosen true"]);
        check(&[("b", volume("1Gi"))], &[("data", named.clone())], &[]);
        let others =
            Volume { claim: Some(Holder { key: ObjectKey::new("d", "x"), uid: Some("x".into()) }), ..volume("1Gi") };
        check(&[("a", others)], &[("data", named)], &["a is Released"]);
    }

    #[test]
    fn what_a_claim_leaves_is_released_and_a_bound_claim_without_its_volume_is_lost() {
        let left = Volume { claim: holder(Some("gone")), phase: "Bound".into(), ..volume("1Gi") };
        check(&[("a", left.clone())], &[], &["a is Released"]);
        check(&[("a", Volume { policy: "Delete".into(), ..left })], &[], &["a is Failed"]);
        let bound = Claim { volume: "a".into(), phase: "Bound".into(), completed: true, ..claim("1Gi") };
        check(&[], &[("data", bound)], &["d/data lost"]);
    }
}
