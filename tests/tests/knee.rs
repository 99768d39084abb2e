//! The knee that tailcliff finds against the one that the simulated server's parameters imply: over 100 parameter sets in
//! virtual time, and a few through the whole system in real time.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use e2e::roles::Role;
use model_sim::Params;
use tailcliff::knee::{Rung, knee};
use tailcliff::plan::CliffRule;

const LEVELS: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
const PROMPT: u64 = 64;
const OUTPUT: u64 = 24;

fn rung_of(concurrency: Option<u32>) -> usize {
    let none_found = LEVELS.len() - 1;
    concurrency.map_or(none_found, |c| LEVELS.iter().position(|&level| level == c as usize).unwrap())
}

fn random(rng: &mut fastrand::Rng) -> Params {
    Params {
        prefill_tokens_per_s: 10f64.powf(3.5 + 2.0 * rng.f64()),
        step_base_ns: rng.i64(2_000_000..30_000_000),
        step_per_seq_ns: rng.i64(0..2_000_000),
        max_num_seqs: rng.usize(1..100),
        kv_tokens: rng.u64(200..20_000),
        max_queue: None,
    }
}

#[test]
fn within_one_rung_of_the_implied_knee_over_100_parameter_sets_in_virtual_time() {
    let rule = CliffRule::default();
    let mut rng = fastrand::Rng::with_seed(42);
    let mut exact = 0;
    for i in 0..100 {
        let params = random(&mut rng);
        let implied = model_sim::implied_knee(&params, &LEVELS, PROMPT, OUTPUT, rule.gain_share);
        let sweep = model_sim::virtual_sweep(&params, &LEVELS, PROMPT, OUTPUT, 600).unwrap();
        let rung = |level: &model_sim::VirtualLevel| Rung {
            concurrency: level.concurrency as u32,
            throughput: Some(level.throughput),
            ..Rung::default()
        };
        let rungs: Vec<Rung> = sweep.iter().map(rung).collect();
        let found = rung_of(knee(&rule, &rungs).at);
        let implied = implied.unwrap_or(LEVELS.len() - 1);
        assert!(found.abs_diff(implied) <= 1, "set {i}: found rung {found}, implied {implied}: {params:?}");
        exact += usize::from(found == implied);
    }
    println!("the implied rung itself: {exact} of 100");
}

#[test]
fn within_one_rung_through_the_whole_system_in_real_time() {
    let levels = [1usize, 2, 4, 8, 16];
    for (slots, base_ms, per_seq_ms) in [("2", "10", "0.1"), ("8", "6", "0.2"), ("16", "4", "2")] {
        let server = ["--max-num-seqs", slots, "--step-base-ms", base_ms, "--step-per-seq-ms", per_seq_ms];
        let args =
            <model_sim::args::Args as clap::Parser>::parse_from(["model-sim"].into_iter().chain(server));
        let model_sim::Timing::Engine(params) = args.config().unwrap().timing else {
            panic!("not an engine")
        };
        let implied = model_sim::implied_knee(&params, &levels, 16, 10, 0.5);
        let knee = found_knee(&server);
        let found = levels.iter().position(|&l| Some(l as u64) == knee);
        let place = |knee: Option<usize>| knee.unwrap_or(levels.len() - 1);
        let apart = place(found).abs_diff(place(implied));
        assert!(apart <= 1, "{slots} slots: found {found:?}, implied {implied:?}");
    }
}

fn found_knee(server: &[&str]) -> Option<u64> {
    let binary = Path::new(env!("CARGO_BIN_EXE_demo"));
    let dir = tempfile::tempdir().unwrap();
    let sim = Role::start(binary, "model-sim", &[&["--listen", "127.0.0.1:0"], server].concat()).unwrap();
    let url = sim.line("listening on ").unwrap();
    let out = dir.path().join("run");
    let args = [
        "run",
        "--url",
        &url,
        "--model",
        "sim",
        "--concurrency",
        "1,2,4,8,16",
        "--duration",
        "1500ms",
        "--warmup",
        "300ms",
        "--input-len",
        "16",
        "--output-len",
        "10",
        "--ignore-eos",
        "--output-dir",
        out.to_str().unwrap(),
    ];
    assert!(Role::start(binary, "tailcliff", &args).unwrap().wait().unwrap().success());
    let summary: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap();
    summary["knee"]["concurrency"].as_u64()
}
