//! What is compared: each figure as a function of a level's blocks.

use crate::blocks::Block;
use crate::knee::duration;
use crate::merge::interval;

use super::bootstrap::{Draws, Pool};

/// How a figure comes from blocks.
#[derive(Clone, Copy, Debug)]
enum Figure {
    /// A percentile of the values of this name, ns.
    Percentile(&'static str, f64),
    /// Something per second.
    Rate(fn(&Block) -> f64),
    /// A part of a whole.
    Share(fn(&Block) -> (f64, f64)),
}

/// One of the figures that are compared.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// As `--metric` has it.
    pub name: &'static str,
    /// A rise is good news.
    pub higher_is_better: bool,
    figure: Figure,
}

const fn tail(name: &'static str, of: &'static str, percent: f64) -> Metric {
    Metric { name, higher_is_better: false, figure: Figure::Percentile(of, percent) }
}

const fn rate(name: &'static str, of: fn(&Block) -> f64) -> Metric {
    Metric { name, higher_is_better: true, figure: Figure::Rate(of) }
}

/// All of them, in the order shown.
pub const METRICS: [Metric; 17] = [
    tail("p50_ttft", "ttft", 50.0),
    tail("p95_ttft", "ttft", 95.0),
    tail("p99_ttft", "ttft", 99.0),
    tail("p50_tpot", "tpot", 50.0),
    tail("p95_tpot", "tpot", 95.0),
    tail("p99_tpot", "tpot", 99.0),
    tail("p50_itl", "itl", 50.0),
    tail("p95_itl", "itl", 95.0),
    tail("p99_itl", "itl", 99.0),
    tail("p50_e2e", "e2e", 50.0),
    tail("p95_e2e", "e2e", 95.0),
    tail("p99_e2e", "e2e", 99.0),
    rate("throughput", |b| b.completed),
    rate("output_throughput", |b| b.output_tokens),
    rate("goodput", |b| b.good_credit),
    Metric {
        name: "slo_share",
        higher_is_better: true,
        figure: Figure::Share(|b| (b.good as f64, (b.good + b.bad) as f64)),
    },
    Metric {
        name: "error_rate",
        higher_is_better: false,
        figure: Figure::Share(|b| (b.failed as f64, (b.intended + b.failed) as f64)),
    },
];

/// Those that decide unless told otherwise.
pub const DEFAULT_GATES: [&str; 4] = ["p95_ttft", "p95_e2e", "throughput", "error_rate"];

/// A figure over blocks, each counted so many times.
type Statistic<'a> = dyn Fn(&[u32]) -> Option<f64> + 'a;

/// Fewer requests than two a block say nothing of their share.
const MIN_REQUESTS: f64 = 40.0;

impl Metric {
    /// It is a part of a whole: compared by difference, not by ratio.
    pub fn is_share(&self) -> bool {
        matches!(self.figure, Figure::Share(_))
    }

    /// It needs an SLO.
    pub fn needs_slo(&self) -> bool {
        ["goodput", "slo_share"].contains(&self.name)
    }

    /// A value of it for people.
    pub fn words(&self, value: f64) -> String {
        match self.figure {
            Figure::Percentile(..) => duration(value.max(0.0) as u64),
            Figure::Rate(_) if value < 9.995 => format!("{value:.2}/s"),
            Figure::Rate(_) if value < 99.95 => format!("{value:.1}/s"),
            Figure::Rate(_) => format!("{value:.0}/s"),
            Figure::Share(_) => format!("{:.2} %", value * 100.0),
        }
    }

    /// Unit of its value in JSON.
    pub fn unit(&self) -> &'static str {
        match self.figure {
            Figure::Percentile(..) => "ms",
            Figure::Rate(_) => "per s",
            Figure::Share(_) => "share",
        }
    }

    /// What JSON has it in: a latency in ms, all else as it is.
    pub fn scaled(&self, value: f64) -> f64 {
        if matches!(self.figure, Figure::Percentile(..)) { value / 1e6 } else { value }
    }

    /// Its value over all blocks, and over each of the draws; `None` when there is too little to judge it by.
    pub(super) fn estimate(&self, blocks: &[Block], draws: &Draws) -> Option<(f64, Vec<f64>)> {
        let once = vec![1; blocks.len()];
        let of: Box<Statistic<'_>> = match self.figure {
            Figure::Percentile(name, percent) => {
                let values: Vec<&[i64]> = blocks.iter().map(|b| b.values(name)).collect();
                let n = values.iter().map(|v| v.len() as u64).sum();
                // Where the order statistics cannot hold the percentile, no resampling can.
                interval::ranks(n, percent / 100.0)?;
                let pool = Pool::of(&values);
                Box::new(move |weights| pool.quantile(percent / 100.0, weights))
            }
            Figure::Rate(of) => {
                let parts: Vec<_> = blocks.iter().map(|b| (of(b), b.seconds)).collect();
                Box::new(move |weights| quotient(&parts, weights))
            }
            Figure::Share(of) => {
                let parts: Vec<_> = blocks.iter().map(of).collect();
                if parts.iter().map(|(_, whole)| whole).sum::<f64>() < MIN_REQUESTS {
                    return None;
                }
                Box::new(move |weights| quotient(&parts, weights))
            }
        };
        Some((of(&once)?, draws.all().filter_map(of).collect()))
    }
    /// Of a percentile: how many values of each block lie above one, and how many there are.
    pub(super) fn above(&self, value: f64, blocks: &[Block]) -> Option<Vec<(f64, f64)>> {
        let Figure::Percentile(name, _) = self.figure else { return None };
        let of = |b: &Block| {
            let values = b.values(name);
            (values.iter().filter(|v| **v as f64 > value).count() as f64, values.len() as f64)
        };
        Some(blocks.iter().map(of).collect())
    }

    /// What each block adds to the figure's being higher or lower than `value`, in a unit of its own.
    pub(super) fn parts(&self, value: f64, blocks: &[Block]) -> Vec<f64> {
        let of = |b: &Block| match self.figure {
            Figure::Percentile(name, percent) => {
                let values = b.values(name);
                let above = values.iter().filter(|v| **v as f64 > value).count() as f64;
                above - (1.0 - percent / 100.0) * values.len() as f64
            }
            Figure::Rate(of) => of(b) - value * b.seconds,
            Figure::Share(of) => {
                let (part, whole) = of(b);
                part - value * whole
            }
        };
        blocks.iter().map(of).collect()
    }
}

fn quotient(parts: &[(f64, f64)], weights: &[u32]) -> Option<f64> {
    let sum = |pick: fn(&(f64, f64)) -> f64| -> f64 {
        parts.iter().zip(weights).map(|(part, &w)| pick(part) * f64::from(w)).sum()
    };
    let (part, whole) = (sum(|p| p.0), sum(|p| p.1));
    (whole > 0.0).then(|| part / whole)
}
