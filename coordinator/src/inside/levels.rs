//! The waterfall of a level: every part over its completed requests of the measured phase.

use std::collections::{BTreeMap, BTreeSet};

use tailcliff_proto::v1::RequestRecord;

use super::figures::{How, LevelInside, Part, PartFigures, Source};
use super::index::Index;
use super::join::{Join, how, join};
use super::told::Told;
use crate::merge::timeline::Timeline;
use crate::stored::Incarnation;

/// Requests of one level, gathered one by one: about 140 bytes for each that is joined.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    /// Of requests of any phase and outcome: spans and lines that told of them, and words on one beyond the first.
    pub(crate) matched: Matched,
    completed: u64,
    joined: u64,
    unplaced: u64,
    impossible: u64,
    parts: [Values; Part::ALL.len()],
    front_ns: Vec<i64>,
    /// Sum of the server's own parts, ns.
    server_ns: f64,
    bounds_ns: Vec<i64>,
    delivery: (u64, f64),
    sources: BTreeMap<Source, u64>,
    servers: BTreeMap<usize, u64>,
}

/// What servers told of this run's own requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Matched {
    pub(crate) spans: u64,
    pub(crate) told_twice: u64,
}

impl Matched {
    fn add(&mut self, told: &Told) {
        self.spans += u64::from(told.spans);
        self.told_twice += u64::from(told.times > 1);
    }
}

impl std::iter::Sum for Matched {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| Self {
            spans: a.spans + b.spans,
            told_twice: a.told_twice + b.told_twice,
        })
    }
}

#[derive(Debug, Default)]
struct Values {
    ns: Vec<i64>,
    impossible: u64,
    ways: BTreeSet<u8>,
}

/// The server's own parts.
const OF_SERVER: [Part; 5] = [Part::FrontIn, Part::Queue, Part::Prefill, Part::Decode, Part::FrontOut];

impl Gather {
    /// Takes a record in; `counts` when it is a completed one of the measured phase.
    pub(crate) fn add(
        &mut self,
        index: &Index,
        timeline: &Timeline,
        of: Incarnation,
        record: &RequestRecord,
        counts: bool,
    ) {
        index.find(record).into_iter().for_each(|told| self.matched.add(told));
        if !counts {
            return;
        }
        self.completed += 1;
        let Some(join) = join(index, timeline, of, record) else { return };
        self.joined += 1;
        self.take(&join);
    }

    fn take(&mut self, join: &Join) {
        *self.sources.entry(join.source).or_default() += 1;
        join.server.into_iter().for_each(|server| *self.servers.entry(server).or_default() += 1);
        self.unplaced += u64::from(join.unplaced);
        self.impossible += u64::from(join.impossible != 0);
        for (i, part) in Part::ALL.into_iter().enumerate() {
            let Some(ns) = join.parts[i] else { continue };
            let values = &mut self.parts[i];
            values.ns.push(ns);
            values.impossible += u64::from(join.impossible >> i & 1);
            values.ways.insert(how(join.source, part) as u8);
            self.server_ns += if OF_SERVER.contains(&part) { ns as f64 } else { 0.0 };
        }
        self.front_ns.extend(join.front_ns());
        self.bounds_ns.extend(join.bound_ns);
        if let Some(ns) = join.delivery_ns {
            self.delivery = (self.delivery.0 + 1, self.delivery.1 + ns as f64);
        }
    }

    /// What it comes to; `None` when no server told of any of these requests, and none was expected to.
    pub(crate) fn figures(mut self, index: &Index) -> Option<LevelInside> {
        if self.joined == 0 && index.is_empty() {
            return None;
        }
        self.bounds_ns.sort_unstable();
        let front_ns = mean(&self.front_ns);
        let in_front = self.front_ns.iter().map(|ns| *ns as f64).sum::<f64>();
        let servers = self.servers.iter().map(|(server, n)| (index.server_name(*server).to_owned(), *n));
        let parts = Part::ALL.into_iter().zip(&mut self.parts);
        Some(LevelInside {
            joined: self.joined,
            unmatched: self.completed - self.joined,
            sources: self.sources.iter().map(|(source, n)| (*source, *n)).collect(),
            servers: servers.collect(),
            parts: parts.filter_map(|(part, values)| figures(part, values)).collect(),
            front_ns,
            front_p95_ns: p95(&mut self.front_ns),
            front_share: front_ns.filter(|_| self.server_ns > 0.0).map(|_| in_front / self.server_ns),
            impossible: self.impossible,
            unplaced: self.unplaced,
            bound_ns: self.bounds_ns.get(self.bounds_ns.len() / 2).copied(),
            worst_bound_ns: self.bounds_ns.last().copied(),
            delivery_ns: (self.delivery.0 > 0).then(|| self.delivery.1 / self.delivery.0 as f64),
        })
    }
}

fn figures(part: Part, values: &mut Values) -> Option<PartFigures> {
    let mean_ns = mean(&values.ns)?;
    let p95_ns = p95(&mut values.ns)?;
    // Of several sources the least that can be said of it.
    let ways = [How::Inferred, How::BetweenClocks, How::Measured];
    let how = ways.into_iter().find(|how| values.ways.contains(&(*how as u8)))?;
    Some(PartFigures {
        part,
        count: values.ns.len() as u64,
        mean_ns,
        p95_ns,
        impossible: values.impossible,
        how,
    })
}

fn mean(values: &[i64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().map(|ns| *ns as f64).sum::<f64>() / values.len() as f64)
}

/// Nearest rank.
fn p95(values: &mut [i64]) -> Option<i64> {
    let rank = (values.len() * 95).div_ceil(100).checked_sub(1)?;
    Some(*values.select_nth_unstable(rank).1)
}
