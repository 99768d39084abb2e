//! Verdicts held against causes that are known.

use std::collections::BTreeMap;

use super::scene::{Cause, PROBE, Scene};
use super::*;
use crate::merge::merge;
use crate::merge::testrun::{MS, ORIGIN, S};
use crate::stored::RunData;

fn judged(data: &RunData) -> Stalls {
    merge(data).stalls
}

/// The stall that the cause made; the longest of those that begin near it.
fn of_cause<'a>(stalls: &'a Stalls, scene: &Scene) -> Option<&'a Stall> {
    let at = ORIGIN + scene.at;
    let near = stalls
        .all
        .iter()
        .filter(|s| (s.gap.from_ns - at).abs() < 2 * scene.itl + 5 * MS && s.gap.kind == Kind::Gap);
    near.max_by_key(|s| s.gap.length_ns())
}

#[test]
fn every_cause_is_told_and_none_wrongly_with_confidence() {
    let mut matrix: BTreeMap<(Cause, Verdict), u32> = BTreeMap::new();
    let (mut right, mut silent, mut all) = (0, 0, 0);
    for seed in 0..40 {
        for (i, cause) in Cause::ALL.into_iter().enumerate() {
            let scene = Scene::new(cause, seed * 100 + i as u64);
            let stalls = judged(&scene.draw());
            let Some(stall) = of_cause(&stalls, &scene) else { panic!("no stall found: {scene:?}") };
            let said = &stall.judgement;
            *matrix.entry((cause, said.verdict)).or_default() += 1;
            all += 1;
            right += u32::from(said.verdict == cause.verdict());
            silent += u32::from(said.verdict == Verdict::CantTell);
            let is_wrong = said.verdict != cause.verdict() && said.confidence >= CONFIDENT;
            assert!(!is_wrong, "{scene:?}\n{stall:#?}");
        }
    }
    for ((cause, verdict), n) in &matrix {
        eprintln!("{cause:?} judged {}: {n}", verdict.as_str());
    }
    eprintln!("SIMULATED: {right} of {all} right, {silent} can't tell");
    assert!(right * 100 >= all * 95 && silent * 10 <= all, "{matrix:?}");
}

#[test]
fn the_energy_interval_holds_the_truth() {
    for seed in 0..60 {
        let cause = Cause::ALL[seed as usize % 8];
        let mut scene = Scene::new(cause, seed);
        scene.reports = seed % 3 != 0;
        let stalls = judged(&scene.draw());
        let stall = of_cause(&stalls, &scene).unwrap();
        let truth = scene.energy(stall.gap.from_ns - ORIGIN, stall.gap.to_ns - ORIGIN);
        let energy = stall.energy.unwrap();
        assert_eq!(energy.method, "counter");
        assert!(energy.low <= truth && truth <= energy.high, "{truth}: {energy:?} {scene:?}");
        // No wider than the counter's own steps and its polling make it.
        let age = if scene.reports { 0.125 } else { 0.5 };
        let most = scene.watts.2.max(scene.watts.1) * 2.0 * (age + 0.055) + 0.01;
        assert!(energy.high - energy.low <= most, "{} J: {energy:?}", most);
        assert!((energy.low..=energy.high).contains(&energy.joules));
    }
}

#[test]
fn a_busy_gpu_proves_nothing_while_other_streams_go_on() {
    // The same pegged GPU: with the others at rest it is extra compute, with them under way it is waiting.
    let mut scene = Scene::new(Cause::Preempt, 5);
    scene.length = 724 * MS;
    let said = |scene: &Scene| of_cause(&judged(&scene.draw()), scene).unwrap().judgement.clone();
    assert_eq!(said(&scene).verdict, Verdict::Waiting);
    scene.cause = Cause::ExtraCompute;
    assert_eq!(said(&scene).verdict, Verdict::ExtraCompute);
    // With nobody to compare with it may be others' work that we do not see.
    (scene.agents, scene.shards, scene.streams) = (1, 1, 1);
    let alone = said(&scene);
    assert!(alone.confidence < CONFIDENT, "{alone:?}");
}

#[test]
fn plain_averaged_power_alone_judges_no_stall_of_724_ms() {
    let mut scene = Scene::new(Cause::IdlePause, 7);
    scene.length = 724 * MS;
    let mut data = scene.draw();
    let batch = &mut data.nodes.get_mut(&PROBE).unwrap().batches[0];
    batch.driver_samples.clear();
    batch.gpu_samples.iter_mut().for_each(|sample| sample.power_instant_mw = None);
    let stalls = judged(&data);
    let said = &of_cause(&stalls, &scene).unwrap();
    assert_eq!(said.judgement.verdict, Verdict::CantTell, "{:?}", said.judgement);
    assert!(said.evidence.gpu_absent.contains("too slow"), "{}", said.evidence.gpu_absent);
}

