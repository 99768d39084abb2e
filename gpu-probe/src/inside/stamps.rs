//! Follows a file of stamps.

use tokio_util::sync::CancellationToken;

use super::{Inside, Sink};

/// Until `shutdown`: its last lines too.
pub(super) async fn tail(_inside: &Inside, _sink: Sink, _shutdown: CancellationToken) {}
