//! Signatures of every cause, with random parameters, orders, sensors and noise: right where it can be told, and never sure
//! of something that is not so.

use fastrand::Rng;

use super::simulate::{AROUND_NS, Sensors, Stage, readings};
use super::slices::Quiet;
use super::*;
use crate::coldwarm::evidence::Curve;

const MS: i64 = 1_000_000;
const STARTUP: [Term; 4] = [Term::StorageToRam, Term::RamToGpu, Term::RuntimeWarmup, Term::Allocation];
/// Seeds that the rules were made with, and those that they were not: the latter with wider parameters too.
const MADE_WITH: std::ops::Range<u64> = 0..40;
const HELD_OUT: std::ops::Range<u64> = 10_000..10_100;

fn quiet() -> Quiet {
    Quiet { disk_bytes_per_s: Some(4e6) }
}

/// One cause with most of the time, and bits of others around it.
fn dominated(by: Term, others: &[Term], wide: bool, rng: &mut Rng) -> Vec<Stage> {
    let total = (rng.f64() * 25.0 + 3.0) * 1e9;
    let share = rng.f64() * 0.25 + 0.65;
    let mut stages: Vec<Stage> = Vec::new();
    let rest = (total * (1.0 - share) / 3.0) as i64;
    for _ in 0..3 {
        stages.push(Stage::of(others[rng.usize(0..others.len())], rest, wide, rng));
    }
    stages.insert(rng.usize(0..4), Stage::of(by, (total * share) as i64, wide, rng));
    stages
}

fn truth(stages: &[Stage], term: Term) -> f64 {
    let sum = |all: &mut dyn Iterator<Item = &Stage>| all.map(|s| s.ns).sum::<i64>() as f64;
    sum(&mut stages.iter().filter(|s| s.cause == term)) / sum(&mut stages.iter())
}

fn of_startup(stages: &[Stage], sensors: Sensors, rng: &mut Rng) -> Diagnosis {
    let (series, end) = readings(stages, sensors, rng);
    let startup_of = Startup { from_ns: AROUND_NS, ready_ns: end, ..Startup::default() };
    startup(&series.curves(), startup_of, quiet(), None)
}

#[test]
fn what_another_process_read_is_not_the_servers() {
    let mut rng = Rng::with_seed(1);
    let stages = [Stage::of(Term::StorageToRam, 5_000 * MS, false, &mut rng)];
    let sensors = Sensors { own_reads: false, ..Sensors::ALL };
    let (series, end) = readings(&stages, sensors, &mut rng);
    let judged = |own_read_bytes| {
        let of = Startup { from_ns: AROUND_NS, ready_ns: end, own_read_bytes, ..Startup::default() };
        let diagnosis = startup(&series.curves(), of, quiet(), None);
        (diagnosis.verdict.term, diagnosis.verdict.confidence)
    };
    let storage = Some(Term::StorageToRam);
    assert_eq!(judged(None), (storage, Confidence::Medium));
    assert_eq!(judged(Some(1e12)), (storage, Confidence::High));
    assert_eq!(judged(Some(1e6)), (storage, Confidence::Low));
}

/// Sure, of something that had less than a third of the time.
fn is_confident_and_wrong(diagnosis: &Diagnosis, stages: &[Stage]) -> bool {
    let said = diagnosis.verdict.term.filter(|_| diagnosis.verdict.confidence > Confidence::Low);
    said.is_some_and(|term| truth(stages, term) < 1.0 / 3.0)
}

fn adds_up(diagnosis: &Diagnosis) {
    assert_eq!(diagnosis.terms.iter().map(|s| s.ns).sum::<i64>(), diagnosis.span_ns);
}

#[test]
fn what_dominates_a_start_is_told_with_every_sensor() {
    for (seeds, wide) in [(MADE_WITH, false), (HELD_OUT, true)] {
        for by in STARTUP {
            let (mut right, mut all) = (0, 0);
            for seed in seeds.clone() {
                let mut rng = Rng::with_seed(seed);
                let others = [&STARTUP[..], &[Term::Unexplained]].concat();
                let stages = dominated(by, &others, wide, &mut rng);
                let diagnosis = of_startup(&stages, Sensors::ALL, &mut rng);
                adds_up(&diagnosis);
                assert!(
                    !is_confident_and_wrong(&diagnosis, &stages),
                    "{by:?}, seed {seed}: {diagnosis:#?} {stages:#?}"
                );
                all += 1;
                right += usize::from(diagnosis.verdict.term == Some(by));
            }
            println!("SIMULATED start, {by:?}, wide {wide}: {right} of {all}");
            assert!(right * 100 >= all * 95, "{by:?}, wide {wide}: {right} of {all}");
        }
    }
}

