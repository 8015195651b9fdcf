//! `metadata.managedFields`: who owns which fields, through updates and applies.

use super::compare::{Diff, compare};
use super::fields::{fields, misfits};
use super::merge::merge;
use super::remove::{reconcile, remove, with_named};
use super::set::Set;
use super::types::Typed;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Entries of updates beyond which the oldest are merged (apiserver's `DefaultMaxUpdateManagers`).
const MAX_UPDATERS: usize = 10;
/// Whom the merged entries belong to.
const ANCIENT: &str = "ancient-changes";
/// Owner of what was there before the first apply, when nothing was tracked.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// The manager whose applies take over from client-side apply.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// An annotation longer than this is dropped rather than kept up to date (apimachinery's `TotalAnnotationSizeLimitB`).
const ANNOTATIONS_MAX_BYTES: usize = 256 << 10;

/// What nobody owns.
static UNOWNED: LazyLock<Set> = LazyLock::new(|| {
    const METADATA: [&str; 9] = [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ];
    let top = [Set::path(&["apiVersion"]), Set::path(&["kind"]), Set::path(&["metadata"])];
    let below = METADATA.iter().map(|name| Set::path(&["metadata", name]));
    top.into_iter().chain(below).fold(Set::default(), |all, one| all.union(&one))
});

/// One manager's entry is known by this; ordered as upstream orders their texts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Manager {
    pub name: String,
    pub applies: Operation,
    /// Of updates only: an applier has one entry, whatever version it applies in.
    version: String,
    pub subresource: String,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Operation {
    Apply,
    Update,
}

impl Operation {
    const fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// What a manager owns.
#[derive(Clone, PartialEq, Debug)]
struct Owned {
    version: String,
    /// RFC 3339, whole seconds; empty when unknown.
    time: String,
    set: Set,
}

/// Who writes, what and when.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    pub manager: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// The `apiVersion` of the request.
    pub version: &'a str,
    /// RFC 3339, whole seconds.
    pub now: &'a str,
}

impl Writer<'_> {
    fn id(&self, operation: Operation) -> Manager {
        let version = if operation == Operation::Update { self.version.to_owned() } else { String::new() };
        Manager { name: self.manager.to_owned(), applies: operation, version, subresource: self.subresource.to_owned() }
    }
}

/// The type of a version.
pub type TypeOf<'a, T> = Box<dyn Fn(&str) -> Option<T> + 'a>;
/// An object in another version.
pub type Convert<'a> = Box<dyn Fn(&Value, &str) -> Option<Value> + 'a>;

/// The versions of a kind: their types, and an object in another version.
pub struct Versions<'a, T> {
    /// `None` for a version that is not served any more: its managers are forgotten.
    pub of: TypeOf<'a, T>,
    pub convert: Convert<'a>,
    /// The object of this kind in which nothing is set, in the version of the request.
    pub empty: &'a Value,
    /// What the server resets whatever is sent (`status` of the object itself, `spec` of its status): nobody owns it.
    pub reset: &'a Set,
}

/// A field that another manager owns with another value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// `conflict with "x" using v1`.
    pub manager: String,
    /// `.spec.replicas`.
    pub path: String,
}

/// Why an apply was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Upstream answers 400.
    #[error("{0}")]
    BadRequest(String),
    /// The applied object does not fit its type: upstream answers a bare 500.
    #[error("{0}")]
    Misfit(String),
    #[error("{}", message(.0))]
    Conflicts(Vec<Conflict>),
}

/// What an apply makes of the live object.
#[derive(Debug)]
pub struct Applied {
    /// The new object, without managedFields; `None` when nothing changes.
    pub object: Option<Value>,
    pub managers: Managers,
}

/// All managers of an object.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Managers(BTreeMap<Manager, Owned>);

