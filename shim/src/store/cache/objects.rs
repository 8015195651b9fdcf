//! The objects of one resource as persistent maps: by key, and by the value of the field that has an index.

use super::Entry;
use crate::revision::Revision;
use crate::selector::FieldSelector;
use crate::store::key::{StoreKey, prefix_range};
use std::sync::Arc;

type Map = imbl::OrdMap<StoreKey, Arc<Entry>>;

/// What part of a resource a list or a watch is about: the least that must be looked at. Selectors narrow it further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// At most one object.
    Key(StoreKey),
    /// The objects under a prefix whose indexed field has a value.
    Field { prefix: String, value: Box<str> },
    /// Everything under a prefix: a namespace, or the resource.
    Prefix(String),
}

impl Scope {
    /// What of `storage` can match `fields`; `namespace` is `None` for all of them, and for cluster-scoped resources.
    pub(super) fn of(
        storage: &str,
        namespaced: bool,
        namespace: Option<&str>,
        fields: &FieldSelector,
        indexed: Option<&str>,
    ) -> Self {
        let prefix = StoreKey::prefix(storage, namespace);
        if let Some(name) = fields.exact("metadata.name")
            && (namespace.is_some() || !namespaced)
        {
            return Self::Key(StoreKey::object(storage, namespace, name));
        }
        match indexed.and_then(|field| fields.exact(field)) {
            // The index has no entry for objects without the field.
            Some(value) if !value.is_empty() => Self::Field { prefix, value: value.into() },
            Some(_) | None => Self::Prefix(prefix),
        }
    }
}

/// The objects of one resource; cloning shares everything.
#[derive(Clone, Default)]
pub(super) struct Objects {
    pub(super) map: Map,
    by_field: imbl::HashMap<Box<str>, Map>,
    indexed: Option<&'static str>,
}

impl Objects {
    pub(super) fn new(indexed: Option<&'static str>) -> Self {
        Self { indexed, ..Self::default() }
    }

    /// The value under which the index has an object.
    pub(super) fn value_of<'a>(&self, entry: &'a Entry) -> Option<&'a str> {
        entry.field(self.indexed?).filter(|value| !value.is_empty())
    }

    /// Puts an object; what was there is returned.
    pub(super) fn insert(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let old = self.map.insert(entry.key.clone(), entry.clone());
        let value = self.value_of(&entry);
        if let Some(old) = &old
            && self.value_of(old) != value
        {
            self.unindex(old);
        }
        if let Some(value) = value {
            match self.by_field.get_mut(value) {
                Some(map) => drop(map.insert(entry.key.clone(), entry.clone())),
                None => drop(self.by_field.insert(value.into(), Map::unit(entry.key.clone(), entry.clone()))),
            }
        }
        old
    }

    pub(super) fn remove(&mut self, key: &StoreKey) -> Option<Arc<Entry>> {
        let old = self.map.remove(key.as_str())?;
        self.unindex(&old);
        Some(old)
    }

    fn unindex(&mut self, old: &Entry) {
        let Some(value) = self.value_of(old) else { return };
        let Some(map) = self.by_field.get_mut(value) else { return };
        map.remove(old.key.as_str());
        if map.is_empty() {
            self.by_field.remove(value);
        }
    }
}

/// An immutable, ordered view at a known revision.
#[derive(Clone)]
pub struct Snapshot {
    pub revision: Revision,
    pub map: Map,
    by_field: imbl::HashMap<Box<str>, Map>,
}

impl Snapshot {
    pub(super) fn new(revision: Revision, objects: Objects) -> Self {
        Self { revision, map: objects.map, by_field: objects.by_field }
    }

    pub fn get(&self, key: &StoreKey) -> Option<&Arc<Entry>> {
        self.map.get(key)
    }

