//! What was seen of one level, as far as it tells causes apart; what nobody measured is `None`.

use tailcliff_proto::v1::{self, NodeKind};

use crate::axis::Load;
use crate::certificate::Verdict;
use crate::inside::{How, LevelInside, Part, PartFigures, ServerLevel};
use crate::levels::Level;
use crate::merge::tally::of_kind;
use crate::merge::timeline::Timeline;
use crate::merge::window::Window;
use crate::stall::{self, Kind, Stalls};
use crate::stored::RunData;

use super::gpu::LevelGpu;
use super::stalls_are_known;

/// Chunks of one read lie closer than this, ns.
const ONE_READ_NS: i64 = 20_000;
/// Fewer gaps say nothing of how many come at once.
const GAPS_MIN: usize = 50;

/// What the server tells of itself over a level.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerSeen {
    /// Share of the KV cache in use, mean.
    pub kv_used: Option<f64>,
    /// Answers put out of the batch in the window.
    pub preemptions: Option<f64>,
    /// Requests that waited, mean.
    pub waiting: Option<f64>,
    /// From the server's emission of a token to its arrival at the client, mean, ns …
    pub delivery_ns: Option<f64>,
    /// … and how far that may be off: it lies between two clocks.
    pub delivery_bound_ns: Option<f64>,
}

/// Fewer scrapes in a window say nothing of its mean.
const SCRAPES_MIN: u64 = 3;

impl ServerSeen {
    /// Of a merged level; `None` where its server told nothing that a diagnosis asks for.
    pub(super) fn of(level: &Level) -> Option<Self> {
        let told = level
            .server
            .as_ref()
            .filter(|server| server.scrapes - server.failed.min(server.scrapes) >= SCRAPES_MIN);
        let inside = level.inside.as_ref();
        // Without a bound nothing says how far apart the two clocks are.
        let bound = inside.and_then(|inside| inside.bound_ns);
        let delivery_ns = inside.filter(|_| bound.is_some()).and_then(delivery_ns);
        let seen = Self {
            kv_used: told.and_then(|server| server.kv_usage).map(|(mean, _)| mean),
            preemptions: told.and_then(|server| in_window(level, server)),
            waiting: told.and_then(|server| server.waiting).map(|(mean, _)| mean),
            delivery_ns,
            delivery_bound_ns: bound.filter(|_| delivery_ns.is_some()).map(|ns| ns as f64),
        };
        (seen != Self::default()).then_some(seen)
    }
}

/// The total is of a longer time, from scrape to scrape: the share of it that the window is.
fn in_window(level: &Level, server: &ServerLevel) -> Option<f64> {
    let seconds = level.throughput?.window.seconds();
    let counted = server.counted_ns.filter(|ns| *ns > 0)? as f64 / 1e9;
    Some(server.preemptions? * (seconds / counted).min(1.0))
}

/// Of the first token, or of the last bytes, whichever took longer: a full link lets the first pass at times and holds up what
/// follows. What a reply's durations leave over is inferred from the client's own stamps, and no word of the server's.
fn delivery_ns(inside: &LevelInside) -> Option<f64> {
    let is_told = |part: &&PartFigures| part.part == Part::NetworkDown && part.how == How::BetweenClocks;
    let down = inside.parts.iter().find(is_told).map(|part| part.mean_ns);
    inside.delivery_ns.into_iter().chain(down).reduce(f64::max)
}

/// One level. Times are ns and means over its completed requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// What it asked for.
    pub load: Load,
    /// Of an open loop: requests per second that arrived.
    pub offered: Option<f64>,
    /// It is void.
    pub is_void: bool,
    /// Why it is the client's and not the server's, if so.
    pub client: Option<String>,
    /// Completed requests.
    pub completed: u64,
    /// Completed requests per second.
    pub throughput: Option<f64>,
    /// What the rule of the cliff judges.
    pub judged_ns: Option<u64>,
    /// Time to first token.
    pub ttft_ns: Option<f64>,
    /// Time per token after it.
    pub tpot_ns: Option<f64>,
    /// The whole.
    pub e2e_ns: Option<f64>,
    /// Share of the answers that paused in mid-stream while others went on.
    pub paused: Option<f64>,
    /// Share of the chunks that came in one read with the chunk before.
    pub together: Option<f64>,
    /// Answers under way at once, from first to last token: the mean over the window …
    pub at_once: Option<f64>,
    /// … and the number that is exceeded in a hundredth of the time.
    pub most_at_once: Option<f64>,
    /// The GPUs.
    pub gpu: Option<LevelGpu>,
    /// Bytes per second out of the host of a probe.
    pub nic_bytes_per_s: Option<f64>,
    /// The server's own signals.
    pub server: Option<ServerSeen>,
}

