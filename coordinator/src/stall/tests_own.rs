//! What the server's own record of a request adds to a verdict, and what it must not.

use super::own::Pace;
use super::scene::{Cause, PROBE, Scene};
use super::*;
use crate::merge::merge;
use crate::merge::testrun::{MS, ORIGIN, S};

fn at(ns: i64) -> Aligned {
    Aligned { ns, bound_ns: MS }
}

/// Of a run with this scene, by a server that tells so.
fn judged(scene: &Scene, told: impl Fn(&v1::RequestRecord) -> Told) -> Stalls {
    let data = scene.draw();
    let merged = merge(&data);
    stalls(&data, &merged.timeline, &merged.levels, Rule::default(), &|_, record| Some(told(record)))
}

fn of_cause<'a>(stalls: &'a Stalls, scene: &Scene) -> &'a Stall {
    let near =
        stalls.all.iter().filter(|s| (s.gap.from_ns - ORIGIN - scene.at).abs() < 2 * scene.itl + 5 * MS);
    near.filter(|s| s.gap.kind == Kind::Gap).max_by_key(|s| s.gap.length_ns()).unwrap()
}

fn a_gap() -> Gap {
    let scene = Scene::new(Cause::IdlePause, 12);
    of_cause(&judged(&scene, |_| Told::default()), &scene).gap.clone()
}

/// A first token that came after a second.
fn late() -> Gap {
    let from = ORIGIN + 6 * S;
    let mut gap = Gap { kind: Kind::Ttft, chunk: 0, unended: false, burst: None, ..a_gap() };
    (gap.from_ns, gap.to_ns, gap.from_raw_ns, gap.to_raw_ns) = (from, from + S, from, from + S);
    (gap.bound_ns, gap.socket_wait_ns) = (MS, None);
    gap
}

const STILL: Pace<'static> = Pace { span_ns: S, median_ns: Some(10 * MS), gaps: &[], completed: true };

/// Its parts in ms: way up, front end, queue, prefill; the way down is the rest of the second.
fn cut(up: i64, front: i64, queue: i64, prefill: i64) -> (Gap, Evidence) {
    let mut gap = late();
    let arrival = gap.from_ns + up * MS;
    let first = arrival + (front + queue + prefill) * MS;
    let told = Told {
        arrival: Some(at(arrival)),
        first_token: Some(at(first)),
        queue_ns: Some(queue * MS),
        prefill_ns: Some(prefill * MS),
        server: "vllm".to_owned(),
        ..Told::default()
    };
    let own = Own::of(told, &gap, Some(at(gap.from_ns)), STILL, false);
    gap.own = Some(own.clone());
    (gap, Evidence { own: Some(own), ..Evidence::default() })
}

fn said((gap, evidence): &(Gap, Evidence)) -> Judgement {
    judge::judge(gap, evidence)
}

#[test]
fn a_late_first_token_is_told_by_the_part_that_is_most_of_it() {
    let cases = [
        (cut(10, 20, 800, 100), Verdict::Waiting, "waiting for a place"),
        (cut(700, 10, 100, 100), Verdict::Network, "the way to the server's first stamp took 700 ms of it"),
        (cut(10, 10, 100, 100), Verdict::Network, "the way back from its stamp"),
        (cut(10, 20, 100, 800), Verdict::ExtraCompute, "prefill took 800 ms of it"),
        (cut(10, 800, 50, 100), Verdict::Waiting, "front end"),
    ];
    for (case, verdict, words) in cases {
        let said = said(&case);
        assert_eq!(said.verdict, verdict, "{said:?}");
        assert!(said.why.contains(words), "{said:?}");
        // The server's HTTP lies outside of its stamps.
        assert!(verdict != Verdict::Network || (0.3..CONFIDENT).contains(&said.confidence), "{said:?}");
        for part in ["(vllm)", "way up", "front end", "queue", "prefill", "way down"] {
            assert!(said.why.contains(part), "{part}: {}", said.why);
        }
    }
    // No part is most of it: the numbers stay.
    let none = said(&cut(250, 250, 200, 200));
    assert_eq!(none.verdict, Verdict::CantTell);
    assert!(none.why.contains("queue 200 ms"), "{}", none.why);
}

