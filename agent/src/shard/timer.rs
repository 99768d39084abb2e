//! Waits within a shard until a moment of RAW, to the accuracy of the kernel's own timers. An event loop's timers tick in
//! milliseconds and would quantise arrivals; a timerfd wakes the same loop at the microsecond. It cannot be set on RAW, so
//! it is set on MONOTONIC, anew from RAW for each stretch, and RAW decides whether the moment has come.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tailcliff_proto::clock::{HostClock, RawNs};
use tokio::io::unix::AsyncFd;

/// Longest stretch but the last, ns: MONOTONIC may be slewed by 500 ppm, 5 µs in this time.
const STRETCH_NS: i64 = 10_000_000;

/// One timer of a shard's runtime.
#[derive(Debug)]
pub(super) struct Timer(AsyncFd<Fd>);

#[derive(Debug)]
struct Fd(TimerFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Timer {
    /// A timer of the runtime that this is called within.
    ///
    /// # Errors
    /// When no file descriptor is to be had.
    pub(super) fn new() -> io::Result<Timer> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let fd = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        #[allow(
            deprecated,
            reason = "its successor is unsafe, since a descriptor may be gone before its owner is; ours is owned"
        )]
        Ok(Timer(AsyncFd::new(Fd(fd))?))
    }

    /// Returns at `due` or after it, never before. Dropped half-way, it leaves nothing behind.
    pub(super) async fn until(&self, due: RawNs) {
        loop {
            let left = due.saturating_sub(HostClock.now());
            if left <= 0 {
                return;
            }
            let stretch = if left > 2 * STRETCH_NS { left - STRETCH_NS } else { left };
            if self.sleep(stretch).await.is_err() {
                // A timer that was made and fails later is none that Linux knows; late is better than never.
                tokio::time::sleep(std::time::Duration::from_nanos(left.unsigned_abs())).await;
            }
        }
    }

    async fn sleep(&self, ns: i64) -> io::Result<()> {
        let span = TimeSpec::new(ns / 1_000_000_000, ns % 1_000_000_000);
        // Setting it anew forgets an expiry that nobody has read.
        self.0.get_ref().0.set(Expiration::OneShot(span), TimerSetTimeFlags::empty())?;
        loop {
            let mut ready = self.0.readable().await?;
            match self.0.get_ref().0.wait() {
                Ok(()) => return Ok(()),
                // The loop remembers an expiry of before.
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn never_early_and_not_by_milliseconds_late() {
        let timer = Timer::new().unwrap();
        let mut late = Vec::new();
        for ahead in [-1, 0, 1, 100_000, 1_300_000, 25_000_000].into_iter().cycle().take(60) {
            let due = HostClock.now() + ahead;
            timer.until(due).await;
            let now = HostClock.now();
            assert!(now >= due);
            late.push(now - due);
        }
        late.sort_unstable();
        // The middle of sixty: a busy host may hold up any one of them. A loop that ticks in ms is late by 0.5 ms and more.
        assert!(late[30] < 500_000, "{late:?}");
    }

    #[tokio::test]
    async fn a_wait_that_was_dropped_does_not_end_the_next_one() {
        let timer = Timer::new().unwrap();
        let soon = tokio::time::timeout(
            std::time::Duration::from_millis(5),
            timer.until(HostClock.now() + 1_000_000),
        );
        soon.await.unwrap();
        let dropped = timer.until(HostClock.now() + 2_000_000);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(0), dropped).await.is_err());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        let due = HostClock.now() + 8_000_000;
        timer.until(due).await;
        assert!(HostClock.now() >= due);
    }
}
