//! What a person sees while a run goes on: one live line on a terminal, plain lines elsewhere; in trace mode the
//! dashboard, or plain blocks. Never fails a run, and never waits for a terminal: a closed or stopped one is not an error
//! of the measurement.

pub(crate) mod thin;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::Arc;

use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::v1;

use crate::axis::Load;
use crate::dashboard::model::Event;
use crate::dashboard::{Dashboard, Shared, plain};
use crate::knee::duration;
use crate::metrics::figures::NodeFigures;
use crate::metrics::live::Live;
use crate::patient::Patient;
use crate::stored::{Drive, Incarnation};
use thin::Thin;

/// Lines to a person.
pub struct Display {
    out: Box<dyn Write + Send>,
    live: bool,
    painted: bool,
    levels: usize,
    /// What the rungs are called, where it is not by their load.
    names: Vec<String>,
    level: Option<Level>,
    last_plain_ns: i64,
    verbose: u8,
    /// In trace mode.
    trace: Option<Shared>,
    dashboard: Option<Dashboard>,
    /// Said while the dashboard had the terminal.
    kept: Vec<String>,
    unkept: u64,
    thin: Thin,
    /// With an endpoint for Prometheus.
    scraped: Option<Live>,
}

impl std::fmt::Debug for Display {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Display").field("live", &self.live).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Level {
    drive: Drive,
    name: String,
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
/// The same with `-v`.
const VERBOSE_EVERY_NS: i64 = 2_000_000_000;
/// `-vv` traces, `-vvv` shows it live.
const TRACES: u8 = 2;
const DASHBOARD: u8 = 3;
/// Columns of a block where there is no terminal.
const PLAIN_WIDTH: usize = 100;
/// Lines kept for the scrollback while the dashboard has the terminal.
const MOST_KEPT: usize = 4_000;

impl Display {
    /// On standard error; live when that is a terminal. `levels` is the number of levels planned; 0 when they
    /// are searched for.
    pub fn stderr(levels: usize) -> Self {
        let live = std::io::stderr().is_terminal() && !is_dumb();
        let out: Box<dyn Write + Send> = match Patient::over(std::io::stderr()) {
            Ok(patient) => Box::new(patient),
            Err(_) => Box::new(std::io::stderr()),
        };
        Self::new(out, live, levels)
    }

    /// To any writer.
    pub fn new(out: Box<dyn Write + Send>, live: bool, levels: usize) -> Self {
        Self {
            out,
            live,
            painted: false,
            levels,
            names: Vec::new(),
            level: None,
            last_plain_ns: 0,
            verbose: 0,
            trace: None,
            dashboard: None,
            kept: Vec::new(),
            unkept: 0,
            thin: Thin::default(),
            scraped: None,
        }
    }

    /// As talkative as so many `-v` ask.
    pub fn verbose(mut self, verbose: u8) -> Self {
        self.verbose = verbose;
        self.trace = (verbose >= TRACES).then(Shared::new);
        self
    }

    /// Scrapes are told too.
    pub fn with_metrics(mut self, live: Live) -> Self {
        self.scraped = Some(live);
        self
    }

    /// With names for its rungs, as an experiment has them.
    pub fn named(mut self, names: Vec<String>) -> Self {
        self.names = names;
        self
    }

    /// What a rung is called.
    fn name(&self, drive: Drive, load: Load) -> String {
        let by_load =
            || load.concurrency().map_or_else(|| load.words(), |streams| format!("{streams} streams"));
        self.names.get(drive.rung as usize).cloned().unwrap_or_else(by_load)
    }

    /// One line that stays; of many that are alike, the first.
    pub fn say(&mut self, line: &str) {
        if self.thin.shows(line) {
            self.tell(line);
        }
    }

    fn tell(&mut self, line: &str) {
        self.show(Event::Line(line.to_owned()));
        self.leave_if_closed();
        if self.dashboard.is_none() {
            self.print(line);
        } else if self.kept.len() < MOST_KEPT {
            self.kept.push(line.to_owned());
        } else {
            self.unkept += 1;
        }
    }

