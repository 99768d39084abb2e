//! Sleeps until a stamp of the RAW clock, late by tens of microseconds at most on an idle core.
//!
//! tokio's own timers tick at 1 ms. Instead one `timerfd`, registered with the runtime's epoll, is armed for the
//! earliest of all deadlines: the kernel arms a high-resolution timer without slack and epoll returns as it fires, so
//! there is no spinning (which would take the core that the client under test needs), no further thread and no
//! hand-over between threads. What lateness remains is the wake-up itself, and it falsifies nothing: the truth log
//! carries the moment of each write, not its deadline.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::clock;

struct Fd(TimerFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[derive(Default)]
struct Sleepers {
    /// Deadlines, earliest first; the second field indexes nothing, it only makes entries distinct.
    due: BinaryHeap<Reverse<(i64, u64)>>,
    wake: std::collections::HashMap<u64, oneshot::Sender<()>>,
    next_id: u64,
}

/// The one timer of a server. Clones share it.
#[derive(Clone)]
pub(crate) struct Timer(Arc<Inner>);

struct Inner {
    fd: AsyncFd<Fd>,
    sleepers: Mutex<Sleepers>,
}

impl Timer {
    /// Must be called within a runtime; [`Timer::drive`] has to run for anyone to wake.
    pub(crate) fn new() -> io::Result<Self> {
        let fd = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "its replacement is unsafe; what it demands holds: Fd owns its descriptor and is private"
        )]
        let fd = AsyncFd::new(Fd(fd))?;
        Ok(Self(Arc::new(Inner { fd, sleepers: Mutex::default() })))
    }

    /// Returns once the RAW clock shows `at_ns` or later.
    pub(crate) async fn sleep_until(&self, at_ns: i64) {
        if clock::raw_ns() >= at_ns {
            return;
        }
        let (sender, woken) = oneshot::channel();
        self.0.add(at_ns, sender);
        // An error means that the driver ended with the server; the caller is about to be dropped.
        if woken.await.is_err() {
            std::future::pending().await
        }
    }

    /// Wakes sleepers as they fall due; never returns unless the kernel refuses to arm the timer.
    pub(crate) async fn drive(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.fd.readable().await?;
            // Reading resets the timerfd; WouldBlock (someone re-armed it meanwhile) also clears the readiness.
            let _ = ready.try_io(|fd| fd.get_ref().0.wait().map_err(io::Error::from));
            self.0.wake_due()?;
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Sleepers> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, at_ns: i64, sender: oneshot::Sender<()>) {
        let mut sleepers = self.lock();
        let id = sleepers.next_id;
        sleepers.next_id += 1;
        let earliest = sleepers.due.peek().is_none_or(|Reverse((first, _))| at_ns < *first);
        sleepers.due.push(Reverse((at_ns, id)));
        sleepers.wake.insert(id, sender);
        if earliest && self.arm(at_ns).is_err() {
            // Without a timer this sleeper would hang; waking it early is the lesser wrong.
            sleepers.wake.remove(&id).map(|s| s.send(()));
        }
    }

    fn wake_due(&self) -> io::Result<()> {
        let mut sleepers = self.lock();
        while let Some(Reverse((at_ns, id))) = sleepers.due.peek().copied() {
            if at_ns > clock::raw_ns() {
                return self.arm(at_ns);
            }
            sleepers.due.pop();
            sleepers.wake.remove(&id).map(|s| s.send(()));
        }
        Ok(())
    }

    /// Arms for a RAW stamp. The timer runs on MONOTONIC, whose rate differs by parts per million at most, so one that
    /// fires a little early is simply armed again by `wake_due`.
    fn arm(&self, at_ns: i64) -> io::Result<()> {
        let wait = (at_ns - clock::raw_ns()).max(1);
        let at = Duration::from_nanos(
            u64::try_from(clock::monotonic_ns().saturating_add(wait)).unwrap_or(u64::MAX),
        );
        let expiration = Expiration::OneShot(TimeSpec::from_duration(at));
        Ok(self.timer_fd().set(expiration, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?)
    }

    fn timer_fd(&self) -> &TimerFd {
        &self.fd.get_ref().0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wakes_in_order_and_never_early() {
        let timer = Timer::new().unwrap();
        let driver = timer.clone();
        tokio::spawn(async move { driver.drive().await });
        let start = clock::raw_ns();
        let mut tasks = Vec::new();
        for i in [5, 1, 3, 3, 40, 0, 7] {
            let timer = timer.clone();
            let at = start + i * 1_000_000;
            tasks.push(tokio::spawn(async move {
                timer.sleep_until(at).await;
                (clock::raw_ns(), at)
            }));
        }
        for task in tasks {
            let (woken, at) = task.await.unwrap();
            assert!(woken >= at, "woken {} ns early", at - woken);
            println!("late by {} us", (woken - at) / 1000);
        }
    }

    #[tokio::test]
    async fn an_earlier_deadline_overtakes_a_later_one() {
        let timer = Timer::new().unwrap();
        let driver = timer.clone();
        tokio::spawn(async move { driver.drive().await });
        let (far, start) = (timer.clone(), clock::raw_ns());
        let far = tokio::spawn(async move { far.sleep_until(start + 3_600_000_000_000).await });
        tokio::task::yield_now().await;
        let near = timer.sleep_until(start + 2_000_000);
        tokio::time::timeout(Duration::from_secs(10), near).await.expect("slept as long as the later one");
        assert!(!far.is_finished());
    }
}
