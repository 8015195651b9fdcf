//! Rules of custom resources, as tables.
