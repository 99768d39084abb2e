//! What to take from it: the number for an SLO, and the one knob to turn next (MISSION C6).

use serde::Serialize;

use super::cycle::Cycle;
use super::diagnose::Term;
use super::spread::{STABLE_PCT, Spread};

/// A cold request this many times as slow as a warm one is worth a pre-warm.
const UNACCEPTABLE: f64 = 2.0;
/// Time to the first token that is high for a short prompt, s.
const HIGH_TTFT_S: f64 = 0.5;
/// A GPU that is less busy than this waits for work, %.
const IDLE_PCT: f64 = 30.0;
/// Less GPU memory left than this is no headroom, as a share.
const HEADROOM: f64 = 0.03;

/// A number to hold a promise to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Anchor {
    /// TTFT where it was streamed, otherwise wall time, s.
    pub seconds: f64,
    /// What it is, and why this one.
    pub words: String,
}

/// What to turn.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Knob {
    /// Which.
    pub knob: String,
    /// For what reason.
    pub why: String,
}

/// Of the last restart whose warm requests were streamed, or else got to their end.
pub(super) fn anchor(cycles: &[Cycle]) -> Option<Anchor> {
    let last = |of: fn(&Cycle) -> Option<Spread>| cycles.iter().rev().find_map(of);
    let ttft = last(Cycle::warm_ttft).map(|ttft| (ttft, "warm TTFT"));
    let (spread, what) = ttft.or_else(|| Some((last(Cycle::warm_wall)?, "warm wall time")))?;
    let n = spread.n;
    Some(match spread.is_stable() {
        Some(true) => Anchor {
            seconds: spread.median,
            words: format!(
                "median {what} of {n} runs, which spread by {STABLE_PCT:.0} % at most; one request at a time, so that load \
                 comes on top"
            ),
        },
        Some(false) => Anchor {
            seconds: spread.max,
            words: format!(
                "slowest {what} of {n} runs: they spread by more than {STABLE_PCT:.0} %, so that their median promises too \
                 much"
            ),
        },
        None => Anchor {
            seconds: spread.max,
            words: format!("slowest {what} of {n} run(s): too few to tell whether they are stable"),
        },
    })
}

/// What the knobs depend on.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) ttft_penalty: Option<f64>,
    pub(super) warm_ttft_s: Option<f64>,
    pub(super) gpu_util_p95: Option<f64>,
    pub(super) memory_used_share: Option<f64>,
    pub(super) out_of_memory: bool,
    pub(super) first: Option<Term>,
    pub(super) startup: Option<Term>,
}

impl Facts {
    /// Of all restarts: the worst penalty, the fullest memory.
    pub(super) fn of(cycles: &[Cycle], startup: Option<Term>, first: Option<Term>) -> Self {
        let most = |values: &mut dyn Iterator<Item = Option<f64>>| values.flatten().max_by(f64::total_cmp);
        let share = |c: &Cycle| Some(c.memory.after_cold_bytes? as f64 / c.memory.total_bytes? as f64);
        let util = |c: &Cycle| most(&mut c.sanity.gpus.iter().map(|gpu| gpu.util_pct.map(|band| band.1)));
        let mut notes = cycles.iter().flat_map(|c| &c.runs).flat_map(|run| &run.notes);
        Self {
            ttft_penalty: most(&mut cycles.iter().map(|c| c.ttft_penalty().or(c.wall_penalty()))),
            warm_ttft_s: most(&mut cycles.iter().map(|c| Some(c.warm_ttft()?.median))),
            gpu_util_p95: most(&mut cycles.iter().map(util)),
            memory_used_share: most(&mut cycles.iter().map(share)),
            out_of_memory: notes.any(|note| note.to_lowercase().contains("out of memory")),
            first,
            startup,
        }
    }
}

