//! The architecture, tested: who may import whom, and what every file owes its reader.

mod layering;
mod source;
mod tidiness;
