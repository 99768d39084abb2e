//! How often `compare` is wrong: pairs of runs of one simulated server in virtual time, which must be indistinguishable, and
//! pairs in which one server is slower, which must be found worse. Every interval and verdict is the program's own.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use e2e::simulated::record;
use model_sim::{Params, Senders, VirtualLoad, virtual_level};
use tailcliff::axis::{Load, Rate};
use tailcliff::blocks;
use tailcliff::compare::{Loaded, Place, Rule, Side, Verdict, compare};
use tailcliff::merge::window::{Rule as WindowRule, Window};

const S: i64 = 1_000_000_000;
const WARMUP_S: i64 = 10;

fn side(params: &Params, loads: &[Load], window_s: i64, seed: u64) -> Side {
    let level = |(i, load): (usize, &Load)| {
        let senders = match load {
            Load::Streams(n) => Senders::Clients(*n as usize),
            Load::Rate(Rate(per_s)) => Senders::Rate(*per_s),
        };
        let until_ns = (WARMUP_S + window_s + 20) * S;
        let load_of = VirtualLoad {
            senders,
            prompt_tokens: (50, 150),
            output_tokens: (20, 60),
            until_ns,
            causes: Vec::new(),
            seed: seed * 1_000 + i as u64,
        };
        let all = virtual_level(params, &load_of).unwrap();
        let records: Vec<_> = all.iter().map(|request| record(request, until_ns)).collect();
        let (start_ns, end_ns) = (WARMUP_S * S, (WARMUP_S + window_s) * S);
        let window = Window { rule: WindowRule::Duration, start_ns, end_ns };
        Loaded {
            place: Place { load: *load, cell: None },
            repeats: vec![blocks::of_records(&records, window, *load)],
        }
    };
    Side { loads: loads.iter().enumerate().map(level).collect(), ..Side::default() }
}

fn server(slower: f64) -> Params {
    Params {
        prefill_tokens_per_s: 20_000.0 / slower,
        step_base_ns: (8e6 * slower) as i64,
        step_per_seq_ns: (4e5 * slower) as i64,
        max_num_seqs: 16,
        kv_tokens: 100_000,
        max_queue: None,
    }
}

/// Verdicts of pairs of runs.
fn verdicts(pairs: u64, slower: f64, loads: &[Load], window_s: i64) -> Vec<Verdict> {
    let of = |seed: u64| {
        let (a, b) = (
            side(&server(1.0), loads, window_s, 2 * seed),
            side(&server(slower), loads, window_s, 2 * seed + 1),
        );
        compare(&a, &b, &Rule::default()).verdict
    };
    (1..=pairs).map(of).collect()
}

fn count(verdicts: &[Verdict], of: Verdict) -> usize {
    verdicts.iter().filter(|v| **v == of).count()
}

/// Closed loop below the slots and at them, and an open loop at a third of what the server can do.
fn sweeps() -> [(Vec<Load>, i64); 2] {
    [(vec![Load::Streams(4), Load::Streams(16)], 20), (vec![Load::Rate(Rate(10.0))], 60)]
}

#[test]
fn two_runs_of_one_server_are_indistinguishable() {
    let all: Vec<Verdict> = sweeps().iter().flat_map(|(loads, s)| verdicts(20, 1.0, loads, *s)).collect();
    let same = count(&all, Verdict::Same);
    println!("{same} of {} pairs indistinguishable", all.len());
    assert!(same * 100 >= all.len() * 95, "{same} of {}: {all:?}", all.len());
}

#[test]
fn a_server_that_is_a_tenth_slower_is_worse() {
    let all: Vec<Verdict> = sweeps().iter().flat_map(|(loads, s)| verdicts(6, 1.1, loads, *s)).collect();
    let worse = count(&all, Verdict::Worse);
    println!("{worse} of {} pairs worse", all.len());
    assert!(worse * 100 >= all.len() * 80, "{worse} of {}: {all:?}", all.len());
}
