//! Builds request bodies: synthetic prompts that no server has cached, or the fixed prompt as given.
use bytes::Bytes;
use tailcliff_proto::v1;

use crate::target::Target;

/// Makes bodies.
#[derive(Debug)]
pub struct Bodies {}

/// Why bodies cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("failed to build request bodies")]
pub struct BodyError;

impl Bodies {
    /// Bodies of a workload for a target.
    pub fn new(_target: &Target, _workload: &v1::Workload) -> Result<Bodies, BodyError> {
        Err(BodyError)
    }

    /// The body of one request.
    pub fn body(&self, _level: u32, _stream: u32, _request: u64) -> Bytes {
        Bytes::new()
    }
}
