//! One stream slot: sends one request at a time and returns its record.
use std::sync::Arc;

use bytes::Bytes;
use tailcliff_proto::{clock::RawNs, v1};
use tokio_util::sync::CancellationToken;

use crate::target::Target;

/// One request to make.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Rung of the sweep.
    pub level: u32,
    /// Stream, level-wide.
    pub stream: u32,
    /// Number of the request within its stream.
    pub request: u64,
    /// Window of its intended time.
    pub phase: v1::Phase,
    /// When the schedule meant it to go out, ns RAW.
    pub intended_raw_ns: RawNs,
    /// Sent as `x-request-id`.
    pub request_id: String,
    /// The JSON body.
    pub body: Bytes,
}

/// One stream slot with its own connection.
#[derive(Debug)]
pub struct Client {}

impl Client {
    /// A slot that has not connected yet.
    pub fn new(_target: Arc<Target>, _fresh_connections: bool) -> Client {
        Client {}
    }

    /// Sends one request; every failure is a record.
    pub async fn request(&mut self, attempt: Attempt, _cancel: &CancellationToken) -> v1::RequestRecord {
        v1::RequestRecord { level: attempt.level, ..Default::default() }
    }
}
