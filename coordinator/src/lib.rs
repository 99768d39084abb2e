//! The command a person types: plans, schedules, corrects clocks, merges, judges, reports.

pub mod args;
pub mod clock;
pub mod config;
pub mod display;
pub mod journal;
pub mod load;
pub mod pinger;
pub mod plan;
pub mod run;
pub mod service;
pub mod split;
pub mod stored;
