//! Flags of deliberate faults of the client, whose truth is known.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::Span;
use crate::plan::ControlPlan;

/// On each flag: one of a struct would go on to the flags after it.
const HEADING: &str = "Controls: faults of our own, to hold verdicts on stalls against";
/// One request in so many is paused.
const EVERY: u32 = 20;

/// What a client does to itself.
#[derive(Clone, Debug, Default, Args, Deserialize, Serialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct ControlArgs {
    /// Pause the client between the send of some requests and its first look at their replies: the baseline of a stall that
    /// is no server's. They are in no latency figure [default when bare: 724ms].
    #[arg(long, help_heading = HEADING, num_args = 0..=1, default_missing_value = "724ms", value_name = "TIME")]
    pub control_pause: Option<Span>,
    /// One request in so many of each stream, or of an open loop's arrivals, is paused [default: 20].
    #[arg(long, help_heading = HEADING, value_name = "N")]
    pub control_every: Option<u32>,
    /// Block one event loop of each agent once, in the middle of each level's measured window: a --duration is needed
    /// [default when bare: 500ms].
    #[arg(long, help_heading = HEADING, num_args = 0..=1, default_missing_value = "500ms", value_name = "TIME")]
    pub control_block: Option<Span>,
}

impl ControlArgs {
    /// These flags, with what they leave open taken from `file`.
    #[must_use]
    pub fn over(self, file: Self) -> Self {
        Self {
            control_pause: self.control_pause.or(file.control_pause),
            control_every: self.control_every.or(file.control_every),
            control_block: self.control_block.or(file.control_block),
        }
    }

    /// What they say, unchecked; `None` when they say nothing.
    pub fn plan(&self) -> Option<ControlPlan> {
        let ns = |span: Option<Span>| span.map(|Span(ns)| ns);
        let is_given =
            self.control_pause.is_some() || self.control_block.is_some() || self.control_every.is_some();
        is_given.then(|| ControlPlan {
            pause_ns: ns(self.control_pause),
            every: self.control_every.unwrap_or(EVERY),
            block_ns: ns(self.control_block),
        })
    }
}
