//! Scrapes the server's metrics.

use tokio_util::sync::CancellationToken;

use super::{Inside, Sink};

/// Until `shutdown`, while there is a run to scrape for.
pub(super) async fn run(_inside: &Inside, _sink: Sink, _shutdown: CancellationToken) {}