#[test]
fn a_way_within_its_bounds_is_no_network() {
    let (mut gap, mut evidence) = cut(700, 10, 100, 100);
    for wide in [150 * MS, 300 * MS] {
        let own = evidence.own.as_mut().unwrap();
        own.up = own.up.map(|(ns, _)| (ns, wide));
        gap.own = evidence.own.clone();
        let verdict = judge::judge(&gap, &evidence).verdict;
        assert_eq!(verdict == Verdict::Network, wide == 150 * MS, "{verdict:?}");
    }
}

#[test]
fn on_one_host_a_long_way_is_no_network() {
    for (up, side) in [(700, "before it stamps"), (10, "after it")] {
        let (mut gap, mut evidence) = cut(up, 10, 100, 100);
        evidence.own.as_mut().unwrap().one_host = true;
        gap.own = evidence.own.clone();
        let said = judge::judge(&gap, &evidence);
        assert_eq!(said.verdict, Verdict::CantTell);
        assert!(said.why.contains(&format!("the server's HTTP {side}")), "{said:?}");
    }
    // Known by the clock that agent and probe share.
    for is_one in [true, false] {
        let scene = Scene::new(Cause::IdlePause, 12);
        let mut data = scene.draw();
        let probe = data.nodes.get_mut(&PROBE).unwrap();
        let elsewhere = probe.snapshots.iter_mut().filter(|_| !is_one);
        elsewhere.for_each(|snapshot| snapshot.boot_id = "elsewhere".to_owned());
        let merged = merge(&data);
        let told = |_: u64, _: &v1::RequestRecord| Some(Told::default());
        let stalls = stalls(&data, &merged.timeline, &merged.levels, Rule::default(), &told);
        assert!(!stalls.all.is_empty());
        assert!(stalls.all.iter().all(|s| s.evidence.own.as_ref().unwrap().one_host == is_one), "{is_one}");
    }
}

#[test]
fn what_lay_in_the_socket_is_the_clients_whatever_the_server_says() {
    let (mut gap, mut evidence) = cut(10, 10, 100, 100);
    evidence.socket_wait_ns = Some(700 * MS);
    gap.socket_wait_ns = evidence.socket_wait_ns;
    assert_eq!(judge::judge(&gap, &evidence).verdict, Verdict::Client);
    // Not read for the last third of it: that is no network's.
    (evidence.socket_wait_ns, evidence.unread_share, evidence.unread_to_the_end) = (None, 0.35, true);
    assert_ne!(judge::judge(&gap, &evidence).verdict, Verdict::Network);
}

#[test]
fn a_long_prefill_on_a_gpu_at_rest_is_no_compute() {
    let (gap, mut evidence) = cut(10, 20, 100, 800);
    let view = |state| GpuView { state, ..a_view() };
    for (state, verdict) in [
        (State::Idle, Verdict::Waiting),
        (State::Throttled, Verdict::Throttled),
        (State::Busy, Verdict::ExtraCompute),
    ] {
        evidence.gpu = Some(view(state));
        assert_eq!(judge::judge(&gap, &evidence).verdict, verdict);
    }
}

fn a_view() -> GpuView {
    let scene = Scene { length: 724 * MS, ..Scene::new(Cause::ExtraCompute, 5) };
    of_cause(&judged(&scene, |_| Told::default()), &scene).evidence.gpu.clone().unwrap()
}

