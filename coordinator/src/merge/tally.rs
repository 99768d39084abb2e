//! One pass over what the agents sent: records, windows and gauges sorted into levels.

use std::collections::BTreeMap;

use tailcliff_proto::arrivals;
use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::v1::{self, Outcome, Phase, TokenSource};

use crate::blocks::Lives;
use crate::inside::{Gather, Index};
use crate::levels::{Counts, HostLimits, Latencies, Metric, Outside};
use crate::plan::SloPlan;
use crate::slo::{Kept, keeps};
use crate::stored::{Incarnation, Node, RunData};

use super::record;
use super::timeline::Timeline;
use super::window::Window;

const ENFILE: u32 = 23;
const EMFILE: u32 = 24;
const EADDRNOTAVAIL: u32 = 99;

/// A request on the coordinator's clock, as far as throughput and Little's law ask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) intended_ns: i64,
    pub(crate) issued_ns: i64,
    /// How long it waited for its connection; until its end when it never got one.
    pub(crate) connecting_ns: i64,
    pub(crate) done_ns: i64,
    /// First and last token.
    pub(crate) answer: Option<(i64, i64)>,
    pub(crate) outcome: Outcome,
    pub(crate) measured: bool,
    /// The first try of its request; in open loop, of an arrival and no later turn of its session.
    pub(crate) first: bool,
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
    /// It kept the plan's SLO.
    pub(crate) good: bool,
}

impl Point {
    /// Of a record whose clock is the coordinator's.
    pub(crate) fn of_one_clock(record: &v1::RequestRecord, outcome: Outcome) -> Self {
        Self {
            intended_ns: record.intended_raw_ns,
            issued_ns: record.issued_raw_ns.unwrap_or(record.intended_raw_ns),
            connecting_ns: 0,
            done_ns: record.done_raw_ns,
            answer: record.first_token_raw_ns.zip(record.last_token_raw_ns),
            outcome,
            measured: true,
            first: record.attempt == 0,
            input_tokens: record.prompt_tokens.unwrap_or(0),
            output_tokens: record.output_tokens.unwrap_or(0),
            good: false,
        }
    }

    pub(crate) fn completed(&self) -> bool {
        self.outcome == Outcome::Completed
    }
}

/// What came in for one level.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Records of the measured phase.
    pub(crate) measured: Counts,
    /// Second and later tries among them.
    pub(crate) retried: u64,
    /// Those among them that were paused on purpose; of these the completed.
    pub(crate) controls: u64,
    pub(crate) controls_completed: u64,
    /// Records of every phase, by agent.
    pub(crate) by_agent: BTreeMap<Incarnation, Counts>,
    /// When each of them was issued, raw ns.
    pub(crate) issued_raw_ns: BTreeMap<Incarnation, Vec<i64>>,
    pub(crate) latencies: Latencies,
    pub(crate) points: Vec<Point>,
    pub(crate) lives: Lives,
    /// The plan's SLO, and what it says of the measured phase.
    pub(crate) slo: Option<SloPlan>,
    pub(crate) kept: Kept,
    /// (coordinator's clock, streams in flight) by agent.
    pub(crate) gauges: BTreeMap<Incarnation, Vec<(i64, u32)>>,
    pub(crate) bounds_ns: Vec<i64>,
    /// The shortest that a request which completed waited for a connection of its own.
    pub(crate) quickest_connect_ns: Option<i64>,
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
    pub(crate) error_kinds: BTreeMap<String, u64>,
    pub(crate) sample_error: Option<String>,
    pub(crate) outside: Outside,
    pub(crate) host_limits: HostLimits,
    /// Completed requests that the windows of the measured phase speak of.
    pub(crate) windows_completed: u64,
    /// What servers told of its requests.
    pub(crate) inside: Gather,
}

/// Everything that agents sent of one level. One at a time: what a level takes in memory grows with its requests.
pub(crate) fn tally(data: &RunData, level: u32, timeline: &Timeline, index: &Index) -> Tally {
    let mut tally = Tally { slo: data.header.plan.slo.clone(), ..Tally::default() };
    for (of, node) in agents(data) {
        for batch in node.each_batch_of(level) {
            let records = batch.records.iter().filter(|record| record.level == level);
            for record in records {
                tally.record(of, record, timeline);
                let is_measured = record.phase == Phase::Measured as i32 && !record.is_control();
                let counts = is_measured && record::outcome(record) == Outcome::Completed;
                tally.inside.add(index, timeline, of, record, counts);
            }
            let windows = batch.windows.iter().filter(|window| window.level == level);
            windows.for_each(|window| tally.window(window));
            let samples = batch.in_flight.iter().filter(|sample| sample.level == level);
            samples.for_each(|sample| tally.gauge(of, sample, timeline));
        }
    }
    tally
}

