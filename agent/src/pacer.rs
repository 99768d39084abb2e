//! Waits for a start to the microsecond. Timers of an event loop tick in milliseconds, and no clock may sleep on RAW: so
//! a thread sleeps on MONOTONIC in short slices, each armed anew from RAW, and spins the last stretch.

use std::io;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
use tailcliff_proto::clock::{HostClock, RawNs};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Spun rather than slept, ns: wake-ups of a busy host come this late.
const SPIN_NS: i64 = 300_000;
/// Longest sleep, ns: bounds how late a cancellation is seen, and how far the two clocks drift apart in it.
const SLICE_NS: i64 = 20_000_000;

/// Starts a thread that waits for `at` and then sends the start to all of `starts` and to `told` the moment it did so.
/// When cancelled it sends nothing, and the receivers see their senders gone.
///
/// # Errors
/// When there is no thread to be had.
pub(crate) fn spawn(
    at: RawNs,
    starts: Vec<oneshot::Sender<RawNs>>,
    told: oneshot::Sender<RawNs>,
    cancel: CancellationToken,
) -> io::Result<()> {
    std::thread::Builder::new().name("pacer".to_owned()).spawn(move || {
        if let Some(actual) = wait_until(at, &cancel) {
            for start in starts {
                // A shard that died is noticed by its missing report.
                let _gone = start.send(at);
            }
            let _nobody_asks = told.send(actual);
        }
    })?;
    Ok(())
}

/// Returns the moment after `at` at which it woke; `None` when cancelled before.
fn wait_until(at: RawNs, cancel: &CancellationToken) -> Option<RawNs> {
    loop {
        if cancel.is_cancelled() {
            return None;
        }
        let left = at - HostClock.now();
        if left <= SPIN_NS {
            break;
        }
        sleep((left - SPIN_NS).min(SLICE_NS));
    }
    loop {
        let now = HostClock.now();
        if now >= at {
            return Some(now);
        }
        std::hint::spin_loop();
    }
}

fn sleep(ns: i64) {
    let until = HostClock.monotonic() + ns;
    let until = TimeSpec::new(until / 1_000_000_000, until % 1_000_000_000);
    // Woken early by a signal: the caller looks at the clock anyway.
    let _interrupted = clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &until);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_early() {
        for ahead in [-5_000_000, 0, 100_000, 25_000_000] {
            let at = HostClock.now() + ahead;
            let actual = wait_until(at, &CancellationToken::new()).unwrap();
            assert!(actual >= at, "woke {} ns early", at - actual);
        }
    }

    #[test]
    fn a_cancelled_wait_starts_nobody() {
        let cancel = CancellationToken::new();
        let (start, mut started) = oneshot::channel();
        let (told, _) = oneshot::channel();
        spawn(HostClock.now() + 3_600_000_000_000, vec![start], told, cancel.clone()).unwrap();
        cancel.cancel();
        while let Err(e) = started.try_recv() {
            if e == oneshot::error::TryRecvError::Closed {
                return;
            }
            std::thread::yield_now();
        }
        panic!("started although cancelled");
    }
}