#[test]
fn a_server_that_was_done_before_half_of_the_gap_had_emitted() {
    let scene = Scene { length: S, ..Scene::new(Cause::IdlePause, 12) };
    let emitted = |end: i64| {
        let told = |_: &v1::RequestRecord| Told { end: Some(at(ORIGIN + scene.at + end)), ..Told::default() };
        let stalls = judged(&scene, told);
        let stall = of_cause(&stalls, &scene);
        (stall.evidence.server_emitted, stall.judgement.clone())
    };
    let (told, judgement) = emitted(300 * MS);
    assert_eq!((told, judgement.verdict), (Some(true), Verdict::Network), "{judgement:?}");
    assert!(judgement.why.contains("before the end of the gap"), "{judgement:?}");
    assert_eq!(emitted(700 * MS).0, None, "never that it had not");
}

#[test]
fn a_decode_that_was_shorter_than_its_arrival_was_held_up_on_its_way() {
    let gap = Gap { to_raw_ns: a_gap().from_raw_ns + S, ..a_gap() };
    // 200 steps of 10 ms and a gap of a second, 3 s in all.
    let mut gaps = vec![10 * MS; 200];
    gaps.push(S);
    let emitted = |gap: &Gap, decode: i64, gaps: &[i64], completed: bool| {
        let told = Told { decode_ns: Some(decode), ..Told::default() };
        let median_ns = Some(gaps[gaps.len() / 2]);
        let pace = Pace { span_ns: gaps.iter().sum(), median_ns, gaps, completed };
        Own::of(told, gap, None, pace, false).emitted
    };
    assert_eq!(emitted(&gap, 2_050 * MS, &gaps, true), Some(true));
    assert_eq!(emitted(&gap, 2_900 * MS, &gaps, true), None, "the engine paused as well");
    assert_eq!(emitted(&gap, 2_050 * MS, &gaps, false), None, "who knows what was cut off");
    assert_eq!(emitted(&Gap { unended: true, ..gap.clone() }, 2_050 * MS, &gaps, true), None);
    // Another pause explains it.
    let mut two = gaps.clone();
    two.push(S);
    assert_eq!(emitted(&gap, 3_050 * MS, &two, true), None);
    assert_eq!(emitted(&gap, 2_050 * MS, &two, true), Some(true), "neither was the engine's");
    // A slow link: each step takes twice the engine's, and the pause was the engine's.
    let mut slow = vec![20 * MS; 200];
    slow.push(S);
    assert_eq!(emitted(&gap, 3_000 * MS, &slow, true), None);
    assert_eq!(emitted(&gap, 400 * MS, &slow, true), Some(true), "all of it in less than half of the gap");
}

#[test]
fn tokens_that_the_front_end_had_not_handed_out_were_not_sent() {
    let first = ORIGIN + 5 * S;
    // The engine took 10 s, and from its 9th to its 11th the front end stood still.
    let mut gaps = vec![10 * MS; 900];
    gaps.push(2 * S);
    let gap = {
        let mut gap = Gap { unended: false, ..a_gap() };
        (gap.from_ns, gap.to_ns) = (first + 9 * S, first + 11 * S);
        (gap.from_raw_ns, gap.to_raw_ns, gap.bound_ns) = (gap.from_ns, gap.to_ns, MS);
        gap
    };
    let emitted = |end: Option<i64>| {
        let told = Told {
            first_token: Some(at(first)),
            end: end.map(|end| at(first + end)),
            decode_ns: Some(10 * S),
            ..Told::default()
        };
        let pace = Pace { span_ns: 11 * S, median_ns: Some(10 * MS), gaps: &gaps, completed: true };
        Own::of(told, &gap, None, pace, false).emitted
    };
    assert_eq!(emitted(Some(11 * S)), None);
    assert_eq!(emitted(None), Some(true), "nothing says that it was still at it");
    assert_eq!(emitted(Some(10 * S)), Some(true), "held on its way");
}

