//! Under construction.

pub mod body;
pub mod client;
mod connection;
pub mod delta;
pub mod preflight;
pub mod sse;
pub mod target;
pub mod timeline;

#[cfg(test)]
mod testdata;
#[cfg(test)]
mod testserver;
