//! The newest 30 s of one node's exchanges: tells a coming moment on the node's clock, for common starts.

use super::track::is_explained;
use super::{Exchange, WINDOW_NS, band};

/// Bounded memory of recent exchanges.
#[derive(Clone, Debug, Default)]
pub struct Online {
    recent: Vec<Exchange>,
}

const KEPT_NS: i64 = 2 * WINDOW_NS;
const MOST: usize = 1_024;

impl Online {
    /// Takes in one exchange; forgets what is too old, and all before a break.
    pub fn push(&mut self, exchange: Exchange) {
        if !exchange.is_possible() {
            return;
        }
        let origin = exchange.middle_offset();
        if !is_explained(&self.recent, &exchange, origin) {
            self.recent.clear();
        }
        let oldest = exchange.middle() - KEPT_NS;
        let drop = self.recent.partition_point(|e| e.middle() < oldest);
        let drop = drop.max((self.recent.len() + 1).saturating_sub(MOST));
        self.recent.drain(..drop);
        self.recent.push(exchange);
    }

    /// Where a moment of the coordinator's clock lies on the node's, and the bound, both ns; `None` before the first
    /// exchange.
    pub fn to_node(&self, ref_ns: i64) -> Option<(i64, i64)> {
        let origin = self.recent.last()?.middle_offset();
        let whole = band::fit(&self.recent, ref_ns, origin);
        // Wander over 30 s may exceed what a single line explains: then the newest half minute's half does.
        let half = || band::fit(&self.recent[self.recent.len() / 2..], ref_ns, origin);
        let last = || band::fit(self.recent.last(), ref_ns, origin);
        let band = whole.or_else(half).or_else(last)?;
        let bound = (band.hi - band.theta).max(band.theta - band.lo).ceil() as i64 + 1;
        Some((ref_ns + origin + band.theta.round() as i64, bound))
    }
}
