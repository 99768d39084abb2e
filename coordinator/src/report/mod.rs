//! What a merged run looks like to people and scripts. Each part is a pure function of the run, so the same journal
//! gives the same bytes anywhere: no current time, no absolute path, no hash order, fixed digits.

mod clocks;
pub mod curve;
pub mod diagnosis;
pub mod environment;
mod experiments;
mod experiments_text;
pub mod hlog;
pub mod host;
pub mod html;
mod inside;
mod inside_md;
#[cfg(test)]
pub(crate) mod inside_sample;
mod inside_text;
pub mod levels_csv;
pub mod plots;
pub mod requests;
pub mod samples;
pub(crate) mod sensors;
pub mod server_trace;
pub mod stall_plot;
pub mod stalls;
pub mod summary;
pub mod summary_md;
pub mod table;
pub mod terminal;
pub mod text;
pub(crate) mod trace;
pub mod waterfall;
