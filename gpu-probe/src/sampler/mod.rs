//! The sampling threads. One reads what takes microseconds, on absolute deadlines, and skips ticks that it missed instead of
//! bunching them; one reads what takes milliseconds, each signal at its own rate; one hands on what they found: to the
//! outbox, or to memory. No lock is held across a reading.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::host;
use crate::nvml::{Found, NvmlSource};
use crate::rates::Rates;

mod fast;
mod hand_on;
mod pace;
mod slow;

pub(crate) use pace::next_deadline;

/// How long the end may have to wait, ns.
const LONGEST_SLEEP_NS: i64 = 100_000_000;

/// What reads the host, beside the cards.
pub(crate) type HostReader = Box<dyn FnMut(&mut Found) + Send>;
/// Where batches of samples go; what it has no room for comes back.
pub(crate) type Sink = Box<dyn FnMut(v1::Batch) -> Result<(), Box<v1::Batch>> + Send>;

/// Whether to sample at all, what the threads did, and what could not be kept.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    pub(crate) on: AtomicBool,
    pub(crate) fast: Meter,
    pub(crate) slow: Meter,
    pub(crate) dropped_samples: AtomicU64,
    /// It was on, and nobody was heard of for so long that it is not any more.
    pub(crate) lapsed: AtomicBool,
    /// Exports of spans that came meanwhile, of which nothing was kept.
    pub(crate) unheard_exports: AtomicU64,
}

/// What a thread did since it began.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    pub(crate) ticks: AtomicU64,
    pub(crate) missed: AtomicU64,
    cpu_ns: AtomicI64,
}

/// What is read, and how often.
pub(crate) struct Inputs {
    pub(crate) source: Option<NvmlSource>,
    pub(crate) host: Option<HostReader>,
    pub(crate) interval: Duration,
    pub(crate) rates: Rates,
}

impl Inputs {
    /// As configured: the host, whether it has GPUs or not, unless nothing here is the server's.
    pub(crate) fn of(config: &Config, source: Option<NvmlSource>) -> Self {
        let nvml = source.as_ref().map(|source| source.nvml.clone());
        let host = config.hardware.then(|| host::reader(config.server, nvml));
        Self { source, host, interval: config.interval, rates: config.rates }
    }
}

/// What the threads have in common.
#[derive(Clone)]
struct Common {
    switch: Arc<Switch>,
    troubles: mpsc::Sender<String>,
    shutdown: CancellationToken,
}

/// What one thread found and nobody has handed on yet.
type Part = Arc<Mutex<v1::Batch>>;

/// Starts the threads; the one given back ends with `shutdown`, after handing on what there is.
///
/// # Errors
/// When a thread cannot be made.
pub(crate) fn spawn(
    inputs: Inputs,
    sink: Sink,
    switch: Arc<Switch>,
    troubles: mpsc::Sender<String>,
    shutdown: CancellationToken,
) -> io::Result<JoinHandle<()>> {
    let common = Common { switch, troubles, shutdown };
    let (of_fast, of_slow) = (Part::default(), Part::default());
    let interval_ns = nanos(inputs.interval).max(1_000_000);
    let cards = inputs.source.map(NvmlSource::cards);
    let mut readers = Vec::new();
    if let Some(cards) = cards.clone() {
        let (common, part) = (common.clone(), of_fast.clone());
        readers.push(thread("gpu-fast", move || fast::run(&cards, interval_ns, &part, &common))?);
    }
    let (of_slow_thread, part) = (common.clone(), of_slow.clone());
    let (host, rates) = (inputs.host, inputs.rates);
    let slow = move || slow::run(cards.as_ref(), host, rates, &part, &of_slow_thread);
    readers.push(thread("gpu-slow", slow)?);
    thread("gpu-hand-on", move || hand_on::run(sink, [of_fast, of_slow], readers, &common))
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

fn lock(part: &Part) -> MutexGuard<'_, v1::Batch> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Common {
    fn is_on(&self) -> bool {
        self.switch.on.load(Relaxed)
    }

    fn ends(&self) -> bool {
        self.shutdown.is_cancelled()
    }

    /// Leaves what was found where it is handed on from.
    fn leave(&self, found: &mut Found, part: &Part) {
        crate::nvml::append(&mut lock(part), &mut found.batch);
        found.troubles.drain(..).for_each(|trouble| self.tell(trouble));
    }

    fn tell(&self, trouble: String) {
        // A full channel has troubles enough in it.
        let _full = self.troubles.try_send(trouble);
    }

    /// Until a time of the monotonic clock, or the end: in slices, so that a long interval does not hold that up.
    fn sleep_until(&self, due_ns: i64) {
        while !self.ends() && HostClock.monotonic() < due_ns {
            sleep_until(due_ns.min(HostClock.monotonic() + LONGEST_SLEEP_NS));
        }
    }
}

