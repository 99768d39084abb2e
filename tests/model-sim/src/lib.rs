//! A simulated OpenAI-compatible server whose latency *emerges* from a queue, a batch and a KV budget, so that what a
//! load tester should find follows from the parameters.
//!
//! [`engine`] is the pure model in virtual time, [`capacity`] what its parameters imply, [`sweep`], [`mod@virtual_level`]
//! and [`world`] (with a narrow [`link`] and a slow client) load over it without sockets. [`serve()`] puts the same engine (or a fixed schedule) behind HTTP, with faults ([`fault`])
//! and logs of what truly happened ([`truth`], [`record`]); what it tells of itself meanwhile, spans, stamps and metrics as vLLM has
//! them, is in [`inside`] and [`spans`]. Nothing here comes from the workspace: a bug shared with the tool
//! under test would cancel itself.

pub mod args;
pub mod capacity;
pub mod clock;
pub mod config;
pub mod engine;
pub mod fault;
pub mod inside;
pub mod link;
pub mod record;
pub mod serve;
pub mod spans;
pub mod sweep;
pub mod truth;
pub mod virtual_level;
pub mod world;

mod api;
mod connection;
mod http;
mod lines;
mod live;
mod metrics;
mod reply;
mod tell;
mod timer;
mod tokens;

pub use capacity::{implied_knee, knee, request_throughput};
pub use config::{Config, Timing};
pub use engine::{Engine, Params};
pub use inside::{Inside, MetricsFault};
pub use link::Link;
pub use record::{CauseRecord, GpuLevels};
pub use serve::{ServeError, serve};
pub use spans::{Endpoint, SpanCounts, SpanFault};
pub use sweep::{VirtualLevel, virtual_sweep};
pub use truth::{Outcome, Truth, TruthRecord};
pub use virtual_level::{Senders, VirtualLoad, VirtualRequest, virtual_level};
pub use world::{World, WorldLevel, WorldRequest, world_level};
