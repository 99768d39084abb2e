//! Deliberate faults of the client, as both ends know them: how long one may be, and which records have one.

use crate::v1;

/// A pause or a block at most, ns: a minute is longer than any stall that is worth imitating.
pub const MAX_CONTROL_NS: i64 = 60_000_000_000;

impl v1::RequestRecord {
    /// The client paused it on purpose: it is in no latency figure.
    pub fn is_control(&self) -> bool {
        self.control_pause_raw_ns.is_some()
    }
}
