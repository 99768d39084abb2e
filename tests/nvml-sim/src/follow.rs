//! A GPU that follows a simulated server: the statement `follow FILE` takes power, utilisations, SM clock and throttle
//! bits from a file that another process appends to, in place of the phases' own.
//!
//! A line is `raw_ns power_w util sm_mhz mem_util throttle` and holds until the next one; stamps are of
//! `CLOCK_MONOTONIC_RAW` and ascend. What was appended is read whenever something is asked. Before the first line the
//! phases hold.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::script::Levels;

/// Changes kept; what is asked of earlier times is answered as if the oldest one had held before.
const MOST_CHANGES: usize = 65_536;
/// A line longer than this is none of ours.
const LONGEST_LINE: usize = 256;

/// A file that is followed. Clones share what was read of it.
#[derive(Clone, Debug)]
pub(crate) struct Follow {
    path: PathBuf,
    tail: Arc<Mutex<Tail>>,
}

impl PartialEq for Follow {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for Follow {}

/// What the file shows from one moment on.
#[derive(Clone, Copy, Debug)]
struct Change {
    raw_ns: i64,
    power_w: u32,
    util: u32,
    sm_mhz: u32,
    mem_util: u32,
    throttle: u32,
    /// ∫ power from the very first line to here, W·ns.
    before: i128,
}

#[derive(Debug, Default)]
struct Tail {
    file: Option<BufReader<File>>,
    /// A line whose end was not there yet.
    cut: Vec<u8>,
    changes: VecDeque<Change>,
}

impl Follow {
    pub(crate) fn new(path: &str) -> Self {
        Self { path: path.into(), tail: Arc::default() }
    }

    /// `phase` with what the file says at a raw stamp in its place.
    pub(crate) fn levels(&self, raw_ns: i64, phase: Levels) -> Levels {
        let Some(change) = self.read(|tail| tail.at(raw_ns)) else { return phase };
        let Change { power_w, util, sm_mhz, mem_util, throttle, .. } = change;
        Levels { power_w, util, sm_mhz, mem_util, throttle, ..phase }
    }

    /// ∫ power over [from, to] in W·ns, where `idle_w` is drawn before the first line.
    pub(crate) fn integral(&self, from_raw_ns: i64, to_raw_ns: i64, idle_w: u32) -> i128 {
        self.read(|tail| tail.integral(to_raw_ns, idle_w) - tail.integral(from_raw_ns, idle_w))
    }

    fn read<T>(&self, ask: impl FnOnce(&Tail) -> T) -> T {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.file.is_none() {
            // It may come to be later.
            tail.file = File::open(&self.path).ok().map(BufReader::new);
        }
        tail.catch_up();
        ask(&tail)
    }
}

impl Tail {
    /// Reads what was appended; a cut line is left for later.
    fn catch_up(&mut self) {
        let Some(mut file) = self.file.take() else { return };
        loop {
            let room = (LONGEST_LINE + 1).saturating_sub(self.cut.len()) as u64;
            // At the end of a file that grows, nothing is read; the next call tries again.
            let read = file.by_ref().take(room).read_until(b'\n', &mut self.cut).unwrap_or(0);
            if read == 0 {
                break;
            }
            if self.cut.last() == Some(&b'\n') || self.cut.len() > LONGEST_LINE {
                let line = std::mem::take(&mut self.cut);
                self.push(&line);
            }
        }
        self.file = Some(file);
    }

    /// Takes a line, unless it is none or goes back in time.
    fn push(&mut self, line: &[u8]) {
        let Some(mut change) = std::str::from_utf8(line).ok().and_then(parse) else { return };
        if let Some(last) = self.changes.back() {
            if change.raw_ns < last.raw_ns {
                return;
            }
            change.before = last.until(change.raw_ns);
        }
        self.changes.push_back(change);
        if self.changes.len() > MOST_CHANGES {
            self.changes.pop_front();
        }
    }

    fn at(&self, raw_ns: i64) -> Option<Change> {
        let after = self.changes.partition_point(|change| change.raw_ns <= raw_ns);
        self.changes.get(after.checked_sub(1)?).copied()
    }

