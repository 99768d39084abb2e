//! The readings that take milliseconds, each at its own rate, for a thread that may be late.

use std::sync::Arc;

use nvml_wrapper::Nvml;
use tailcliff_proto::v1;

use super::answers::{Answers, Loss};
use super::buffers::{Buffer, Steps};
use super::fields::{energy, is_empty, levels, stamped};
use super::gpm::Counters;
use super::presence::{Handle, refusal};
use super::xid::Xids;
use super::{Cards, Found, Presence};

/// What is read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Energy,
    /// Memory, memory clock, temperature.
    Levels,
    PowerSamples,
    UtilSamples,
    Gpm,
    Xids,
    /// Cards that were lost.
    Lost,
}

/// Reads cards thoroughly.
#[derive(Debug)]
pub(crate) struct Deep<'n> {
    nvml: &'n Nvml,
    cards: Vec<Card<'n>>,
    presence: Arc<Presence>,
    steps: Steps,
}

#[derive(Debug)]
struct Card<'n> {
    handle: Handle<'n>,
    /// Power; utilisation, memory utilisation.
    buffers: [Buffer; 3],
    counters: Counters<'n>,
    xids: Xids<'n>,
}

impl Group {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Energy => "the energy counter",
            Self::Levels => "memory and temperature",
            Self::PowerSamples => "the driver's power samples",
            Self::UtilSamples => "the driver's utilisation samples",
            Self::Gpm => "GPM",
            Self::Xids => "XID errors",
            Self::Lost => "lost GPUs",
        }
    }
}

impl<'n> Deep<'n> {
    /// With what is refused from the start, said as sensor reports.
    pub(crate) fn new(cards: &'n Cards, found: &mut Found) -> Self {
        for (gpu, answers) in &cards.known {
            let refused = answers.refused_signals().into_iter();
            found.batch.sensors.extend(refused.map(|(signal, why)| refusal(*gpu, signal, why)));
        }
        let card = |(gpu, answers): &(u32, Answers)| Card {
            handle: Handle::new(*gpu, answers.clone()),
            buffers: Buffer::all(),
            counters: Counters::default(),
            xids: Xids::default(),
        };
        let all = cards.known.iter().map(card).collect();
        Self { nvml: &cards.nvml, cards: all, presence: cards.presence.clone(), steps: Steps::default() }
    }

    /// One reading of a group, of every card.
    pub(crate) fn read(&mut self, group: Group, found: &mut Found) {
        for card in &mut self.cards {
            card.read(self.nvml, &self.presence, &mut self.steps, group, found);
        }
    }
}

impl<'n> Card<'n> {
    fn read(
        &mut self,
        nvml: &'n Nvml,
        presence: &Presence,
        steps: &mut Steps,
        group: Group,
        found: &mut Found,
    ) {
        let gpu = self.handle.gpu;
        let Self { handle, buffers, counters, xids } = self;
        match group {
            Group::Energy => sampled(handle, nvml, presence, found, energy),
            Group::Levels => sampled(handle, nvml, presence, found, levels),
            Group::PowerSamples => buffered(handle, nvml, presence, found, (&mut buffers[..1], steps)),
            Group::UtilSamples => buffered(handle, nvml, presence, found, (&mut buffers[1..], steps)),
            Group::Gpm => handle.read(nvml, presence, found, |device, answers, found| {
                found.batch.gpm_samples.extend(counters.read(nvml, gpu, device, answers)?);
                Ok(())
            }),
            Group::Xids => handle.read(nvml, presence, found, |device, answers, found| {
                for event in xids.read(nvml, gpu, device, answers)? {
                    found.troubles.push(format!("GPU {gpu}: XID {}: {}", event.code, event.text));
                    found.batch.gpu_events.push(event);
                }
                Ok(())
            }),
            Group::Lost => {
                let before = found.batch.gpu_events.len();
                presence.try_again(nvml, gpu, found);
                if found.batch.gpu_events.len() > before {
                    // Nothing from before a loss can be compared with what comes after it.
                    *counters = Counters::default();
                    *xids = Xids::default();
                }
            }
        }
    }
}

/// A sample of its own, with the stamp of its own call.
fn sampled<'n>(
    handle: &mut Handle<'n>,
    nvml: &'n Nvml,
    presence: &Presence,
    found: &mut Found,
    read: impl Fn(&nvml_wrapper::Device<'_>, &mut Answers, &mut v1::GpuSample) -> Result<(), Loss>,
) {
    let gpu = handle.gpu;
    handle.read(nvml, presence, found, |device, answers, found| {
        let sample = stamped(gpu, |sample| read(device, answers, sample))?;
        if !is_empty(&sample) {
            found.batch.gpu_samples.push(sample);
        }
        Ok(())
    });
}

fn buffered<'n>(
    handle: &mut Handle<'n>,
    nvml: &'n Nvml,
    presence: &Presence,
    found: &mut Found,
    (buffers, steps): (&mut [Buffer], &mut Steps),
) {
    let gpu = handle.gpu;
    handle.read(nvml, presence, found, |device, answers, found| {
        for buffer in buffers {
            found.batch.driver_samples.extend(buffer.read(gpu, device, answers, steps)?);
            found.troubles.extend(steps.news.take());
        }
        Ok(())
    });
}
