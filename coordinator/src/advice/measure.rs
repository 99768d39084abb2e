//! What to measure next, where the run itself is the weak point: a client that was the limit, levels too short, a sweep
//! that ended too early.

use serde_json::json;

use super::{Advice, Placed, Scene};
use crate::certificate::{THIN_BELOW, Verdict};

/// All of them, one each at most.
pub(super) fn all(scene: &Scene<'_>) -> Vec<Advice> {
    [client(scene), longer(scene), further(scene)].into_iter().flatten().collect()
}

fn client(scene: &Scene<'_>) -> Option<Advice> {
    // A level that lost an agent is marked so too; another run is what it needs.
    let bound = |placed: &&Placed<'_>| placed.is(Verdict::ClientBound) && placed.level.marks.is_empty();
    let placed = scene.levels.iter().rfind(bound)?;
    let at = placed.level.load.words();
    let drove_more = scene.good().any(|good| good.level.load.x() > placed.level.load.x());
    let words = match drove_more {
        true => format!(
            "a quiet client: it was late at {at}, though it drove more than that; what else runs on its host?"
        ),
        false => format!(
            "more agents, best on hosts of their own: at {at} the client was the limit (`tailcliff calibrate`)"
        ),
    };
    placed.advice(scene.merged, words, "certificate.verdict")
}

fn longer(scene: &Scene<'_>) -> Option<Advice> {
    let thin = |completed: u64| (1..THIN_BELOW).contains(&completed);
    let placed = scene.levels.iter().find(|p| p.is(Verdict::Thin) && thin(p.level.measured.completed))?;
    let completed = placed.level.measured.completed;
    let times = THIN_BELOW.div_ceil(completed);
    let plan = &scene.merged.header.plan;
    let how = match (plan.num_prompts, plan.duration_ns) {
        (None, None) => "a larger --budget".to_owned(),
        (None, Some(ns)) => format!("--duration {:.0}s or more", (ns as f64 / 1e9 * times as f64).ceil()),
        _ => format!("--num-prompts {} or more", plan.num_prompts.unwrap_or(0).max(1).saturating_mul(times)),
    };
    let words = format!(
        "longer levels: {completed} requests at {} are too few for a p95; {how}",
        placed.level.load.words()
    );
    placed.advice(scene.merged, words, "completed")
}

/// Only where every level counts: what was left out may hide the knee.
fn further(scene: &Scene<'_>) -> Option<Advice> {
    let (knee, cliff) = (&scene.merged.knee, &scene.merged.cliff);
    let highest = scene.good().next_back()?;
    let all_good =
        knee.skipped.is_empty() && highest.place == scene.levels.last()?.place && knee.steps.len() > 1;
    if !all_good || knee.at.is_some() || cliff.at.is_some() {
        return None;
    }
    let to = highest.level.load;
    let flag = if to.is_open() { "--request-rate" } else { "--concurrency" };
    let words =
        format!("higher levels: neither knee nor cliff up to {} ({flag} {}, …)", to.words(), to.x() * 2.0);
    Some(Advice::new(words, "knee.searched_to", &json!(to.json())))
}
