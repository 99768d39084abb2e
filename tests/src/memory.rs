//! What processes take of memory while they run, and whether it grows.

use std::io;

/// Growth that is believed to be none, MiB per ten minutes.
pub const FLAT_MIB_PER_10_MIN: f64 = 1.0;
/// And MiB on top, however short the time: an allocator takes and gives back that much at its own pace.
pub const NOISE_MIB: f64 = 2.0;

/// Resident memory of a process, bytes.
///
/// # Errors
/// When it is gone.
pub fn resident(pid: u32) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    read(&status, "VmRSS:")
}

/// The most that it ever was, bytes.
///
/// # Errors
/// When it is gone.
pub fn most_resident(pid: u32) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    read(&status, "VmHWM:")
}

fn read(status: &str, key: &str) -> io::Result<u64> {
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_whitespace().next());
    let kib = value.and_then(|kib| kib.parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| io::Error::other(format!("no {key} in a process's status")))
}

/// One process's memory over time: (s, bytes).
#[derive(Clone, Debug, Default)]
pub struct Course(Vec<(f64, u64)>);

impl Course {
    /// Adds a sample.
    pub fn push(&mut self, at_s: f64, bytes: u64) {
        self.0.push((at_s, bytes));
    }

    /// First, last and most, MiB; `None` without a sample.
    pub fn span_mib(&self) -> Option<(f64, f64, f64)> {
        let most = self.0.iter().map(|(_, bytes)| *bytes).max()?;
        Some((mib(self.0.first()?.1), mib(self.0.last()?.1), mib(most)))
    }

    /// Growth over the last two thirds, MiB per ten minutes, by linear regression; `None` with fewer than three samples.
    pub fn growth_mib_per_10_min(&self) -> Option<f64> {
        let settled = self.settled();
        let n = settled.len() as f64;
        let mean = |part: fn(&(f64, u64)) -> f64| settled.iter().map(part).sum::<f64>() / n;
        let (at, size) = (mean(|s| s.0), mean(|s| mib(s.1)));
        let above = settled.iter().map(|s| (s.0 - at) * (mib(s.1) - size)).sum::<f64>();
        let below = settled.iter().map(|s| (s.0 - at).powi(2)).sum::<f64>();
        (settled.len() >= 3 && below > 0.0).then(|| above / below * 600.0)
    }

    /// What may be grown in the time that is judged, MiB per ten minutes.
    pub fn allowed_mib_per_10_min(&self) -> f64 {
        let settled = self.settled();
        let span = settled.last().zip(settled.first()).map_or(0.0, |(last, first)| last.0 - first.0);
        FLAT_MIB_PER_10_MIN + NOISE_MIB * 600.0 / span.max(1.0)
    }

    /// True when it does not grow, as far as can be told.
    pub fn is_flat(&self) -> bool {
        self.growth_mib_per_10_min().is_some_and(|growth| growth <= self.allowed_mib_per_10_min())
    }

    fn settled(&self) -> &[(f64, u64)] {
        &self.0[self.0.len() / 3..]
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(of: impl Fn(u32) -> f64) -> Course {
        let mut course = Course::default();
        (0..180).for_each(|i| course.push(f64::from(i) * 10.0, (of(i) * f64::from(1 << 20)) as u64));
        course
    }

    #[test]
    fn a_leak_shows_under_the_noise_and_a_start_does_not() {
        let noise = |i: u32| f64::from(i * 7919 % 13) / 13.0;
        assert!(course(noise).is_flat());
        assert!(course(|i| noise(i) + if i < 60 { f64::from(i) } else { 60.0 }).is_flat(), "it warms up");
        // 3 MiB in ten minutes of a run of thirty.
        let leaks = course(|i| noise(i) + f64::from(i) * 0.05);
        assert!(!leaks.is_flat() && (2.9..3.1).contains(&leaks.growth_mib_per_10_min().unwrap()));
        assert!(!Course::default().is_flat(), "nothing seen is nothing shown");
    }

    #[test]
    fn a_process_knows_its_own_size() {
        let bytes = resident(std::process::id()).unwrap();
        assert!(bytes > 1 << 20 && bytes <= most_resident(std::process::id()).unwrap());
        assert!(read("VmRSS:\t x kB", "VmRSS:").is_err());
    }
}
