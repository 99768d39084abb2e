//! The readings that take microseconds, of every card, for the thread that keeps to its deadlines.

use std::sync::Arc;

use nvml_wrapper::Nvml;

use super::fields::{Extent, is_empty, quick, stamped};
use super::presence::Handle;
use super::{Cards, Found, Presence};

/// Reads cards quickly.
#[derive(Debug)]
pub(crate) struct Quick<'n> {
    nvml: &'n Nvml,
    handles: Vec<Handle<'n>>,
    presence: Arc<Presence>,
}

impl<'n> Quick<'n> {
    pub(crate) fn new(cards: &'n Cards) -> Self {
        let handles = cards.known.iter().map(|(gpu, answers)| Handle::new(*gpu, answers.clone()));
        Self { nvml: &cards.nvml, handles: handles.collect(), presence: cards.presence.clone() }
    }

    /// One reading of every card that is there.
    pub(crate) fn read(&mut self, extent: Extent, found: &mut Found) {
        for handle in &mut self.handles {
            let gpu = handle.gpu;
            handle.read(self.nvml, &self.presence, found, |device, answers, found| {
                let sample = stamped(gpu, |sample| quick(device, answers, extent, sample))?;
                if !is_empty(&sample) {
                    found.batch.gpu_samples.push(sample);
                }
                Ok(())
            });
        }
    }
}
