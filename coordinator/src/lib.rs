//! The command a person types: plans, schedules, corrects clocks, merges, judges, reports.

pub mod clock;
pub mod journal;
pub mod load;
pub mod pinger;
pub mod plan;
pub mod run;
pub mod split;
pub mod stored;