impl Meter {
    /// After each round of the thread that calls it.
    fn count(&self, missed: u64) {
        self.ticks.fetch_add(1, Relaxed);
        self.missed.fetch_add(missed, Relaxed);
        self.cpu_ns.store(thread_cpu_ns(), Relaxed);
    }
}

/// CPU time that this thread took since it began.
fn thread_cpu_ns() -> i64 {
    let read = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    read.map_or(0, |t| t.tv_sec() * 1_000_000_000 + t.tv_nsec())
}

pub(crate) fn sleep_until(monotonic_ns: i64) {
    let until = TimeSpec::new(monotonic_ns / 1_000_000_000, monotonic_ns % 1_000_000_000);
    // Woken early by a signal: one sample is early, and its stamp says so.
    let _interrupted = clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &until);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_gpus_is_read_and_what_that_takes_is_told() {
        let (keep, batches) = std::sync::mpsc::channel();
        let (say, _troubles) = mpsc::channel(4);
        let switch = Arc::new(Switch::default());
        switch.on.store(true, Relaxed);
        let stop = CancellationToken::new();
        let host = |found: &mut Found| {
            found.batch.host_samples.push(v1::HostSample { raw_ns: HostClock.now(), ..Default::default() });
        };
        let rates = Rates { host: Duration::from_millis(10), ..Rates::default() };
        let inputs =
            Inputs { source: None, host: Some(Box::new(host)), interval: Duration::from_millis(10), rates };
        let sink: Sink = Box::new(move |batch| keep.send(batch).map_err(|unheard| Box::new(unheard.0)));
        let threads = spawn(inputs, sink, switch.clone(), say, stop.clone()).unwrap();
        let first = batches.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(first.host_samples.len() >= 5 && first.gpu_samples.is_empty(), "{first:?}");
        // Nobody is sampled for any more: what is still on its way comes, and then nothing.
        switch.on.store(false, Relaxed);
        let before = switch.slow.ticks.load(Relaxed);
        std::thread::sleep(Duration::from_millis(300));
        assert!(switch.slow.ticks.load(Relaxed) <= before + 1);
        switch.on.store(true, Relaxed);
        std::thread::sleep(Duration::from_millis(200));
        stop.cancel();
        threads.join().unwrap();
        let rest: Vec<v1::Batch> = batches.iter().collect();
        assert!(rest.iter().any(|batch| !batch.probe_costs.is_empty()));
        let stamps = rest.iter().flat_map(|batch| &batch.host_samples).map(|s| s.raw_ns);
        assert!(stamps.is_sorted());
    }

    #[test]
    fn what_the_sink_has_no_room_for_is_counted() {
        let (say, _troubles) = mpsc::channel(4);
        let switch = Arc::new(Switch::default());
        switch.on.store(true, Relaxed);
        let stop = CancellationToken::new();
        let read = Arc::new(AtomicU64::new(0));
        let counted = read.clone();
        let host = move |found: &mut Found| {
            counted.fetch_add(1, Relaxed);
            found.batch.host_samples.push(v1::HostSample::default());
        };
        let rates = Rates { host: Duration::from_millis(10), ..Rates::default() };
        let inputs =
            Inputs { source: None, host: Some(Box::new(host)), interval: Duration::from_millis(10), rates };
        let full: Sink = Box::new(|batch| Err(Box::new(batch)));
        let threads = spawn(inputs, full, switch.clone(), say, stop.clone()).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        stop.cancel();
        threads.join().unwrap();
        assert!(read.load(Relaxed) > 0);
        assert_eq!(switch.dropped_samples.load(Relaxed), read.load(Relaxed));
    }
}