impl Managers {
    /// Reads `metadata.managedFields`.
    ///
    /// # Errors
    /// With a text, when an entry is not well-formed.
    pub fn read(entries: &Value) -> Result<Managers, String> {
        let mut managers = BTreeMap::new();
        for entry in entries.as_array().into_iter().flatten() {
            let (id, owned) = read_entry(entry)?;
            managers.insert(id, owned);
        }
        Ok(Managers(managers))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As `metadata.managedFields`; `None` for nobody.
    pub fn write(self) -> Option<Value> {
        let mut entries: Vec<(Manager, Owned)> = self.0.into_iter().collect();
        entries.sort_by(|(a, x), (b, y)| {
            (a.applies, &x.time, &a.name, &x.version, &a.subresource).cmp(&(
                b.applies,
                &y.time,
                &b.name,
                &y.version,
                &b.subresource,
            ))
        });
        let entries: Vec<Value> = entries.into_iter().map(|(id, owned)| write_entry(id, owned)).collect();
        (!entries.is_empty()).then_some(Value::Array(entries))
    }

    /// After an update, create or patch from `old` to `new` (neither with managedFields).
    pub fn update<'s, T: Typed<'s>>(
        mut self,
        versions: &Versions<'_, T>,
        old: &Value,
        new: &Value,
        writer: Writer<'_>,
    ) -> Managers {
        let Some(of) = (versions.of)(writer.version) else { return self };
        self.reconcile(versions, old);
        let diff = compare(of, old, new).ignoring(versions.reset);
        // The writer's own entry loses what it changed too, and gets it back with the time of now.
        self.yield_to(versions, &diff, writer.version, old, new, None);
        let taken = diff.taken().difference(&UNOWNED);
        if !taken.is_empty() {
            let id = writer.id(Operation::Update);
            let before = self.0.remove(&id).map(|owned| owned.set).unwrap_or_default();
            let owned = Owned { version: writer.version.into(), time: writer.now.into(), set: before.union(&taken) };
            self.0.insert(id, owned);
        }
        self.cap();
        self
    }

    /// Applies `config` to `live` (which has no managedFields; an empty object when there is none yet).
    ///
    /// # Errors
    /// When it does not fit the type, or conflicts with other managers and `force` is not given.
    pub fn apply<'s, T: Typed<'s>>(
        mut self,
        versions: &Versions<'_, T>,
        live: &Value,
        config: &Value,
        writer: Writer<'_>,
        force: bool,
    ) -> Result<Applied, ApplyError> {
        let type_of =
            |object: &Value| (object["apiVersion"].as_str().unwrap_or_default().to_owned(), object["kind"].clone());
        if type_of(config) != type_of(versions.empty) {
            return Err(ApplyError::BadRequest(format!("invalid object type: {}", kind_of(config))));
        }
        if !config["metadata"]["managedFields"].is_null() {
            return Err(ApplyError::BadRequest("metadata.managedFields must be nil".to_owned()));
        }
        let Some(of) = (versions.of)(writer.version) else {
            return Err(ApplyError::Misfit(format!("no corresponding type for {}", writer.version)));
        };
        if let Some(why) = misfits(of, config, false) {
            return Err(ApplyError::Misfit(format!(
                "failed to create typed patch object ({}): {why}",
                described(config)
            )));
        }
        if self.is_empty() && !live["metadata"]["uid"].is_null() {
            let before = Writer { manager: BEFORE_FIRST_APPLY, ..writer };
            self = self.update(versions, versions.empty, live, before);
        }
        let refused = match self.clone().merge_config(of, versions, live, config, writer, force) {
            Err(ApplyError::Conflicts(conflicts)) if writer.manager == KUBECTL => conflicts,
            outcome => return finish(outcome, live, config, writer),
        };
        // kubectl takes over what its client-side apply had set, as the annotation tells.
        let Some(allowed) = last_applied(of, live, writer.version) else { return Err(ApplyError::Conflicts(refused)) };
        let allowed = allowed.paths();
        let left: Vec<Conflict> = refused.into_iter().filter(|c| !allowed.contains(&c.path)).collect();
        if !left.is_empty() {
            return Err(ApplyError::Conflicts(left));
        }
        finish(self.merge_config(of, versions, live, config, writer, true), live, config, writer)
    }

    /// The managers of an object's `Scale`: those who own its replicas.
    pub fn to_scale(&self, replicas: &Set, scale_version: &str) -> Managers {
        let owns = |owned: &Owned| !owned.set.intersection(replicas).is_empty();
        let own = |owned: &Owned| Owned {
            version: scale_version.into(),
            set: Set::path(&["spec", "replicas"]),
            ..owned.clone()
        };
        Managers(self.0.iter().filter(|(_, owned)| owns(owned)).map(|(id, owned)| (id.clone(), own(owned))).collect())
    }

    /// The object's managers after those of its `Scale` have changed: who lost the replicas there loses them here.
    pub fn with_scale(self, mut scale: Managers, replicas: &Set, version: &str) -> Managers {
        let mut all = BTreeMap::new();
        for (id, mut owned) in self.0 {
            if !owned.set.intersection(replicas).is_empty() && scale.0.remove(&id).is_none() {
                owned.set = owned.set.difference(replicas);
            }
            if !owned.set.is_empty() {
                all.insert(id, owned);
            }
        }
        let in_scale = Set::path(&["spec", "replicas"]);
        let owns = |owned: &Owned| !owned.set.intersection(&in_scale).is_empty();
        for (mut id, _) in scale.0.into_iter().filter(|(_, owned)| owns(owned)) {
            if id.applies == Operation::Update {
                id.version = version.to_owned();
            }
            // As upstream: without a time, for the object's entries know none.
            all.insert(id, Owned { version: version.into(), time: String::new(), set: replicas.clone() });
        }
        Managers(all)
    }

    fn merge_config<'s, T: Typed<'s>>(
        mut self,
        of: T,
        versions: &Versions<'_, T>,
        live: &Value,
        config: &Value,
        writer: Writer<'_>,
        force: bool,
    ) -> Result<Applied, ApplyError> {
        self.reconcile(versions, live);
        let id = writer.id(Operation::Apply);
        let last = self.0.remove(&id);
        let set = fields(of, config).recursive_difference(versions.reset);
        let time = last.as_ref().map(|owned| owned.time.clone()).unwrap_or_default();
        self.0.insert(id.clone(), Owned { version: writer.version.into(), time, set });

        let merged = merge(of, live, config);
        let object = match &last {
            Some(last) if !last.set.is_empty() => self.prune(versions, merged, last, writer.version),
            _ => merged,
        };
        let diff = compare(of, live, &object).ignoring(versions.reset);
        let conflicts = self.yield_to(versions, &diff, writer.version, live, &object, Some(&id));
        if !force && !conflicts.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
        let changed = object != *live;
        if let Some(owned) = self.0.get_mut(&id) {
            owned.set = owned.set.difference(&UNOWNED);
            // As upstream: whoever applies what is there already is entered without a time.
            if changed {
                owned.time = writer.now.into();
            }
            if owned.set.is_empty() {
                self.0.remove(&id);
            }
        }
        Ok(Applied { object: changed.then_some(object), managers: self })
    }

    /// Takes what a change touched from the managers (but `but`), and says what of it they owned.
    fn yield_to<'s, T: Typed<'s>>(
        &mut self,
        versions: &Versions<'_, T>,
        diff: &Diff,
        version: &str,
        old: &Value,
        new: &Value,
        but: Option<&Manager>,
    ) -> Vec<Conflict> {
        let mut diffs: BTreeMap<String, Option<(Set, Set)>> = BTreeMap::new();
        diffs.insert(version.to_owned(), Some((diff.taken(), diff.removed.clone())));
        let mut conflicts = Vec::new();
        self.0.retain(|id, owned| {
            if Some(id) == but {
                return true;
            }
            let diff = diffs.entry(owned.version.clone()).or_insert_with(|| {
                let of = (versions.of)(&owned.version)?;
                let (old, new) = ((versions.convert)(old, &owned.version)?, (versions.convert)(new, &owned.version)?);
                let diff = compare(of, &old, &new).ignoring(versions.reset);
                Some((diff.taken(), diff.removed))
            });
            let Some((taken, removed)) = diff else { return false };
            let lost = owned.set.intersection(taken);
            if !lost.is_empty() {
                let manager = shown(id, &owned.version);
                conflicts.extend(lost.paths().into_iter().map(|path| Conflict { manager: manager.clone(), path }));
                owned.set = owned.set.difference(&lost);
            }
            if !removed.is_empty() {
                owned.set = owned.set.difference(removed);
            }
            !owned.set.is_empty()
        });
        conflicts
    }

    /// `merged` without what this applier owned last time and nobody claims now.
    fn prune<'s, T: Typed<'s>>(&self, versions: &Versions<'_, T>, merged: Value, last: &Owned, version: &str) -> Value {
        let (Some(of), Some(converted)) = ((versions.of)(&last.version), (versions.convert)(&merged, &last.version))
        else {
            return merged;
        };
        let last_set = with_named(of, &last.set);
        let pruned = remove(of, &converted, &last_set);
        let mut by_version: BTreeMap<&str, Set> = BTreeMap::new();
        for owned in self.0.values() {
            let all = by_version.entry(owned.version.as_str()).or_default();
            *all = all.union(&owned.set);
        }
        // The version that was pruned goes first: another may need for its conversion what it gives back.
        let first = by_version.remove(last.version.as_str()).map(|set| (last.version.as_str(), set));
        let (mut whole, mut pruned) = (converted.clone(), pruned);
        for (version, owned) in first.into_iter().chain(by_version) {
            let (Some(of), Some(w), Some(p)) =
                ((versions.of)(version), (versions.convert)(&whole, version), (versions.convert)(&pruned, version))
            else {
                continue;
            };
            let kept = with_named(of, &fields(of, &p)).union(&with_named(of, &owned));
            pruned = remove(of, &w, &with_named(of, &fields(of, &w)).difference(&kept));
            whole = w;
        }
        // Only what this applier owned goes: the rest is unowned, and stays.
        let Some(pruned) = (versions.convert)(&pruned, &last.version) else { return merged };
        let gone = with_named(of, &fields(of, &converted)).difference(&with_named(of, &fields(of, &pruned)));
        let result = remove(of, &converted, &gone.intersection(&last_set));
        (versions.convert)(&result, version).unwrap_or(result)
    }

    fn reconcile<'s, T: Typed<'s>>(&mut self, versions: &Versions<'_, T>, live: &Value) {
        for owned in self.0.values_mut() {
            let same = live["apiVersion"].as_str() == Some(owned.version.as_str());
            if let Some(of) = (versions.of)(&owned.version).filter(|_| same) {
                owned.set = reconcile(of, &owned.set, live);
            }
        }
    }

    /// Merges the oldest updaters' entries when there are too many.
    fn cap(&mut self) {
        let mut updaters: Vec<(String, Manager)> = self
            .0
            .iter()
            .filter(|(id, _)| id.applies == Operation::Update)
            .map(|(id, owned)| (owned.time.clone(), id.clone()))
            .collect();
        let mut count = updaters.len();
        if count <= MAX_UPDATERS {
            return;
        }
        updaters.sort();
        let mut first: BTreeMap<String, Manager> = BTreeMap::new();
        for (time, id) in updaters {
            if count <= MAX_UPDATERS {
                return;
            }
            let Some(version) = self.0.get(&id).map(|owned| owned.version.clone()) else { continue };
            let Some(earlier) = first.get(&version) else {
                first.insert(version, id);
                continue;
            };
            let bucket =
                Manager { name: ANCIENT.into(), version, subresource: String::new(), applies: Operation::Update };
            self.merge_into(&bucket, earlier);
            self.merge_into(&bucket, &id);
            if let Some(held) = self.0.get_mut(&bucket) {
                held.time = time;
            }
            count -= 1;
        }
    }

    fn merge_into(&mut self, bucket: &Manager, id: &Manager) {
        if bucket == id {
            return;
        }
        let Some(owned) = self.0.remove(id) else { return };
        match self.0.get_mut(bucket) {
            Some(held) => held.set = held.set.union(&owned.set),
            None => drop(self.0.insert(bucket.clone(), owned)),
        }
    }
}

/// Keeps kubectl's annotation of client-side apply up to date, where there is one.
fn finish(
    outcome: Result<Applied, ApplyError>,
    live: &Value,
    config: &Value,
    writer: Writer<'_>,
) -> Result<Applied, ApplyError> {
    let mut applied = outcome?;
    let result = applied.object.as_ref().unwrap_or(live);
    if writer.manager != KUBECTL || result["metadata"]["annotations"][LAST_APPLIED].as_str().is_none_or(str::is_empty) {
        return Ok(applied);
    }
    let mut said = config.clone();
    if let Some(annotations) = said.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    let text = format!("{said}\n");
    let mut object = result.clone();
    if let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        let total: usize = annotations.iter().map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
        if total + text.len() > ANNOTATIONS_MAX_BYTES {
            annotations.remove(LAST_APPLIED);
        } else {
            annotations.insert(LAST_APPLIED.to_owned(), text.into());
        }
    }
    applied.object = (object != *live).then_some(object);
    Ok(applied)
}

