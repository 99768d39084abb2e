//! Limits: of what is let in, of how long it may take, of how often it is tried again; and what to turn next.

use serde_json::json;

use super::{Advice, Placed, Scene};
use crate::knee::{Step, duration};
use crate::report::text::number;

/// Failures from which on a level says something about retries.
const FAILING: f64 = 0.01;
/// A timeout is left alone when it is within this factor of what fits.
const NEAR: f64 = 2.0;

/// Cap what is let in where the SLO ends or the knee begins, whichever is lower.
pub(super) fn concurrency(scene: &Scene<'_>) -> Option<Advice> {
    let knee = scene.merged.knee.at;
    if let Some(slo) = scene.known.slo_at.filter(|slo| knee.is_none_or(|knee| *slo < knee.x())) {
        let words =
            format!("let in no more than {slo}: above it the SLO no longer holds; queue or refuse the rest");
        return Some(Advice::new(words, "slo.at", &number(Some(slo), 6)));
    }
    let at = knee?;
    let step = scene.merged.knee.steps.iter().find(|step| step.from == at)?;
    // A knee between levels of which one is thin may be luck.
    let (below, above) = (scene.good_at(at.x())?, scene.good_at(step.to.x())?);
    let why = format!("{} {}{}", step.to, gain(step), price(&below, &above));
    if let Some((low, high)) = scene.known.knee_ci.filter(|(low, _)| *low > 0.0 && *low < at.x()) {
        // The safe end of the bar; of streams a whole one.
        let cap = if at.is_open() { low } else { low.floor().max(1.0) };
        let words = format!("let in no more than {cap}: the knee is between {low:.1} and {high:.1}; {why}");
        return Some(Advice::new(
            words,
            "knee.estimate.ci",
            &json!([number(Some(low), 6), number(Some(high), 6)]),
        ));
    }
    let key = if at.is_open() { "knee.request_rate" } else { "knee.concurrency" };
    let words = format!("let in no more than {}: {why}; queue or refuse the rest", at.words());
    Some(Advice::new(words, key, &at.json()))
}

/// What the step beyond the knee buys.
fn gain(step: &Step) -> String {
    let more = 100.0 * (step.to.x() / step.from.x() - 1.0);
    match 100.0 * (step.throughput.1 / step.throughput.0 - 1.0) {
        gain if gain < 0.0 => format!("loses {:.0} % of the throughput", -gain),
        gain => format!("gains {gain:.0} % of throughput for {more:.0} % more load"),
    }
}

/// What it costs.
fn price(below: &Placed<'_>, above: &Placed<'_>) -> String {
    let tail = |placed: &Placed<'_>| placed.level.latencies.e2e.percentile_ns(95.0);
    match tail(below).zip(tail(above)) {
        Some((low, high)) if high > low => {
            format!(", and p95 e2e goes from {} to {}", duration(low), duration(high))
        }
        _ => String::new(),
    }
}

/// A timeout that fits the SLO, or else what requests take where the server should work.
pub(super) fn timeout(scene: &Scene<'_>) -> Option<Advice> {
    let placed = scene.working_level()?;
    let at = placed.level.load.words();
    let now_ns = Some(scene.merged.header.plan.request_timeout_ns).filter(|ns| *ns > 0)?.unsigned_abs();
    let now = duration(now_ns);
    let timed_out = placed.level.error_kinds.get("timeout").copied().unwrap_or(0);
    if timed_out > 0 && scene.known.slo_e2e_ns.is_none() {
        let words = format!("request timeout: {now} is too short, {timed_out} requests ran into it at {at}");
        return placed.advice(scene.merged, words, "error_kinds.timeout");
    }
    let e2e = &placed.level.latencies.e2e;
    // The far end of the bar where there are enough requests for one: what is cut must be rare even so.
    let (longest, of) = match e2e.interval_ns(99.0) {
        Some((_, high)) => (high, "the upper end of p99's bar"),
        None => (e2e.percentile_ns(99.0)?, "p99, of too few requests for a bar,"),
    };
    let (fits_ns, why) = match scene.known.slo_e2e_ns {
        Some(slo) => (slo as f64, "the SLO's limit: later an answer is no good".to_owned()),
        None => (longest as f64 * NEAR, format!("twice {of} at {at}")),
    };
    let far = (now_ns as f64 / fits_ns).max(fits_ns / now_ns as f64);
    let words = format!("request timeout: {} in place of {now} ({why})", duration(round_up(fits_ns)));
    (far > NEAR).then(|| placed.advice(scene.merged, words, "p99_e2el_ms")).flatten()
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
            "back off: at {} {} of {} requests were second tries, which are load too; longer rests (--retry-backoff), and an end",
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
        failing.level.error_kinds.iter().max_by_key(|(_, n)| **n).map_or("of any kind", |(kind, _)| kind);
    let words = format!(
        "no blind retries: {:.0} % of requests fail at {} (mostly {kind}), and one tried again at once is one more",
        100.0 * share(&failing),
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
