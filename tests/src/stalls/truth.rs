//! What was done on purpose, and which of it a stall is due to.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use model_sim::{CauseRecord, TruthRecord};
use serde::{Deserialize, Serialize};

use crate::stalls::plan::Kind;
use crate::stalls::rows::Row;
use crate::stalls::stage::{Ran, TrueEnergy};
use crate::truth_check::{self, Traced};

/// Share of a stall that the server's own stamps must show for it to be the server's.
const SERVERS_SHARE: f64 = 0.7;
/// A queue in which a request waited so long must be told, ns.
const FELT_NS: i64 = 300_000_000;
/// A client that sees a stall of the server longer by this has been starved, ns.
const LATE_NS: i64 = 40_000_000;
/// A server that stands still so long in a stall that is not its own has been starved, ns.
const STARVED_NS: i64 = 80_000_000;
/// How far a cause and its stall may lie apart, ns: the machine is busy.
const NEAR_NS: i64 = 60_000_000;

/// What was done on purpose. Stamps are raw ns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Injected {
    /// What.
    pub kind: Kind,
    /// From when.
    pub from_ns: i64,
    /// Until when.
    pub to_ns: i64,
    /// Requests that were under way when the server did it, which it tells.
    pub requests: Vec<String>,
}

impl Injected {
    /// What the server's own log tells.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_causes(cause_log: &Path) -> io::Result<Vec<Self>> {
        let text = std::fs::read_to_string(cause_log)?;
        let one = |line: &str| {
            let record: CauseRecord = serde_json::from_str(line).map_err(io::Error::other)?;
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == record.kind);
            let kind = kind.ok_or_else(|| io::Error::other(format!("unknown cause {}", record.kind)))?;
            let CauseRecord { from_ns, to_ns, requests, .. } = record;
            Ok(Self { kind, from_ns, to_ns, requests })
        };
        text.lines().map(one).collect()
    }

    fn overlap(&self, from: i64, to: i64) -> i64 {
        (self.to_ns + NEAR_NS).min(to) - (self.from_ns - NEAR_NS).max(from)
    }
}

/// Everything that is known of a run from outside of tailcliff, and what tailcliff saw of each token.
#[derive(Debug)]
pub struct Known {
    injected: Vec<Injected>,
    served: BTreeMap<String, TruthRecord>,
    seen: BTreeMap<String, Traced>,
    energy: TrueEnergy,
    started_ref_ns: i64,
}

/// A stall of the client, and what it truly is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Truth {
    /// Which injection, by number; `None`: nobody made it, the machine was busy.
    pub injection: Option<usize>,
    /// Its kind.
    pub kind: Option<Kind>,
    /// Its ends as the client saw them, raw ns.
    pub from_ns: i64,
    /// And the other one.
    pub to_ns: i64,
    /// What the server's own stamps say that it lasted, ms; of the client's and the path's own stalls little.
    pub servers_ms: f64,
    /// How long it truly was, ms: what the server's stamps say, or from the server's last token until the path or the
    /// client let go.
    pub true_ms: f64,
    /// What the GPU drew meanwhile, J.
    pub energy_j: f64,
    /// The machine was too busy: the client was late too, the server wrote what followed late and in one go, or stood still
    /// in what others caused.
    pub disturbed: bool,
}

