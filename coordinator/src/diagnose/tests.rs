//! Rules one by one, over figures made up by hand; whole worlds are in the crate of end-to-end tests.

use crate::axis::Load;
use crate::inside::{How, LevelInside, Part, PartFigures, ServerLevel};
use crate::knee::{Cliff, Knee};
use crate::levels::Level;
use crate::merge::testrun::run;
use crate::merge::{Merged, merge};

use super::*;

/// A level of so many streams: mean TTFT and time after it, ms.
fn level(streams: u32, throughput: f64, ttft: f64, after: f64) -> Seen {
    Seen {
        load: Load::Streams(streams),
        completed: 200,
        throughput: Some(throughput),
        judged_ns: Some(((ttft + after) * 1e6) as u64),
        ttft_ns: Some(ttft * 1e6),
        tpot_ns: Some(after / 100.0 * 1e6),
        e2e_ns: Some((ttft + after) * 1e6),
        paused: Some(0.0),
        together: Some(0.0),
        at_once: Some(f64::from(streams)),
        most_at_once: Some(f64::from(streams)),
        ..Seen::default()
    }
}

/// Slots for four.
fn queue() -> Vec<Seen> {
    let mut all = vec![
        level(1, 1.0, 50.0, 1_000.0),
        level(4, 3.8, 55.0, 1_000.0),
        level(8, 3.8, 1_100.0, 1_005.0),
        level(16, 3.8, 3_200.0, 1_005.0),
    ];
    all[2..].iter_mut().for_each(|level| (level.at_once, level.most_at_once) = (Some(3.9), Some(4.0)));
    all
}

/// A larger batch makes longer steps.
fn compute(gpu: bool) -> Vec<Seen> {
    let mut all = vec![
        level(1, 1.0, 50.0, 1_000.0),
        level(4, 3.0, 55.0, 1_300.0),
        level(8, 3.6, 60.0, 2_200.0),
        level(16, 3.8, 90.0, 4_200.0),
    ];
    let shown = LevelGpu {
        util_pct: Some(96.0),
        sm_clock_mhz: Some(1980.0),
        throttled_share: Some(0.0),
        ..LevelGpu::default()
    };
    all.iter_mut().for_each(|level| level.gpu = gpu.then(|| shown.clone()));
    all
}

fn with_knee() -> Merged {
    let mut merged = merge(&run(1, 1, &[1]));
    merged.knee = Knee { at: Some(Load::Streams(4)), ..Knee::default() };
    merged.header.plan.base_url = "http://server:8000".to_owned();
    merged
}

fn told(seen: &[Seen]) -> Diagnosis {
    judge(&with_knee(), seen).diagnosis.unwrap()
}

#[test]
fn a_queue_is_told_by_answers_at_once_that_never_rise() {
    assert_eq!(told(&queue()).cause, Cause::ServerQueue);
    let mut free = queue();
    free[2..].iter_mut().for_each(|level| (level.at_once, level.most_at_once) = (Some(4.0), Some(8.0)));
    let found = told(&free);
    assert_eq!((found.cause, found.confidence), (Cause::Unknown, 0.0));
    assert_eq!(found.candidates, [Cause::ServerQueue, Cause::ComputeBound, Cause::Network]);
    free[2].server = Some(ServerSeen { waiting: Some(4.0), ..ServerSeen::default() });
    assert_eq!(told(&free).cause, Cause::ServerQueue, "by its own word");
}

