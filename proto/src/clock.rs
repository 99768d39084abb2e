//! The one door to time. Stamps are nanoseconds of `CLOCK_MONOTONIC_RAW`: no steps, no slewing, only the oscillator's
//! own wander, so that 1 ppm ageing between clock exchanges is true.

use nix::time::{ClockId, clock_gettime};

use crate::v1;

/// Nanoseconds of this host's `CLOCK_MONOTONIC_RAW`.
pub type RawNs = i64;

/// Reads this host's clocks. A zero-sized handle; one read is about 30 ns (vDSO).
#[derive(Clone, Copy, Debug, Default)]
pub struct HostClock;

impl HostClock {
    /// Now, in ns of `CLOCK_MONOTONIC_RAW`.
    pub fn now(self) -> RawNs {
        read(ClockId::CLOCK_MONOTONIC_RAW)
    }

    /// Now, in ns of `CLOCK_MONOTONIC`: only for arming sleeps, since `clock_nanosleep` refuses RAW.
    pub fn monotonic(self) -> i64 {
        read(ClockId::CLOCK_MONOTONIC)
    }

    /// Now, in ns since the Unix epoch, as this host believes: only for labels a person reads.
    pub fn realtime(self) -> i64 {
        read(ClockId::CLOCK_REALTIME)
    }

    /// Every clock of this host read together, with the identity of the clock domain.
    pub fn snapshot(self) -> v1::ClockSnapshot {
        let before = self.now();
        let mono_ns = self.monotonic();
        let boottime_ns = read(ClockId::CLOCK_BOOTTIME);
        let realtime_ns = self.realtime();
        let after = self.now();
        v1::ClockSnapshot {
            boot_id: read_line("/proc/sys/kernel/random/boot_id"),
            timens_inode: timens_inode(),
            clocksource: read_line("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            raw_ns: before + (after - before) / 2,
            mono_ns,
            boottime_ns,
            realtime_ns,
            read_width_ns: after - before,
            // Only `adjtimex` tells, for which there is no safe call here. No bar depends on it: RAW is not disciplined.
            ntp_synced: None,
            ntp_max_error_ns: None,
        }
    }
}

fn read(id: ClockId) -> i64 {
    // The clocks named above exist on every Linux that tokio runs on; 0 would show at once as absurd.
    clock_gettime(id).map_or(0, |t| t.tv_sec() * 1_000_000_000 + t.tv_nsec())
}

fn read_line(path: &str) -> String {
    std::fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_default()
}

/// The inode that names this process's time namespace; 0 when the kernel has none.
fn timens_inode() -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self/ns/time").map_or(0, |m| m.ino())
}
