//! The thread that keeps to its deadlines.

use tailcliff_proto::clock::HostClock;

use super::pace::{next_deadline, quantile, stride};
use super::{Common, Part};
use crate::nvml::quick::Quick;
use crate::nvml::{Cards, Extent, Found};

/// How long all takes is looked at each so many times.
const LOOKED_AT: usize = 64;
/// All is read at least this often, ns, unless the interval is longer.
const FULL_NS: i64 = 100_000_000;

/// Every how many ticks all is read, so that the thread takes no more than its share of a core.
struct Extents {
    interval_ns: i64,
    tick: u32,
    stride: u32,
    most: u32,
    /// How long all took of late.
    took: Vec<i64>,
    told: u32,
}

pub(super) fn run(cards: &Cards, interval_ns: i64, part: &Part, common: &Common) {
    let mut quick = Quick::new(cards);
    let mut found = Found::default();
    let mut extents = Extents::new(interval_ns);
    let mut due = HostClock.monotonic();
    while !common.ends() {
        if common.is_on() {
            let (began, extent) = (HostClock.now(), extents.next());
            quick.read(extent, &mut found);
            if extent == Extent::Full {
                found.troubles.extend(extents.took(HostClock.now() - began));
            }
            common.leave(&mut found, part);
        }
        let next = next_deadline(due, HostClock.monotonic(), interval_ns);
        common.switch.fast.count(((next - due) / interval_ns - 1).unsigned_abs());
        due = next;
        common.sleep_until(due);
    }
}

impl Extents {
    fn new(interval_ns: i64) -> Self {
        let most = u32::try_from(FULL_NS / interval_ns).unwrap_or(1).max(1);
        Self { interval_ns, tick: 0, stride: 1, most, took: Vec::with_capacity(LOOKED_AT), told: 1 }
    }

    fn next(&mut self) -> Extent {
        let full = self.tick.is_multiple_of(self.stride);
        self.tick = self.tick.wrapping_add(1);
        if full { Extent::Full } else { Extent::Power }
    }

    /// All was read, in so long: what a person should know of it, if it is too much.
    fn took(&mut self, ns: i64) -> Option<String> {
        self.took.push(ns);
        if self.took.len() < LOOKED_AT {
            return None;
        }
        // Of those that nobody else's work on this core made longer.
        let usual = quantile(std::mem::take(&mut self.took), 0.25)?;
        self.stride = stride(usual, self.interval_ns, self.most);
        if self.stride <= self.told {
            return None;
        }
        self.told = self.stride;
        let us = usual as f64 / 1e3;
        Some(format!("reading GPUs takes {us:.0} µs: all but power is read every {} ticks", self.stride))
    }
}
