//! Power of all GPUs that probes see, over the windows of a load.

use std::collections::BTreeMap;

use tailcliff_proto::v1::NodeKind;

use crate::merge::tally::of_kind;
use crate::merge::timeline::Timeline;
use crate::merge::window::Window;
use crate::stored::RunData;

/// Readings must span so much of a window for their mean to speak of it.
const COVERED: f64 = 0.8;

/// Mean over a window, all GPUs together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Power {
    /// W.
    pub watts: f64,
    /// GPUs in it.
    pub gpus: usize,
    /// Any of them is the stand-in of the tests.
    pub simulated: bool,
}

#[derive(Default)]
struct Card {
    /// (coordinator's clock, W): instant power, and the driver's average.
    instant: Vec<(i64, f64)>,
    average: Vec<(i64, f64)>,
    simulated: bool,
}

/// `None` where a GPU's power was not read through the window: what is missing is not 0 W.
pub(super) fn mean(data: &RunData, timeline: &Timeline, window: Window) -> Option<Power> {
    let mut cards: BTreeMap<(String, String), Card> = BTreeMap::new();
    for (of, node) in of_kind(data, NodeKind::GpuProbe) {
        let host = node.hello.host.as_ref().map_or("", |host| host.hostname.as_str());
        // A probe that was started again sees the same cards.
        let names: BTreeMap<u32, (String, String)> = node
            .hello
            .gpus
            .iter()
            .map(|gpu| {
                let own =
                    if gpu.uuid.is_empty() { format!("{of:x}/{}", gpu.index) } else { gpu.uuid.clone() };
                (gpu.index, (host.to_owned(), own))
            })
            .collect();
        for gpu in &node.hello.gpus {
            if let Some(name) = names.get(&gpu.index) {
                cards.entry(name.clone()).or_default().simulated |= gpu.simulated;
            }
        }
        for batch in node.each_batch_with_samples() {
            for sample in &batch.gpu_samples {
                let at = timeline.place(of, sample.raw_ns).map(|at| at.ns).filter(|at| window.holds(*at));
                let card = names.get(&sample.gpu).and_then(|name| cards.get_mut(name));
                if let Some((at, card)) = at.zip(card) {
                    let watts = |mw: Option<u32>| mw.map(|mw| (at, f64::from(mw) / 1e3));
                    card.instant.extend(watts(sample.power_instant_mw));
                    card.average.extend(watts(sample.power_average_mw));
                }
            }
        }
    }
    let each: Option<Vec<f64>> = cards.values_mut().map(|card| card.watts(window)).collect();
    let simulated = cards.values().any(|card| card.simulated);
    let each = each.filter(|each| !each.is_empty())?;
    Some(Power { watts: each.iter().sum(), gpus: each.len(), simulated })
}

impl Card {
    fn watts(&mut self, window: Window) -> Option<f64> {
        over_time(&mut self.instant, window).or_else(|| over_time(&mut self.average, window))
    }
}

/// Mean over the time that readings span, each pair by a straight line.
fn over_time(readings: &mut [(i64, f64)], window: Window) -> Option<f64> {
    readings.sort_by_key(|(at, _)| *at);
    let (first, last) = (readings.first()?.0, readings.last()?.0);
    let span = (last - first) as f64;
    if span <= 0.0 || span / 1e9 < COVERED * window.seconds() {
        return None;
    }
    let joined =
        readings.windows(2).map(|pair| (pair[1].0 - pair[0].0) as f64 * (pair[0].1 + pair[1].1) / 2.0);
    Some(joined.sum::<f64>() / span)
}
