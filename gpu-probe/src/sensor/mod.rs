//! What each signal of each GPU can show, found from what was read of it: how often it changes, and what time its values are
//! averages over. Pure: no clock and no I/O; the time is that of the newest reading.

mod bar;
mod changes;
mod gpu;
mod notes;
mod reference;
mod stamped;
pub mod table;
pub mod trace;
mod window;

use std::collections::{BTreeMap, VecDeque};

use tailcliff_proto::v1::{self, Signal};

use gpu::Gpu;
pub use notes::name;
use window::Search;

/// GPUs that are watched at most.
const MOST_GPUS: usize = 64;
/// The first review comes after this; each later one after twice the time, up to the longest, ns.
const FIRST_REVIEW_NS: i64 = 5_000_000_000;
const LONGEST_REVIEW_NS: i64 = 80_000_000_000;
/// Signals that are looked at in one call, so that sampling does not wait.
const REVIEWS_A_CALL: usize = 8;
/// Steps of a search in one call, each well under a ms.
const STEPS_A_CALL: usize = 4;
/// Searches of one review: the last call does them at once, at about 15 ms each.
const MOST_SEARCHES: usize = 24;

/// Watches everything that is read.
#[derive(Debug, Default)]
pub struct Watch {
    gpus: BTreeMap<u32, Gpu>,
    now_ns: i64,
    /// When the next review is due, and how long after it the one after that.
    review: Option<(i64, i64)>,
    to_review: VecDeque<(u32, Signal)>,
    to_search: VecDeque<(u32, Signal)>,
    searching: Option<(u32, Signal, Box<Search>)>,
}

impl Watch {
    /// Takes in what was read.
    pub fn see(&mut self, batch: &v1::Batch) {
        for sample in &batch.gpu_samples {
            self.now_ns = self.now_ns.max(sample.raw_ns);
            if let Some(gpu) = self.gpu(sample.gpu) {
                gpu.poll(sample);
            }
        }
        for samples in &batch.driver_samples {
            if let Some(gpu) = self.gpu(samples.gpu) {
                gpu.stamped(samples);
            }
        }
        for sample in &batch.gpm_samples {
            if let Some(gpu) = self.gpu(sample.gpu) {
                gpu.gpm.see(sample);
            }
        }
    }

    fn gpu(&mut self, index: u32) -> Option<&mut Gpu> {
        if self.gpus.len() >= MOST_GPUS && !self.gpus.contains_key(&index) {
            return None;
        }
        Some(self.gpus.entry(index).or_default())
    }

    /// Takes in a batch and puts what is newly known of the sensors into it.
    pub fn add_to(&mut self, batch: &mut v1::Batch, last: bool) {
        self.see(batch);
        batch.sensors.extend(self.reports(last));
    }

    /// What is known now and was not said, or was said otherwise. Does a bounded part of the work that is due, a few ms at
    /// most; all of it, and says everything, when this is the `last` call.
    pub fn reports(&mut self, last: bool) -> Vec<v1::SensorReport> {
        self.schedule(last);
        let mut said = Vec::new();
        let most = if last { usize::MAX } else { REVIEWS_A_CALL };
        self.search(last);
        for _ in 0..most {
            let Some((index, signal)) = self.to_review.pop_front() else { break };
            let Some(gpu) = self.gpus.get_mut(&index) else { continue };
            let Some(report) = gpu.report(index, signal).filter(|report| last || gpu.is_news(report)) else {
                continue;
            };
            gpu.said.insert(signal, report.clone());
            said.push(report);
        }
        said
    }

    fn schedule(&mut self, last: bool) {
        let (due, step) =
            *self.review.get_or_insert((self.now_ns.saturating_add(FIRST_REVIEW_NS), FIRST_REVIEW_NS));
        if !last && (self.now_ns < due || !self.to_review.is_empty() || !self.to_search.is_empty()) {
            return;
        }
        self.review = Some((self.now_ns.saturating_add(step), (2 * step).min(LONGEST_REVIEW_NS)));
        (self.to_review, self.to_search) = Default::default();
        let mut searches = Vec::new();
        for (index, gpu) in &self.gpus {
            self.to_review.extend(gpu.signals().map(|signal| (*index, signal)));
            searches.extend(gpu.unsettled().map(|signal| (signal, *index)));
        }
        // Instant power of every GPU first.
        searches.sort_unstable();
        self.to_search
            .extend(searches.into_iter().take(MOST_SEARCHES).map(|(signal, index)| (index, signal)));
    }

    /// Goes on with the search for a window; what one finds is reviewed next.
    fn search(&mut self, all: bool) {
        let steps = if all { usize::MAX } else { STEPS_A_CALL };
        for _ in 0..steps {
            if self.searching.is_none() {
                let Some((index, signal)) = self.to_search.pop_front() else { return };
                let search = self.gpus.get(&index).and_then(|gpu| gpu.search(signal));
                self.searching = search.map(|search| (index, signal, Box::new(search)));
            }
            if let Some((index, signal, search)) = &mut self.searching {
                let found = search.step();
                if let Some((found, gpu)) = found.zip(self.gpus.get_mut(index)) {
                    gpu.found(*signal, found);
                    if !self.to_review.contains(&(*index, *signal)) {
                        self.to_review.push_back((*index, *signal));
                    }
                    self.searching = None;
                }
            }
        }
    }
}
