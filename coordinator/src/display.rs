//! What a person sees while a run goes on: one live line on a terminal, plain lines elsewhere. Never fails a run: a
//! closed terminal is not an error of the measurement.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::v1;

use crate::axis::Load;
use crate::knee::duration;
use crate::stored::Incarnation;

/// Lines to a person.
pub struct Display {
    out: Box<dyn Write + Send>,
    live: bool,
    painted: bool,
    levels: usize,
    level: Option<Level>,
    last_plain_ns: i64,
}

impl std::fmt::Debug for Display {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Display").field("live", &self.live).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Level {
    index: u32,
    load: Load,
    began_ns: i64,
    wanted: Wanted,
    progress: BTreeMap<Incarnation, v1::LevelProgress>,
    ttft: LatencyHistogram,
    e2e: LatencyHistogram,
}

#[derive(Debug)]
enum Wanted {
    Requests(u64),
    Ns(i64),
}

const PLAIN_EVERY_NS: i64 = 10_000_000_000;

impl Display {
    /// On standard error; live when that is a terminal. `levels` is the number of levels planned.
    pub fn stderr(levels: usize) -> Self {
        let err = std::io::stderr();
        let live = err.is_terminal();
        Self::new(Box::new(err), live, levels)
    }

    /// To any writer.
    pub fn new(out: Box<dyn Write + Send>, live: bool, levels: usize) -> Self {
        Self { out, live, painted: false, levels, level: None, last_plain_ns: 0 }
    }

    /// One line that stays.
    pub fn say(&mut self, line: &str) {
        let wipe = if self.painted { "\r\x1b[K" } else { "" };
        self.painted = false;
        // A closed terminal must not stop the run.
        let _closed = writeln!(self.out, "{wipe}{line}");
    }

    /// A level is about to start.
    pub fn level(&mut self, index: u32, load: Load, shares: &BTreeMap<Incarnation, v1::LoadShare>, now: i64) {
        let stops = shares.values().filter_map(|share| share.stop.map(|stop| (stop, share.warmup_ns)));
        let mut wanted = Wanted::Requests(0);
        for (stop, warmup_ns) in stops {
            wanted = match (stop, wanted) {
                // In open loop every agent is told of the whole level's.
                (v1::load_share::Stop::Requests(n), Wanted::Requests(_)) if load.is_open() => {
                    Wanted::Requests(n)
                }
                (v1::load_share::Stop::Requests(n), Wanted::Requests(sum)) => Wanted::Requests(sum + n),
                (v1::load_share::Stop::DurationNs(ns), _) => Wanted::Ns(warmup_ns + ns),
                (_, wanted) => wanted,
            };
        }
        let (ttft, e2e) = (LatencyHistogram::default(), LatencyHistogram::default());
        let progress = BTreeMap::new();
        self.level = Some(Level { index, load, began_ns: now, wanted, progress, ttft, e2e });
        self.last_plain_ns = now;
    }

    /// The level's common start, on the clock of `now`, ns.
    pub fn started(&mut self, at_ns: i64) {
        if let Some(level) = &mut self.level {
            level.began_ns = at_ns;
        }
    }

    /// An agent's newest counts.
    pub fn progress(&mut self, of: Incarnation, progress: &v1::LevelProgress) {
        if let Some(level) = self.level.as_mut().filter(|level| level.index == progress.level) {
            level.progress.insert(of, *progress);
        }
    }

    /// Windows that came in: the live percentiles.
    pub fn windows(&mut self, windows: &[v1::Window]) {
        let Some(level) = &mut self.level else { return };
        for window in windows.iter().filter(|w| w.level == level.index) {
            for (sum, part) in [(&mut level.ttft, &window.ttft), (&mut level.e2e, &window.e2e)] {
                if let Some(Ok(part)) = part.as_ref().map(LatencyHistogram::try_from) {
                    sum.add(&part);
                }
            }
        }
    }

    /// Paints the current level, if one runs.
    pub fn repaint(&mut self, now: i64) {
        let Some(level) = &self.level else { return };
        // The last column stays free: a cursor behind it would wrap.
        let width = if self.live { terminal_width().saturating_sub(1) } else { usize::MAX };
        let line = level.line(self.levels, now, width, true);
        if self.live {
            let _closed = write!(self.out, "\r\x1b[K{line}");
            let _closed = self.out.flush();
            self.painted = true;
        } else if now - self.last_plain_ns >= PLAIN_EVERY_NS {
            self.last_plain_ns = now;
            self.say(&line);
        }
    }

