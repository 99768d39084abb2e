//! Who is let in and who is not, and what a person sees of it at both ends.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and print what it found")]

mod faults;
mod limits;
mod policy;
mod scene;
