//! Knees of known cause, SIMULATED in virtual time, with parameters and seeds that the rules were not tuned on.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use e2e::causes::{Confusion, Kind, Row, Scene, Signals, TRAINING_SEEDS, play};
use tailcliff::diagnose::Cause;

const SEED: u64 = TRAINING_SEEDS + 50_000;

fn judged(scene: &Scene) -> Row {
    Row::of(scene, &play(scene).unwrap())
}

/// The share below is of worlds whose cause the signals can tell, where `unknown` counts as wrong.
#[test]
fn the_cause_is_right_in_95_percent_of_held_out_worlds() {
    let mut confusion = Confusion::default();
    // So many that one world more or less is under a hundredth.
    for i in 0..110 {
        let kind = Kind::ALL[i % Kind::ALL.len()];
        let scene = Scene::draw(kind, Signals::turn((i / Kind::ALL.len()) as u64), SEED + i as u64);
        confusion.rows.push(judged(&scene));
    }
    for (tellable, at_least) in [(true, 0.95), (false, 0.9)] {
        let share = confusion.share(tellable).unwrap();
        let wrong: Vec<&Row> = confusion.wrong().collect();
        assert!(share >= at_least, "{share}: {confusion}{wrong:#?}");
    }
    assert!(confusion.rows.iter().filter(|row| row.tellable).count() >= 90, "{confusion}");
}

/// What the client alone sees is enough where slots are the limit.
#[test]
fn a_queue_needs_no_gpu_to_be_told() {
    for seed in 0..4 {
        let scene = Scene::draw(Kind::Slots, Signals::default(), SEED + 1_000 + seed);
        let row = judged(&scene);
        assert_eq!(row.said, "server queue", "{row:#?}");
    }
}

/// A slower clock and a larger batch look the same from afar.
#[test]
fn compute_and_a_power_cap_are_one_without_a_gpu_probe() {
    for kind in [Kind::Cost, Kind::Power] {
        let scene = Scene::draw(kind, Signals::default(), SEED + 2_000);
        let row = judged(&scene);
        assert_eq!(row.said, "unknown: compute-bound or power or thermal cap", "{row:#?}");
        let seen = Scene { signals: Signals { gpu: true, ..Signals::default() }, ..scene };
        assert_eq!(judged(&seen).said, seen.kind.cause().as_str());
    }
}

/// A world without a limit has no knee, and nothing is said of one.
#[test]
fn without_a_knee_there_is_no_diagnosis() {
    let mut scene = Scene::draw(Kind::Slots, Signals::default(), SEED + 3_000);
    scene.world.params.max_num_seqs = 256;
    scene.world.params.step_per_seq_ns = 0;
    scene.world.params.prefill_tokens_per_s = 1e9;
    scene.ladder = vec![1, 2, 4, 8];
    let played = play(&scene).unwrap();
    assert_eq!(played.merged.knee.at, None, "{}", played.merged.knee.words);
    assert_eq!(played.diagnosed.diagnosis, None);
    assert!(played.diagnosed.words.starts_with("no diagnosis"), "{}", played.diagnosed.words);
}

/// Every line of evidence of a diagnosis names both levels.
#[test]
fn evidence_carries_the_numbers_below_and_above() {
    let scene = Scene::draw(Kind::Kv, Signals { gpu: true, ..Signals::default() }, SEED + 4_000);
    let found = play(&scene).unwrap().diagnosed.diagnosis.unwrap();
    assert_eq!(found.cause, Cause::KvFull, "{}", found.words);
    assert!(
        found.evidence.len() >= 6 && found.excluded.iter().any(|(cause, _)| *cause == Cause::ClientBound)
    );
    assert!(found.evidence.iter().all(|e| e.words.matches(" at ").count() >= 2), "{:#?}", found.evidence);
}
