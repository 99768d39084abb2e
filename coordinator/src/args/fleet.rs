//! Flags on who takes part, and what happens when one of them is lost.

use std::path::PathBuf;

use clap::Args;

use super::Span;
use crate::plan::FleetRule;

/// On each flag: one of a struct would go on to the flags after it.
const HEADING: &str = "Agents that come, go and are lost";

/// What holds for a fleet wherever it is.
#[derive(Clone, Debug, Default, Args)]
pub struct FleetRuleArgs {
    /// Agents at most: those beyond --agents may join while the run goes on, and drive from the next level on [default:
    /// --agents].
    #[arg(long, help_heading = HEADING, value_name = "N")]
    pub max_agents: Option<u32>,
    /// When an agent is lost in a level: rerun drives the level again over those who are there, keep goes on with the rest
    /// and marks the level [default: rerun].
    #[arg(long, help_heading = HEADING, value_name = "WHAT", value_parser = ["rerun", "keep"])]
    pub on_lost_agent: Option<String>,
    /// Times that a level is tried [default: 3].
    #[arg(long, help_heading = HEADING, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub level_attempts: Option<u32>,
    /// How long another agent is waited for in place of one that was lost [default: 15s; on Kubernetes
    /// 180s, in which a pod is replaced].
    #[arg(long, help_heading = HEADING, value_name = "TIME")]
    pub rejoin_wait: Option<Span>,
}

/// Who takes part in a run of `tailcliff coordinate`.
#[derive(Clone, Debug, Default, Args)]
pub struct FleetArgs {
    /// Of agents that come late or are lost.
    #[command(flatten)]
    pub rules: FleetRuleArgs,
    /// Go on with the run in this directory, whose coordinator ended: with its flags, at its address.
    #[arg(long, help_heading = HEADING, value_name = "RUN_DIR")]
    pub resume: Option<PathBuf>,
    /// Go on with the run in --output-dir if there is one, begin one if not: for a supervisor that starts us again.
    #[arg(long, help_heading = HEADING, requires = "output_dir")]
    pub resume_if_present: bool,
}

impl FleetArgs {
    /// These flags, with what they leave open taken from `before`.
    #[must_use]
    pub fn over(self, before: Self) -> Self {
        Self {
            rules: self.rules.over(before.rules),
            resume: self.resume,
            resume_if_present: self.resume_if_present,
        }
    }
}

impl FleetRuleArgs {
    fn over(self, before: Self) -> Self {
        Self {
            max_agents: self.max_agents.or(before.max_agents),
            on_lost_agent: self.on_lost_agent.or(before.on_lost_agent),
            level_attempts: self.level_attempts.or(before.level_attempts),
            rejoin_wait: self.rejoin_wait.or(before.rejoin_wait),
        }
    }

    /// Fewer at most than from the beginning make no fleet.
    pub fn fits(&self, agents: u32) -> bool {
        self.max_agents.is_none_or(|most| most >= agents)
    }

    /// What they say.
    pub fn rule(&self) -> FleetRule {
        let usual = FleetRule::default();
        FleetRule {
            max_agents: self.max_agents,
            keep_rest: self.on_lost_agent.as_deref() == Some("keep"),
            attempts: self.level_attempts.unwrap_or(usual.attempts),
            rejoin_wait_ns: self.rejoin_wait.as_ref().map_or(usual.rejoin_wait_ns, |span| span.0),
        }
    }
}