#[test]
fn a_gpu_that_never_moves_with_the_load_judges_nothing_and_is_named() {
    let mut scene = Scene::new(Cause::IdlePause, 8);
    scene.watts = (80.0, 80.0, 80.0);
    let stalls = judged(&scene.draw());
    let said = &of_cause(&stalls, &scene).unwrap().judgement;
    assert_eq!(said.verdict, Verdict::CantTell, "{said:?}");
    assert!(stalls.warnings.iter().any(|w| w.contains("moves with the load")), "{:?}", stalls.warnings);
}

#[test]
fn without_a_probe_what_needs_none_is_told_and_the_rest_is_not() {
    for cause in Cause::ALL {
        let scene = Scene::new(cause, 9);
        let mut data = scene.draw();
        data.nodes.remove(&PROBE);
        let stalls = judged(&data);
        let stall = of_cause(&stalls, &scene).unwrap();
        let needs_gpu = matches!(cause, Cause::IdlePause | Cause::ExtraCompute | Cause::Throttle);
        let wanted = if needs_gpu { Verdict::CantTell } else { cause.verdict() };
        assert_eq!(stall.judgement.verdict, wanted, "{cause:?}: {:?}", stall.judgement);
        assert!(stall.energy.is_none());
    }
}

#[test]
fn a_gpu_lost_before_the_stall_is_said_to_be() {
    let scene = Scene::new(Cause::IdlePause, 10);
    let mut data = scene.draw();
    let batch = &mut data.nodes.get_mut(&PROBE).unwrap().batches[0];
    let lost = ORIGIN + scene.at - 50 * MS;
    batch.gpu_samples.retain(|sample| sample.raw_ns < lost);
    batch.driver_samples.clear();
    batch.gpu_events.push(v1::GpuEvent { raw_ns: lost, kind: "lost".to_owned(), ..Default::default() });
    let stalls = judged(&data);
    let said = &of_cause(&stalls, &scene).unwrap().judgement;
    assert_eq!(said.verdict, Verdict::CantTell);
    assert!(said.why.contains("lost"), "{}", said.why);
}

#[test]
fn wide_clock_bars_take_the_confidence_away() {
    let scene = Scene::new(Cause::Preempt, 11);
    let gap = of_cause(&judged(&scene.draw()), &scene).unwrap().gap.clone();
    let mut evidence = Evidence::default();
    evidence.others.elsewhere = Progress { streams: 5, went_on: 5, sum: 5.0 };
    evidence.burst = Some(Burst { chunks: 50.0, share: 0.0 });
    let sure = judge::judge(&gap, &evidence);
    assert!(sure.verdict == Verdict::Waiting && sure.confidence >= CONFIDENT, "{sure:?}");
    let wide = judge::judge(&Gap { bound_ns: gap.length_ns() / 5, ..gap.clone() }, &evidence);
    assert!(wide.confidence < CONFIDENT, "{wide:?}");
}

#[test]
fn the_servers_own_record_settles_what_a_burst_cannot() {
    let scene = Scene::new(Cause::IdlePause, 12);
    let gap = of_cause(&judged(&scene.draw()), &scene).unwrap().gap.clone();
    let evidence = Evidence { server_emitted: Some(true), ..Evidence::default() };
    assert_eq!(judge::judge(&gap, &evidence).verdict, Verdict::Network);
    let burst = Some(Burst { chunks: 20.0, share: 0.95 });
    let evidence = Evidence { server_emitted: Some(false), burst, ..Evidence::default() };
    assert_ne!(judge::judge(&gap, &evidence).verdict, Verdict::Network);
}

#[test]
fn the_same_run_gives_the_same_verdicts() {
    let data = Scene::new(Cause::Hold, 13).draw();
    assert_eq!(format!("{:?}", judged(&data).all), format!("{:?}", judged(&data).all));
}

#[test]
fn a_steady_run_has_no_stall() {
    let mut scene = Scene::new(Cause::Hold, 14);
    scene.length = 0;
    let stalls = judged(&scene.draw());
    assert!(stalls.all.is_empty(), "{:?}", stalls.all);
    // Nor has a slow one: the floor alone makes none.
    (scene.itl, scene.agents) = (300 * MS, 1);
    assert!(judged(&scene.draw()).all.is_empty());
}