impl Known {
    /// Reads what a run left.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(ran: &Ran) -> io::Result<Self> {
        let data = tailcliff::load::load(&ran.run_dir).map_err(|e| io::Error::other(e.to_string()))?;
        let started_ref_ns = data.header.started_ref_ns;
        Ok(Self {
            injected: ran.injected.clone(),
            served: truth_check::read_truth(&ran.truth_log)?.by_id,
            seen: truth_check::read_trace(&ran.run_dir.join("token_trace.csv"), started_ref_ns)?,
            energy: TrueEnergy::read(&ran.gpu_log)?,
            started_ref_ns,
        })
    }

    /// What was done on purpose.
    pub fn injected(&self) -> &[Injected] {
        &self.injected
    }

    /// Whether an injection held up a request of the run at all: a queue may pass between two of them.
    pub fn was_felt(&self, one: &Injected) -> bool {
        let waited = |served: &TruthRecord| {
            let (from, to) = (served.enqueued_ns?, served.dequeued_ns?);
            Some(to - from >= FELT_NS && one.overlap(from, to) > 0)
        };
        one.kind != Kind::Queue
            || self.seen.keys().any(|id| self.served.get(id).and_then(waited) == Some(true))
    }

    /// All stalls that the client's own trace has, from `least_ms` on, without any judgement: whose, and what they are.
    pub fn stalls(&self, least_ms: f64) -> Vec<(String, Truth)> {
        let mut all = Vec::new();
        for (id, seen) in &self.seen {
            let Some(served) = self.served.get(id) else { continue };
            for (i, pair) in seen.arrivals_ns.windows(2).enumerate() {
                let (from, to) = (pair[0].0, pair[1].0);
                if (to - from) as f64 / 1e6 >= least_ms {
                    all.push((id.clone(), self.truth((from, to), served, Some(i))));
                }
            }
        }
        all
    }

    /// What a row is; `None` when its request is unknown here or has no such stall.
    pub fn of(&self, row: &Row) -> Option<Truth> {
        let (seen, served) = (self.seen.get(&row.request_id)?, self.served.get(&row.request_id)?);
        let at = self.started_ref_ns + (row.t_s * 1e9) as i64;
        if row.kind == "ttft" {
            let first = seen.arrivals_ns.first()?.0;
            return Some(self.truth((first - (row.gap_ms * 1e6) as i64, first), served, None));
        }
        // The row's stamp lies at one end of its gap, and its length is known.
        let pairs = seen.arrivals_ns.windows(2).enumerate();
        let far = |from: i64, to: i64| {
            let length = (to - from) - (row.gap_ms * 1e6) as i64;
            length.abs() + (at - from).abs().min((at - to).abs())
        };
        let (i, pair) = pairs.min_by_key(|(_, pair)| far(pair[0].0, pair[1].0))?;
        let (from, to) = (pair[0].0, pair[1].0);
        (far(from, to) < 5_000_000).then(|| self.truth((from, to), served, Some(i)))
    }

    /// What a stall over [from, to] is, after token `i` of its request, or before the first.
    fn truth(&self, (from, to): (i64, i64), served: &TruthRecord, i: Option<usize>) -> Truth {
        let first = served.emissions.first().map_or(0, |first| first - served.arrived_ns);
        let servers_ns = i.map_or(first, |i| gap(served, i));
        let is_servers = servers_ns as f64 >= SERVERS_SHARE * (to - from) as f64;
        // One that is preempted is named; what another lacks meanwhile has another cause.
        let is_its = |one: &Injected| {
            one.kind != Kind::Preempt
                || served.request_id.as_ref().is_some_and(|id| one.requests.contains(id))
        };
        let is_like = |one: &Injected| one.kind.is_servers() == is_servers && is_its(one);
        let fits = self.injected.iter().enumerate().filter(|(_, one)| is_like(one));
        let best = fits.max_by_key(|(_, one)| one.overlap(from, to));
        // Most of it, or most of the cause, must lie in the other.
        let enough = |one: &Injected| {
            let shorter = (to - from).min(one.to_ns - one.from_ns);
            one.overlap(from, to) as f64 >= 0.5 * shorter as f64
        };
        let found = best.filter(|(_, one)| enough(one));
        let last = i.and_then(|i| served.emissions.get(i)).copied().unwrap_or(served.arrived_ns);
        let late = |one: &Injected| match one.kind {
            // Dated from the order on: what is late is the piece that came next.
            Kind::Delay => servers_ns + one.to_ns - one.from_ns,
            _ => one.to_ns - last,
        };
        let let_go = found.filter(|_| !is_servers).map(|(_, one)| late(one));
        Truth {
            true_ms: let_go.unwrap_or(servers_ns) as f64 / 1e6,
            injection: found.map(|(i, _)| i),
            kind: found.map(|(_, one)| one.kind),
            from_ns: from,
            to_ns: to,
            servers_ms: servers_ns as f64 / 1e6,
            energy_j: self.energy.joules(from, to),
            disturbed: match is_servers {
                true => to - from - servers_ns > LATE_NS || catches_up(served, i),
                false => i.is_some_and(|i| longest_within(served, i, from, to) > STARVED_NS),
            },
        }
    }
}

/// The server wrote the tokens after its gap much faster than it does: it wakes late and catches up, which is what a proxy
/// that held them would look like.
fn catches_up(served: &TruthRecord, i: Option<usize>) -> bool {
    let mut usual: Vec<i64> = served.emissions.windows(2).map(|pair| pair[1] - pair[0]).collect();
    usual.sort_unstable();
    let Some(usual) = usual.get(usual.len() / 2) else { return false };
    let after = served.emissions.get(i.map_or(0, |i| i + 1)..).unwrap_or_default();
    after.first_chunk::<4>().is_some_and(|next| next[3] - next[0] < 3 * usual / 2)
}

/// The server's own longest gap among the tokens that it wrote in [from, to], ns.
fn longest_within(served: &TruthRecord, i: usize, from: i64, to: i64) -> i64 {
    let within = served.emissions.iter().skip(i).filter(|at| (from..=to).contains(at));
    let stamps: Vec<i64> = within.copied().collect();
    stamps.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}

/// The server's own gap before its token `i + 1`, ns.
fn gap(served: &TruthRecord, i: usize) -> i64 {
    match (served.emissions.get(i), served.emissions.get(i + 1)) {
        (Some(before), Some(after)) => after - before,
        _ => 0,
    }
}
