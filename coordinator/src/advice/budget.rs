//! Budgets of tokens: which of the two, prompt or answer, a request's time goes into, where nothing queues yet.

use super::{Advice, Scene};
use crate::knee::duration;

/// Share of a request's time from which on it is worth a word.
const MOST_OF_IT: f64 = 0.5;
/// Answers this close to `max_tokens` are cut by it.
const CUT: f64 = 0.95;

/// Which budget pays, by the lowest good level: above it the time to the first token is the queue's.
pub(super) fn tokens(scene: &Scene<'_>) -> Option<Advice> {
    let placed = scene.good().next()?;
    let latencies = &placed.level.latencies;
    let (e2e, ttft) = (latencies.e2e.mean_ns()?, latencies.ttft.mean_ns()?);
    let at = placed.level.load.words();
    if ttft / e2e >= MOST_OF_IT {
        let share = 100.0 * ttft / e2e;
        let words = format!(
            "a prompt budget: {share:.0} % of a request's time at {at} passes before its first token"
        );
        return placed.advice(scene.merged, words, "mean_ttft_ms");
    }
    let tpot = latencies.tpot.mean_ns().filter(|ns| *ns > 0.0)?;
    let answered = placed.level.measured.completed.saturating_sub(placed.level.outside.without_tokens);
    let mean = placed.level.output_tokens as f64 / answered.max(1) as f64;
    let plan = &scene.merged.header.plan;
    let asked = f64::from(plan.output_len);
    // Where a dataset or a cell gives each request its own limit, the plan's is not what cuts.
    let own = plan.file().is_some_and(|file| file.mean_output_len.is_some()) || !plan.cells.is_empty();
    if mean < asked * CUT || own || plan.ignore_eos {
        return None;
    }
    let saved = duration(tpot as u64);
    let words = format!(
        "an output budget: answers end at max_tokens ({mean:.0} of {asked}), each token less saves {saved} at {at}"
    );
    placed.advice(scene.merged, words, "mean_tpot_ms")
}
