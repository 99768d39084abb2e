//! What happened when, in equal bins over the run.

use serde_json::{Map, Value, json};
use tailcliff_proto::arrivals;
use tailcliff_proto::v1::{Outcome, RequestRecord};

use crate::merge::record;
use crate::report::text::number;
use crate::stored::RunData;

use super::life::Life;

/// Bins at most.
const BINS: i64 = 2_000;
/// Shorter bins than this show the scheduler's grain and no more.
const SHORTEST_NS: i64 = 10_000_000;
/// What a GPU did before the first level, ns.
const BEFORE_NS: i64 = 2_000_000_000;

/// Equal bins on the coordinator's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    started_ns: i64,
    pub(super) start_ns: i64,
    pub(super) width_ns: i64,
    pub(super) bins: usize,
}

impl Axis {
    /// From shortly before the first level to the last batch.
    pub(super) fn of(data: &RunData) -> Self {
        let started_ns = data.header.started_ref_ns;
        let first = data.levels.iter().map(|log| log.start_ref_ns).min().unwrap_or(started_ns);
        let start_ns = first.saturating_sub(BEFORE_NS).max(started_ns);
        let heard =
            data.nodes.values().flat_map(|node| node.batch_stamps.iter().map(|&(_, received)| received));
        let end_ns = heard.max().unwrap_or(start_ns).max(start_ns);
        let length = end_ns.saturating_sub(start_ns).max(1);
        let width_ns = rounded(length.div_euclid(BINS) + 1).max(SHORTEST_NS);
        let bins = length.div_euclid(width_ns) + 1;
        Self { started_ns, start_ns, width_ns, bins: usize::try_from(bins).unwrap_or(1) }
    }

    /// The bin that a moment falls in.
    pub(super) fn bin(&self, ns: i64) -> Option<usize> {
        let after = ns.checked_sub(self.start_ns).filter(|after| *after >= 0)?;
        usize::try_from(after / self.width_ns).ok().filter(|bin| *bin < self.bins)
    }

    /// Seconds since the run's start.
    pub(super) fn run_s(&self, ns: i64) -> f64 {
        ns.saturating_sub(self.started_ns) as f64 / 1e9
    }

    pub(super) fn start_s(&self) -> f64 {
        self.run_s(self.start_ns)
    }

    pub(super) fn width_s(&self) -> f64 {
        self.width_ns as f64 / 1e9
    }
}

/// 1, 2 or 5 times a power of ten, no less than `ns`.
fn rounded(ns: i64) -> i64 {
    let mut power = 1i64;
    loop {
        for step in [1, 2, 5] {
            if let Some(width) = power.checked_mul(step).filter(|width| *width >= ns) {
                return width;
            }
        }
        match power.checked_mul(10) {
            Some(next) => power = next,
            None => return i64::MAX,
        }
    }
}

/// How many of something there were at once, averaged over each bin: spans are added by their ends, so that a long one
/// costs no more than a short one.
#[derive(Debug)]
struct Level {
    axis: Axis,
    part_ns: Vec<i64>,
    whole: Vec<i64>,
}

impl Level {
    fn new(axis: Axis) -> Self {
        Self { axis, part_ns: vec![0; axis.bins], whole: vec![0; axis.bins + 1] }
    }

    fn add(&mut self, from_ns: i64, to_ns: i64) {
        let end_ns =
            self.axis.start_ns.saturating_add(self.axis.width_ns.saturating_mul(self.axis.bins as i64));
        let (from, to) = (from_ns.max(self.axis.start_ns), to_ns.min(end_ns - 1));
        let (Some(first), Some(last)) = (self.axis.bin(from), self.axis.bin(to)) else { return };
        if to <= from {
            return;
        }
        let start_of = |bin: usize| self.axis.start_ns + bin as i64 * self.axis.width_ns;
        if first == last {
            self.part_ns[first] += to - from;
            return;
        }
        self.part_ns[first] += start_of(first + 1) - from;
        self.part_ns[last] += to - start_of(last);
        self.whole[first + 1] += 1;
        self.whole[last] -= 1;
    }

    fn mean(&self) -> Vec<f64> {
        let mut whole = 0;
        let mean = |(part, step): (&i64, &i64)| {
            whole += step;
            whole as f64 + *part as f64 / self.axis.width_ns as f64
        };
        self.part_ns.iter().zip(&self.whole).map(mean).collect()
    }
}

/// What requests say.
#[derive(Debug)]
pub(super) struct Series {
    axis: Axis,
    in_flight: Level,
    waiting: Level,
    tokens: Vec<f64>,
    completed: Vec<u32>,
    failed: Vec<u32>,
    bound_ns: Vec<i64>,
    chunks_raw_ns: Vec<i64>,
    /// Requests that ended beyond the bins.
    pub(super) outside: u64,
}