#[test]
fn with_some_sensors_it_is_told_or_not_but_never_falsely() {
    let mut told = 0;
    for seed in HELD_OUT {
        let mut rng = Rng::with_seed(seed);
        let by = STARTUP[rng.usize(0..4)];
        let others = [&STARTUP[..], &[Term::Unexplained]].concat();
        let stages = dominated(by, &others, true, &mut rng);
        let sensors = Sensors::some(&mut rng);
        let diagnosis = of_startup(&stages, sensors, &mut rng);
        adds_up(&diagnosis);
        assert!(
            !is_confident_and_wrong(&diagnosis, &stages),
            "seed {seed} {sensors:?}: {diagnosis:#?} {stages:#?}"
        );
        told += usize::from(diagnosis.verdict.term == Some(by));
    }
    println!("SIMULATED start with some of the sensors: {told} of {} told", HELD_OUT.count());
}

#[test]
fn without_a_gpu_storage_is_still_told() {
    for seed in HELD_OUT {
        let mut rng = Rng::with_seed(seed);
        let others = [Term::RuntimeWarmup, Term::Unexplained];
        let stages = dominated(Term::StorageToRam, &others, false, &mut rng);
        let sensors = Sensors { gpu: false, ..Sensors::ALL };
        let diagnosis = of_startup(&stages, sensors, &mut rng);
        assert_eq!(diagnosis.verdict.term, Some(Term::StorageToRam), "seed {seed}: {diagnosis:#?}");
        assert!(diagnosis.verdict.confidence > Confidence::Low);
        assert!(diagnosis.seen.gpu_memory_growth_bytes.is_none() && diagnosis.absent.len() == 1);
    }
}

#[test]
fn a_mixture_and_a_stillness_cannot_be_told() {
    for seed in MADE_WITH.chain(HELD_OUT) {
        let mut rng = Rng::with_seed(seed);
        let ns = rng.i64(1_000 * MS..8_000 * MS);
        let mut mixed: Vec<Stage> =
            STARTUP.iter().map(|&term| Stage::of(term, ns, false, &mut rng)).collect();
        rng.shuffle(&mut mixed);
        let diagnosis = of_startup(&mixed, Sensors::ALL, &mut rng);
        assert_eq!(diagnosis.verdict.term, None, "seed {seed}: {diagnosis:#?}");
        let still = dominated(Term::Unexplained, &STARTUP, false, &mut rng);
        let diagnosis = of_startup(&still, Sensors::ALL, &mut rng);
        assert_eq!(diagnosis.verdict.term, None, "seed {seed}: {diagnosis:#?}");
    }
}

/// A cold request: its cause, then the prefill that every request has.
fn of_first(by: Term, sensors: Sensors, wide: bool, rng: &mut Rng) -> (Diagnosis, Vec<Stage>) {
    let prefill = rng.i64(20 * MS..60 * MS);
    let excess = rng.i64(600 * MS..6_000 * MS);
    let mut stages = vec![Stage::of(by, excess, wide, rng), Stage::of(Term::Prefill, prefill, wide, rng)];
    if by == Term::Prefill {
        stages.remove(0);
        stages[0].ns = excess;
    }
    let (series, end) = readings(&stages, sensors, rng);
    let own = if by == Term::Prefill { excess } else { prefill };
    // What is cached of the prompt makes the warm ones quicker.
    let warm: Vec<i64> = (0..5).map(|_| prefill / 2 + rng.i64(0..prefill / 10)).collect();
    let of = First { sent_ns: AROUND_NS, until_ns: end, warm_ns: warm, fresh_ns: Some(own) };
    (first(&series.curves(), &of, quiet()), stages)
}

