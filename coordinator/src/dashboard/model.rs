//! What the live view knows, apart from how it is drawn. Pure: events in, a [`View`] out; it reads no clock.
//!
//! Of each agent only the newest message is kept. They are totals, so one that was lost is healed by the next, and the
//! last word of an agent is never replaced by an older one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tailcliff_proto::v1::{self, TraceStage};

use crate::stored::{Drive, Incarnation};
use crate::trace::{Figures, Stage, Trace, Verdict, Worker};

/// An agent that says nothing for this long is silent, ns: three messages.
const SILENT_NS: i64 = 3_500_000_000;
/// Waiting inside our own client from this share of E2E on is backpressure.
const BACKPRESSURE: f64 = 0.05;
/// Messages to a person that are kept.
const MOST_LINES: usize = 200;

/// Something that the view shows.
#[derive(Debug)]
pub enum Event {
    /// A level is planned: which, how many there are, its name, its warm-up.
    Level {
        /// Which rung, and the how-manieth try.
        drive: Drive,
        /// In the plan.
        levels: usize,
        /// Such as `64 streams`.
        name: String,
        /// Warm-up, ns.
        warmup_ns: i64,
    },
    /// Its common start.
    Started(i64),
    /// An agent told.
    Told {
        /// Which.
        of: Incarnation,
        /// Its name.
        name: String,
        /// What.
        telemetry: Arc<v1::Telemetry>,
    },
    /// Streams in flight of one agent.
    InFlight(Incarnation, u32),
    /// All that will come of a level is in.
    Settled(u32),
    /// A line to a person.
    Line(String),
}

#[derive(Clone, Debug)]
struct Agent {
    name: String,
    newest: Arc<v1::Telemetry>,
    heard_ns: i64,
    /// The message before, for what happened since.
    before: Option<Arc<v1::Telemetry>>,
}

#[derive(Clone, Debug)]
struct Level {
    drive: Drive,
    levels: usize,
    name: String,
    warmup_ns: i64,
    began_ns: Option<i64>,
    /// When it was over.
    settled_ns: Option<i64>,
    agents: BTreeMap<Incarnation, Agent>,
    in_flight: BTreeMap<Incarnation, u32>,
}

/// The state.
#[derive(Debug)]
pub struct Model {
    origin_ns: i64,
    level: Option<Level>,
    lines: VecDeque<String>,
    version: u64,
}

/// A copy to make a view of, without holding up the model.
#[derive(Debug)]
pub struct Snapshot {
    origin_ns: i64,
    level: Option<Level>,
    lines: Vec<String>,
    /// Another number when something was told since.
    pub version: u64,
}

/// Where a level is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing runs.
    Waiting,
    /// Before the measured phase.
    Warmup,
    /// Under load.
    Measuring,
    /// Over, with every agent's last word.
    Final,
    /// Over, without the last word of an agent.
    Cut,
}

/// How it goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    /// Nothing to say yet.
    Waiting,
    /// Well.
    Ok,
    /// Requests wait inside our own client: this share of E2E.
    Backpressure(f64),
    /// The view, or the client, is not what it should be.
    Degraded(String),
}

/// A count with its rate: since the message before, and over the measured phase so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Each second, over the last message's second; `None` when nothing runs.
    pub now: Option<f64>,
    /// Each second, from the start of the measured phase.
    pub mean: Option<f64>,
}