/// The fields that client-side apply set and that are still as it set them.
fn last_applied<'s, T: Typed<'s>>(of: T, live: &Value, version: &str) -> Option<Set> {
    let text = live["metadata"]["annotations"][LAST_APPLIED].as_str().filter(|text| !text.is_empty())?;
    let said: Value = serde_json::from_str(text).ok()?;
    if said["apiVersion"].as_str() != Some(version) || misfits(of, &said, false).is_some() {
        return None;
    }
    let diff = compare(of, &said, live);
    Some(fields(of, &said).difference(&diff.modified).difference(&diff.added).difference(&diff.removed))
}

/// `namespace/name; group/version, Kind=Kind`.
fn described(object: &Value) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    format!("{}/{}; {}", text("namespace"), text("name"), kind_of(object))
}

/// `group/version, Kind=Kind`.
fn kind_of(object: &Value) -> String {
    let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    let version = text("apiVersion");
    let slash = if version.contains('/') { "" } else { "/" };
    format!("{slash}{version}, Kind={}", text("kind"))
}

fn read_entry(entry: &Value) -> Result<(Manager, Owned), String> {
    let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let applies = match text("operation").as_str() {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        other => {
            return Err(format!(
                "metadata.managedFields.operation: Invalid value: {other:?}: must be `Apply` or `Update`"
            ));
        }
    };
    let kind = text("fieldsType");
    if !kind.is_empty() && kind != "FieldsV1" {
        return Err(format!("metadata.managedFields.fieldsType: Invalid value: {kind:?}: must be `FieldsV1`"));
    }
    let version = text("apiVersion");
    let of = if applies == Operation::Update { version.clone() } else { String::new() };
    let id = Manager { name: text("manager"), applies, version: of, subresource: text("subresource") };
    let set = match &entry["fieldsV1"] {
        Value::Null => Set::default(),
        fields => Set::read(fields)?,
    };
    Ok((id, Owned { version, time: text("time"), set }))
}

