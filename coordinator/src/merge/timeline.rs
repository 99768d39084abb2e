//! Every node's stamps on the coordinator's clock, each with the bound of its conversion.

use tailcliff_proto::v1::NodeKind;

use crate::clock::{Aligned, Causality, Domains, Track, resolve};
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

    /// Batches left their node before they arrived here: does the timeline agree?
    pub fn causality(&self, data: &RunData) -> Causality {
        let mut causality = Causality::default();
        for (&of, node) in &data.nodes {
            for &(sent, received) in &node.batch_stamps {
                if let Some(cause) = self.place(of, sent) {
                    causality.add(cause, Aligned { ns: received, bound_ns: 0 });
                }
            }
        }
        causality
    }
}