#[test]
fn what_dominates_a_first_request_is_told() {
    let causes = [&STARTUP[..], &[Term::Prefill]].concat();
    for (seeds, wide) in [(MADE_WITH, false), (HELD_OUT, true)] {
        for &by in &causes {
            let (mut right, mut all) = (0, 0);
            for seed in seeds.clone() {
                let mut rng = Rng::with_seed(seed);
                let (diagnosis, stages) = of_first(by, Sensors::ALL, wide, &mut rng);
                adds_up(&diagnosis);
                assert!(!is_confident_and_wrong(&diagnosis, &stages), "{by:?}, seed {seed}: {diagnosis:#?}");
                all += 1;
                right += usize::from(diagnosis.verdict.term == Some(by));
            }
            println!("SIMULATED first request, {by:?}, wide {wide}: {right} of {all}");
            assert!(right * 100 >= all * 95, "{by:?}, wide {wide}: {right} of {all}");
        }
    }
    for seed in HELD_OUT {
        let mut rng = Rng::with_seed(seed);
        let by = causes[rng.usize(0..causes.len())];
        let sensors = Sensors::some(&mut rng);
        let (diagnosis, stages) = of_first(by, sensors, true, &mut rng);
        assert!(
            !is_confident_and_wrong(&diagnosis, &stages),
            "{by:?} {sensors:?}, seed {seed}: {diagnosis:#?}"
        );
    }
}

#[test]
fn a_first_request_like_the_others_has_nothing_to_explain() {
    let mut rng = Rng::with_seed(1);
    let stages = [Stage::of(Term::Prefill, 50 * MS, false, &mut rng)];
    let (series, end) = readings(&stages, Sensors::ALL, &mut rng);
    let of = First { sent_ns: AROUND_NS, until_ns: end, warm_ns: vec![49 * MS; 5], fresh_ns: None };
    let diagnosis = first(&series.curves(), &of, quiet());
    assert_eq!(diagnosis.verdict.term, None);
    assert!(diagnosis.verdict.because.contains("nothing to explain"), "{diagnosis:?}");
    let alone = First { warm_ns: Vec::new(), ..of };
    let because = first(&series.curves(), &alone, quiet()).verdict.because;
    assert!(because.contains("no warm request"), "{because}");
}

#[test]
fn work_of_the_server_before_the_request_is_a_queue() {
    let mut rng = Rng::with_seed(1);
    let before = Stage::of(Term::RuntimeWarmup, 1_000 * MS, false, &mut rng);
    let wait = Stage::of(Term::Prefill, 2_000 * MS, false, &mut rng);
    let (series, end) = readings(&[before, wait], Sensors::ALL, &mut rng);
    let sent_ns = AROUND_NS + 1_000 * MS;
    let of = First { sent_ns, until_ns: end, warm_ns: vec![50 * MS; 5], fresh_ns: Some(60 * MS) };
    for (busy_before, queued) in [(0.9, true), (0.6, true), (0.4, false), (0.0, false)] {
        let mut curves = series.curves();
        let at = |ns: i64, busy: f64| (ns, busy);
        let before_ns = 500.0 * MS as f64 * busy_before;
        let sent = at(sent_ns, before_ns);
        let ended = at(end, before_ns + (end - sent_ns) as f64);
        let steps = (sent_ns..end).step_by(100 * MS as usize).skip(1);
        let working = steps.map(|ns| at(ns, before_ns + (ns - sent_ns) as f64));
        let points = [at(sent_ns - 500 * MS, 0.0), sent].into_iter().chain(working).chain([ended]);
        curves.gpu_busy = Some(Curve::new(points.collect()));
        let verdict = first(&curves, &of, quiet()).verdict;
        assert_eq!(verdict.term == Some(Term::Queueing), queued, "{busy_before}: {verdict:#?}");
        assert!(!queued || verdict.confidence == Confidence::Low);
    }
}