    fn print(&mut self, line: &str) {
        let wipe = if self.painted { "\r\x1b[K" } else { "" };
        self.painted = false;
        // A closed terminal must not stop the run.
        let _closed = writeln!(self.out, "{wipe}{line}").and_then(|()| self.out.flush());
    }

    fn show(&self, event: Event) {
        if let Some(trace) = &self.trace {
            trace.take(event);
        }
    }

    /// An agent told in trace mode.
    pub fn telemetry(&mut self, of: Incarnation, name: String, telemetry: Arc<v1::Telemetry>) {
        self.show(Event::Told { of, name, telemetry });
    }

    /// Takes the terminal for the dashboard, once there is something to show.
    fn open_dashboard(&mut self) {
        let Some(trace) = self.trace.clone().filter(|_| self.live && self.verbose == DASHBOARD) else {
            return;
        };
        if self.dashboard.is_some() {
            return;
        }
        match Dashboard::open(trace) {
            Ok(dashboard) => self.dashboard = Some(dashboard),
            Err(why) => self.say(&format!("no dashboard here: {why}")),
        }
        // Asked once: a person who left it wants the compact line.
        self.verbose = TRACES;
    }

    fn leave_if_closed(&mut self) {
        if self.dashboard.as_ref().is_some_and(Dashboard::is_closed) {
            self.leave_dashboard();
        }
    }

    /// Back to the usual screen, with what was said meanwhile.
    fn leave_dashboard(&mut self) {
        self.dashboard = None;
        let unkept = std::mem::take(&mut self.unkept);
        for line in std::mem::take(&mut self.kept) {
            self.print(&line);
        }
        if unkept > 0 {
            self.print(&format!("({unkept} lines found no room here)"));
        }
    }

    /// The trace of a level, as it stands.
    fn trace_block(&mut self) {
        let Some(view) = self.trace.as_ref().map(Shared::view) else { return };
        if view.level.is_some() && view.agents > 0 {
            let width = if self.live { terminal_width() } else { PLAIN_WIDTH };
            self.say(&plain::block(&view, width));
        }
    }

    /// A level is about to start.
    pub fn level(
        &mut self,
        drive: Drive,
        load: Load,
        shares: &BTreeMap<Incarnation, v1::LoadShare>,
        now: i64,
    ) {
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
        let name = self.name(drive, load);
        self.level = Some(Level { drive, name: name.clone(), began_ns: now, wanted, progress, ttft, e2e });
        self.thin.restart().iter().for_each(|line| self.tell(line));
        self.scraped.iter_mut().for_each(|live| live.level(drive, load));
        self.last_plain_ns = now;
        let warmup_ns = shares.values().map(|share| share.warmup_ns).max().unwrap_or(0);
        self.show(Event::Level { drive, levels: self.levels, name, warmup_ns });
        self.open_dashboard();
    }

    /// The level's common start, on the clock of `now`, ns.
    pub fn started(&mut self, at_ns: i64) {
        self.show(Event::Started(at_ns));
        self.scraped.iter_mut().for_each(Live::started);
        if let Some(level) = &mut self.level {
            level.began_ns = at_ns;
        }
    }

    /// An agent's newest counts.
    pub fn progress(&mut self, of: Incarnation, progress: &v1::LevelProgress) {
        self.show(Event::InFlight(of, progress.in_flight));
        self.scraped.iter_mut().for_each(|live| live.progress(of, progress));
        if let Some(level) = self.level.as_mut().filter(|level| level.drive.level == progress.level) {
            level.progress.insert(of, *progress);
        }
    }

    /// An agent's last counts of a level.
    pub fn done(&mut self, of: Incarnation, done: &v1::LevelDone) {
        self.scraped.iter_mut().for_each(|live| live.done(of, done));
    }

    /// A probe joined.
    pub fn probe(&mut self, name: &str, gpus: &[v1::GpuFacts]) {
        self.scraped.iter_mut().for_each(|live| live.probe(name, gpus));
    }

