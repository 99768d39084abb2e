//! A level's window cut into equal blocks, each with the values of its own requests: what error bars by resampling are
//! made of. Requests of one block are like one another (a queue, a batch, a cache that fills); blocks are drawn whole, so
//! that this likeness is in the bars (block bootstrap: Künsch 1989).

use tailcliff_proto::arrivals;
use tailcliff_proto::v1::{Outcome, RequestRecord};

use crate::axis::Load;
use crate::merge::record;
use crate::merge::tally::Point;
use crate::merge::window::{self, Window};

/// Blocks of a window: enough to resample, each still long against a request in any level worth judging.
pub const BLOCKS: usize = 20;
/// Gaps between chunks kept of a level; beyond, those of every second request are left out, again and again.
const GAPS_MAX: usize = 100_000;

/// One part of a level's window. Values are ns, each of a completed request that was intended in the block; a latency is
/// absent where the request has none, so the vectors differ in length.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block {
    /// Length, s.
    pub seconds: f64,
    /// Completed requests, each by its share in the block (closed loop) or where it ended (open loop).
    pub completed: f64,
    /// Output tokens of them.
    pub output_tokens: f64,
    /// Requests intended in it, whatever became of them.
    pub arrived: u64,
    /// Requests intended in it that completed.
    pub intended: u64,
    /// Requests intended in it that failed.
    pub failed: u64,
    /// Completed ones that kept every limit of the plan's SLO; 0 without one.
    pub good: u64,
    /// Those that failed or broke a limit; 0 without an SLO.
    pub bad: u64,
    /// Good requests, credited as `completed` is.
    pub good_credit: f64,
    /// Intended send → first token.
    pub ttft_ns: Vec<i64>,
    /// Per token after the first.
    pub tpot_ns: Vec<i64>,
    /// Intended send → end.
    pub e2e_ns: Vec<i64>,
    /// Gaps between chunks, of one request in so many that a level keeps no more than a bounded number of them.
    pub itl_ns: Vec<i64>,
}

impl Block {
    /// The values of a metric of the cliff's rule; E2E for a name that is none of ours.
    pub fn values(&self, metric: &str) -> &[i64] {
        match metric {
            "ttft" => &self.ttft_ns,
            "itl" => &self.itl_ns,
            "tpot" => &self.tpot_ns,
            _ => &self.e2e_ns,
        }
    }
}

/// What blocks need of one request of the measured phase, on the coordinator's clock.
#[derive(Clone, Copy, Debug)]
struct Life {
    intended_ns: i64,
    outcome: Outcome,
    ttft_ns: Option<i64>,
    tpot_ns: Option<i64>,
    e2e_ns: Option<i64>,
    kept: Option<bool>,
}

/// The requests of a level, as they come in.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    all: Vec<Life>,
    /// Gaps of some of them, each by its place in `all`.
    gaps: Vec<(u32, i64)>,
    /// Those of every how-manieth are kept, as a power of two.
    thinned: u32,
}

impl Lives {
    /// Adds a request of the measured phase that was not paused on purpose, and what the SLO says of it.
    pub(crate) fn add(
        &mut self,
        record: &RequestRecord,
        outcome: Outcome,
        intended_ns: i64,
        kept: Option<bool>,
    ) {
        let done = outcome == Outcome::Completed;
        let of = |value: Option<i64>| value.filter(|_| done);
        let place = self.all.len() as u32;
        self.all.push(Life {
            intended_ns,
            outcome,
            ttft_ns: of(record::ttft_ns(record)),
            tpot_ns: of(record::tpot_ns(record)),
            e2e_ns: of(record::e2e_ns(record)),
            kept,
        });
        if !done || place & self.mask() != 0 {
            return;
        }
        // The first arrival counts from the intended send: it is no gap between two chunks.
        let gaps = arrivals::decode(&record.arrivals).map_while(Result::ok).skip(1);
        self.gaps.extend(gaps.map(|gap| (place, i64::try_from(gap.gap_ns).unwrap_or(i64::MAX))));
        while self.gaps.len() > GAPS_MAX && self.thinned < 20 {
            self.thinned += 1;
            let mask = self.mask();
            self.gaps.retain(|(place, _)| place & mask == 0);
        }
    }

    fn mask(&self) -> u32 {
        (1 << self.thinned) - 1
    }

    /// Cuts them, and the work of all `points`, into the blocks of a window.
    pub(crate) fn blocks(&self, window: Window, load: Load, points: &[Point]) -> Vec<Block> {
        let parts = window.parts::<BLOCKS>();
        let credit = window::credits(&parts, load, points);
        let empty = |(part, [completed, output_tokens, good_credit]): (&Window, [f64; 3])| Block {
            seconds: part.seconds(),
            completed,
            output_tokens,
            good_credit,
            ..Block::default()
        };
        let mut blocks: Vec<Block> = parts.iter().zip(credit).map(empty).collect();
        for life in &self.all {
            if let Some(block) = index(window, life.intended_ns).and_then(|i| blocks.get_mut(i)) {
                block.add(life);
            }
        }
        for &(place, ns) in &self.gaps {
            let at = self.all.get(place as usize).and_then(|life| index(window, life.intended_ns));
            if let Some(block) = at.and_then(|i| blocks.get_mut(i)) {
                block.itl_ns.push(ns);
            }
        }
        blocks
    }
}

/// The blocks of a window over records whose clock is the window's own, as those of simulated requests are.
pub fn of_records(records: &[RequestRecord], window: Window, load: Load) -> Vec<Block> {
    let mut lives = Lives::default();
    let mut points = Vec::with_capacity(records.len());
    for record in records {
        let outcome = record::outcome(record);
        points.push(Point::of_one_clock(record, outcome));
        lives.add(record, outcome, record.intended_raw_ns, None);
    }
    lives.blocks(window, load, &points)
}

impl Block {
    fn add(&mut self, life: &Life) {
        self.arrived += 1;
        match life.outcome {
            Outcome::Completed => self.intended += 1,
            Outcome::Failed => self.failed += 1,
            Outcome::Incomplete | Outcome::Unspecified => {}
        }
        self.good += u64::from(life.kept == Some(true));
        self.bad += u64::from(life.kept == Some(false));
        self.ttft_ns.extend(life.ttft_ns);
        self.tpot_ns.extend(life.tpot_ns);
        self.e2e_ns.extend(life.e2e_ns);
    }
}

/// Which block of a window a moment lies in.
fn index(window: Window, at_ns: i64) -> Option<usize> {
    if !window.holds(at_ns) {
        return None;
    }
    let (into, length) = (i128::from(at_ns - window.start_ns), i128::from(window.end_ns - window.start_ns));
    usize::try_from(into * BLOCKS as i128 / length).ok()
}
