//! Light agents: many in one process, each with its own three connections and the real protocol, but with measurements that
//! are SIMULATED. Nothing is sent to any server: requests, their latencies and even the agents' clocks follow from a seed,
//! so that what a coordinator makes of a thousand of them can be held against the truth.

mod clock;
pub mod fleet;
mod session;
mod streams;

use clap::Parser;
use serde::{Deserialize, Serialize};
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::v1;
use tokio_util::sync::CancellationToken;

pub use clock::Clock;

/// Simulates the measurements of many agents.
#[derive(Clone, Debug, Parser)]
pub struct Args {
    /// Where the coordinator listens
    #[arg(long)]
    pub coordinator: String,
    /// Agents in this process
    #[arg(long, default_value_t = 1)]
    pub agents: u32,
    /// Number of the first: what is simulated follows from it and the seed
    #[arg(long, default_value_t = 0)]
    pub first: u32,
    /// Median latency of a simulated request, ms; they lie evenly between half and one and a half of it
    #[arg(long, default_value_t = 2_000)]
    pub latency_ms: u32,
    /// Tokens of a simulated answer, evenly spaced
    #[arg(long, default_value_t = 32)]
    pub tokens: u32,
    /// Seed of latencies and clocks
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// What really happened to some agents; times are those of the host's clock, which is the coordinator's too.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Truth {
    /// Agents that went from hello to the run's end.
    pub agents: u32,
    /// Requests of the measured phase.
    pub measured: u64,
    /// Requests of every phase.
    pub released: u64,
    /// Sum of the measured requests' latencies, ns.
    pub e2e_sum_ns: u64,
    /// Their histogram, on the wire's form: bytes in hexadecimal.
    pub e2e_hex: String,
    /// First and last of: dialled, welcomed, told to arm, told the start.
    pub dialled_ns: Span,
    /// Welcomed.
    pub welcomed_ns: Span,
    /// Ordered to arm, over all levels.
    pub arm_ns: Span,
    /// Told their start.
    pub start_ordered_ns: Span,
    /// The start that the coordinator gave each in its own clock, by that clock's true law.
    pub starts_ns: Span,
    /// Done.
    pub done_ns: Span,
    /// How far such a start lay from the one meant, at most, ns.
    pub worst_start_error_ns: i64,
    /// Agents whose start lay further away than the bound that they were told with it.
    pub beyond_bound: u32,
}

/// First and last of some moments, ns.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Span(pub i64, pub i64);

impl Default for Span {
    fn default() -> Self {
        Self(i64::MAX, i64::MIN)
    }
}

impl Span {
    /// Takes in one moment.
    pub fn mark(&mut self, at: i64) {
        *self = Self(self.0.min(at), self.1.max(at));
    }

    fn add(&mut self, other: Self) {
        *self = Self(self.0.min(other.0), self.1.max(other.1));
    }
}

impl Truth {
    /// Takes in what others saw.
    ///
    /// # Errors
    /// When its histogram cannot be read.
    pub fn add(&mut self, other: &Truth) -> anyhow::Result<()> {
        let mut e2e = self.e2e()?;
        e2e.add(&other.e2e()?);
        self.e2e_hex = to_hex(&e2e.to_wire().v2);
        self.agents += other.agents;
        self.measured += other.measured;
        self.released += other.released;
        self.e2e_sum_ns += other.e2e_sum_ns;
        self.dialled_ns.add(other.dialled_ns);
        self.welcomed_ns.add(other.welcomed_ns);
        self.arm_ns.add(other.arm_ns);
        self.start_ordered_ns.add(other.start_ordered_ns);
        self.starts_ns.add(other.starts_ns);
        self.done_ns.add(other.done_ns);
        self.worst_start_error_ns = self.worst_start_error_ns.max(other.worst_start_error_ns);
        self.beyond_bound += other.beyond_bound;
        Ok(())
    }

    /// Latencies of the measured requests.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn e2e(&self) -> anyhow::Result<LatencyHistogram> {
        if self.e2e_hex.is_empty() {
            return Ok(LatencyHistogram::default());
        }
        let byte = |at: usize| u8::from_str_radix(self.e2e_hex.get(at..at + 2).unwrap_or_default(), 16);
        let v2 = (0..self.e2e_hex.len()).step_by(2).map(byte).collect::<Result<_, _>>()?;
        Ok(LatencyHistogram::try_from(&v1::Histogram { v2, out_of_range: 0 })?)
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Plays so many agents until the run is over; gives back what really happened.
///
/// # Errors
/// When the coordinator refuses an agent, or breaks off.
pub async fn play(args: &Args, shutdown: &CancellationToken) -> anyhow::Result<Truth> {
    let agents = (0..args.agents).map(|i| args.first + i);
    let all: Vec<_> = agents
        .map(|number| tokio::spawn(session::Session::new(args, number).run(args.clone(), shutdown.clone())))
        .collect();
    let (mut truth, mut e2e) = (Truth::default(), LatencyHistogram::default());
    for agent in all {
        let (of_one, of_its) = agent.await??;
        truth.add(&of_one)?;
        e2e.add(&of_its);
    }
    truth.e2e_hex = to_hex(&e2e.to_wire().v2);
    Ok(truth)
}

/// Now, ns.
fn now() -> i64 {
    HostClock.now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truths_add_up() {
        let mut e2e = LatencyHistogram::default();
        [5_000_000, 7_000_000].into_iter().for_each(|ns| e2e.record(ns));
        let one = Truth {
            measured: 2,
            e2e_sum_ns: 12_000_000,
            e2e_hex: to_hex(&e2e.to_wire().v2),
            starts_ns: Span(3, 5),
            ..Truth::default()
        };
        let mut both = one.clone();
        both.add(&Truth { starts_ns: Span(1, 4), ..one }).unwrap();
        assert_eq!((both.measured, both.e2e_sum_ns, both.e2e().unwrap().len()), (4, 24_000_000, 4));
        assert_eq!((both.starts_ns.0, both.starts_ns.1), (1, 5));
    }
}