/// The next one to turn.
pub(super) fn knob(facts: &Facts) -> Knob {
    let knob = |knob: &str, why: String| Knob { knob: knob.to_owned(), why };
    if facts.out_of_memory || facts.memory_used_share.is_some_and(|share| share > 1.0 - HEADROOM) {
        let why = match facts.memory_used_share.filter(|_| !facts.out_of_memory) {
            Some(share) => format!("{:.1} % of GPU memory is in use after the first request", share * 100.0),
            None => "a request failed for want of memory".to_owned(),
        };
        return knob("max-model-len, gpu-memory-utilization (lower)", why);
    }
    if let Some(penalty) = facts.ttft_penalty.filter(|&penalty| penalty >= UNACCEPTABLE) {
        let (what, then) = prewarm(facts.first);
        return knob(
            what,
            format!("the first request took {penalty:.1} times as long as a warm one; {then}"),
        );
    }
    match (facts.warm_ttft_s, facts.gpu_util_p95) {
        (Some(ttft), Some(util)) if ttft >= HIGH_TTFT_S && util < IDLE_PCT => {
            return knob(
                "batching and concurrency: max-num-seqs, max-num-batched-tokens, chunked prefill",
                format!(
                    "warm TTFT is {ttft:.2} s while the GPU is busy {util:.0} % of the time at most (p95)"
                ),
            );
        }
        _ => {}
    }
    match facts.startup {
        Some(Term::StorageToRam) => knob(
            "faster storage for the weights, or keep them in the page cache (read the files once before the restart)",
            "no penalty on the first request, but the restart waits for storage".to_owned(),
        ),
        Some(Term::RuntimeWarmup) => knob(
            "keep compiled kernels and graphs between starts (compile cache), or start before the old one ends",
            "no penalty on the first request, but the restart is start-up work".to_owned(),
        ),
        _ => knob(
            "none",
            "neither memory, nor a cold penalty, nor an idle GPU behind a high TTFT was seen".to_owned(),
        ),
    }
}

fn prewarm(first: Option<Term>) -> (&'static str, &'static str) {
    match first {
        Some(Term::StorageToRam) => (
            "pre-warm: read the weights into the page cache, then send a request, before traffic comes",
            "it waited for storage",
        ),
        Some(Term::Allocation) => (
            "pre-warm: one request of full length before traffic comes, so that memory is set aside",
            "memory was set aside for it",
        ),
        Some(Term::Prefill) => {
            ("prefix caching, shorter prompts", "it is what this prompt costs where no cache has it")
        }
        Some(Term::Queueing) => {
            ("readiness: let it wait for the server's own warm-up", "it waited behind other work")
        }
        _ => ("pre-warm: a request or two before traffic comes", "what follows is quick"),
    }
}

#[cfg(test)]
mod tests {
    use tailcliff_proto::v1;

    use super::*;
    use crate::coldwarm::cycle::{Kind, Run};

    fn cycle(ttfts: &[Option<f64>]) -> Cycle {
        let run = |(n, &ttft): (usize, &Option<f64>)| {
            let ns = |s: f64| (s * 1e9) as i64;
            let outcome = v1::Outcome::Completed as i32;
            let record = v1::RequestRecord {
                first_token_raw_ns: ttft.map(ns),
                done_raw_ns: ns(2.0),
                outcome,
                ..Default::default()
            };
            Run::of(Kind::Warm(n as u32 + 1), &record)
        };
        Cycle { runs: ttfts.iter().enumerate().map(run).collect(), ..Cycle::default() }
    }

    #[test]
    fn the_anchor_is_a_warm_ttft_where_any_restart_was_streamed() {
        let streamed = cycle(&[Some(0.10), Some(0.11), Some(0.105)]);
        let whole = cycle(&[None; 3]);
        let said = |cycles: &[Cycle]| anchor(cycles).map(|a| (a.seconds, a.words));
        let (seconds, words) = said(&[streamed, whole.clone()]).unwrap();
        assert!(seconds == 0.105 && words.starts_with("median warm TTFT"), "{seconds} {words}");
        let (seconds, words) = said(std::slice::from_ref(&whole)).unwrap();
        assert!(seconds == 2.0 && words.starts_with("median warm wall time"), "{seconds} {words}");
        let wild = cycle(&[Some(0.092), Some(0.1), Some(0.108)]);
        let (seconds, words) = said(&[wild]).unwrap();
        assert!(seconds == 0.108 && words.starts_with("slowest warm TTFT"), "{seconds} {words}");
        assert_eq!(said(&[cycle(&[])]), None);
    }

    #[test]
    fn each_state_has_its_knob() {
        let of = |facts: Facts| knob(&facts).knob;
        let full = Facts { memory_used_share: Some(0.99), ttft_penalty: Some(9.0), ..Facts::default() };
        assert!(of(full).contains("gpu-memory-utilization"));
        let oom = Facts { out_of_memory: true, ..Facts::default() };
        assert!(of(oom).contains("max-model-len"));
        let cold = Facts { ttft_penalty: Some(5.0), first: Some(Term::Allocation), ..Facts::default() };
        assert!(of(cold).contains("pre-warm"));
        let idle = Facts { warm_ttft_s: Some(1.0), gpu_util_p95: Some(10.0), ..Facts::default() };
        assert!(of(idle.clone()).contains("max-num-seqs"));
        let unread = Facts { gpu_util_p95: None, ..idle };
        assert_eq!(of(unread), "none");
        let storage = Facts { startup: Some(Term::StorageToRam), ..Facts::default() };
        assert!(of(storage).contains("page cache"));
    }
}
