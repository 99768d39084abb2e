//! Stalls of known cause, made on purpose in a run of separate processes, and the verdicts on them held against the
//! truth: the simulated server's engine stands still, computes for itself, puts a request out of its batch, is held back
//! or has a queue; the path to it holds bytes back; an agent's process or event loop stands still.

pub mod matrix;
pub mod plan;
pub mod rows;
pub mod stage;
pub mod truth;

pub use matrix::Matrix;
pub use plan::{Injection, Kind, Plan};
pub use rows::{Row, Verdict};
pub use stage::{Card, H100, Ran, play};
pub use truth::{Injected, Known, Truth};
