//! One page of a list: what is taken, whether more follows, and the token that goes on from there.

use crate::error::ApiError;
use crate::request::options::ListOptions;
use crate::revision::Revision;
use crate::store::cache::Entry;
use crate::store::key::StoreKey;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Takes objects in key order until the page is full.
pub(super) struct Page<'a> {
    options: &'a ListOptions,
    entries: Vec<Arc<Entry>>,
    /// Objects after the page's last, selected or not: upstream counts them only where nothing is selected.
    following: usize,
}

impl<'a> Page<'a> {
    pub(super) fn new(options: &'a ListOptions) -> Self {
        Self { options, entries: Vec::new(), following: 0 }
    }

    /// Takes or counts the next object; false when those that follow do not matter.
    pub(super) fn take(&mut self, entry: &Arc<Entry>) -> bool {
        if self.options.limit > 0 && self.entries.len() == self.options.limit {
            self.following += 1;
            // Whether one of those that follow is selected is not looked at: the next page may be empty.
            return self.options.selects_everything();
        }
        if entry.matches(&self.options.labels, &self.options.fields) {
            self.entries.push(entry.clone());
        }
        true
    }

    /// The page, whether more follows, and how much.
    pub(super) fn into_parts(self) -> (Vec<Arc<Entry>>, bool, Option<usize>) {
        let more = self.following > 0;
        let remaining = (more && self.options.selects_everything()).then_some(self.following);
        (self.entries, more, remaining)
    }
}

/// Where a page ended, laid out as upstream's; opaque to clients.
#[derive(Serialize, Deserialize)]
pub(super) struct Continue {
    #[serde(rename = "v")]
    version: String,
    /// -1: the present, whatever it is (for a list that has outlived its revision).
    #[serde(rename = "rv")]
    revision: i64,
    /// The last key, below the resource's prefix.
    #[serde(rename = "start")]
    after: String,
}

const VERSION: &str = "meta.k8s.io/v1";

impl Continue {
    pub(super) fn new(revision: Option<Revision>, storage: &str, last: &StoreKey) -> Self {
        let prefix = StoreKey::prefix(storage, None);
        Self {
            version: VERSION.into(),
            revision: revision.map_or(-1, |r| i64::try_from(r.0).unwrap_or(i64::MAX)),
            after: last.as_str().strip_prefix(prefix.as_str()).unwrap_or_default().into(),
        }
    }

    /// `None` is the present.
    pub(super) fn revision(&self) -> Option<Revision> {
        u64::try_from(self.revision).ok().map(Revision)
    }

    pub(super) fn after(&self, storage: &str) -> StoreKey {
        StoreKey::from_stored(&(StoreKey::prefix(storage, None) + &self.after))
    }

    pub(super) fn encode(&self) -> String {
        // A struct of a number and strings always serialises.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    pub(super) fn decode(token: &str) -> Result<Self, ApiError> {
        let refuse =
            |why: String| ApiError::BadRequest(format!("invalid continue token: continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|e| refuse(e.to_string()))?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|e| refuse(e.to_string()))?;
        match (token.version.as_str(), token.revision) {
            (VERSION, 0) => Err(refuse(format!("incorrect encoded start resourceVersion (version {VERSION})"))),
            (VERSION, _) if token.after.is_empty() => {
                Err(refuse(format!("encoded start key empty (version {VERSION})")))
            }
            (VERSION, _) => Ok(token),
            (version, _) => Err(refuse(format!("server does not recognize this encoded version \"{version}\""))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continue_token_is_opaque_and_round_trips() {
        let key = StoreKey::object("services/specs", Some("a"), "b");
        for revision in [Some(Revision(9)), None] {
            let token = Continue::new(revision, "services/specs", &key).encode();
            let page = Continue::decode(&token).unwrap();
            assert_eq!((page.revision(), page.after("services/specs")), (revision, key.clone()));
        }
    }

    #[test]
    fn tokens_of_nobody_are_refused() {
        let of = |json: &str| URL_SAFE_NO_PAD.encode(json);
        for (token, wanted) in [
            (
                of(r#"{"v":"meta.k8s.io/v1","rv":0,"start":"a"}"#),
                "incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
            ),
            (of(r#"{"v":"meta.k8s.io/v1","rv":5,"start":""}"#), "encoded start key empty (version meta.k8s.io/v1)"),
            (of(r#"{"v":"v9","rv":5,"start":"a"}"#), "server does not recognize this encoded version \"v9\""),
        ] {
            let error = Continue::decode(&token).err().unwrap();
            assert_eq!(error.to_string(), format!("invalid continue token: continue key is not valid: {wanted}"));
        }
        assert!(Continue::decode("garbage").is_err());
    }

    #[test]
    fn a_page_ends_where_more_keys_follow_selected_or_not() {
        let entry = |name: &str| {
            let key = StoreKey::object("pods", Some("d"), name);
            let index: crate::store::cache::Indexer = Arc::new(|_| Default::default());
            Arc::new(Entry::of(key, Revision(1), b"{}", &index).unwrap())
        };
        for (limit, selector, wanted) in [
            (0, "", ("abc", false, None)),
            (2, "", ("ab", true, Some(1))),
            (1, "", ("a", true, Some(2))),
            (3, "", ("abc", false, None)),
            (1, "metadata.name=b", ("b", true, None)),
            (1, "metadata.name=c", ("c", false, None)),
            (2, "metadata.name=a", ("a", false, None)),
        ] {
            let fields = crate::selector::FieldSelector::parse(selector).unwrap();
            let options = ListOptions { limit, fields, ..ListOptions::default() };
            let mut page = Page::new(&options);
            for name in ["a", "b", "c"] {
                if !page.take(&entry(name)) {
                    break;
                }
            }
            let (entries, more, remaining) = page.into_parts();
            let names: String = entries.iter().map(|e| e.key.name()).collect();
            assert_eq!((names.as_str(), more, remaining), wanted, "{limit} {selector}");
        }
    }
}
