//! The server over real loopback sockets, asked by a client that knows nothing but bytes.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod answers;
mod client;
mod faults;
mod hostile;
mod metrics;
mod receiver;
mod spans;
mod stalls;
mod timing;
