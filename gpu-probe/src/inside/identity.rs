//! What the server is: stack and version, its limits and flags, as far as it and this host tell.

use tokio_util::sync::CancellationToken;

use super::{Inside, Sink};
use crate::host::Server;

/// Asks until it is known, and again when the server was started anew.
pub(super) async fn look(
    _inside: &Inside,
    _server: Option<Server>,
    _sink: Sink,
    _shutdown: CancellationToken,
) {
}
