//! Rules one by one, over figures made up by hand; whole worlds are in the crate of end-to-end tests.

use crate::axis::Load;
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
