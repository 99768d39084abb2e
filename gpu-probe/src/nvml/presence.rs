//! Which cards are there: both readers find out, each may be the first, and one of them tries again.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nvml_wrapper::Nvml;
use nvml_wrapper::device::Device;
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1;

use super::answers::{Answers, Loss, News};
use super::found::Found;

/// One flag a card, by index.
#[derive(Debug)]
pub(crate) struct Presence {
    lost: Vec<AtomicBool>,
}

/// A reader's own handle of a card, and what that answered to this reader.
#[derive(Debug)]
pub(crate) struct Handle<'n> {
    pub(crate) gpu: u32,
    pub(crate) answers: Answers,
    device: Option<Device<'n>>,
}

impl Presence {
    pub(crate) fn new(lost: impl Iterator<Item = bool>) -> Self {
        Self { lost: lost.map(AtomicBool::new).collect() }
    }

    fn is_lost(&self, gpu: u32) -> bool {
        self.lost.get(gpu as usize).is_none_or(|lost| lost.load(Relaxed))
    }

    /// Whoever finds it first says so.
    fn lose(&self, gpu: u32, loss: &Loss, found: &mut Found) {
        if self.lost.get(gpu as usize).is_some_and(|lost| !lost.swap(true, Relaxed)) {
            found.troubles.push(format!("GPU {gpu} gives no more samples: {loss}; it is tried again"));
            found.batch.gpu_events.push(event(gpu, "lost", loss.code, loss.to_string()));
        }
    }

    /// Tries a lost card again.
    pub(crate) fn try_again(&self, nvml: &Nvml, gpu: u32, found: &mut Found) {
        if !self.is_lost(gpu) {
            return;
        }
        // A handle alone proves nothing.
        let answers = nvml.device_by_index(gpu).and_then(|device| device.uuid());
        let answers = answers.is_ok_and(|uuid| !uuid.is_empty());
        if answers && let Some(lost) = self.lost.get(gpu as usize) {
            lost.store(false, Relaxed);
            found.troubles.push(format!("GPU {gpu} answers again"));
            found.batch.gpu_events.push(event(gpu, "back", 0, String::new()));
        }
    }
}

impl<'n> Handle<'n> {
    pub(crate) fn new(gpu: u32, answers: Answers) -> Self {
        Self { gpu, answers, device: None }
    }

    /// Reads the card, if it is there; says it when it is lost by that, and what it refused.
    pub(crate) fn read(
        &mut self,
        nvml: &'n Nvml,
        presence: &Presence,
        found: &mut Found,
        read: impl FnOnce(&Device<'n>, &mut Answers, &mut Found) -> Result<(), Loss>,
    ) {
        if presence.is_lost(self.gpu) {
            self.device = None;
            return;
        }
        let done = match &self.device {
            Some(device) => read(device, &mut self.answers, found),
            None => match nvml.device_by_index(self.gpu) {
                Ok(device) => read(self.device.insert(device), &mut self.answers, found),
                Err(error) => Err(Loss::whatever(&error)),
            },
        };
        if let Err(loss) = done {
            self.device = None;
            presence.lose(self.gpu, &loss, found);
        }
        for News { text, refused } in self.answers.news() {
            found.troubles.push(format!("GPU {}: {text}", self.gpu));
            found.batch.sensors.extend(refused.map(|(signal, why)| refusal(self.gpu, signal, why)));
        }
    }
}

fn event(gpu: u32, kind: &str, code: u64, text: String) -> v1::GpuEvent {
    v1::GpuEvent { raw_ns: HostClock.now(), gpu, kind: kind.to_owned(), code, text }
}

/// What stands in for the sensor report of a signal that is not read.
pub(crate) fn refusal(gpu: u32, signal: v1::Signal, why: &str) -> v1::SensorReport {
    let now = HostClock.now();
    v1::SensorReport {
        gpu,
        signal: signal as i32,
        refused: why.to_owned(),
        from_raw_ns: now,
        to_raw_ns: now,
        ..Default::default()
    }
}