/// Agents in the order of joining.
pub(crate) fn agents(data: &RunData) -> Vec<(Incarnation, &Node)> {
    of_kind(data, v1::NodeKind::Agent)
}

/// Nodes of a kind in the order of joining.
pub(crate) fn of_kind(data: &RunData, kind: v1::NodeKind) -> Vec<(Incarnation, &Node)> {
    let all = data.nodes.iter().map(|(&of, node)| (of, node));
    let mut nodes: Vec<_> = all.filter(|(_, node)| node.hello.node_kind == kind as i32).collect();
    nodes.sort_by_key(|(of, node)| (node.index, *of));
    nodes
}

impl Tally {
    fn record(&mut self, of: Incarnation, record: &v1::RequestRecord, timeline: &Timeline) {
        let outcome = record::outcome(record);
        let measured = record.phase == Phase::Measured as i32;
        count(self.by_agent.entry(of).or_default(), outcome);
        let issued = record.issued_raw_ns.unwrap_or(record.intended_raw_ns);
        self.issued_raw_ns.entry(of).or_default().push(issued);
        if measured {
            count(&mut self.measured, outcome);
            self.retried += u64::from(record.attempt > 0);
            self.controls += u64::from(record.is_control());
            self.measured_record(record, outcome);
        }
        self.host_limit(record);
        self.connect(record, outcome);
        self.outside.dropped_traces += u64::from(record.arrivals_dropped);
        self.outside.bad_traces += u64::from(arrivals::decode(&record.arrivals).any(|a| a.is_err()));
        // What the client held up itself says nothing of the server.
        let slo = self.slo.as_ref().filter(|_| !record.is_control());
        let kept = slo.and_then(|slo| keeps(slo, record, outcome));
        if slo.is_some() && measured {
            self.kept.count(kept);
        }
        match point(of, record, outcome, measured, timeline) {
            Some((mut point, bound_ns)) => {
                point.good = kept == Some(true);
                if measured && !record.is_control() {
                    self.lives.add(record, outcome, point.intended_ns, kept);
                }
                self.points.push(point);
                self.bounds_ns.push(bound_ns);
            }
            None => self.outside.unaligned += 1,
        }
    }

    fn connect(&mut self, record: &v1::RequestRecord, outcome: Outcome) {
        let is_fresh = !record.reused_connection && record.phase != Phase::Unspecified as i32;
        let took = || record.connected_raw_ns?.checked_sub(record.issued_raw_ns?).filter(|ns| *ns > 0);
        let took = Some(()).filter(|()| is_fresh && outcome == Outcome::Completed).and_then(|()| took());
        self.quickest_connect_ns = took.into_iter().chain(self.quickest_connect_ns).min();
    }

    /// What the system says of a connection that it could not give: these numbers are Linux's, and agents run on nothing
    /// else.
    fn host_limit(&mut self, record: &v1::RequestRecord) {
        if !["client_limit", "resolve"].contains(&record.error_kind.as_str()) {
            return;
        }
        let says = |number: u32| record.error_detail.contains(&format!("(os error {number})"));
        self.host_limits.descriptors += u64::from(says(ENFILE) || says(EMFILE));
        self.host_limits.ports += u64::from(says(EADDRNOTAVAIL));
    }

    /// Streams that waited for a connection, averaged over a window.
    pub(crate) fn connecting(&self, window: Window) -> f64 {
        let inside =
            |p: &Point| window.overlap_ns(p.issued_ns, p.issued_ns.saturating_add(p.connecting_ns)) as f64;
        self.points.iter().map(inside).sum::<f64>() / 1e9 / window.seconds()
    }