/// Everything a frame shows.
#[derive(Clone, Debug)]
pub struct View {
    /// Such as `level 2/5 · 64 streams`.
    pub title: String,
    /// Index of the level.
    pub level: Option<u32>,
    /// Since the run began, ns; stands still once the level is over.
    pub uptime_ns: i64,
    /// Where the level is.
    pub phase: Phase,
    /// How it goes.
    pub status: Status,
    /// Of all requests of the measured phase.
    pub counts: v1::TraceCounts,
    /// Issued each second.
    pub issued: Rate,
    /// Completed each second.
    pub completed: Rate,
    /// Output tokens each second.
    pub tokens: Rate,
    /// Requests in flight.
    pub in_flight: u64,
    /// A request's life.
    pub stages: Vec<Stage>,
    /// Whose time it was.
    pub verdict: Option<Verdict>,
    /// TTFT, TPOT, E2E.
    pub latencies: [(&'static str, Option<Figures>); 3],
    /// Control threads by longest lag.
    pub control: Vec<Worker>,
    /// The worst workers.
    pub workers: Vec<Worker>,
    /// Of all workers.
    pub worker_count: usize,
    /// p99 ≥ 5 ms.
    pub hot: usize,
    /// Over all workers, ns.
    pub fleet_p99_ns: Option<u64>,
    /// TCP connections to the target.
    pub connections: Option<u64>,
    /// Samples lost.
    pub dropped_events: u64,
    /// Stages shown as 0 because their stamps were out of order.
    pub impossible: u64,
    /// Histograms that could not be read.
    pub unreadable: u64,
    /// Agents that told something of this level.
    pub agents: u64,
    /// Of those, whose last word is in.
    pub finals: u64,
    /// Of those, who have fallen silent.
    pub silent: u64,
    /// Newest last.
    pub lines: Vec<String>,
}

impl Model {
    /// A model of a run that began at `origin_ns`.
    pub fn new(origin_ns: i64) -> Self {
        Self { origin_ns, level: None, lines: VecDeque::new(), version: 0 }
    }

    /// Takes in an event at `now`, ns of the coordinator's clock.
    pub fn take(&mut self, now: i64, event: Event) {
        self.version += 1;
        match event {
            Event::Level { drive, levels, name, warmup_ns } => {
                self.level = Some(Level {
                    drive,
                    levels,
                    name,
                    warmup_ns,
                    began_ns: None,
                    settled_ns: None,
                    agents: BTreeMap::new(),
                    in_flight: BTreeMap::new(),
                });
            }
            Event::Line(line) => {
                self.lines.push_back(line);
                if self.lines.len() > MOST_LINES {
                    self.lines.pop_front();
                }
            }
            of_level => {
                if let Some(level) = &mut self.level {
                    level.take(now, of_level);
                }
            }
        }
    }

    /// A copy; messages of agents are shared and not copied.
    pub fn snapshot(&self) -> Snapshot {
        let (origin_ns, version) = (self.origin_ns, self.version);
        Snapshot {
            origin_ns,
            level: self.level.clone(),
            lines: self.lines.iter().cloned().collect(),
            version,
        }
    }
}

impl Level {
    fn take(&mut self, now: i64, event: Event) {
        match event {
            Event::Started(at_ns) => self.began_ns = self.began_ns.or(Some(at_ns)),
            Event::Told { of, name, telemetry } if telemetry.level == self.drive.level => {
                self.told(now, of, name, telemetry);
            }
            Event::InFlight(of, n) => drop(self.in_flight.insert(of, n)),
            Event::Settled(index) if index == self.drive.level => {
                self.settled_ns = self.settled_ns.or(Some(now))
            }
            _ => {}
        }
    }

    fn told(&mut self, now: i64, of: Incarnation, name: String, newest: Arc<v1::Telemetry>) {
        let before = self.agents.get(&of);
        // A last word holds, and so does what came later: a repeat after a reconnect changes nothing.
        if before.is_some_and(|b| b.newest.is_final || b.newest.seq >= newest.seq) {
            return;
        }
        let before = before.map(|agent| agent.newest.clone());
        self.agents.insert(of, Agent { name, newest, heard_ns: now, before });
    }
}

impl Snapshot {
    /// Adds up what agents told: the costly part, needed again only for another [`version`](Self::version).
    pub fn trace(&self) -> Trace {
        let mut trace = Trace::default();
        for agent in self.level.iter().flat_map(|level| level.agents.values()) {
            trace.add(&agent.name, &agent.newest);
        }
        trace
    }

    /// The view at `now`, with the trace of the same version.
    pub fn view(&self, now: i64, trace: &Trace) -> View {
        let level = self.level.as_ref();
        let now = level.and_then(|level| level.settled_ns).unwrap_or(now);
        let phase = level.map_or(Phase::Waiting, |level| level.phase(now, trace));
        let runs = matches!(phase, Phase::Warmup | Phase::Measuring);
        let silent = level.filter(|_| runs).map_or(0, |level| level.silent(now));
        let verdict = trace.verdict();
        let (control, workers) = trace.worst_threads();
        let rate = |part: fn(&v1::TraceCounts) -> u64| {
            level.map_or(Rate::default(), |level| Rate {
                now: runs.then(|| level.rate_now(now, part)).flatten(),
                mean: level.rate_mean(part(&trace.counts)),
            })
        };
        View {
            title: level.map_or("waiting for agents".to_owned(), Level::title),
            level: level.map(|level| level.drive.level),
            uptime_ns: now - self.origin_ns,
            phase,
            status: status(phase, trace, silent, verdict.as_ref()),
            counts: trace.counts,
            issued: rate(|c| c.issued),
            completed: rate(|c| c.completed),
            tokens: rate(|c| c.output_tokens),
            in_flight: level.filter(|_| runs).map_or(0, Level::in_flight),
            stages: trace.stages(),
            verdict,
            latencies: [
                ("TTFT", trace.figures(TraceStage::Ttft)),
                ("TPOT", trace.figures(TraceStage::Tpot)),
                ("E2E", trace.figures(TraceStage::E2e)),
            ],
            control: control.into_iter().cloned().collect(),
            workers: workers.into_iter().cloned().collect(),
            worker_count: trace.worker_count(),
            hot: trace.hot_workers(),
            fleet_p99_ns: trace.fleet_p99_ns(),
            connections: trace.tcp_established(),
            dropped_events: trace.dropped_events,
            impossible: trace.impossible,
            unreadable: trace.unreadable,
            agents: trace.agents,
            finals: trace.finals,
            silent,
            lines: self.lines.clone(),
        }
    }
}

impl Level {
    fn title(&self) -> String {
        let of = if self.levels > 0 { format!("/{}", self.levels) } else { String::new() };
        format!("level {}{of}{} · {}", self.drive.rung + 1, self.drive.again(), self.name)
    }

    fn phase(&self, now: i64, trace: &Trace) -> Phase {
        let all_final = trace.agents > 0 && trace.finals == trace.agents;
        match (self.settled_ns, self.began_ns) {
            (Some(_), _) if all_final => Phase::Final,
            (Some(_), _) => Phase::Cut,
            (None, None) => Phase::Waiting,
            (None, Some(began)) if now < began => Phase::Waiting,
            (None, Some(began)) if now - began < self.warmup_ns => Phase::Warmup,
            (None, Some(_)) => Phase::Measuring,
        }
    }

    fn silent(&self, now: i64) -> u64 {
        let silent = |agent: &&Agent| !agent.newest.is_final && now - agent.heard_ns > SILENT_NS;
        self.agents.values().filter(silent).count() as u64
    }

    fn in_flight(&self) -> u64 {
        self.in_flight.values().map(|&n| u64::from(n)).sum()
    }

    /// Over the time between the two newest messages of each agent, on its own clock; one that is silent adds nothing.
    fn rate_now(&self, now: i64, part: fn(&v1::TraceCounts) -> u64) -> Option<f64> {
        let each = |agent: &Agent| {
            let before = agent.before.as_ref()?;
            let ns = agent.newest.raw_ns.saturating_sub(before.raw_ns);
            let count = |told: &v1::Telemetry| told.counts.as_ref().map_or(0, part);
            let grown = count(&agent.newest).saturating_sub(count(before));
            let talks = now - agent.heard_ns <= SILENT_NS;
            (talks && ns > 0).then(|| grown as f64 * 1e9 / ns as f64)
        };
        self.agents.values().filter_map(each).reduce(|a, b| a + b)
    }

    /// Over the longest measured phase that an agent told of.
    fn rate_mean(&self, count: u64) -> Option<f64> {
        let each = |agent: &Agent| agent.newest.raw_ns.saturating_sub(agent.newest.measured_from_raw_ns);
        let ns = self.agents.values().map(each).max().filter(|&ns| ns > 0)?;
        Some(count as f64 * 1e9 / ns as f64)
    }
}

fn status(phase: Phase, trace: &Trace, silent: u64, verdict: Option<&Verdict>) -> Status {
    let mut why = Vec::new();
    let mut because = |n: u64, what: &str| {
        if n > 0 {
            why.push(format!("{n} {what}"));
        }
    };
    because(silent, "agents silent");
    because(if phase == Phase::Cut { trace.agents - trace.finals } else { 0 }, "agents without a last word");
    because(trace.dropped_events, "events dropped");
    because(trace.hot_workers() as u64, "hot workers");
    because(trace.unreadable, "unreadable");
    if !why.is_empty() {
        return Status::Degraded(why.join(", "));
    }
    match verdict.map(|v| v.backpressure) {
        Some(share) if share >= BACKPRESSURE => Status::Backpressure(share),
        None if trace.agents == 0 || phase == Phase::Waiting => Status::Waiting,
        _ => Status::Ok,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::trace::tests::{MS, told, usual};

    const S: i64 = 1_000_000_000;

    pub(crate) fn model() -> Model {
        let mut model = Model::new(100 * S);
        let name = "64 streams".to_owned();
        model.take(101 * S, Event::Level { drive: Drive::first(1), levels: 5, name, warmup_ns: 2 * S });
        model.take(101 * S, Event::Started(102 * S));
        model
    }

    /// An agent's message number `seq`, sent in that second of its measured phase.
    pub(crate) fn message(seq: u64, n: u64, is_final: bool) -> v1::Telemetry {
        let (level, raw_ns) = (1, 7_000 * S + seq as i64 * S);
        v1::Telemetry { level, seq, is_final, raw_ns, measured_from_raw_ns: 7_000 * S, ..told(n, &usual()) }
    }

    pub(crate) fn tell(model: &mut Model, at: i64, of: u64, telemetry: v1::Telemetry) {
        let (name, telemetry) = (format!("agent-{of}"), Arc::new(telemetry));
        model.take(at, Event::Told { of, name, telemetry });
    }

    pub(crate) fn view(model: &Model, now: i64) -> View {
        let snapshot = model.snapshot();
        snapshot.view(now, &snapshot.trace())
    }

    #[test]
    fn lost_messages_heal_and_repeats_change_nothing() {
        let mut model = model();
        tell(&mut model, 105 * S, 1, message(1, 10, false));
        // 2 and 3 are lost.
        tell(&mut model, 108 * S, 1, message(4, 100, false));
        tell(&mut model, 108 * S, 1, message(2, 30, false));
        let seen = view(&model, 108 * S);
        assert_eq!((seen.counts.completed, seen.stages[0].figures.unwrap().n), (100, 100));
        assert_eq!(seen.completed.now, Some(30.0), "90 more in the three seconds between the two");
        assert_eq!(seen.completed.mean, Some(25.0));
        assert_eq!((seen.phase, seen.status), (Phase::Measuring, Status::Ok));
    }

    #[test]
    fn warm_up_shows_as_such_and_holds_no_figure() {
        let mut model = model();
        tell(&mut model, 103 * S, 1, v1::Telemetry { level: 1, seq: 1, ..Default::default() });
        let seen = view(&model, 103 * S);
        assert_eq!((seen.phase, seen.counts.issued), (Phase::Warmup, 0));
        assert!(seen.stages.iter().all(|stage| stage.figures.is_none()) && seen.verdict.is_none());
        assert_eq!(seen.completed.mean, None, "no time has been measured");
    }

    #[test]
    fn an_agent_that_dies_stays_with_what_it_told_and_is_called_silent() {
        let mut model = model();
        tell(&mut model, 105 * S, 1, message(1, 10, false));
        tell(&mut model, 105 * S, 2, message(1, 50, false));
        for second in 2..8 {
            tell(&mut model, (104 + second) * S, 1, message(second as u64, 10 * second as u64, false));
        }
        let seen = view(&model, 111 * S);
        assert_eq!((seen.agents, seen.silent, seen.counts.completed), (2, 1, 70 + 50));
        assert_eq!(seen.status, Status::Degraded("1 agents silent".to_owned()));
        assert_eq!(seen.completed.now, Some(10.0), "the dead one adds no rate");
        tell(&mut model, 112 * S, 1, message(8, 90, true));
        model.take(113 * S, Event::Settled(1));
        let seen = view(&model, 120 * S);
        assert_eq!((seen.phase, seen.finals), (Phase::Cut, 1));
        assert_eq!(seen.status, Status::Degraded("1 agents without a last word".to_owned()));
    }

    #[test]
    fn the_last_word_holds_and_the_view_stands_still_after_it() {
        let mut model = model();
        tell(&mut model, 105 * S, 1, message(1, 10, false));
        tell(&mut model, 106 * S, 1, message(2, 25, true));
        tell(&mut model, 107 * S, 1, message(3, 99, false));
        model.take(108 * S, Event::Settled(1));
        let (seen, later) = (view(&model, 109 * S), view(&model, 999 * S));
        assert_eq!((seen.phase, seen.counts.completed), (Phase::Final, 25));
        assert_eq!((seen.uptime_ns, later.uptime_ns), (8 * S, 8 * S));
        assert_eq!(format!("{seen:?}"), format!("{later:?}"));
        assert_eq!(seen.completed.now, None, "nothing runs");
    }

    #[test]
    fn another_levels_messages_are_not_this_ones() {
        let mut model = model();
        tell(&mut model, 105 * S, 1, v1::Telemetry { level: 0, ..message(9, 1_000, true) });
        assert_eq!(view(&model, 106 * S).counts.completed, 0);
        model.take(106 * S, Event::Settled(0));
        assert_eq!(view(&model, 106 * S).phase, Phase::Measuring);
    }

    #[test]
    fn what_is_dropped_or_waits_shows_in_the_status() {
        let mut model = model();
        let waiting = [(TraceStage::Queue, 6 * MS), (TraceStage::E2e, 100 * MS)];
        let slow = v1::Telemetry { level: 1, ..told(10, &waiting) };
        tell(&mut model, 105 * S, 1, slow.clone());
        assert_eq!(view(&model, 105 * S).status, Status::Backpressure(0.06));
        tell(&mut model, 106 * S, 1, v1::Telemetry { seq: 2, dropped_events: 7, ..slow });
        assert_eq!(view(&model, 106 * S).status, Status::Degraded("7 events dropped".to_owned()));
    }
}
