//! The sampling thread: reads on absolute deadlines, skips ticks that it missed instead of bunching them, and hands
//! batches to a sink: the outbox, or memory.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::host::HostTicks;
use crate::source::GpuSource;

/// How long the end may have to wait, ns.
const LONGEST_SLEEP_NS: i64 = 200_000_000;
/// Samples are handed on at least this often, ns.
const HAND_ON_NS: i64 = 500_000_000;

/// What the sampler could not keep, and whether it should sample at all.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    pub(crate) on: AtomicBool,
    pub(crate) ticks: AtomicU64,
    pub(crate) missed: AtomicU64,
    pub(crate) dropped_samples: AtomicU64,
}

/// Where batches of samples go; what it has no room for comes back.
pub(crate) type Sink = Box<dyn FnMut(v1::Batch) -> Result<(), Box<v1::Batch>> + Send>;

/// Starts the thread; it ends with `shutdown`, after handing on what it has.
///
/// # Errors
/// When the thread cannot be made.
pub(crate) fn spawn(
    source: Box<dyn GpuSource>,
    host: HostTicks,
    interval: Duration,
    sink: Sink,
    switch: Arc<Switch>,
    troubles: mpsc::Sender<String>,
    shutdown: CancellationToken,
) -> io::Result<JoinHandle<()>> {
    let interval_ns = i64::try_from(interval.as_nanos()).unwrap_or(HAND_ON_NS).max(1_000_000);
    let thread = std::thread::Builder::new().name("gpu-sampler".to_owned());
    thread.spawn(move || {
        let mut sampler = Sampler {
            source,
            host,
            sink,
            switch,
            samples: Vec::new(),
            host_samples: Vec::new(),
            handed_on: HostClock.now(),
        };
        let mut due = HostClock.monotonic();
        while !shutdown.is_cancelled() {
            if sampler.switch.on.load(Relaxed) {
                sampler.tick();
                // A full channel has troubles enough in it.
                let told = sampler.source.troubles().into_iter().chain(sampler.host.troubles());
                told.for_each(|trouble| drop(troubles.try_send(trouble)));
            }
            let next = next_deadline(due, HostClock.monotonic(), interval_ns);
            sampler.switch.ticks.fetch_add(1, Relaxed);
            sampler.switch.missed.fetch_add(((next - due) / interval_ns - 1).unsigned_abs(), Relaxed);
            due = next;
            while !shutdown.is_cancelled() && HostClock.monotonic() < due {
                // In slices, so that a long interval does not hold up the end.
                sleep_until(due.min(HostClock.monotonic() + LONGEST_SLEEP_NS));
            }
        }
        sampler.hand_on();
    })
}

struct Sampler {
    source: Box<dyn GpuSource>,
    host: HostTicks,
    sink: Sink,
    switch: Arc<Switch>,
    samples: Vec<v1::GpuSample>,
    host_samples: Vec<v1::HostSample>,
    handed_on: i64,
}

impl Sampler {
    fn tick(&mut self) {
        self.samples.extend(self.source.sample());
        self.host_samples.extend(self.host.tick(&mut *self.source));
        if HostClock.now() - self.handed_on >= HAND_ON_NS {
            self.hand_on();
        }
    }

    fn hand_on(&mut self) {
        self.handed_on = HostClock.now();
        let batch = v1::Batch {
            gpu_samples: std::mem::take(&mut self.samples),
            host_samples: std::mem::take(&mut self.host_samples),
            ..Default::default()
        };
        if batch == v1::Batch::default() {
            return;
        }
        if let Err(batch) = (self.sink)(batch) {
            let lost = batch.gpu_samples.len() + batch.host_samples.len();
            self.switch.dropped_samples.fetch_add(lost as u64, Relaxed);
        }
    }
}

/// The first deadline after both `due` and `now`, on the grid of `due`; all ns.
pub(crate) fn next_deadline(due: i64, now: i64, interval: i64) -> i64 {
    due + ((now - due).max(0) / interval + 1) * interval
}

fn sleep_until(monotonic_ns: i64) {
    let until = TimeSpec::new(monotonic_ns / 1_000_000_000, monotonic_ns % 1_000_000_000);
    // Woken early by a signal: one sample is early, and its stamp says so.
    let _interrupted = clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &until);
}

#[cfg(test)]
mod tests {
    use super::next_deadline;

    #[test]
    fn missed_ticks_are_skipped_not_bunched() {
        assert_eq!(next_deadline(100, 103, 10), 110);
        assert_eq!(next_deadline(100, 110, 10), 120);
        assert_eq!(next_deadline(100, 139, 10), 140);
        // Woken early: the next one is the next, not this one again.
        assert_eq!(next_deadline(100, 99, 10), 110);
    }
}
