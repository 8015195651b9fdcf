//! One change on its way to watchers: the objects before and after, and the bytes that were made of it, once for all.

use super::Entry;
use crate::gvr::GroupVersion;
use crate::revision::Revision;
use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};

/// One change as watchers see it.
#[derive(Clone, Debug)]
pub struct Change {
    pub revision: Revision,
    /// The object before, with its own (old) revision in `bytes`.
    pub old: Option<Arc<Entry>>,
    /// The object after; `None` is a deletion. On deletion frames the old object is sent with `revision`.
    pub new: Option<Arc<Entry>>,
}

/// What a change takes beside its objects: itself, its place in a queue, a frame's head.
const CHANGE_BYTES: usize = 256;

impl Change {
    /// Bytes that the change may keep alive.
    pub(super) fn weight(&self) -> usize {
        let bytes = |entry: &Option<Arc<Entry>>| entry.as_ref().map_or(0, |e| e.bytes.len());
        CHANGE_BYTES + bytes(&self.old) + bytes(&self.new)
    }

    /// The key of the object that changed.
    pub(super) fn key(&self) -> Option<&super::StoreKey> {
        self.new.as_ref().or(self.old.as_ref()).map(|entry| &entry.key)
    }
}

/// Which bytes a frame is: watchers that agree in this share them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// The served version.
    pub version: GroupVersion,
    /// The version of what is made around it (`meta.k8s.io/v1`).
    pub meta: &'static str,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub event: &'static str,
    /// The encoding and form, by a name that the encoder gives them.
    pub form: &'static str,
}

/// A change with its frames; lives as long as a watcher has it in its queue.
#[derive(Debug)]
pub struct Delivery {
    pub change: Arc<Change>,
    /// Few: the watchers of one resource speak one or two encodings.
    frames: Mutex<Vec<(Shape, Bytes)>>,
}

impl Delivery {
    pub(super) fn new(change: Arc<Change>) -> Arc<Self> {
        Arc::new(Self { change, frames: Mutex::default() })
    }

    /// The frame of that shape: made by the first watcher that asks, shared by the others.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn frame<E>(&self, shape: Shape, make: impl FnOnce() -> Result<Bytes, E>) -> Result<Bytes, E> {
        // Held while making: whoever asks at the same moment would only make the same bytes.
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = frames.iter().find(|(have, _)| *have == shape) {
            return Ok(bytes.clone());
        }
        let bytes = make()?;
        frames.push((shape, bytes.clone()));
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[test]
    fn a_frame_is_made_once_for_each_shape() {
        let delivery = Delivery::new(Arc::new(Change { revision: Revision(1), old: None, new: None }));
        let shape = |event, form| Shape { version: GroupVersion { group: "", version: "v1" }, meta: "", event, form };
        let mut made = 0;
        for shape in
            [shape("ADDED", "json"), shape("DELETED", "json"), shape("ADDED", "protobuf"), shape("ADDED", "json")]
        {
            let bytes = delivery.frame(shape, || {
                made += 1;
                Ok::<_, Infallible>(Bytes::from(format!("{}{}", shape.event, shape.form)))
            });
            assert_eq!(bytes.unwrap(), format!("{}{}", shape.event, shape.form));
        }
        assert_eq!(made, 3);
    }
}
