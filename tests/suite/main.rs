//! The architecture, tested: who may import whom, what every file owes its reader; and what is shipped beside the code.

mod layering;
mod service;
mod source;
mod tidiness;
