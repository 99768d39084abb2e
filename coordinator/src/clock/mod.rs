//! From ping exchanges to one timeline with a guaranteed error bar. Pure: reads no clock, does no I/O.
//!
//! The offset θ of a node is its raw clock less the coordinator's. Every answered ping bounds it: the node read the ping
//! no earlier than it was written (θ ≤ t1 − t0) and wrote its pong no later than that was read (θ ≥ t2 − t3). The bound
//! needs two assumptions and no more: delays are not negative, and the two oscillators keep their frequency difference
//! to within [`WANDER`] over a window. No ping can see a constant asymmetry of the path: it stays inside the bar.

pub mod band;
pub mod causality;
pub mod domain;
pub mod online;
pub mod track;

#[cfg(test)]
pub(crate) mod simulate;
#[cfg(test)]
mod tests;

pub use band::{Band, fit};
pub use causality::{Beat, Causality, Channel, Checked};
pub use domain::{Domains, resolve};
pub use online::Online;
pub use track::{Track, TrackKind};

/// How far the frequency difference of two clocks may move within a window: 1 ppm.
pub const WANDER: f64 = 1e-6;
/// Largest frequency difference believed: 1000 ppm. Crystals stay within 100, calibrated virtual clocks within 500.
pub const MAX_SKEW: f64 = 1e-3;
/// Exchanges this far to either side of a moment bear on it, ns.
pub const WINDOW_NS: i64 = 15_000_000_000;
/// How far beyond the outermost exchanges a stamp can still be aligned, ns.
pub const REACH_NS: i64 = 60_000_000_000;

/// A clock known to no better than this is not fit to compare what nodes did: a GPU is sampled each 10 ms, and twice this
/// is as much.
pub const BOUND_MAX_NS: i64 = 5_000_000;

/// One answered ping: `t0`, `t3` on the coordinator's raw clock, `t1`, `t2` on the node's, ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Ping written.
    pub t0: i64,
    /// Ping read by the node.
    pub t1: i64,
    /// Pong written by the node.
    pub t2: i64,
    /// Pong read.
    pub t3: i64,
}

impl Exchange {
    /// False when no two clocks could have made these stamps, or they are too far out to compute with.
    pub fn is_possible(&self) -> bool {
        // A year of offset and a minute of delay are beyond anything a run meets; within them nothing overflows.
        const FAR: i64 = i64::MAX / 8;
        const LONG: i64 = 60_000_000_000;
        let stamps = [self.t0, self.t1, self.t2, self.t3];
        let near = stamps.iter().all(|t| (-FAR..FAR).contains(t));
        near && (0..=LONG).contains(&(self.t3 - self.t0))
            && (0..=LONG).contains(&(self.t2 - self.t1))
            // More time passed there than here, by more than a fast clock explains: delays would be negative.
            && self.t2 - self.t1 <= (self.t3 - self.t0) + (self.t3 - self.t0) / 1_100
    }

    /// Middle of the exchange on the coordinator's clock, ns.
    pub fn middle(&self) -> i64 {
        self.t0 + (self.t3 - self.t0) / 2
    }

    /// Time under way, both ways together, ns.
    pub fn round_trip(&self) -> i64 {
        (self.t3 - self.t0) - (self.t2 - self.t1)
    }

    /// Middle of the bounds on the offset, ns.
    pub fn middle_offset(&self) -> i64 {
        ((self.t1 - self.t0) + (self.t2 - self.t3)) / 2
    }
}

/// A stamp on another clock, and how far it may be off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aligned {
    /// On the asked-for clock, ns.
    pub ns: i64,
    /// Guaranteed half-width, ns.
    pub bound_ns: i64,
}