impl Series {
    pub(super) fn new(axis: Axis) -> Self {
        Self {
            axis,
            in_flight: Level::new(axis),
            waiting: Level::new(axis),
            tokens: vec![0.0; axis.bins],
            completed: vec![0; axis.bins],
            failed: vec![0; axis.bins],
            bound_ns: vec![0; axis.bins],
            chunks_raw_ns: Vec::new(),
            outside: 0,
        }
    }

    pub(super) fn add(&mut self, life: &Life, record: &RequestRecord) {
        let issued = record.issued_raw_ns.map_or(life.intended_ns, |raw| life.at(raw));
        self.in_flight.add(issued, life.done_ns);
        if let Some(sent) = record.sent_raw_ns {
            let first = record.first_token_raw_ns.map_or(life.done_ns, |raw| life.at(raw));
            self.waiting.add(life.at(sent), first);
        }
        self.tokens(life, record);
        let Some(bin) = self.axis.bin(life.done_ns) else {
            self.outside += 1;
            return;
        };
        self.bound_ns[bin] = self.bound_ns[bin].max(life.bound_ns);
        match record::outcome(record) {
            Outcome::Completed => self.completed[bin] += 1,
            Outcome::Failed => self.failed[bin] += 1,
            Outcome::Incomplete | Outcome::Unspecified => {}
        }
    }

    /// Each chunk brings an equal part of the tokens when it comes; without arrivals all come at the last.
    fn tokens(&mut self, life: &Life, record: &RequestRecord) {
        let Some(tokens) = record.output_tokens.filter(|tokens| *tokens > 0) else { return };
        // The list is kept for the next request: one decoding, and no memory for each.
        let mut chunks = std::mem::take(&mut self.chunks_raw_ns);
        chunks.clear();
        let mut raw = record.intended_raw_ns;
        chunks.extend(arrivals::decode(&record.arrivals).map_while(Result::ok).map(|arrival| {
            raw = raw.saturating_add_unsigned(arrival.gap_ns);
            raw
        }));
        if chunks.is_empty() {
            chunks.push(record.last_token_raw_ns.unwrap_or(record.done_raw_ns));
        }
        let each = tokens as f64 / chunks.len() as f64;
        chunks.iter().for_each(|raw| self.put(life.at(*raw), each));
        self.chunks_raw_ns = chunks;
    }

    fn put(&mut self, at_ns: i64, tokens: f64) {
        if let Some(bin) = self.axis.bin(at_ns) {
            self.tokens[bin] += tokens;
        }
    }

    pub(super) fn json(&self) -> Value {
        let width_s = self.axis.width_s();
        let per_s = |count: f64| number(Some(count / width_s), 2);
        let all = |values: &[f64]| values.iter().map(|v| number(Some(*v), 2)).collect::<Vec<_>>();
        let counts = |values: &[u32]| values.iter().map(|n| per_s(f64::from(*n))).collect::<Vec<_>>();
        let bound = |ns: &i64| if *ns > 0 { number(Some(*ns as f64 / 1e3), 1) } else { Value::Null };
        let mut out = Map::new();
        out.insert("in_flight".to_owned(), json!(all(&self.in_flight.mean())));
        out.insert("waiting".to_owned(), json!(all(&self.waiting.mean())));
        out.insert("output_tokens_per_s".to_owned(), self.tokens.iter().map(|n| per_s(*n)).collect());
        out.insert("completed_per_s".to_owned(), json!(counts(&self.completed)));
        out.insert("failed_per_s".to_owned(), json!(counts(&self.failed)));
        out.insert("agent_bound_us".to_owned(), self.bound_ns.iter().map(bound).collect());
        Value::Object(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AXIS: Axis = Axis { started_ns: 0, start_ns: 1_000, width_ns: 100, bins: 5 };

    #[test]
    fn a_span_counts_by_its_share_of_each_bin() {
        let mut level = Level::new(AXIS);
        level.add(1_050, 1_310);
        level.add(1_120, 1_130);
        assert_eq!(level.mean(), [0.5, 1.1, 1.0, 0.1, 0.0]);
    }

    #[test]
    fn what_lies_beyond_the_axis_is_cut_and_no_more() {
        let mut level = Level::new(AXIS);
        level.add(i64::MIN, i64::MAX);
        level.add(1_200, 1_100);
        level.add(i64::MIN, 900);
        level.add(1_600, i64::MAX);
        let mean = level.mean();
        assert!(mean.iter().all(|n| (0.98..=1.0).contains(n)), "{mean:?}");
        assert_eq!(
            (AXIS.bin(999), AXIS.bin(1_000), AXIS.bin(1_499), AXIS.bin(1_500)),
            (None, Some(0), Some(4), None)
        );
    }

    #[test]
    fn widths_are_round() {
        assert_eq!([1, 3, 10, 11, 51].map(rounded), [1, 5, 10, 20, 100]);
        assert!(rounded(i64::MAX) == i64::MAX);
    }
}
