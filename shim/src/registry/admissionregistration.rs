//! The group admissionregistration.k8s.io: objects only, until requests are admitted by them.

mod matching;
pub mod policies;
pub mod webhooks;