    /// Entries whose key starts with `prefix`, in key order, after `after` when given.
    pub fn range<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a StoreKey>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Entry>> + Send + 'a> {
        range(&self.map, prefix, after)
    }

    /// Entries of a scope, in key order, after `after` when given.
    pub fn within<'a>(
        &'a self,
        scope: &'a Scope,
        after: Option<&'a StoreKey>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Entry>> + Send + 'a> {
        match scope {
            Scope::Key(key) => {
                Box::new(self.map.get(key).into_iter().filter(move |e| after.is_none_or(|a| e.key > *a)))
            }
            Scope::Field { prefix, value } => match self.by_field.get(value) {
                Some(map) => range(map, prefix, after),
                None => Box::new(std::iter::empty()),
            },
            Scope::Prefix(prefix) => self.range(prefix, after),
        }
    }
}

fn range<'a>(
    map: &'a Map,
    prefix: &'a str,
    after: Option<&'a StoreKey>,
) -> Box<dyn Iterator<Item = &'a Arc<Entry>> + Send + 'a> {
    let range = map.range::<_, str>(prefix_range(prefix, after));
    Box::new(range.take_while(move |(key, _)| key.as_str().starts_with(prefix)).map(|(_, entry)| entry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::cache::Indexer;

    fn pod(name: &str, node: &str) -> Arc<Entry> {
        let index: Indexer = Arc::new(|object| {
            let node = object["spec"]["nodeName"].as_str().unwrap_or_default();
            (Default::default(), [("spec.nodeName".into(), node.into())].into())
        });
        let value = format!(r#"{{"metadata":{{}},"spec":{{"nodeName":"{node}"}}}}"#);
        let key = StoreKey::object("pods", Some("d"), name);
        Arc::new(Entry::of(key, Revision(1), value.as_bytes(), &index).unwrap())
    }

    #[test]
    fn the_index_follows_every_change_of_its_field() {
        let mut objects = Objects::new(Some("spec.nodeName"));
        let on = |objects: &Objects, node: &str| {
            let scope = Scope::Field { prefix: "/registry/pods/".into(), value: node.into() };
            let snapshot = Snapshot::new(Revision(1), objects.clone());
            snapshot.within(&scope, None).map(|e| e.key.name().to_owned()).collect::<Vec<_>>().join(",")
        };
        for (name, node) in [("a", ""), ("b", "n1"), ("c", "n1"), ("a", "n1"), ("b", "n2"), ("c", "")] {
            objects.insert(pod(name, node));
        }
        assert_eq!([on(&objects, "n1"), on(&objects, "n2"), on(&objects, "")], ["a", "b", ""]);
        let before = objects.clone();
        objects.remove(&pod("b", "").key);
        objects.remove(&pod("nobody", "").key);
        assert_eq!([on(&objects, "n1"), on(&objects, "n2")], ["a", ""]);
        assert_eq!(objects.by_field.len(), 1, "empty values leave the index");
        assert_eq!(on(&before, "n2"), "b", "a snapshot stays as it was");
    }

    #[test]
    fn a_scope_is_the_least_that_selectors_leave() {
        let key = |key: &str| Scope::Key(StoreKey::from_stored(key));
        let prefix = |prefix: &str| Scope::Prefix(prefix.into());
        let field = |prefix: &str, value: &str| Scope::Field { prefix: prefix.into(), value: value.into() };
        for (namespaced, namespace, selector, wanted) in [
            (true, Some("d"), "", prefix("/registry/pods/d/")),
            (true, Some("d"), "metadata.name=a,status.phase=Running", key("/registry/pods/d/a")),
            (true, None, "metadata.name=a", prefix("/registry/pods/")),
            (false, None, "metadata.name=a", key("/registry/pods/a")),
            (true, None, "metadata.name!=a", prefix("/registry/pods/")),
            (true, None, "spec.nodeName=n", field("/registry/pods/", "n")),
            (true, Some("d"), "spec.nodeName=n", field("/registry/pods/d/", "n")),
            (true, None, "spec.nodeName=", prefix("/registry/pods/")),
            (true, None, "spec.nodeName!=n", prefix("/registry/pods/")),
        ] {
            let fields = FieldSelector::parse(selector).unwrap();
            let scope = Scope::of("pods", namespaced, namespace, &fields, Some("spec.nodeName"));
            assert_eq!(scope, wanted, "{namespace:?} {selector}");
        }
    }
}
