//! From the restart command to readiness. Weights are usually loaded here, so that A and B are judged here first.

use super::slices::{Quiet, Slice, Work, absent, seen, slices};
use super::verdict::{Ledger, conclude, widen_jumps};
use super::{Diagnosis, Term};
use crate::coldwarm::evidence::Curves;

/// When it happened, ns of the raw clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Startup {
    /// The command began.
    pub from_ns: i64,
    /// The server before was seen to be gone, where one was there.
    pub down_ns: Option<i64>,
    /// The new one said that it is ready.
    pub ready_ns: i64,
    /// Fetched from storage by its processes since they began, where that was read when it was ready.
    pub own_read_bytes: Option<f64>,
}

/// A span that the server itself emitted about its start, carried over to the raw clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartupSpan {
    /// As the server named it: `Load weights`, `Allocate KV cache`, …
    pub name: String,
    /// Its beginning.
    pub from_ns: i64,
    /// Its end.
    pub to_ns: i64,
}

/// What a span's name says of the time in it, in which shorter spans speak first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Weights,
    Allocation,
    Runtime,
}

/// Names of spans as vLLM gives them, in lower case, and their like. One that only wraps others (`Load model`, `Overall
/// Loading`) says nothing by itself.
const MEANINGS: [(&str, Meaning); 9] = [
    ("load weights", Meaning::Weights),
    ("kv cache", Meaning::Allocation),
    ("compil", Meaning::Runtime),
    ("captur", Meaning::Runtime),
    ("warm", Meaning::Runtime),
    ("profil", Meaning::Runtime),
    ("initialize model", Meaning::Runtime),
    ("prepare model", Meaning::Runtime),
    (" init", Meaning::Runtime),
];

impl StartupSpan {
    fn meaning(&self) -> Option<Meaning> {
        let name = self.name.to_lowercase();
        MEANINGS.iter().find(|(part, _)| name.contains(part)).map(|(_, meaning)| *meaning)
    }

    fn covers(&self, slice: &Slice) -> bool {
        let middle = slice.from + slice.ns() / 2;
        (self.from_ns..self.to_ns).contains(&middle)
    }
}

/// Explains the time from the command to readiness. `spans`, where the server gives them, speak before what is inferred.
pub fn startup(curves: &Curves, of: Startup, quiet: Quiet, spans: Option<&[StartupSpan]>) -> Diagnosis {
    let seen = seen(curves, of.from_ns, of.ready_ns);
    let mut ledger = Ledger::new(curves, seen, of.from_ns, of.ready_ns);
    ledger.own_read_bytes = of.own_read_bytes;
    let slices = slices(curves, quiet, of.from_ns, of.ready_ns);
    let mut terms: Vec<Term> = slices.iter().map(|slice| inferred(slice.work)).collect();
    widen_jumps(&slices, &mut terms, seen.gpu_memory_growth_bytes);
    for (slice, inferred) in slices.iter().zip(terms) {
        let told = spans.and_then(|spans| told(spans, slice));
        let is_old = of.down_ns.is_some_and(|down| slice.to <= down);
        let term = if is_old { Term::Stopping } else { told.unwrap_or(inferred) };
        ledger.add(slice, term, told.is_some());
    }
    let terms = ledger.shares();
    let span_ns = of.ready_ns - of.from_ns;
    let verdict = conclude(span_ns, &terms);
    Diagnosis { span_ns, terms, verdict, seen, absent: absent(&seen, curves) }
}

fn inferred(work: Work) -> Term {
    match work {
        Work::Disk => Term::StorageToRam,
        Work::Link | Work::Growth => Term::RamToGpu,
        Work::Allocation => Term::Allocation,
        Work::Gpu | Work::Cpu { .. } => Term::RuntimeWarmup,
        Work::Quiet => Term::Unexplained,
    }
}

/// What the shortest span around a slice says. That it is read from a disk meanwhile is no contradiction but in an allocation.
fn told(spans: &[StartupSpan], slice: &Slice) -> Option<Term> {
    let around = spans.iter().filter(|span| span.covers(slice) && span.meaning().is_some());
    let meaning = around.min_by_key(|span| span.to_ns - span.from_ns)?.meaning()?;
    Some(match (meaning, slice.work) {
        (Meaning::Allocation, _) => Term::Allocation,
        (_, Work::Disk) => Term::StorageToRam,
        (Meaning::Weights, _) => Term::RamToGpu,
        (Meaning::Runtime, _) => Term::RuntimeWarmup,
    })
}