    /// Samples of a probe that came in.
    pub fn samples(&mut self, probe: &str, samples: &[v1::GpuSample]) {
        self.scraped.iter_mut().for_each(|live| live.samples(probe, samples));
    }

    /// True when somebody wants to know of the nodes again.
    pub fn wants_nodes(&mut self, now: i64) -> bool {
        self.scraped.as_mut().is_some_and(|live| live.wants_nodes(now))
    }

    /// Nodes as they are.
    pub fn nodes(&mut self, nodes: Vec<NodeFigures>) {
        if let Some(live) = &mut self.scraped {
            live.nodes(nodes);
        }
    }

    /// Windows that came in: the live percentiles.
    pub fn windows(&mut self, windows: &[v1::Window]) {
        let Some(level) = &mut self.level else { return };
        for window in windows.iter().filter(|w| w.level == level.drive.level) {
            for (sum, part) in [(&mut level.ttft, &window.ttft), (&mut level.e2e, &window.e2e)] {
                if let Some(Ok(part)) = part.as_ref().map(LatencyHistogram::try_from) {
                    sum.add(&part);
                }
            }
        }
    }

    /// Paints the current level, if one runs.
    pub fn repaint(&mut self, now: i64) {
        self.thin.due(now).iter().for_each(|line| self.tell(line));
        let latencies = self.level.as_ref().map(|level| (&level.ttft, &level.e2e));
        self.scraped.iter_mut().for_each(|live| live.tick(now, latencies));
        self.leave_if_closed();
        if self.dashboard.is_some() {
            return;
        }
        let Some(level) = &self.level else { return };
        // The last column stays free: a cursor behind it would wrap.
        let width = if self.live { terminal_width().saturating_sub(1) } else { usize::MAX };
        let line = level.line(self.levels, now, width, true);
        if self.live {
            let _closed = write!(self.out, "\r\x1b[K{line}");
            let _closed = self.out.flush();
            self.painted = true;
        } else if now - self.last_plain_ns >= self.plain_every_ns() {
            self.last_plain_ns = now;
            self.say(&line);
            if self.verbose >= DASHBOARD {
                self.trace_block();
            }
        }
    }

    fn plain_every_ns(&self) -> i64 {
        match self.verbose {
            1 | 2 => VERBOSE_EVERY_NS,
            _ => PLAIN_EVERY_NS,
        }
    }

    /// Nothing more will come: gives the terminal back and leaves the cursor at the start of a line.
    pub fn rest(&mut self) {
        self.thin.restart().iter().for_each(|line| self.tell(line));
        self.scraped.iter_mut().for_each(Live::over);
        if let Some(level) = self.level.take() {
            self.show(Event::Settled(level.drive.level));
            self.trace_block();
        }
        self.leave_dashboard();
        if std::mem::take(&mut self.painted) {
            let _closed = writeln!(self.out).and_then(|()| self.out.flush());
        }
    }

    /// A level is over: its line stays.
    pub fn settled(&mut self, index: u32, now: i64) {
        if let Some(level) = self.level.take().filter(|level| level.drive.level == index) {
            let latencies = (&level.ttft, &level.e2e);
            self.scraped.iter_mut().for_each(|live| live.settled(latencies));
            let width = if self.live { terminal_width() } else { usize::MAX };
            let line = level.line(self.levels, now, width, false);
            self.say(&line);
            self.show(Event::Settled(index));
            self.trace_block();
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
                let ended = completed.saturating_add(failed);
                // Warm-up, retries and the later turns of sessions come on top of what was asked for.
                let of = if ended <= n { format!("/{n}") } else { String::new() };
                (ended as f64 / n.max(1) as f64, of)
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
        let of = if levels > 0 { format!("/{levels}") } else { String::new() };
        let name = &self.name;
        let head = format!("level {}{of}{}: {name} {} ", self.drive.rung + 1, self.drive.again(), bar(done));
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

/// A terminal that moves no cursor.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
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