#[test]
fn a_first_token_late_for_its_level_is_a_stall_before_the_first_token() {
    let mut data = crate::merge::testrun::run(3, 2, &[1]);
    let record = &mut data.nodes.get_mut(&1).unwrap().batches[0].records[40];
    record.intended_raw_ns -= 2 * S;
    let bytes = std::mem::take(&mut record.arrivals);
    let mut late = tailcliff_proto::arrivals::Arrivals::default();
    for (i, arrival) in tailcliff_proto::arrivals::decode(&bytes).map(|a| a.unwrap()).enumerate() {
        late.push(arrival.gap_ns + if i == 0 { 2 * S.unsigned_abs() } else { 0 }, arrival.chars);
    }
    record.arrivals = late.into_bytes();
    let id = record.request_id.clone();
    let stalls = judged(&data);
    assert_eq!(stalls.all.len(), 1, "{:?}", stalls.all);
    let stall = &stalls.all[0];
    assert_eq!((stall.gap.kind, &stall.gap.request_id), (Kind::Ttft, &id));
    // It was due two seconds before it was sent.
    assert_eq!(stall.judgement.verdict, Verdict::Client, "{:?}", stall.judgement);
    let mut again = |change: fn(&mut v1::RequestRecord)| {
        change(&mut data.nodes.get_mut(&1).unwrap().batches[0].records[40]);
        judged(&data).all
    };
    // The moment came in time, and the connection took two seconds.
    let stalls = again(|record| record.issued_raw_ns = Some(record.intended_raw_ns));
    assert_ne!(stalls[0].judgement.verdict, Verdict::Client, "{:?}", stalls[0].judgement);
    let stalls = again(|record| record.reused_connection = true);
    assert_eq!(stalls[0].judgement.verdict, Verdict::Client, "{:?}", stalls[0].judgement);
    // A retry after a rest of two seconds is no pause.
    let stalls = again(|record| {
        (record.attempt, record.issued_raw_ns) = (1, record.sent_raw_ns);
    });
    assert!(stalls.is_empty(), "{stalls:?}");
}

#[test]
fn whole_replies_accuse_no_probe() {
    let scene = Scene::new(Cause::IdlePause, 8);
    let mut data = scene.draw();
    let is_accused = |data: &RunData| judged(data).warnings.iter().any(|w| w.contains("moves with the load"));
    assert!(!is_accused(&data));
    for node in data.nodes.values_mut() {
        let records = node.batches.iter_mut().flat_map(|batch| &mut batch.records);
        records.for_each(|record| {
            (record.first_token_raw_ns, record.last_token_raw_ns) = (None, None);
            record.arrivals.clear();
        });
    }
    assert!(!is_accused(&data));
}

#[test]
fn clocks_that_are_held_down_prove_nothing_while_other_streams_go_on() {
    let mut scene = Scene::new(Cause::Throttle, 6);
    scene.length = 724 * MS;
    let mut held_down = scene.draw();
    assert_eq!(of_cause(&judged(&held_down), &scene).unwrap().judgement.verdict, Verdict::Throttled);
    // The same card under streams of which one alone stands still.
    scene.cause = Cause::Preempt;
    let mut data = scene.draw();
    data.nodes.insert(PROBE, held_down.nodes.remove(&PROBE).unwrap());
    let said = of_cause(&judged(&data), &scene).unwrap().judgement.clone();
    assert_eq!(said.verdict, Verdict::Waiting, "{said:?}");
}

#[test]
fn more_stalls_than_are_judged_are_counted() {
    let mut gaps = vec![judged(&Scene::new(Cause::Preempt, 16).draw()).all[0].gap.clone(); MOST + 7];
    gaps.iter_mut().enumerate().for_each(|(i, gap)| gap.to_raw_ns += i as i64);
    assert_eq!(keep_longest(&mut gaps), 7);
    assert_eq!(gaps.len(), MOST);
}

fn probe_batch(data: &mut RunData) -> &mut v1::Batch {
    &mut data.nodes.get_mut(&PROBE).unwrap().batches[0]
}

#[test]
fn a_counter_that_was_reset_before_the_stall_bounds_nothing() {
    let scene = Scene::new(Cause::IdlePause, 20);
    let mut data = scene.draw();
    // The driver was loaded anew: readings from before count from elsewhere, and none are near for a second.
    let reset = ORIGIN + scene.at + 10 * MS;
    for sample in &mut probe_batch(&mut data).gpu_samples {
        if sample.raw_ns < reset - S {
            sample.energy_mj = sample.energy_mj.map(|mj| mj + 1_000_000_000);
        } else if sample.raw_ns < reset {
            sample.energy_mj = None;
        }
    }
    let stalls = judged(&data);
    let energy = of_cause(&stalls, &scene).unwrap().energy.unwrap();
    assert_eq!(energy.method, "power", "{energy:?}");
    assert!(energy.low <= energy.joules && energy.joules <= energy.high);
}

