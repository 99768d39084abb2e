//! What is under test, parsed once at the edge.
use tailcliff_proto::v1;

/// A parsed target.
#[derive(Debug)]
pub struct Target {}

/// Why a target was refused.
#[derive(Debug, thiserror::Error)]
#[error("failed to read the target")]
pub struct TargetError;

impl Target {
    /// Parses a wire target.
    pub fn parse(_wire: &v1::Target) -> Result<Target, TargetError> {
        Err(TargetError)
    }
}