impl Seen {
    /// It is part of knee and cliff.
    pub fn counts(&self) -> bool {
        !self.is_void && self.client.is_none() && self.completed > 0 && !self.load.is_at_once()
    }
}

pub(super) fn of(data: &RunData, timeline: &Timeline, level: &Level, stalls: &Stalls) -> Seen {
    let window = level.throughput.map(|t| t.window);
    let verdict = level.certificate.verdict;
    let at_once = level.answers_at_once;
    Seen {
        load: level.load,
        offered: level.rates.map(|rates| rates.offered),
        is_void: verdict == Verdict::Void,
        client: (verdict == Verdict::ClientBound).then(|| level.certificate.reasons.join("; ")),
        completed: level.measured.completed,
        throughput: level.throughput.map(|t| t.requests.per_s),
        judged_ns: level
            .latencies
            .judged(&data.header.plan.cliff.metric)
            .percentile_ns(data.header.plan.cliff.percentile),
        ttft_ns: level.latencies.ttft.mean_ns(),
        tpot_ns: level.latencies.tpot.mean_ns(),
        e2e_ns: level.latencies.e2e.mean_ns(),
        paused: paused(level, stalls),
        together: together(level),
        at_once: at_once.map(|(mean, _)| mean),
        most_at_once: at_once.map(|(_, most)| most),
        gpu: level.gpu.clone(),
        nic_bytes_per_s: window.and_then(|window| nic(data, timeline, window)),
        server: ServerSeen::of(level),
    }
}

/// Of the answers, those that stood still in mid-stream while others were served: nothing that slows all does that.
fn paused(level: &Level, stalls: &Stalls) -> Option<f64> {
    let completed = level.measured.completed;
    if !stalls_are_known(stalls) || completed == 0 {
        return None;
    }
    let is_alone = |s: &&stall::Stall| {
        let all = s.evidence.others.all();
        s.gap.kind == Kind::Gap && s.judgement.verdict == stall::Verdict::Waiting && all.went_on > 0
    };
    let mine =
        stalls.all.iter().filter(|s| s.gap.level == level.drive.level && !s.gap.unended).filter(is_alone);
    let mut who: Vec<_> = mine.map(|s| (s.gap.of, s.gap.stream, s.gap.request)).collect();
    who.sort_unstable();
    who.dedup();
    Some((who.len() as f64 / completed as f64).min(1.0))
}

fn together(level: &Level) -> Option<f64> {
    let gaps = || level.blocks.iter().flat_map(|block| &block.itl_ns);
    let count = gaps().count();
    (count >= GAPS_MIN).then(|| gaps().filter(|ns| **ns <= ONE_READ_NS).count() as f64 / count as f64)
}

/// Of the probe whose host sent most: between its first and last sample in the window.
fn nic(data: &RunData, timeline: &Timeline, window: Window) -> Option<f64> {
    let of_probe = |(of, node): (u64, &crate::stored::Node)| {
        let mut span: Option<[(i64, u64); 2]> = None;
        for batch in node.each_batch_with_host_samples() {
            let told = |s: &v1::HostSample| Some((timeline.place(of, s.raw_ns)?.ns, s.net_tx_bytes?));
            for sample in batch.host_samples.iter().filter_map(told).filter(|(at, _)| window.holds(*at)) {
                span = Some(span.map_or([sample; 2], |[a, b]| [a.min(sample), b.max(sample)]));
            }
        }
        let [from, to] = span?;
        let bytes = to.1.checked_sub(from.1)?;
        (to.0 > from.0).then(|| bytes as f64 / ((to.0 - from.0) as f64 / 1e9))
    };
    of_kind(data, NodeKind::GpuProbe).into_iter().filter_map(of_probe).max_by(f64::total_cmp)
}