/// Of the recorded start of vLLM 0.32 on a CPU (no GPU memory there to see): names and lengths as it emitted them.
#[test]
fn what_the_server_says_of_its_start_comes_first() {
    let span = |name: &str, from_ms: i64, to_ms: i64| StartupSpan {
        name: name.to_owned(),
        from_ns: AROUND_NS + from_ms * MS,
        to_ns: AROUND_NS + to_ms * MS,
    };
    let spans = [
        span("Overall Loading", 0, 54_000),
        span("AsyncMPClient init", 0, 54_000),
        span("EngineCoreProc init", 24_960, 54_000),
        span("Executor init", 24_984, 52_784),
        span("Worker init", 49_146, 52_781),
        span("Load model", 51_619, 52_778),
        span("Initialize model", 51_619, 51_643),
        span("Load weights", 51_912, 51_919),
        span("Prepare model", 52_785, 53_453),
        span("Allocate KV cache", 52_796, 53_450),
    ];
    let mut rng = Rng::with_seed(3);
    // Nothing that was read moves: without spans nobody could tell.
    let stages = [Stage::of(Term::Unexplained, 54_000 * MS, false, &mut rng)];
    let (series, end) = readings(&stages, Sensors::ALL, &mut rng);
    let of = Startup { from_ns: AROUND_NS, ready_ns: end, ..Startup::default() };
    let curves = series.curves();
    assert_eq!(startup(&curves, of, quiet(), None).verdict.term, None);
    let diagnosis = startup(&curves, of, quiet(), Some(&spans));
    adds_up(&diagnosis);
    assert_eq!(diagnosis.verdict.term, Some(Term::RuntimeWarmup), "{diagnosis:#?}");
    assert_eq!(diagnosis.verdict.confidence, Confidence::High);
    let allocation = diagnosis.ns(Term::Allocation);
    assert!((allocation - 654 * MS).abs() < 60 * MS, "{allocation}");
    assert_eq!(startup(&curves, of, quiet(), Some(&[])).verdict.term, None);
}

/// The same span means storage while a disk is read, and the link when it is not.
#[test]
fn the_weights_of_a_span_come_from_where_they_are_seen_to_come() {
    for (cause, seed) in [(Term::StorageToRam, 1), (Term::RamToGpu, 2), (Term::Unexplained, 3)] {
        let mut rng = Rng::with_seed(seed);
        let (series, end) =
            readings(&[Stage::of(cause, 5_000 * MS, false, &mut rng)], Sensors::ALL, &mut rng);
        let of = Startup { from_ns: AROUND_NS, ready_ns: end, ..Startup::default() };
        let spans = [StartupSpan { name: "Load weights".to_owned(), from_ns: AROUND_NS, to_ns: end }];
        let diagnosis = startup(&series.curves(), of, quiet(), Some(&spans));
        let expected = if cause == Term::Unexplained { Term::RamToGpu } else { cause };
        assert_eq!(diagnosis.verdict.term, Some(expected), "{diagnosis:#?}");
    }
}

#[test]
fn time_in_which_the_old_server_still_answers_is_its_own_term() {
    let mut rng = Rng::with_seed(1);
    let stages = [
        Stage::of(Term::Unexplained, 8_000 * MS, false, &mut rng),
        Stage::of(Term::StorageToRam, 2_000 * MS, false, &mut rng),
    ];
    let (series, end) = readings(&stages, Sensors::ALL, &mut rng);
    let of = Startup {
        from_ns: AROUND_NS,
        down_ns: Some(AROUND_NS + 8_000 * MS),
        ready_ns: end,
        ..Startup::default()
    };
    let diagnosis = startup(&series.curves(), of, quiet(), None);
    assert_eq!(diagnosis.verdict.term, Some(Term::Stopping));
    assert_eq!(diagnosis.terms[1].term, Term::StorageToRam);
}

#[test]
fn restarts_that_disagree_are_not_reproduced() {
    let of = |term, confidence| Diagnosis {
        verdict: Verdict { term: Some(term), confidence, because: String::new() },
        ..Diagnosis::default()
    };
    let (a, b) = (of(Term::StorageToRam, Confidence::High), of(Term::RuntimeWarmup, Confidence::Medium));
    assert_eq!(overall(&[&a]).confidence, Confidence::High);
    assert_eq!(overall(&[&a, &a]).term, Some(Term::StorageToRam));
    assert_eq!(overall(&[&a, &b]).term, None);
    let most = overall(&[&a, &b, &a]);
    assert_eq!((most.term, most.confidence), (Some(Term::StorageToRam), Confidence::Low));
    assert_eq!(overall(&[]).term, None);
}