#[test]
fn requests_that_wait_must_explain_the_wait() {
    let with = |below: Option<f64>, above: f64| {
        let mut seen = queue();
        seen[2..].iter_mut().for_each(|level| (level.at_once, level.most_at_once) = (Some(4.0), Some(8.0)));
        let server = |n: f64| ServerSeen { waiting: Some(n), ..ServerSeen::default() };
        (seen[1].server, seen[2].server) = (below.map(server), Some(server(above)));
        told(&seen)
    };
    assert_eq!(with(None, 4.0).cause, Cause::ServerQueue);
    assert_eq!(with(Some(0.5), 4.0).cause, Cause::ServerQueue);
    // By Little's law 1.2 of them at 3.8 a second wait for 0.3 s, and answers took 1 s longer.
    let few = with(None, 1.2);
    assert_eq!(few.cause, Cause::Unknown);
    assert!(!few.words.contains("own count"), "{}", few.words);
    assert_eq!(with(Some(3.0), 4.0).cause, Cause::Unknown, "as many waited below");
}

#[test]
fn late_tokens_by_the_servers_own_record_are_the_networks_beyond_their_bound() {
    let with = |late: f64, bound: f64, at: &str| {
        let mut seen = compute(false);
        // How chunks came is not known.
        seen.iter_mut().for_each(|level| level.together = None);
        let server = |ms: f64| ServerSeen {
            delivery_ns: Some(ms * 1e6),
            delivery_bound_ns: Some(bound * 1e6),
            ..ServerSeen::default()
        };
        (seen[1].server, seen[2].server) = (Some(server(1.0)), Some(server(1.0 + late)));
        let mut merged = with_knee();
        merged.header.plan.base_url = at.to_owned();
        judge(&merged, &seen).diagnosis.unwrap()
    };
    // Answers took 905 ms longer.
    let far = "http://server:8000";
    assert_eq!(with(500.0, 10.0, far).cause, Cause::Network);
    let on_time = with(10.0, 10.0, far);
    let is_out = |found: &Diagnosis| found.excluded.iter().any(|(cause, _)| *cause == Cause::Network);
    assert!(is_out(&on_time), "{on_time:?}");
    for open in [with(500.0, 200.0, far), with(10.0, 200.0, far)] {
        assert!(open.cause != Cause::Network && open.candidates.contains(&Cause::Network), "{open:?}");
    }
    assert_ne!(with(500.0, 10.0, "http://127.0.0.1:8000").cause, Cause::Network);
}

#[test]
fn a_servers_word_is_taken_from_three_scrapes_on_and_its_totals_as_of_the_window() {
    let mut merged = merge(&run(1, 1, &[1]));
    let level = &mut merged.levels[0];
    let told = ServerLevel {
        scrapes: 5,
        failed: 2,
        waiting: Some((2.0, 9.0)),
        kv_usage: Some((0.5, 0.9)),
        preemptions: Some(24.0),
        counted_ns: Some(20_000_000_000),
        ..ServerLevel::default()
    };
    level.server = Some(told.clone());
    // A window of 10 s.
    let seen = ServerSeen::of(level).unwrap();
    assert_eq!((seen.waiting, seen.kv_used, seen.preemptions), (Some(2.0), Some(0.5), Some(12.0)));
    level.server = Some(ServerLevel { failed: 3, ..told });
    assert_eq!(ServerSeen::of(level), None);
    let down = |mean_ns: f64| PartFigures {
        part: Part::NetworkDown,
        count: 1,
        mean_ns,
        p95_ns: 0,
        impossible: 0,
        how: How::BetweenClocks,
    };
    level.inside = Some(LevelInside {
        parts: vec![down(7e6)],
        delivery_ns: Some(2e6),
        bound_ns: Some(100_000),
        ..LevelInside::default()
    });
    let seen = ServerSeen::of(level).unwrap();
    assert_eq!((seen.delivery_ns, seen.delivery_bound_ns, seen.waiting), (Some(7e6), Some(1e5), None));
    // What a reply's durations leave over is no word of the server's, and without a bound there is none.
    let inside = level.inside.as_mut().unwrap();
    inside.parts[0].how = How::Inferred;
    let mut delivery = |bound_ns: Option<i64>, first: Option<f64>| {
        let inside = level.inside.as_mut().unwrap();
        (inside.bound_ns, inside.delivery_ns) = (bound_ns, first);
        ServerSeen::of(level).and_then(|seen| seen.delivery_ns)
    };
    assert_eq!(delivery(Some(100_000), Some(2e6)), Some(2e6));
    assert_eq!((delivery(Some(100_000), None), delivery(None, Some(2e6))), (None, None));
}

