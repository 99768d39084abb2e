//! Why did it pause? Finds stalls in what arrived, and tells for each what the evidence says it was: the client read late,
//! the network held it back, the server waited, computed or was throttled; or that the evidence is too thin. Pure: the
//! same journal gives the same verdicts.
//!
//! Judged by exclusion (MISSION A4): first the client, then the way to it, then the server by what its other streams and its
//! GPU did at that moment.

mod burst;
mod client;
mod energy;
mod gaps;
mod gpu;
mod host;
mod judge;
mod others;
mod own;
mod preempted;
mod readings;
mod spans;

#[cfg(test)]
mod scene;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_own;

use tailcliff_proto::v1;

use crate::clock::Aligned;
use crate::inside::Told;
use crate::levels::Level;
use crate::merge::tally::agents;
use crate::merge::timeline::Timeline;
use crate::stored::{Incarnation, Node, RunData};

pub use burst::Burst;
pub use energy::Energy;
pub use gaps::{Gap, Kind};
pub use gpu::{Bands, GpuView, Mover, State};
pub use host::HostView;
pub use judge::{CONFIDENT, Judgement, Verdict};
pub use others::{Others, Progress};
pub use own::Own;
pub use preempted::Preempted;

use gpu::Gpus;

/// Stalls that are judged at most, the longest.
pub const MOST: usize = 10_000;

/// What counts as a stall.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// A gap is one from so many times the stream's own median gap on, …
    pub multiple: f64,
    /// … and from here on, ns.
    pub floor_ns: i64,
    /// A TTFT is one from so many times the median of its level on, and from the floor on.
    pub ttft_multiple: f64,
}

impl Default for Rule {
    fn default() -> Self {
        Self { multiple: 5.0, floor_ns: 200_000_000, ttft_multiple: 3.0 }
    }
}

/// What is known of a stall, each from another source.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Share of the gap in which this client is known not to have read: its event loop stood still, or it paused on
    /// purpose.
    pub unread_share: f64,
    /// It lasted to the end of the gap.
    pub unread_to_the_end: bool,
    /// How long the bytes that ended it had lain in the socket, ns; `None` where that is not known.
    pub socket_wait_ns: Option<i64>,
    /// Share of the gap that lies before the send.
    pub unsent_share: f64,
    /// How fast what followed it came.
    pub burst: Option<Burst>,
    /// What other requests of this server did meanwhile.
    pub others: Others,
    /// What the server's GPUs did; `None` without one that moves with the load, or without readings from that time.
    pub gpu: Option<GpuView>,
    /// What the server's host did; absent parts were not told.
    pub host: HostView,
    /// Why there is no GPU view, in words.
    pub gpu_absent: String,
    /// Whether the server's own record has it emit tokens in the gap; `None` where it keeps none.
    pub server_emitted: Option<bool>,
    /// The server's own record of this request; `None` where nothing came of it.
    pub own: Option<Own>,
    /// Answers that the server put out of its batch around it; `None` where no scrape saw any.
    pub preempted: Option<Preempted>,
}

/// One stall, judged.
#[derive(Clone, Debug)]
pub struct Stall {
    /// Where and when.
    pub gap: Gap,
    /// What is known of it.
    pub evidence: Evidence,
    /// What that means.
    pub judgement: Judgement,
    /// Energy of the GPUs that move with the load over it; `None` without a reading.
    pub energy: Option<Energy>,
    /// Number of the episode: stalls that overlap in time are one.
    pub episode: usize,
}

/// All stalls of a run.
#[derive(Clone, Debug, Default)]
pub struct Stalls {
    /// What counted as one.
    pub rule: Rule,
    /// In the order of time.
    pub all: Vec<Stall>,
    /// Beyond the most that are judged.
    pub unjudged: u64,
    /// Gaps of requests whose arrivals were left out or cannot be read: never looked at.
    pub without_trace: u64,
    /// GPUs, with what their idle and busy looked like.
    pub gpus: Vec<Mover>,
    /// What a reader must know, in words.
    pub warnings: Vec<String>,
}

/// What tells the server's side of a record.
pub(crate) type Asking<'a> = &'a dyn Fn(Incarnation, &v1::RequestRecord) -> Option<Told>;