#[test]
fn odd_stamps_of_scrapes_take_no_preemptions_away() {
    let scene = Scene::new(Cause::Preempt, 11);
    let found = |odd: fn(i64, &mut v1::ServerSample)| {
        let mut data = scene.draw();
        let scrape = |i: i64| {
            let total = if i * 200 * MS > scene.at + 100 * MS { 7.0 } else { 4.0 };
            let mut sample = v1::ServerSample {
                raw_ns: ORIGIN + i * 200 * MS,
                took_ns: MS,
                endpoint: "http://one/metrics".to_owned(),
                preemptions: Some(total),
                ..Default::default()
            };
            odd(i, &mut sample);
            sample
        };
        let batch = &mut data.nodes.get_mut(&PROBE).unwrap().batches[0];
        batch.server_samples = (0..90).map(scrape).collect();
        let merged = merge(&data);
        of_cause(&merged.stalls, &scene).evidence.preempted
    };
    let whole = found(|_, _| {}).unwrap();
    let future = |i: i64, s: &mut v1::ServerSample| {
        if i == 2 {
            (s.raw_ns, s.preemptions) = (ORIGIN + 99_000 * S, Some(5.0));
        }
    };
    assert_eq!(found(future), Some(whole));
    found(|i, s| s.took_ns = if i % 2 == 0 { i64::MAX } else { i64::MIN });
    found(|i, s| {
        (s.raw_ns, s.took_ns) = ([i64::MAX, i64::MIN, 1 << 59, -(1 << 59)][i as usize % 4], i64::MAX)
    });
}

#[test]
fn preemptions_around_a_stall_are_named_where_it_waited() {
    let scene = Scene::new(Cause::Preempt, 11);
    let judged = |rises: i64, held: Cause| {
        let scene = Scene { cause: held, ..scene.clone() };
        let mut data = scene.draw();
        let scrape = |i: i64| v1::ServerSample {
            raw_ns: ORIGIN + i * 200 * MS,
            took_ns: MS,
            endpoint: "http://one/metrics".to_owned(),
            preemptions: Some(if i * 200 * MS > rises { 7.0 } else { 4.0 }),
            ..Default::default()
        };
        let batch = &mut data.nodes.get_mut(&PROBE).unwrap().batches[0];
        batch.server_samples = (0..90).map(scrape).collect();
        let merged = merge(&data);
        let stall = of_cause(&merged.stalls, &scene);
        (stall.evidence.preempted, stall.judgement.clone())
    };
    let (found, judgement) = judged(scene.at + 100 * MS, Cause::Preempt);
    assert_eq!((found.unwrap().count, judgement.verdict), (3.0, Verdict::Waiting));
    assert!(judgement.why.contains("put 3 answers out of its batch"), "{}", judgement.why);
    let (elsewhere, judgement) = judged(scene.at - 2 * S, Cause::Preempt);
    assert!(elsewhere.is_none() && !judgement.why.contains("batch"), "{judgement:?}");
    let (_, held) = judged(scene.at + 100 * MS, Cause::Hold);
    assert!(held.verdict == Verdict::Network && !held.why.contains("out of its batch"), "{held:?}");
}

#[test]
fn nothing_that_a_server_says_makes_it_fall_over() {
    let odd = [i64::MIN, i64::MIN + 1, -1, 0, 1, ORIGIN, i64::MAX - 1, i64::MAX];
    let mut random = fastrand::Rng::with_seed(24);
    for seed in 0..20 {
        let scene = Scene::new(Cause::ALL[seed as usize % 8], seed);
        let random = std::cell::RefCell::new(random.fork());
        let told = |_: &v1::RequestRecord| {
            let mut random = random.borrow_mut();
            let mut pick = || odd[random.usize(0..odd.len())];
            let mut at = || Some(Aligned { ns: pick(), bound_ns: pick() });
            let (arrival, first_token, end) = (at(), at(), at());
            let (queue_ns, prefill_ns, decode_ns) = (Some(pick()), Some(pick()), Some(pick()));
            Told { arrival, first_token, end, queue_ns, prefill_ns, decode_ns, server: String::new() }
        };
        judged(&scene, told);
    }
}