#[test]
fn a_full_cache_is_told_by_the_servers_own_figures_where_load_filled_it() {
    let with = |below: ServerSeen, above: ServerSeen| {
        let mut seen = queue();
        // Nobody looked for pauses.
        seen.iter_mut().for_each(|level| level.paused = None);
        (seen[0].server, seen[2].server) = (Some(below), Some(above));
        told(&seen)
    };
    // Of 200 answers each.
    let out = |n: f64| ServerSeen { preemptions: Some(n), ..ServerSeen::default() };
    let found = with(out(4.0), out(40.0));
    assert_eq!((found.cause, found.confidence), (Cause::KvFull, 0.97));
    assert_eq!(with(out(0.0), out(9.0)).cause, Cause::ServerQueue, "one in 22");
    assert_eq!(
        with(out(20.0), out(40.0)).cause,
        Cause::ServerQueue,
        "what is there without load comes of none"
    );
    let full = |used: f64, waiting: f64| ServerSeen {
        kv_used: Some(used),
        waiting: Some(waiting),
        ..ServerSeen::default()
    };
    let found = with(full(0.1, 0.0), full(0.96, 4.0));
    assert_eq!((found.cause, found.confidence), (Cause::KvFull, 0.9));
    assert_eq!(with(full(0.1, 0.0), full(0.94, 4.0)).cause, Cause::ServerQueue);
    assert_eq!(
        with(full(0.1, 0.0), full(0.96, 0.9)).cause,
        Cause::ServerQueue,
        "nobody waits for room in it"
    );
}

#[test]
fn less_than_one_that_waits_is_no_queue() {
    let with = |waiting: f64| {
        let mut seen = queue();
        seen[2..].iter_mut().for_each(|level| {
            (level.at_once, level.most_at_once) = (Some(4.0), Some(8.0));
            // So few are served that by Little's law even these explain the wait.
            level.throughput = Some(0.5);
        });
        seen[2].server = Some(ServerSeen { waiting: Some(waiting), ..ServerSeen::default() });
        told(&seen).cause
    };
    assert_eq!((with(1.1), with(0.9)), (Cause::ServerQueue, Cause::Unknown));
}

#[test]
fn compute_needs_a_gpu_whose_clock_held() {
    assert_eq!(told(&compute(true)).cause, Cause::ComputeBound);
    let found = told(&compute(false));
    assert_eq!(found.candidates, [Cause::ComputeBound, Cause::PowerOrThermalCap]);
    assert!(found.words.contains("a gpu-probe beside the server"), "{}", found.words);
    let mut wide = with_knee();
    wide.header.plan.extra_body = Some(serde_json::json!({ "logprobs": true }));
    let found = judge(&wide, &compute(true)).diagnosis.unwrap();
    assert_eq!(found.candidates, [Cause::ComputeBound, Cause::Network]);
    wide.header.plan.base_url = "http://127.0.0.1:8000".to_owned();
    assert_eq!(judge(&wide, &compute(true)).diagnosis.unwrap().cause, Cause::ComputeBound);
}

#[test]
fn a_cap_must_explain_what_tokens_became_slower_by() {
    let capped = |mhz: f64, share: f64| {
        let mut seen = compute(true);
        for level in &mut seen[2..] {
            let gpu = level.gpu.as_mut().unwrap();
            (gpu.sm_clock_mhz, gpu.throttled_share) = (Some(mhz), Some(share));
        }
        told(&seen).cause
    };
    assert_eq!(capped(1_300.0, 1.0), Cause::PowerOrThermalCap);
    assert_eq!(capped(1_850.0, 1.0), Cause::ComputeBound, "7 % of clock are not 70 % of time");
}

