//! The knee that tailcliff finds against the one that the simulated server's parameters imply: over 100 parameter sets in
//! virtual time, and a few through the whole system in real time.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::path::Path;

use e2e::knees::{Trial, World};
use e2e::roles::Role;
use model_sim::Params;
use tailcliff::axis::Load;
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

/// What the parameters imply and what tailcliff finds in a sweep in virtual time, as a concurrency each.
fn implied_and_found(params: &Params) -> (Option<u32>, Option<u32>) {
    let rule = CliffRule::default();
    let implied = model_sim::implied_knee(params, &LEVELS, PROMPT, OUTPUT, rule.gain_share);
    let sweep = model_sim::virtual_sweep(params, &LEVELS, PROMPT, OUTPUT, 600).unwrap();
    let rung = |level: &model_sim::VirtualLevel| Rung {
        load: Load::Streams(level.concurrency as u32),
        throughput: Some(level.throughput),
        ..Rung::default()
    };
    let rungs: Vec<Rung> = sweep.iter().map(rung).collect();
    let found = knee(&rule, &rungs).at.and_then(|load| load.concurrency());
    (implied.map(|at| LEVELS[at] as u32), found)
}

#[test]
fn within_one_rung_of_the_implied_knee_over_100_parameter_sets_in_virtual_time() {
    let mut rng = fastrand::Rng::with_seed(42);
    let (mut exact, mut implied_at) = (0, BTreeSet::new());
    for i in 0..100 {
        let params = random(&mut rng);
        let (implied, found) = implied_and_found(&params);
        let apart = rung_of(found).abs_diff(rung_of(implied));
        assert!(apart <= 1, "set {i}: found {found:?}, implied {implied:?}: {params:?}");
        exact += usize::from(found == implied);
        implied_at.insert(implied);
    }
    println!("the implied rung itself: {exact} of 100");
    assert!(exact >= 95, "only {exact} of 100 exact");
    assert!(implied_at.len() >= 6, "the parameters hardly vary: {implied_at:?}");
}

/// Every step to the top gains more than the threshold asks: each level costs little more than the one before, and
/// neither slots nor KV run out.
#[test]
fn no_knee_is_found_where_the_parameters_imply_one_beyond_the_top() {
    let mut rng = fastrand::Rng::with_seed(43);
    for i in 0..20 {
        let step_base_ns = rng.i64(2_000_000..30_000_000);
        let params = Params {
            prefill_tokens_per_s: 10f64.powf(7.0 + rng.f64()),
            step_base_ns,
            step_per_seq_ns: step_base_ns / rng.i64(500..5_000),
            max_num_seqs: rng.usize(128..1_000),
            kv_tokens: rng.u64(128 * (PROMPT + OUTPUT)..100_000),
            max_queue: None,
        };
        assert_eq!(implied_and_found(&params), (None, None), "set {i}: {params:?}");
    }
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

/// Sweeps until the levels count: on a machine too busy for the client they do not, and say so.
fn found_knee(server: &[&str]) -> Option<u64> {
    let mut knee = serde_json::Value::Null;
    for _ in 0..4 {
        knee = swept_knee(server);
        if knee["steps"].as_array().unwrap().len() >= 3 {
            return knee["concurrency"].as_u64();
        }
    }
    panic!("of a sweep whose levels do not count, none found would say nothing: {knee}");
}

fn swept_knee(server: &[&str]) -> serde_json::Value {
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
    let mut summary: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap();
    summary["knee"].take()
}

/// What `cargo run --release --bin knees` prints for 1,000 servers, with fewer of them.
#[test]
fn a_searchs_interval_holds_the_knee_that_the_parameters_imply() {
    let trials: Vec<Trial> = (900_000..900_040).map(|seed| World::drawn(seed).search()).collect();
    let covered = trials.iter().filter(|trial| trial.covers()).count();
    let mut widths: Vec<f64> = trials.iter().filter_map(|t| Some(t.found.knee?.width() / t.rung)).collect();
    widths.sort_by(f64::total_cmp);
    let shares: f64 =
        trials.iter().map(|t| t.took_s).sum::<f64>() / trials.iter().map(|t| t.linear_s).sum::<f64>();
    println!(
        "{covered} of 40 covered, median width {:.2} rungs, {shares:.2} of the time",
        widths[widths.len() / 2]
    );
    // Of 40 intervals that cover with 95 %, fewer than 35 would do so once in a hundred times. The binary judges a thousand.
    assert!(covered >= 35, "only {covered} of 40 intervals hold the knee");
    assert!(widths.len() == 40 && widths[20] <= 1.0, "median width {} rungs", widths[20]);
    assert!(shares <= 0.5, "{shares} of the time of a linear sweep");
}

/// The truth that searches are held against is arithmetic; this is what the simulated servers really do.
#[test]
fn the_knee_that_parameters_imply_is_where_a_long_ladder_bends() {
    for seed in 910_000..910_012 {
        let world = World::drawn(seed);
        let truth = world.knee(0.5);
        for part in [0.5, 0.9, 1.3] {
            let streams = (truth * part).round().max(1.0) as u32;
            let off = world.long_run_per_s(streams) / world.implied_per_s(f64::from(streams)) - 1.0;
            assert!(off.abs() < 0.025, "{world:?}: {off} at {streams} streams");
        }
        let elasticity = |from: f64, to: f64| {
            let [from, to] = [from, to].map(|part| (truth * part).round().max(1.0));
            let gain = world.long_run_per_s(to as u32) / world.long_run_per_s(from as u32);
            gain.ln() / (to / from).ln()
        };
        assert!(elasticity(0.4, 0.8) > 0.5, "{world:?}: {truth}");
        assert!(elasticity(1.3, 2.6) < 0.5, "{world:?}: {truth}");
    }
}
