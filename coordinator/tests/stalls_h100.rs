//! A run on a real card, judged again: an NVIDIA H100 under a server that stood still on purpose and logged when and how. See
//! `fixtures/h100-stalls/README.md`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tailcliff::merge::{Merged, merge};
use tailcliff::stall::{CONFIDENT, Kind, Stall, Verdict};

/// The server wakes a few ms late, and a step of it takes about 30 ms.
const NEAR_NS: i64 = 100_000_000;

struct Cause {
    kind: String,
    from_ns: i64,
    to_ns: i64,
    requests: Vec<String>,
}

fn directory() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/h100-stalls")
}

fn run() -> Merged {
    merge(&tailcliff::load::load(&directory()).unwrap())
}

/// Client, server and probe shared one host and its clock: the server's raw stamps are the coordinator's.
fn causes() -> Vec<Cause> {
    let text = std::fs::read_to_string(directory().join("truth.jsonl")).unwrap();
    let cause = |line: &str| {
        let told: Value = serde_json::from_str(line).unwrap();
        Cause {
            kind: told["kind"].as_str().unwrap().to_owned(),
            from_ns: told["from_raw_ns"].as_i64().unwrap(),
            to_ns: told["to_raw_ns"].as_i64().unwrap(),
            requests: told["requests"]
                .as_array()
                .unwrap()
                .iter()
                .map(|r| r.as_str().unwrap().to_owned())
                .collect(),
        }
    };
    text.lines().map(cause).collect()
}

fn of<'a>(cause: &Cause, stalls: &'a [Stall]) -> Vec<&'a Stall> {
    let is_its = |stall: &&Stall| {
        stall.gap.kind == Kind::Gap
            && cause.requests.contains(&stall.gap.request_id)
            && (stall.gap.from_ns - cause.from_ns).abs() < NEAR_NS
    };
    stalls.iter().filter(is_its).collect()
}

#[test]
fn every_stall_of_a_real_card_is_told_by_its_cause() {
    let merged = run();
    let mut matrix: BTreeMap<(String, Verdict), u32> = BTreeMap::new();
    assert_eq!(causes().len(), 34);
    for cause in causes() {
        let wanted = match cause.kind.as_str() {
            "idle" | "preempt" => Verdict::Waiting,
            "extra" => Verdict::ExtraCompute,
            _ => Verdict::Network,
        };
        let seen = of(&cause, &merged.stalls.all);
        assert!(!seen.is_empty(), "a {} of {} ns was not seen", cause.kind, cause.to_ns - cause.from_ns);
        for stall in seen {
            let said = &stall.judgement;
            *matrix.entry((cause.kind.clone(), said.verdict)).or_default() += 1;
            assert!(said.verdict == wanted && said.confidence >= CONFIDENT, "{}: {said:?}", cause.kind);
            // It began within a step of the cause and ended within one after it.
            let late = stall.gap.length_ns() - (cause.to_ns - cause.from_ns);
            assert!((0..50_000_000).contains(&late), "{}: {late} ns longer than the cause", cause.kind);
        }
    }
    for ((kind, verdict), n) in &matrix {
        eprintln!("real H100: {kind} judged {}: {n}", verdict.as_str());
    }
    let controls =
        merged.stalls.all.iter().filter(|s| s.gap.control_raw_ns.is_some() && s.gap.kind == Kind::Ttft);
    let controls: Vec<_> = controls.map(|s| s.judgement.verdict).collect();
    assert!(!controls.is_empty() && controls.iter().all(|v| *v == Verdict::Client), "{controls:?}");
}

#[test]
fn plain_power_alone_tells_none_of_the_pauses_of_724_ms() {
    let mut data = tailcliff::load::load(&directory()).unwrap();
    for batch in data.nodes.values_mut().flat_map(|node| &mut node.batches) {
        batch.driver_samples.clear();
        batch.gpm_samples.clear();
        for sample in &mut batch.gpu_samples {
            (sample.power_instant_mw, sample.gpu_util_pct) = (None, None);
        }
    }
    let merged = merge(&data);
    let naive = |cause: &Cause| {
        of(cause, &merged.stalls.all).iter().all(|s| s.judgement.verdict == Verdict::CantTell)
    };
    let short = causes().into_iter().filter(|c| c.kind == "idle" && c.to_ns - c.from_ns < 800_000_000);
    let told: Vec<bool> = short.map(|cause| naive(&cause)).collect();
    assert!(told.len() > 2 && told.iter().all(|cannot| *cannot), "{told:?}");
}

#[test]
fn energy_lies_between_its_bounds_and_near_what_the_cards_idle_power_makes() {
    let merged = run();
    let bands = merged.stalls.gpus[0].bands.iter().find(|(name, _)| *name == "instant power").unwrap().1;
    for cause in causes().iter().filter(|c| c.kind == "idle") {
        for stall in of(cause, &merged.stalls.all) {
            let energy = stall.energy.unwrap();
            assert!(
                energy.low <= energy.joules && energy.joules <= energy.high && energy.method == "counter"
            );
            let idle = bands.idle.0 * stall.gap.length_ns() as f64 / 1e9;
            assert!(energy.low <= idle * 1.1 && idle <= energy.high, "{energy:?} beside {idle} J");
        }
    }
}

#[test]
fn the_same_directory_gives_the_same_verdicts() {
    let dir = tempfile::tempdir().unwrap();
    let judged = |name: &str| {
        let csv = dir.path().join(name);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tailcliff"));
        let output = command.arg("stalls").arg(directory()).arg("--csv").arg(&csv).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (std::fs::read_to_string(csv).unwrap(), output.stdout)
    };
    let (one, two) = (judged("one.csv"), judged("two.csv"));
    assert!(one == two && one.0.lines().count() > 100);
}
