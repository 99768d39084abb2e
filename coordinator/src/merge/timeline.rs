//! Every node's stamps on the coordinator's clock, each with the bound of its conversion.

use tailcliff_proto::v1::NodeKind;

use crate::clock::{Aligned, Channel, Checked, Domains, Track, resolve};
use crate::stored::{Incarnation, RunData};

use super::tally::of_kind;

/// How far a GPU sample and a token stamp may be apart from the truth: the widest pair of an agent and a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// Both median bounds together, ns; 0 when one clock stamps both.
    pub median_ns: i64,
    /// Both worst bounds together, ns.
    pub worst_ns: i64,
    /// What the fits to two halves of the exchanges differ by, both together, ns; blind to asymmetry.
    pub repeatable_ns: Option<i64>,
}

/// The clock domains of a run's nodes.
#[derive(Debug, Default)]
pub struct Timeline {
    domains: Domains,
}

impl Timeline {
    /// Resolves every node's domain.
    pub fn of(data: &RunData) -> Self {
        Self { domains: resolve(data) }
    }

    /// A raw stamp of a node on the coordinator's clock; `None` when it cannot be told.
    pub fn place(&self, of: Incarnation, raw: i64) -> Option<Aligned> {
        self.track(of)?.to_ref(raw)
    }

    /// The track of one node.
    pub fn track(&self, of: Incarnation) -> Option<&Track> {
        self.domains.track(of)
    }

    /// Number of the clock that a node reads, from 0: equal for nodes that read the same one.
    pub fn domain(&self, of: Incarnation) -> Option<usize> {
        self.domains.number(of)
    }

    /// Over all agents and all probes that sent samples; `None` without such a pair, or when one of it is unaligned.
    pub fn gpu_to_token(&self, data: &RunData) -> Option<Alignment> {
        let mut probes = of_kind(data, NodeKind::GpuProbe);
        probes.retain(|(_, node)| node.each_batch_with_samples().next().is_some());
        let mut widest: Option<Alignment> = None;
        for (agent, _) in of_kind(data, NodeKind::Agent) {
            for &(probe, _) in &probes {
                let pair = self.pair(agent, probe)?;
                widest = Some(widest.filter(|w| w.worst_ns >= pair.worst_ns).unwrap_or(pair));
            }
        }
        widest
    }

    fn pair(&self, a: Incarnation, b: Incarnation) -> Option<Alignment> {
        let (median_ns, worst_ns) = self.domains.pair_bound_ns(a, b)?;
        let repeatable = |of| self.track(of).and_then(Track::repeatability_ns);
        let repeatable_ns = match worst_ns {
            0 => Some(0),
            _ => repeatable(a).zip(repeatable(b)).map(|(a, b)| a.saturating_add(b)),
        };
        Some(Alignment { median_ns, worst_ns, repeatable_ns })
    }

    /// What was sent before it came: does the timeline agree? What has no place on it is left out.
    pub fn causality(&self, data: &RunData) -> Checked {
        let mut checked = Checked::default();
        for (&of, node) in &data.nodes {
            let mut up = |channel, sent, received| {
                self.place(of, sent)
                    .into_iter()
                    .for_each(|cause| checked.add(channel, cause, exact(received)));
            };
            node.batch_stamps.iter().for_each(|&(sent, received)| up(Channel::Batch, sent, received));
            node.beats.iter().for_each(|b| up(Channel::BeatUp, b.sent_raw_ns, b.received_ref_ns));
            for (sent, read) in node.beats.iter().filter_map(|beat| beat.heard) {
                let effect = self.place(of, read);
                effect.into_iter().for_each(|effect| checked.add(Channel::BeatDown, exact(sent), effect));
            }
        }
        for (&of, started) in data.levels.iter().flat_map(|log| &log.started) {
            if let (Some(sent), Some(at)) = (started.order_sent_ref_ns, self.place(of, started.actual_raw_ns))
            {
                checked.add(Channel::Start, exact(sent), at);
            }
            let said = started.said_raw_ns.and_then(|said| self.place(of, said));
            if let (Some(said), Some(received)) = (said, started.received_ref_ns) {
                checked.add(Channel::Started, said, exact(received));
            }
        }
        checked
    }
}

/// A stamp of the coordinator's own clock.
fn exact(ns: i64) -> Aligned {
    Aligned { ns, bound_ns: 0 }
}