#[test]
fn a_reading_that_took_long_bounds_from_its_end_and_from_its_beginning() {
    for seed in 30..50 {
        let scene = Scene::new(Cause::ExtraCompute, seed);
        let mut data = scene.draw();
        // Stamped before the call: what it gives is from its end.
        for sample in probe_batch(&mut data).gpu_samples.iter_mut().filter(|s| s.energy_mj.is_some()) {
            sample.read_ns = 30 * MS;
            let at = sample.raw_ns - ORIGIN + sample.read_ns;
            let shown = at.div_euclid(scene.energy_period) * scene.energy_period;
            sample.energy_mj = Some((scene.energy(0, shown) * 1e3) as u64);
        }
        let stalls = judged(&data);
        let stall = of_cause(&stalls, &scene).unwrap();
        let truth = scene.energy(stall.gap.from_ns - ORIGIN, stall.gap.to_ns - ORIGIN);
        let energy = stall.energy.unwrap();
        assert!(energy.low <= truth && truth <= energy.high, "{truth}: {energy:?} {scene:?}");
    }
}

#[test]
fn a_stream_that_hangs_until_the_level_ends_is_a_stall_too() {
    let scene = Scene { length: 0, ..Scene::new(Cause::Hold, 21) };
    let mut data = scene.draw();
    let records = &mut data.nodes.get_mut(&1).unwrap().batches[0].records;
    records[0].outcome = v1::Outcome::Incomplete as i32;
    records[0].done_raw_ns += 3 * S;
    let id = records[0].request_id.clone();
    let stalls = judged(&data);
    let found: Vec<_> = stalls.all.iter().filter(|s| s.gap.unended).map(|s| &s.gap.request_id).collect();
    assert_eq!(found, [&id]);
}

#[test]
fn a_gpu_that_is_back_is_not_lost_any_more() {
    let scene = Scene::new(Cause::IdlePause, 22);
    let mut data = scene.draw();
    let event =
        |kind: &str, at: i64| v1::GpuEvent { raw_ns: at, kind: kind.to_owned(), ..Default::default() };
    let (lost, back) = (ORIGIN + 4 * S, ORIGIN + 5 * S);
    let batch = probe_batch(&mut data);
    batch.gpu_events = vec![event("lost", lost), event("back", back)];
    // As if its sensors were too slow from then on.
    batch.driver_samples.clear();
    batch.gpu_samples.retain(|s| s.raw_ns < ORIGIN + scene.at || s.raw_ns > ORIGIN + scene.at + scene.length);
    let stalls = judged(&data);
    let said = &of_cause(&stalls, &scene).unwrap().evidence;
    assert!(said.gpu.is_none() && !said.gpu_absent.contains("lost"), "{}", said.gpu_absent);
}

#[test]
fn nothing_that_a_broken_node_sends_makes_it_fall_over() {
    let odd = [i64::MIN, i64::MIN + 1, -1, 0, 1, ORIGIN, ORIGIN + 7 * S, i64::MAX - 1, i64::MAX];
    let mut random = fastrand::Rng::with_seed(23);
    for seed in 0..30 {
        let mut data = Scene::new(Cause::ALL[seed as usize % 8], seed).draw();
        let mut pick = || odd[random.usize(0..odd.len())];
        for node in data.nodes.values_mut() {
            let batch = &mut node.batches[0];
            for record in batch.records.iter_mut().step_by(3) {
                record.intended_raw_ns = pick();
                record.done_raw_ns = pick();
                record.sent_raw_ns = Some(pick());
                record.held_ns = Some(pick());
                (record.control_pause_raw_ns, record.control_pause_ns) = (Some(pick()), pick());
                record.first_token_raw_ns = Some(pick());
            }
            batch.loop_lags.push(v1::LoopLag {
                from_raw_ns: pick(),
                to_raw_ns: pick(),
                ..Default::default()
            });
            for sample in batch.gpu_samples.iter_mut().step_by(5) {
                (sample.raw_ns, sample.read_ns) = (pick(), pick());
                sample.energy_mj = Some(pick().unsigned_abs());
            }
            for told in &mut batch.driver_samples {
                (told.raw_ns[3], told.bound_ns) = (pick(), pick());
                told.values = vec![f64::NAN; told.values.len() / 2];
            }
            let gpm = |from, to| v1::GpmSample {
                from_raw_ns: from,
                to_raw_ns: to,
                sm_active_pct: Some(f32::INFINITY),
                ..Default::default()
            };
            batch.gpm_samples.push(gpm(pick(), pick()));
            batch.host_samples.push(v1::HostSample {
                raw_ns: pick(),
                server_cpu_ns: Some(pick()),
                ..Default::default()
            });
            for report in &mut batch.sensors {
                (report.period_ns, report.period_high_ns) = (Some(pick()), Some(pick()));
                (report.window_ns, report.delay_ns) = (Some(pick()), Some(pick()));
            }
        }
        let stalls = judged(&data);
        for stall in &stalls.all {
            let drawn = crate::report::stall_plot::draw(&data, &merge(&data).timeline, &stalls, stall);
            assert!(drawn.ends_with("</svg>\n"));
        }
    }
}
