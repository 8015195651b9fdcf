//! The OpenAPI v3 documents of the built-in group versions.

use serde_json::Value;

/// A kind as its resource is served.
#[derive(Clone, Copy, Debug)]
pub struct ServedKind {
    pub gv: crate::gvr::GroupVersion,
    pub kind: &'static str,
    pub resource: &'static str,
    pub namespaced: bool,
}

/// `/openapi/v3` index: path of each group version (`api/v1`, `apis/apps/v1`) to its server-relative URL with hash.
pub fn openapi_index(_served: &[ServedKind]) -> Value {
    todo!("S2")
}

/// `/openapi/v3/<path>`: the document of one group version, with descriptions; `None` when there is none.
pub fn openapi_document(_path: &str, _served: &[ServedKind]) -> Option<bytes::Bytes> {
    todo!("S2")
}