    /// Nothing more will come: leaves the cursor at the start of a line.
    pub fn rest(&mut self) {
        self.level = None;
        if std::mem::take(&mut self.painted) {
            let _closed = writeln!(self.out);
        }
    }

    /// A level is over: its line stays.
    pub fn settled(&mut self, index: u32, now: i64) {
        if let Some(level) = self.level.take().filter(|level| level.index == index) {
            let width = if self.live { terminal_width() } else { usize::MAX };
            let line = level.line(self.levels, now, width, false);
            self.say(&line);
        }
    }
}

impl Level {
    fn line(&self, levels: usize, now: i64, width: usize, is_live: bool) -> String {
        // A broken agent may claim any number.
        let sum = |part: fn(&v1::LevelProgress) -> u64| {
            self.progress.values().map(part).fold(0, u64::saturating_add)
        };
        let completed = sum(|p| p.counts.map_or(0, |c| c.completed));
        let failed = sum(|p| p.counts.map_or(0, |c| c.failed));
        let in_flight = sum(|p| u64::from(p.in_flight));
        let tokens = sum(|p| p.output_tokens);
        let elapsed_s = ((now - self.began_ns).max(1)) as f64 / 1e9;
        let (done, of) = match self.wanted {
            Wanted::Requests(n) => {
                (completed.saturating_add(failed) as f64 / n.max(1) as f64, format!("/{n}"))
            }
            Wanted::Ns(ns) => (elapsed_s * 1e9 / ns.max(1) as f64, String::new()),
        };
        // The most telling first: what has no room is left out from the end.
        let mut parts = vec![format!("{completed}{of} done")];
        if failed > 0 {
            parts.push(format!("{failed} failed"));
        }
        let held = sum(|p| p.counts.map_or(0, |c| c.held_back));
        if held > 0 {
            parts.push(format!("{held} held back"));
        }
        let retried = sum(|p| p.counts.map_or(0, |c| c.retried));
        if retried > 0 {
            parts.push(format!("{retried} retried"));
        }
        // Of the whole level, warm-up included: the table that follows has the rates of the window.
        if is_live {
            parts.push(format!("{:.1} req/s", completed as f64 / elapsed_s));
        }
        let p95 = |name, histogram: &LatencyHistogram| {
            Some(format!("{name} p95 {}", duration(histogram.quantile_ns(0.95)?)))
        };
        parts.extend(p95("E2E", &self.e2e));
        parts.extend(p95("TTFT", &self.ttft));
        if is_live {
            parts.push(format!("{in_flight} in flight"));
            parts.push(format!("{:.0} tok/s", tokens as f64 / elapsed_s));
        }
        let load = match self.load {
            Load::Streams(streams) => format!("{streams} streams"),
            Load::Rate(_) => self.load.words(),
        };
        let head = format!("level {}/{levels}: {load} {} ", self.index + 1, bar(done));
        fitted(head, &parts, width)
    }
}

/// As many of the parts as `width` columns hold, from the first on.
fn fitted(mut line: String, parts: &[String], width: usize) -> String {
    for (i, part) in parts.iter().enumerate() {
        let separator = if i == 0 { "" } else { ", " };
        if line.chars().count() + separator.len() + part.chars().count() > width {
            break;
        }
        line.push_str(separator);
        line.push_str(part);
    }
    line.chars().take(width).collect()
}

fn bar(done: f64) -> String {
    const CELLS: usize = 10;
    let full = (done.clamp(0.0, 1.0) * CELLS as f64) as usize;
    "━".repeat(full) + &"─".repeat(CELLS - full)
}

/// Columns of the terminal; 100 where it does not tell.
pub fn terminal_width() -> usize {
    let asked = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
    asked.or_else(ioctl_width).filter(|&w: &usize| w >= 20).unwrap_or(100)
}

fn ioctl_width() -> Option<usize> {
    terminal_size::terminal_size_of(std::io::stderr()).map(|(width, _)| usize::from(width.0))
}

#[cfg(test)]
mod tests {
    use super::fitted;

    #[test]
    fn a_narrow_terminal_loses_whole_parts_from_the_end() {
        let parts = ["7 done", "1.0 req/s", "E2E p95 1 s"].map(str::to_owned);
        assert_eq!(fitted("level ".to_owned(), &parts, 80), "level 7 done, 1.0 req/s, E2E p95 1 s");
        assert_eq!(fitted("level ".to_owned(), &parts, 25), "level 7 done, 1.0 req/s");
        assert_eq!(fitted("level ".to_owned(), &parts, 4), "leve");
    }
}
