//! What the server's GPUs did over the window of each level, on average.

use std::collections::{BTreeMap, BTreeSet};

use tailcliff_proto::throttle::{SLOWING, names};
use tailcliff_proto::v1::{self, NodeKind};

use crate::levels::Level;
use crate::merge::tally::of_kind;
use crate::merge::timeline::Timeline;
use crate::stall::Stalls;
use crate::stored::{Incarnation, RunData};

/// Means over a level's window. Of GPUs that are known to move with the load where there are such, else of all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LevelGpu {
    /// Of all of them together, W.
    pub power_w: Option<f64>,
    /// Their limits together, W; `None` where no probe told.
    pub power_limit_w: Option<f64>,
    /// The driver's utilisation, %, averaged over GPUs.
    pub util_pct: Option<f64>,
    /// SM clock, MHz, averaged over GPUs.
    pub sm_clock_mhz: Option<f64>,
    /// Share of the samples with a reason that holds clocks down.
    pub throttled_share: Option<f64>,
    /// Such reasons, of any sample.
    pub throttle_reasons: Vec<&'static str>,
    /// At least one is the stand-in of the tests.
    pub simulated: bool,
}

/// Sum and number.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    fn add(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            self.sum += value;
            self.count += 1;
        }
    }

    fn get(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

#[derive(Debug, Default)]
struct Card {
    instant: Mean,
    average: Mean,
    util: Mean,
    clock: Mean,
    throttled: Mean,
    reasons: u64,
    simulated: bool,
}

impl Card {
    fn add(&mut self, sample: &v1::GpuSample) {
        let watts = |mw: Option<u32>| mw.map(|mw| f64::from(mw) / 1e3);
        self.instant.add(watts(sample.power_instant_mw));
        self.average.add(watts(sample.power_average_mw));
        self.util.add(sample.gpu_util_pct.map(f64::from));
        self.clock.add(sample.sm_clock_mhz.map(f64::from));
        let holding = sample.throttle_reasons.map(|bits| bits & SLOWING);
        self.throttled.add(holding.map(|bits| f64::from(u8::from(bits != 0))));
        self.reasons |= holding.unwrap_or(0);
    }

    fn power(&self) -> Option<f64> {
        self.instant.get().or(self.average.get())
    }
}

type Key = (Incarnation, u32);

/// Of each level; `None` without a sample in its window.
pub(super) fn of_levels(
    data: &RunData,
    timeline: &Timeline,
    levels: &[Level],
    stalls: &Stalls,
) -> Vec<Option<LevelGpu>> {
    let mut cards: Vec<BTreeMap<Key, Card>> = levels.iter().map(|_| BTreeMap::new()).collect();
    for (of, node) in of_kind(data, NodeKind::GpuProbe) {
        let simulated = |gpu: u32| node.hello.gpus.iter().any(|facts| facts.index == gpu && facts.simulated);
        for batch in node.each_batch_with_samples() {
            for sample in &batch.gpu_samples {
                let Some(at) = timeline.place(of, sample.raw_ns) else { continue };
                let held = |level: &Level| level.throughput.is_some_and(|t| t.window.holds(at.ns));
                for (cards, _) in cards.iter_mut().zip(levels).filter(|(_, level)| held(level)) {
                    let card = cards.entry((of, sample.gpu)).or_default();
                    card.simulated = simulated(sample.gpu);
                    card.add(sample);
                }
            }
        }
    }
    let movers = movers(data, stalls);
    cards.into_iter().map(|cards| together(cards, &movers)).collect()
}

/// GPUs that answer to the load: one that never does is not the server's.
fn movers(data: &RunData, stalls: &Stalls) -> BTreeSet<Key> {
    let moving = stalls.gpus.iter().filter(|gpu| !gpu.bands.is_empty());
    let nodes = of_kind(data, NodeKind::GpuProbe);
    let keys = moving.flat_map(|gpu| {
        let named = nodes.iter().filter(|(_, node)| node.hello.name == gpu.probe);
        named.map(|(of, _)| (*of, gpu.gpu)).collect::<Vec<_>>()
    });
    keys.collect()
}

fn together(cards: BTreeMap<Key, Card>, movers: &BTreeSet<Key>) -> Option<LevelGpu> {
    let any = cards.keys().any(|key| movers.contains(key));
    let all: Vec<Card> =
        cards.into_iter().filter(|(key, _)| !any || movers.contains(key)).map(|(_, card)| card).collect();
    if all.is_empty() {
        return None;
    }
    let mean = |part: fn(&Card) -> Mean| {
        let mut mean = Mean::default();
        all.iter().for_each(|card| mean.add(part(card).get()));
        mean.get()
    };
    Some(LevelGpu {
        // One GPU whose power is not known leaves the sum unknown.
        power_w: all.iter().map(Card::power).sum(),
        power_limit_w: None,
        util_pct: mean(|card| card.util),
        sm_clock_mhz: mean(|card| card.clock),
        throttled_share: mean(|card| card.throttled),
        throttle_reasons: names(all.iter().fold(0, |bits, card| bits | card.reasons)),
        simulated: all.iter().any(|card| card.simulated),
    })
}
