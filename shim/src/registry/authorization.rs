//! The group authorization.k8s.io: access reviews, answered and never stored.

use super::gv::AUTHORIZATION_V1;
use super::{CREATE_ONLY, ResourceDef};

const REVIEW: ResourceDef = ResourceDef {
    gv: AUTHORIZATION_V1,
    namespaced: false,
    verbs: CREATE_ONLY,
    storage_gv: AUTHORIZATION_V1,
    ..ResourceDef::BASIC
};

pub const LOCAL_SUBJECT_ACCESS_REVIEW: ResourceDef = ResourceDef {
    resource: "localsubjectaccessreviews",
    singular: "localsubjectaccessreview",
    kind: "LocalSubjectAccessReview",
    namespaced: true,
    ..REVIEW
};

pub const SELF_SUBJECT_ACCESS_REVIEW: ResourceDef = ResourceDef {
    resource: "selfsubjectaccessreviews",
    singular: "selfsubjectaccessreview",
    kind: "SelfSubjectAccessReview",
    ..REVIEW
};

pub const SELF_SUBJECT_RULES_REVIEW: ResourceDef = ResourceDef {
    resource: "selfsubjectrulesreviews",
    singular: "selfsubjectrulesreview",
    kind: "SelfSubjectRulesReview",
    ..REVIEW
};

pub const SUBJECT_ACCESS_REVIEW: ResourceDef = ResourceDef {
    resource: "subjectaccessreviews",
    singular: "subjectaccessreview",
    kind: "SubjectAccessReview",
    ..REVIEW
};
