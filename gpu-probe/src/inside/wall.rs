//! Reads the wall clock beside the raw one, so that what the server stamped by the one can be placed by the other.

use tokio_util::sync::CancellationToken;

use super::{Inside, Sink};

/// Until `shutdown`, while there is a run.
pub(super) async fn read(_inside: &Inside, _sink: Sink, _shutdown: CancellationToken) {}