    /// ∫ power from the very first line to a stamp, W·ns; negative before it.
    fn integral(&self, raw_ns: i64, idle_w: u32) -> i128 {
        match (self.at(raw_ns), self.changes.front()) {
            (Some(change), _) => change.until(raw_ns),
            (None, Some(first)) => first.before + i128::from(raw_ns - first.raw_ns) * i128::from(idle_w),
            (None, None) => i128::from(raw_ns) * i128::from(idle_w),
        }
    }
}

impl Change {
    fn until(&self, raw_ns: i64) -> i128 {
        self.before + i128::from(raw_ns - self.raw_ns) * i128::from(self.power_w)
    }
}

fn parse(line: &str) -> Option<Change> {
    let mut words = line.split_whitespace();
    let raw_ns = words.next()?.parse().ok()?;
    let mut number = || words.next()?.parse::<u32>().ok();
    let (power_w, util, sm_mhz, mem_util, throttle) = (number()?, number()?, number()?, number()?, number()?);
    Some(Change { raw_ns, power_w, util, sm_mhz, mem_util, throttle, before: 0 })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::script::Script;

    const S: i64 = 1_000_000_000;

    /// A script whose origin is at 1,000 s of the raw clock, and the file that it follows.
    fn scene() -> (Script, File, Deleted) {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("nvml-sim-follow-{}-{count}", std::process::id()));
        let file = File::create(&path).unwrap();
        let text = format!(
            "phase 1s power_w=60 temp_c=50\nonce\nstep_w 5\nfollow {}\norigin_raw_ns {}",
            path.display(),
            1000 * S
        );
        (text.parse().unwrap(), file, Deleted(path))
    }

    struct Deleted(PathBuf);

    impl Drop for Deleted {
        fn drop(&mut self) {
            let _gone = std::fs::remove_file(&self.0);
        }
    }

    fn line(file: &mut File, at: i64, power: u32) {
        writeln!(file, "{} {power} 95 1980 60 4", 1000 * S + at).unwrap();
    }

    #[test]
    fn what_is_appended_is_what_is_shown_and_the_energy_is_its_integral() {
        let (script, mut file, _deleted) = scene();
        let watts = |at| script.levels(0, at).power_w;
        assert_eq!(
            (watts(0), script.energy_mj(0, 10 * S)),
            (60, 600_000),
            "the phase, while nothing is said"
        );
        line(&mut file, S, 300);
        line(&mut file, 3 * S, 100);
        assert_eq!([0, S - 1, S, 2 * S, 3 * S, 9 * S].map(watts), [60, 60, 300, 300, 100, 100]);
        let levels = script.levels(2, 2 * S);
        assert_eq!((levels.power_w, levels.util, levels.sm_mhz), (310, 95, 1980));
        assert_eq!((levels.mem_util, levels.throttle, levels.temp_c), (60, 4, 50));
        let energy = [0, S, 2 * S, 3 * S, 5 * S].map(|at| script.energy_mj(0, at));
        assert_eq!(energy, [0, 60_000, 360_000, 660_000, 860_000]);
        assert_eq!(script.energy_mj(2, 5 * S), 860_000 + 5 * 10_000);
        assert_eq!(script.average_mw(0, 3 * S + S / 2), 200_000);
        assert_eq!(script.average_mw(0, S / 2), 60_000, "the second before reaches back beyond all");
        line(&mut file, 5 * S, 700);
        assert_eq!(script.energy_mj(0, 6 * S), 860_000 + 700_000);
    }

    #[test]
    fn a_cut_line_is_left_for_later_and_nonsense_is_passed_over() {
        let (script, mut file, _deleted) = scene();
        let watts = || script.levels(0, 8 * S).power_w;
        line(&mut file, S, 300);
        write!(file, "{} 40", 1002 * S).unwrap();
        assert_eq!(watts(), 300);
        file.write_all(b"0 95 1980 60 0\n").unwrap();
        assert_eq!(watts(), 400);
        line(&mut file, S, 999);
        file.write_all(&[b"9".repeat(5000), b"\n\xff\n1 2 3\n".to_vec()].concat()).unwrap();
        assert_eq!(watts(), 400, "back in time, too long, no text, too short");
        line(&mut file, 4 * S, 500);
        assert_eq!(watts(), 500);
    }

    #[test]
    fn memory_is_bounded_and_the_integral_goes_on() {
        let (script, mut file, _deleted) = scene();
        let changes = MOST_CHANGES as i64 + 1000;
        let mut text = Vec::new();
        for i in 0..changes {
            writeln!(text, "{} 100 95 1980 60 0", 1000 * S + i * 1_000_000).unwrap();
        }
        file.write_all(&text).unwrap();
        assert_eq!(script.average_mw(0, changes * 1_000_000), 100_000);
        let follow = script.follow.as_ref().unwrap();
        assert_eq!(follow.tail.lock().unwrap().changes.len(), MOST_CHANGES);
    }

    #[test]
    fn a_file_that_comes_later_is_found() {
        let script: Script = "follow /nowhere/at/all\nphase 1s power_w=60".parse().unwrap();
        assert_eq!(script.levels(0, 5 * S).power_w, 60);
        assert_eq!(script.average_mw(0, 0), 60_000);
    }
}
