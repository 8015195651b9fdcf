//! What is served now: the built-in table and the custom resources, looked up by group, version and resource.

use super::ResourceDef;
use crate::gvr::version_order;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock};

/// One served resource, built in or custom; cheap to clone.
#[derive(Clone)]
pub enum Def {
    BuiltIn(&'static ResourceDef),
    /// Of one version of a CustomResourceDefinition, as the definition was when it was looked up.
    Custom(Arc<ResourceDef>),
}

impl Deref for Def {
    type Target = ResourceDef;

    fn deref(&self) -> &ResourceDef {
        match self {
            Self::BuiltIn(def) => def,
            Self::Custom(def) => def,
        }
    }
}

impl fmt::Debug for Def {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.gv, self.resource)
    }
}

/// Everything that is served at one moment.
#[derive(Default)]
pub struct Served {
    /// Ordered by group, then version (the newest stable one first), then resource.
    custom: Vec<Def>,
}

impl Served {
    /// The built-in resources and these.
    pub fn with(custom: Vec<Arc<ResourceDef>>) -> Self {
        let mut custom: Vec<Def> = custom.into_iter().map(Def::Custom).collect();
        custom.sort_by(|a, b| {
            let versions = || version_order(a.gv.version, b.gv.version);
            a.gv.group.cmp(b.gv.group).then_with(versions).then_with(|| a.resource.cmp(b.resource))
        });
        Self { custom }
    }

    /// The definition served at that path.
    pub fn find(&self, group: &str, version: &str, resource: &str) -> Option<Def> {
        if let Some(def) = super::find(group, version, resource) {
            return Some(Def::BuiltIn(def));
        }
        self.custom.iter().find(|d| d.resource == resource && d.gv.group == group && d.gv.version == version).cloned()
    }

    /// All definitions, in discovery order.
    pub fn all(&self) -> impl Iterator<Item = Def> + '_ {
        super::all().iter().map(Def::BuiltIn).chain(self.custom())
    }

    /// The custom ones alone.
    pub fn custom(&self) -> impl Iterator<Item = Def> + '_ {
        self.custom.iter().cloned()
    }

    /// Whether anything is served in that group version.
    pub fn has_version(&self, group: &str, version: &str) -> bool {
        self.all().any(|d| d.gv.group == group && d.gv.version == version)
    }
}

/// What one server serves; replaced whole when a CustomResourceDefinition changes, so that a request sees one state.
#[derive(Default)]
pub struct Catalog(RwLock<Arc<Served>>);

impl Catalog {
    /// As of now.
    pub fn served(&self) -> Arc<Served> {
        // A panic while it was held leaves the old or the new table: both are whole.
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn replace(&self, served: Served) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(served);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gvr::GroupVersion;

    #[test]
    fn custom_resources_follow_the_built_ins_the_newest_stable_version_first() {
        let custom = |group, version, resource| {
            let gv = GroupVersion::interned(group, version);
            Arc::new(ResourceDef { gv, resource, ..ResourceDef::BASIC })
        };
        let catalog = Catalog::default();
        catalog.replace(Served::with(vec![
            custom("b.example.com", "v1", "xs"),
            custom("a.example.com", "v1beta1", "ys"),
            custom("a.example.com", "v1", "zs"),
            custom("a.example.com", "v2", "ys"),
        ]));
        let served = catalog.served();
        let names: Vec<String> = served.custom().map(|d| format!("{d:?}")).collect();
        let wanted = ["a.example.com/v2 ys", "a.example.com/v1 zs", "a.example.com/v1beta1 ys", "b.example.com/v1 xs"];
        assert_eq!(names, wanted);
        assert!(served.find("a.example.com", "v2", "ys").is_some());
        assert!(served.find("a.example.com", "v2", "zs").is_none());
        assert!(served.find("", "v1", "pods").is_some());
        assert!(served.has_version("b.example.com", "v1") && !served.has_version("b.example.com", "v2"));
    }
}
