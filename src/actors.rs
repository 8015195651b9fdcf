//! The agent's actors, one a file: a cheap handle, a private request, a private task; only the supervisor spawns them.

pub mod node;
pub mod pods;
