//! The thread that keeps to its deadlines.

use std::sync::atomic::Ordering::Relaxed;

use tailcliff_proto::clock::HostClock;

use super::pace::{next_deadline, stride};
use super::{Common, Part};
use crate::nvml::quick::Quick;
use crate::nvml::{Cards, Extent, Found};

/// The share of a core is looked at over this time, ns.
const LOOK_NS: i64 = 1_000_000_000;
/// All is read at least this often, ns, unless the interval is longer.
const FULL_NS: i64 = 100_000_000;

/// Every how many ticks all is read, so that the thread takes no more than its share of a core.
struct Extents {
    tick: u32,
    stride: u32,
    most: u32,
    since_ns: i64,
    cpu_ns: i64,
    /// The first look has the warming up in it.
    looked: bool,
}

pub(super) fn run(cards: &Cards, interval_ns: i64, part: &Part, common: &Common) {
    let mut quick = Quick::new(cards);
    let mut found = Found::default();
    let mut extents = Extents::new(interval_ns);
    let meter = &common.switch.fast;
    let mut due = HostClock.monotonic();
    while !common.ends() {
        if common.is_on() {
            quick.read(extents.next(), &mut found);
            extents.look(HostClock.now(), meter.cpu_ns.load(Relaxed), &mut found);
            common.leave(&mut found, part);
        }
        let next = next_deadline(due, HostClock.monotonic(), interval_ns);
        meter.count(((next - due) / interval_ns - 1).unsigned_abs());
        due = next;
        common.sleep_until(due);
    }
}

impl Extents {
    fn new(interval_ns: i64) -> Self {
        let most = u32::try_from(FULL_NS / interval_ns).unwrap_or(1).max(1);
        Self { tick: 0, stride: 1, most, since_ns: HostClock.now(), cpu_ns: 0, looked: false }
    }

    fn next(&mut self) -> Extent {
        let full = self.tick.is_multiple_of(self.stride);
        self.tick = self.tick.wrapping_add(1);
        if full { Extent::Full } else { Extent::Power }
    }

    fn look(&mut self, now_ns: i64, cpu_ns: i64, found: &mut Found) {
        if now_ns - self.since_ns < LOOK_NS {
            return;
        }
        let share = (cpu_ns - self.cpu_ns) as f64 / (now_ns - self.since_ns) as f64;
        (self.since_ns, self.cpu_ns) = (now_ns, cpu_ns);
        if !std::mem::replace(&mut self.looked, true) {
            return;
        }
        let next = stride(self.stride, share, self.most);
        if next != std::mem::replace(&mut self.stride, next) {
            found.troubles.push(format!(
                "reading GPUs takes {:.1} % of a core: from here on, all but power is read every {} ticks",
                share * 100.0,
                self.stride
            ));
        }
    }
}
