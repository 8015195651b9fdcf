//! YAML as Kubernetes' components read and write it: the dialect of Go's yaml.v2, where `y` is a bool and `010` an octal.

mod read;
mod scalar;
mod write;

pub use read::{Converted, to_json};
pub use write::from_json;
