//! The group authentication.k8s.io: reviews, answered and never stored.

use super::gv::AUTHENTICATION_V1;
use super::{CREATE_ONLY, ResourceDef};

pub const SELF_SUBJECT_REVIEW: ResourceDef = ResourceDef {
    gv: AUTHENTICATION_V1,
    resource: "selfsubjectreviews",
    singular: "selfsubjectreview",
    kind: "SelfSubjectReview",
    namespaced: false,
    verbs: CREATE_ONLY,
    storage_gv: AUTHENTICATION_V1,
    ..ResourceDef::BASIC
};

pub const TOKEN_REVIEW: ResourceDef = ResourceDef {
    gv: AUTHENTICATION_V1,
    resource: "tokenreviews",
    singular: "tokenreview",
    kind: "TokenReview",
    namespaced: false,
    verbs: CREATE_ONLY,
    storage_gv: AUTHENTICATION_V1,
    ..ResourceDef::BASIC
};
