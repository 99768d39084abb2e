//! From the first request to its first token (or its end, where it was not streamed).

use super::slices::{Quiet, Slice, Work, absent, seen, slices};
use super::verdict::{Ledger, conclude, widen_jumps};
use super::{Confidence, Diagnosis, Term, Verdict};
use crate::coldwarm::evidence::Curves;
use crate::merge::nodes::median;

/// The first request and those after it.
#[derive(Clone, Debug, Default)]
pub struct First {
    /// It was sent, ns of the raw clock.
    pub sent_ns: i64,
    /// Its first token came, or its end.
    pub until_ns: i64,
    /// The same length of time for the warm requests, in their order, ns.
    pub warm_ns: Vec<i64>,
    /// The same for a prompt that the warm server had not seen: what this prompt costs where no cache has its beginning.
    pub fresh_ns: Option<i64>,
}

/// No more than this over a warm one is no cold start.
const PENALTY: f64 = 1.2;
/// Nor is less than this, ns.
const LEAST_PENALTY_NS: i64 = 20_000_000;
/// Memory that grows for longer is loaded and not set aside, ns.
const LONGEST_JUMP_NS: i64 = 500_000_000;
/// The server's own work just before the request, and the share of it that is busy.
const BEFORE_NS: i64 = 500_000_000;
const BUSY_BEFORE: f64 = 0.5;
/// A request after the first that takes this much longer than the rest is not warm yet.
const UNSETTLED: f64 = 1.3;

/// Explains the time to the first token of a cold request.
pub fn first(curves: &Curves, of: &First, quiet: Quiet) -> Diagnosis {
    let seen = seen(curves, of.sent_ns, of.until_ns);
    let mut ledger = Ledger::new(curves, seen, of.sent_ns, of.until_ns);
    ledger.fresh = of.fresh_ns;
    ledger.unsettled = unsettled(&of.warm_ns);
    let slices = slices(curves, quiet, of.sent_ns, of.until_ns);
    let terms = terms(&slices, of, curves, seen.gpu_memory_growth_bytes);
    slices.iter().zip(terms).for_each(|(slice, term)| ledger.add(slice, term, false));
    let (span_ns, terms) = (of.until_ns - of.sent_ns, ledger.shares());
    let verdict = nothing(of).unwrap_or_else(|| conclude(span_ns, &terms));
    Diagnosis { span_ns, terms, verdict, seen, absent: absent(&seen, curves) }
}

/// There is no penalty, or nothing to hold it against.
fn nothing(of: &First) -> Option<Verdict> {
    let span = of.until_ns - of.sent_ns;
    let say = |because: String| Some(Verdict { because, confidence: Confidence::Low, term: None });
    let Some(usual) = median(of.warm_ns.clone()) else {
        return say("can't tell: no warm request to hold it against".to_owned());
    };
    if span as f64 <= usual as f64 * PENALTY || span - usual < LEAST_PENALTY_NS {
        let ms = |ns: i64| ns as f64 / 1e6;
        return say(format!(
            "nothing to explain: {:.1} ms cold against {:.1} ms warm (median)",
            ms(span),
            ms(usual)
        ));
    }
    None
}

fn unsettled(warm_ns: &[i64]) -> bool {
    let (Some(next), Some(rest)) = (warm_ns.first(), median(warm_ns.get(1..).unwrap_or_default().to_vec()))
    else {
        return false;
    };
    *next as f64 > rest as f64 * UNSETTLED
}

fn terms(slices: &[Slice], of: &First, curves: &Curves, growth: Option<f64>) -> Vec<Term> {
    let growing: i64 = slices.iter().filter(|s| s.work == Work::Growth).map(Slice::ns).sum();
    let is_sharp = growing <= LONGEST_JUMP_NS;
    let inferred = |slice: &Slice| match slice.work {
        Work::Disk => Term::StorageToRam,
        Work::Link => Term::RamToGpu,
        Work::Growth if !is_sharp => Term::RamToGpu,
        Work::Growth | Work::Allocation => Term::Allocation,
        Work::Gpu | Work::Cpu { .. } => Term::RuntimeWarmup,
        Work::Quiet => Term::Unexplained,
    };
    let mut terms: Vec<Term> = slices.iter().map(inferred).collect();
    widen_jumps(slices, &mut terms, growth);
    put_prefill_last(slices, &mut terms, of.fresh_ns.or_else(|| median(of.warm_ns.clone())).unwrap_or(0));
    if is_busy_before(curves, of.sent_ns) {
        let waiting = slices.iter().zip(&mut terms);
        let waiting = waiting.take_while(|(s, term)| s.work == Work::Gpu && **term == Term::RuntimeWarmup);
        waiting.for_each(|(_, term)| *term = Term::Queueing);
    }
    terms
}

/// What the prompt costs every time comes last, just before the token.
fn put_prefill_last(slices: &[Slice], terms: &mut [Term], usual_ns: i64) {
    let mut left = usual_ns;
    for (slice, term) in slices.iter().zip(terms).rev() {
        if left < slice.ns() / 2 {
            return;
        }
        if matches!(term, Term::RuntimeWarmup | Term::Unexplained) {
            *term = Term::Prefill;
            left -= slice.ns();
        }
    }
}

fn is_busy_before(curves: &Curves, sent_ns: i64) -> bool {
    let busy = curves.gpu_busy.as_ref().and_then(|busy| busy.rise(sent_ns - BEFORE_NS, sent_ns));
    busy.is_some_and(|ns| ns / BEFORE_NS as f64 >= BUSY_BEFORE)
}
