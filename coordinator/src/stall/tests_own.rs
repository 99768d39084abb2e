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

#[test]
fn a_late_first_token_is_cut_where_the_stamps_are() {
    let (gap, evidence) = cut(10, 20, 300, 400);
    let own = evidence.own.unwrap();
    assert_eq!(
        (own.up, own.front_ns, own.down),
        (Some((10 * MS, MS + MS)), Some(20 * MS), Some((270 * MS, 2 * MS)))
    );
    // What never came has no way back.
    let told = Told { first_token: Some(at(gap.from_ns + 700 * MS)), ..Told::default() };
    assert_eq!(Own::of(told.clone(), &Gap { unended: true, ..gap.clone() }, None, STILL, false).down, None);
    assert_eq!(Own::of(told, &gap, None, STILL, false).down, Some((300 * MS, 2 * MS)));
}

#[test]
fn the_end_of_a_span_is_as_late_as_its_bounds_allow() {
    let from = a_gap().from_ns;
    let gap = Gap { to_ns: from + S, to_raw_ns: a_gap().from_raw_ns + S, bound_ns: MS, ..a_gap() };
    let emitted = |end: i64| {
        let told = Told { end: Some(at(from + end)), ..Told::default() };
        Own::of(told, &gap, None, STILL, false).emitted
    };
    assert_eq!((emitted(498 * MS), emitted(499 * MS)), (Some(true), None));
}

#[test]
fn what_lies_before_the_send_is_the_clients_though_the_server_let_it_wait_too() {
    let (gap, mut evidence) = cut(0, 0, 500, 0);
    evidence.unsent_share = 0.5;
    assert_eq!(judge::judge(&gap, &evidence).verdict, Verdict::Client);
}

/// The clocks' bars are in what the server's record says of it already.
#[test]
fn wide_bars_make_no_less_of_what_the_record_says() {
    let (mut gap, evidence) = cut(10, 20, 800, 100);
    gap.bound_ns = 200 * MS;
    assert_eq!(judge::judge(&gap, &evidence).confidence, 0.95);
    let gap = Gap { to_raw_ns: a_gap().from_raw_ns + S, bound_ns: 200 * MS, ..a_gap() };
    let evidence = Evidence { server_emitted: Some(true), ..Evidence::default() };
    let said = judge::judge(&gap, &evidence);
    assert_eq!((said.verdict, said.confidence), (Verdict::Network, 0.95));
}

#[test]
fn what_lay_in_the_socket_is_taken_off_the_way_back() {
    let (gap, mut evidence) = cut(10, 10, 100, 100);
    evidence.socket_wait_ns = Some(350 * MS);
    assert_ne!(judge::judge(&gap, &evidence).verdict, Verdict::Network);
    evidence.socket_wait_ns = Some(250 * MS);
    assert_eq!(judge::judge(&gap, &evidence).verdict, Verdict::Network);
}

/// Between the scrapes around a stall of a second, by (endpoint, when, took, total), ms.
fn put_out(clock_bound: bool, scrapes: &[(&str, i64, i64, f64)]) -> Option<(f64, i64)> {
    use crate::merge::testrun::{add_probe, offset, push, run};
    let mut data = run(1, 1, &[1]);
    let of = add_probe(&mut data);
    let sample = |&(endpoint, at, took, total): &(&str, i64, i64, f64)| v1::ServerSample {
        raw_ns: ORIGIN + offset(of) + at * MS,
        took_ns: took * MS,
        endpoint: endpoint.to_owned(),
        preemptions: Some(total),
        ..Default::default()
    };
    push(
        &mut data,
        of,
        v1::Batch { server_samples: scrapes.iter().map(sample).collect(), ..Default::default() },
    );
    if clock_bound {
        // Each ping took 10 ms there, and 10 ms back.
        let pings = &mut data.nodes.get_mut(&of).unwrap().exchanges;
        pings.iter_mut().for_each(|e| (e.t0, e.t3) = (e.t0 - 10 * MS, e.t3 + 10 * MS));
    }
    let timeline = crate::merge::timeline::Timeline::of(&data);
    let gap = Gap { bound_ns: 0, ..late() };
    preempted::Rises::read(&data, &timeline).view(&gap).map(|found| (found.count, found.over_ns / MS))
}

#[test]
fn rises_are_counted_from_the_scrape_before_a_stall_to_the_one_after() {
    // It stood still from 6 s to 7 s.
    let all = [
        ("a", 5_000, 1, 1.0),
        ("a", 5_500, 1, 2.0),
        ("a", 5_900, 1, 2.0),
        ("a", 6_300, 1, 5.0),
        ("a", 6_700, 1, 5.0),
        ("a", 7_100, 1, 6.0),
        ("a", 7_500, 1, 9.0),
    ];
    let counted = put_out(false, &all).unwrap();
    assert_eq!(counted, (4.0, 1_201));
    // Another's total is another's, and who put out most is told.
    let other: Vec<_> = all.iter().map(|&(_, at, took, n)| ("b", at + 10, took, 10.0 * n)).collect();
    let both: Vec<_> = other.into_iter().chain(all).collect();
    assert_eq!(put_out(false, &both).unwrap().0, 40.0);
    // A total that falls is a server begun anew, and one that is no number nobody's.
    let odd = [f64::NAN, -3.0, f64::INFINITY, 1e300, 2.0, 1.0];
    for n in odd {
        assert_eq!(put_out(false, &[("a", 5_900, 1, 4.0), ("a", 6_300, 1, n)]), None, "{n}");
    }
    // Where a total rose just before, the scrape that was still under way when it began may have seen it then.
    let slow = [("a", 5_500, 1, 2.0), ("a", 5_900, 200, 5.0)];
    assert_eq!(put_out(false, &slow), Some((3.0, 600)));
    assert_eq!(put_out(false, &[("a", 5_500, 1, 2.0), ("a", 5_900, 1, 5.0)]), None);
}

#[test]
fn a_scrape_is_as_early_as_its_clock_allows() {
    // The one that saw the total as it was before may be of a moment before the stall's end.
    let late = [("a", 7_005, 1, 2.0), ("a", 7_400, 1, 5.0)];
    assert_eq!(put_out(false, &late), None);
    assert_eq!(put_out(true, &late).map(|(n, _)| n), Some(3.0));
}