#[test]
fn pauses_while_others_go_on_are_a_full_cache() {
    let mut seen = queue();
    seen[1].paused = Some(0.3);
    seen[2].paused = Some(0.6);
    assert_eq!(told(&seen).cause, Cause::KvFull, "though the level below pauses already");
    seen.iter_mut().for_each(|level| level.paused = Some(0.3));
    assert_eq!(told(&seen).cause, Cause::ServerQueue, "what is there without load comes of none");
}

#[test]
fn chunks_that_come_together_waited_on_their_way() {
    let mut seen = compute(false);
    seen[3].together = Some(0.5);
    assert_eq!(told(&seen).cause, Cause::Network, "a deep buffer shows it one level later");
    let mut full = with_knee();
    full.header.plan.metadata.push(("link_mbit_s".to_owned(), "100".to_owned()));
    let mut seen = compute(false);
    seen[2].nic_bytes_per_s = Some(12e6);
    assert_eq!(judge(&full, &seen).diagnosis.unwrap().cause, Cause::Network);
}

#[test]
fn a_bend_of_what_the_client_could_not_drive_is_the_clients() {
    let mut seen = compute(true);
    seen[2..].iter_mut().for_each(|level| level.client = Some("agent was 99 % busy".to_owned()));
    let mut merged = with_knee();
    merged.knee.at = None;
    let found = judge(&merged, &seen).diagnosis.unwrap();
    assert_eq!(found.cause, Cause::ClientBound);
    assert!(found.evidence[0].words.contains("99 % busy"), "{:?}", found.evidence);
    seen[2].client = None;
    assert_eq!(judge(&merged, &seen).diagnosis, None, "the bend lies before the client's limit");
}

#[test]
fn little_to_go_by_is_said_and_never_a_panic() {
    let none = |merged: &Merged, seen: &[Seen]| judge(merged, seen).words;
    assert!(none(&with_knee(), &[]).contains("too few levels"));
    let mut seen = queue();
    (seen[2].ttft_ns, seen[1].ttft_ns) = (None, None);
    assert!(none(&with_knee(), &seen).contains("measure with streaming"));
    let mut still = queue();
    still[2] = level(8, 3.8, 55.0, 1_000.0);
    assert!(none(&with_knee(), &still).contains("failed requests"));
    let mut grid = with_knee();
    grid.header.plan.experiment = "grid".to_owned();
    assert!(none(&grid, &queue()).contains("--grid"));
    let mut flat = with_knee();
    (flat.knee, flat.cliff) = (Knee::default(), Cliff::default());
    assert_eq!(none(&flat, &queue()), "no diagnosis: neither a knee nor a cliff was found");
}

#[test]
fn parts_add_up_to_the_mean_answer_and_gpus_speak_of_their_window() {
    let mut data = run(3, 2, &[1, 4]);
    crate::merge::testrun::add_probe(&mut data);
    let merged = merge(&data);
    for level in &merged.levels {
        let parts = level.parts.as_ref().unwrap();
        let sum = parts.queue_ns + parts.network_ns.unwrap_or(0.0) + parts.compute_ns;
        assert!((sum / level.latencies.e2e.mean_ns().unwrap() - 1.0).abs() < 1e-9, "{parts:?}");
        assert!(parts.queue_ns >= 0.0 && parts.compute_ns >= 0.0);
    }
    assert_eq!(merged.levels[0].parts.as_ref().unwrap().queue_ns, 0.0, "the others are counted from it");
    let gpu = merged.levels[0].gpu.as_ref().unwrap();
    assert_eq!((gpu.power_w, gpu.util_pct, gpu.simulated), (Some(312.5), Some(87.0), true));
    assert_eq!((gpu.sm_clock_mhz, gpu.throttled_share), (None, None), "what was not read is not known");
    assert_eq!(merged.levels[1].gpu, None);
    assert_eq!(Level::default().gpu, None);
}