    fn measured_record(&mut self, record: &v1::RequestRecord, outcome: Outcome) {
        if outcome == Outcome::Failed {
            *self.error_kinds.entry(record.error_kind.clone()).or_default() += 1;
            let words = || [record.error_kind.as_str(), &record.error_detail].join(": ");
            self.sample_error.get_or_insert_with(words);
        }
        if outcome != Outcome::Completed {
            return;
        }
        if record.is_control() {
            self.controls_completed += 1;
        } else {
            self.exact(record);
        }
        self.input_tokens = self.input_tokens.saturating_add(record.prompt_tokens.unwrap_or(0));
        self.output_tokens = self.output_tokens.saturating_add(record.output_tokens.unwrap_or(0));
        self.outside.without_tokens += u64::from(record.output_tokens.is_none());
        let proxy = record.output_tokens.is_some() && record.token_source != TokenSource::Usage as i32;
        self.outside.proxy_tokens += u64::from(proxy);
    }

    fn exact(&mut self, record: &v1::RequestRecord) {
        let exact = &mut self.latencies;
        record::e2e_ns(record).into_iter().for_each(|ns| exact.e2e.add_exact(ns, 1));
        record::ttft_ns(record).into_iter().for_each(|ns| exact.ttft.add_exact(ns, 1));
        record::tpot_ns(record).into_iter().for_each(|ns| exact.tpot.add_exact(ns, 1));
        if let Some((ns, gaps)) = record::gaps(record) {
            exact.itl.add_exact(ns, gaps);
        }
    }

    fn window(&mut self, window: &v1::Window) {
        if window.phase != Phase::Measured as i32 {
            return;
        }
        self.windows_completed = self.windows_completed.saturating_add(window.completed);
        let into = &mut self.latencies;
        let parts = [
            (&mut into.ttft, &window.ttft),
            (&mut into.itl, &window.itl),
            (&mut into.tpot, &window.tpot),
            (&mut into.e2e, &window.e2e),
        ];
        let bad = parts.into_iter().filter_map(|(metric, wire)| add(metric, wire.as_ref()?).err()).count();
        self.outside.bad_windows += u64::from(bad > 0);
    }

    fn gauge(&mut self, of: Incarnation, sample: &v1::InFlightSample, timeline: &Timeline) {
        if let Some(placed) = timeline.place(of, sample.raw_ns) {
            self.gauges.entry(of).or_default().push((placed.ns, sample.in_flight));
        }
    }
}

fn add(metric: &mut Metric, wire: &v1::Histogram) -> Result<(), tailcliff_proto::histogram::DecodeError> {
    // A histogram of nothing may come without bytes.
    if wire.v2.is_empty() && wire.out_of_range == 0 {
        return Ok(());
    }
    metric.histogram.add(&LatencyHistogram::try_from(wire)?);
    Ok(())
}

fn count(counts: &mut Counts, outcome: Outcome) {
    match outcome {
        Outcome::Completed => counts.completed += 1,
        Outcome::Failed => counts.failed += 1,
        Outcome::Incomplete | Outcome::Unspecified => counts.incomplete += 1,
    }
}

fn point(
    of: Incarnation,
    record: &v1::RequestRecord,
    outcome: Outcome,
    measured: bool,
    timeline: &Timeline,
) -> Option<(Point, i64)> {
    let intended = timeline.place(of, record.intended_raw_ns)?;
    let done = timeline.place(of, record.done_raw_ns)?;
    let issued = record.issued_raw_ns.map_or(Some(intended), |raw| timeline.place(of, raw))?;
    let from = record.issued_raw_ns.unwrap_or(record.intended_raw_ns);
    let never = if outcome == Outcome::Completed { from } else { record.done_raw_ns };
    let token = |raw: Option<i64>| Some(timeline.place(of, raw?)?.ns);
    let answer = token(record.first_token_raw_ns).zip(token(record.last_token_raw_ns));
    let connected = record.connected_raw_ns.unwrap_or(never);
    let point = Point {
        intended_ns: intended.ns,
        issued_ns: issued.ns,
        connecting_ns: connected.saturating_sub(from).max(0),
        done_ns: done.ns,
        answer,
        outcome,
        measured,
        first: record.attempt == 0 && record.turn.unwrap_or(0) == 0,
        input_tokens: record.prompt_tokens.unwrap_or(0),
        output_tokens: record.output_tokens.unwrap_or(0),
        good: false,
    };
    Some((point, intended.bound_ns.max(done.bound_ns)))
}