/// Finds and judges them.
pub(crate) fn stalls(
    data: &RunData,
    timeline: &Timeline,
    levels: &[Level],
    rule: Rule,
    told: Asking<'_>,
) -> Stalls {
    let mut found = gaps::find(data, timeline, levels, rule, told);
    found.spans.close();
    let mut all = found.gaps;
    let unjudged = found.unjudged + keep_longest(&mut all);
    all.sort_by_key(|gap| (gap.from_ns, gap.of, gap.stream, gap.request));
    let others = others::others(data, timeline, &all);
    let unread = client::unread(data, &all);
    let gpus = Gpus::read(data, timeline, &all, &found.spans);
    let hosts = host::Hosts::read(data, timeline, &all);
    let rises = preempted::Rises::read(data, timeline);
    let episodes = episodes(&all);
    let judged = all.into_iter().zip(others).zip(unread).zip(episodes);
    let all: Vec<Stall> = judged
        .map(|(((gap, others), (unread_share, unread_to_the_end)), episode)| {
            let (gpu, gpu_absent) = match gpus.view(&gap) {
                Ok(view) => (Some(view), String::new()),
                Err(why) => (None, why),
            };
            let evidence = Evidence {
                unread_share,
                unread_to_the_end,
                socket_wait_ns: gap.socket_wait_ns,
                unsent_share: gap.unsent_share(),
                burst: gap.burst,
                others,
                host: hosts.view(&gap),
                gpu,
                gpu_absent,
                server_emitted: gap.own.as_ref().and_then(|own| own.emitted),
                own: gap.own.clone(),
                preempted: rises.view(&gap),
            };
            let judgement = judge::judge(&gap, &evidence);
            let energy = gpus.energy(&gap);
            Stall { gap, evidence, judgement, energy, episode }
        })
        .collect();
    let mut warnings = gpus.warnings(data, &found.spans);
    warnings.extend(gpus.too_many());
    if found.without_trace > 0 {
        let n = found.without_trace;
        warnings.push(format!("{n} requests have no readable arrivals: stalls in them are not known"));
    }
    Stalls { rule, all, unjudged, without_trace: found.without_trace, gpus: gpus.movers(), warnings }
}

fn keep_longest(gaps: &mut Vec<Gap>) -> u64 {
    let over = gaps.len().saturating_sub(MOST);
    if over > 0 {
        gaps.sort_by_key(|gap| (std::cmp::Reverse(gap.length_ns()), gap.of, gap.from_ns, gap.stream));
        gaps.truncate(MOST);
    }
    over as u64
}

/// Stalls are sorted by their beginning; one that begins before all those of its episode have ended belongs to it.
fn episodes(gaps: &[Gap]) -> Vec<usize> {
    let (mut end, mut episode) = (i64::MIN, 0);
    let number = |gap: &Gap| {
        if gap.from_ns >= end && end != i64::MIN {
            episode += 1;
        }
        end = end.max(gap.to_ns);
        episode
    };
    gaps.iter().map(number).collect()
}

/// What a probe said of each signal last, by GPU and signal.
pub fn sensors(node: &Node) -> Vec<v1::SensorReport> {
    let mut last = std::collections::BTreeMap::new();
    for batch in node.each_batch_with_evidence() {
        for report in &batch.sensors {
            last.insert((report.gpu, report.signal), report.clone());
        }
    }
    last.into_values().collect()
}

/// Stamps beyond this are nobody's clock, ns: sums of a few that are within it do not overflow.
const FARTHEST_NS: i64 = 1 << 59;

/// A stamp or a length that can be reckoned with.
fn is_sane(ns: i64) -> bool {
    (-FARTHEST_NS..=FARTHEST_NS).contains(&ns)
}

/// A raw stamp on the coordinator's clock, when both are sane.
fn place(timeline: &Timeline, of: u64, raw: i64) -> Option<Aligned> {
    let at = timeline.place(of, raw).filter(|_| is_sane(raw))?;
    (is_sane(at.ns) && (0..=FARTHEST_NS).contains(&at.bound_ns)).then_some(at)
}

/// Agents' names by incarnation.
fn name(data: &RunData, of: u64) -> String {
    data.nodes.get(&of).map_or_else(|| format!("{of:x}"), |node| node.hello.name.clone())
}

/// Every record of every agent.
fn each_record(data: &RunData, mut take: impl FnMut(u64, &v1::RequestRecord)) {
    for (of, node) in agents(data) {
        for batch in node.each_batch() {
            batch.records.iter().for_each(|record| take(of, record));
        }
    }
}