fn write_entry(id: Manager, owned: Owned) -> Value {
    let mut entry = Map::new();
    let mut put = |field: &str, value: String| {
        if !value.is_empty() {
            entry.insert(field.to_owned(), value.into());
        }
    };
    put("manager", id.name);
    put("operation", id.applies.name().to_owned());
    put("apiVersion", owned.version);
    put("time", owned.time);
    put("fieldsType", "FieldsV1".to_owned());
    put("subresource", id.subresource);
    entry.insert("fieldsV1".to_owned(), owned.set.write());
    Value::Object(entry)
}

/// As conflicts name a manager.
fn shown(id: &Manager, version: &str) -> String {
    let mut text = format!("{:?}", id.name);
    if !id.subresource.is_empty() {
        text.push_str(&format!(" with subresource {:?}", id.subresource));
    }
    if id.applies == Operation::Update {
        text.push_str(&format!(" using {version}"));
    }
    text
}

/// The message of the 409.
fn message(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", only.manager, only.path);
    }
    let mut lines = Vec::new();
    let mut last = "";
    for conflict in conflicts {
        if conflict.manager != last {
            lines.push(format!("conflicts with {}:", conflict.manager));
            last = &conflict.manager;
        }
        lines.push(format!("- {}", conflict.path));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// Whether a client asks to forget all managers: an empty list, or one empty entry.
pub fn is_reset(entries: &Value) -> bool {
    match entries.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([Value::Object(only)]) => only.values().all(|v| v.is_null() || v.as_str() == Some("")),
        _ => false,
    }
}

/// Whether two `managedFields` differ in their times alone.
pub fn same_but_times(a: &Value, b: &Value) -> bool {
    let without = |entries: &Value| -> Vec<Value> {
        let entries = entries.as_array().cloned().unwrap_or_default();
        let strip = |mut entry: Value| {
            if let Some(map) = entry.as_object_mut() {
                map.remove("time");
            }
            entry
        };
        let mut out: Vec<Value> = entries.into_iter().map(strip).collect();
        // A newer time may have moved an entry.
        out.sort_by_cached_key(Value::to_string);
        out
    };
    without(a) == without(b)
}
