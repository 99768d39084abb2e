//! The command a person types: plans, schedules, corrects clocks, merges, judges, reports.

pub mod args;
pub mod certificate;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dataset;
pub mod display;
pub mod drive;
pub mod fleet;
pub mod journal;
pub mod knee;
pub mod levels;
pub mod little;
pub mod load;
pub mod local;
pub mod merge;
pub mod outputs;
pub mod pinger;
pub mod plan;
mod redact;
pub mod report;
pub mod run;
pub mod service;
pub mod split;
pub mod stored;
pub mod untold;
mod workload;
