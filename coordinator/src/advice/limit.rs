//! Limits: of what is let in, of how long it may take, of how often it is tried again; and what to turn next.

use serde_json::json;

use super::{Advice, Placed, Scene};
use crate::knee::duration;
use crate::report::text::number;

/// Failures from which on a level says something about retries.
const FAILING: f64 = 0.01;
/// A timeout is left alone when it is within this factor of what fits.
const NEAR: f64 = 2.0;

/// Cap what is let in at the knee, or where the SLO ends if that is lower.
pub(super) fn concurrency(scene: &Scene<'_>) -> Option<Advice> {
    let knee = scene.merged.knee.at;
    if let Some(slo) = scene.known.slo_at.filter(|slo| knee.is_none_or(|knee| *slo < knee.x())) {
        let words = format!(
            "let in no more than {slo} at once: above it the SLO no longer holds; queue or refuse the rest"
        );
        return Some(Advice::new(words, "slo.at", &number(Some(slo), 6)));
    }
    let at = knee?;
    let step = scene.merged.knee.steps.iter().find(|step| step.from == at)?;
    // A knee between levels of which one is thin may be luck.
    let (below, above) = (scene.good_at(at.x())?, scene.good_at(step.to.x())?);
    let tail = |placed: &Placed<'_>| placed.level.latencies.e2e.percentile_ns(95.0);
    let price = match tail(&below).zip(tail(&above)) {
        Some((low, high)) if high > low => {
            format!(", and takes p95 e2e from {} to {}", duration(low), duration(high))
        }
        _ => String::new(),
    };
    let more = match step.throughput.1 / step.throughput.0 - 1.0 {
        gain if gain < 0.0 => format!("loses {:.0} % of the throughput", -gain * 100.0),
        gain => format!(
            "gains {:.0} % of throughput for {:.0} % more load",
            gain * 100.0,
            (step.to.x() / at.x() - 1.0) * 100.0
        ),
    };
    let key = if at.is_open() { "knee.request_rate" } else { "knee.concurrency" };
    let words =
        format!("let in no more than {}: {} {more}{price}; queue or refuse the rest", at.words(), step.to);
    Some(Advice::new(words, key, &at.json()))
}

/// A timeout that fits the SLO, or else what requests take where the server should work.
pub(super) fn timeout(scene: &Scene<'_>) -> Option<Advice> {
    let placed = scene.working_level()?;
    let now_ns = scene.merged.header.plan.request_timeout_ns as f64;
    let e2e = &placed.level.latencies.e2e;
    let timed_out = placed.level.error_kinds.get("timeout").copied().unwrap_or(0);
    if now_ns <= 0.0 {
        return None;
    }
    // The far end of the bar where there are enough requests for one: what is cut must be rare even so.
    let (longest, of) = match e2e.interval_ns(99.0) {
        Some((_, high)) => (high, "the far end of the bar of p99"),
        None => (e2e.percentile_ns(99.0)?, "p99, which has too few requests for a bar,"),
    };
    let fits_ns = scene.known.slo_e2e_ns.map_or(longest as f64 * NEAR, |slo| slo as f64);
    let (at, fits) = (placed.level.load.words(), duration(round_up(fits_ns)));
    let now = duration(now_ns as u64);
    let why = match scene.known.slo_e2e_ns {
        Some(_) => format!("{fits} is the SLO's limit, after which an answer is no good to anybody"),
        None => format!("{fits} is twice {of} at {at}"),
    };
    if timed_out > 0 && scene.known.slo_e2e_ns.is_none() {
        let words = format!(
            "{now} is too short a request timeout: {timed_out} requests ran into it at {at}, where the server should work"
        );
        return placed.advice(scene.merged, words, "error_kinds.timeout");
    }
    let words = if now_ns > fits_ns * NEAR {
        format!("a request timeout of {fits} in place of {now} frees what a lost request holds: {why}")
    } else if now_ns < fits_ns / NEAR {
        format!("a request timeout of {fits} in place of {now} cuts fewer good answers off: {why}")
    } else {
        return None;
    };
    placed.advice(scene.merged, words, "p99_e2el_ms")
}

/// Up, to two digits: a timeout of 1.2345 s says more than it knows.
fn round_up(ns: f64) -> u64 {
    let unit = 10f64.powf(ns.max(1.0).log10().floor() - 1.0).max(1.0);
    ((ns / unit - 1e-9).ceil() * unit) as u64
}

/// No blind retries: where load makes requests fail, trying again makes more load.
pub(super) fn retries(scene: &Scene<'_>) -> Option<Advice> {
    let retried = scene.good().find(|placed| placed.level.retried > 0);
    if let Some(placed) = retried {
        let words = format!(
            "at {} {} of {} requests were second tries, which are load too: back off for longer each time (--retry-backoff), and \
             let a client give up",
            placed.level.load.words(),
            placed.level.retried,
            placed.level.measured.released()
        );
        return placed.advice(scene.merged, words, "retried");
    }
    let share = |placed: &Placed<'_>| placed.level.measured.error_rate().unwrap_or(0.0);
    let mut good = scene.good();
    let lowest = share(&good.next()?);
    // Failures from the lowest load on are no overload, and backing off mends nothing.
    let failing = good.find(|placed| share(placed) >= FAILING && share(placed) > 2.0 * lowest)?;
    let kind =
        failing.level.error_kinds.iter().max_by_key(|(_, n)| **n).map_or("", |(kind, _)| kind.as_str());
    let words = format!(
        "from {} on requests fail under load (mostly {kind}): retry with back-off and a limit, never at once; a retry is one more \
         request to a server that has too many",
        failing.level.load.words()
    );
    failing.advice(scene.merged, words, "error_rate")
}

/// What to turn next, by why the knee is there.
pub(super) fn next_by_cause(scene: &Scene<'_>) -> Option<Advice> {
    let cause = scene.known.cause?;
    let next = match cause {
        "server queue" => {
            "requests wait for a place in the batch: raise what it may hold (vLLM: --max-num-seqs), or add a replica"
        }
        "KV full / preemption" => {
            "the KV cache is full: shorten contexts (--max-model-len), keep it in FP8, give it more memory, or admit fewer; \
             `tailcliff kv` reckons which"
        }
        "compute-bound" => {
            "the GPU is busy computing: a lower precision, a smaller model or another GPU; admitting more will not help"
        }
        "power or thermal cap" => {
            "the card is held back by power or heat: its power limit and its cooling come before any flag of the server"
        }
        "network" => {
            "the way there takes the time: measure from nearer, keep connections open, and look at proxies in between"
        }
        "client-bound" => {
            "the client is the limit: more agents, best on hosts of their own, before anything is said of the server"
        }
        _ => return None,
    };
    Some(Advice::new(next.to_owned(), "diagnosis.cause", &json!(cause)))
}

#[cfg(test)]
mod tests {
    use super::round_up;

    #[test]
    fn timeouts_are_rounded_up_to_two_digits() {
        let seen = [1_234_567_890.0, 1_200_000_000.0, 999.1, 5.0, 0.0].map(round_up);
        assert_eq!(seen, [1_300_000_000, 1_200_000_000, 1_000, 5, 0]);
    }
}
