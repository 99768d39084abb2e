//! Every node's stamps on the coordinator's clock, each with the bound of its conversion.

use std::collections::BTreeMap;

use crate::clock::{Aligned, Causality, Track, resolve};
use crate::stored::{Incarnation, RunData};

/// The tracks of a run's nodes.
#[derive(Debug, Default)]
pub struct Timeline {
    tracks: BTreeMap<Incarnation, Track>,
}

impl Timeline {
    /// Resolves every node's track.
    pub fn of(data: &RunData) -> Self {
        Self { tracks: resolve(data) }
    }

    /// A raw stamp of a node on the coordinator's clock; `None` when it cannot be told.
    pub fn place(&self, of: Incarnation, raw: i64) -> Option<Aligned> {
        self.tracks.get(&of)?.to_ref(raw)
    }

    /// The track of one node.
    pub fn track(&self, of: Incarnation) -> Option<&Track> {
        self.tracks.get(&of)
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
