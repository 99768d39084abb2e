//! The clock's own truth: simulated clocks, all paths, breaks, mutations. Coverage of the bar is asserted; how tight it is
//! gets printed (`--nocapture`).

use tailcliff_proto::v1;

use super::simulate::{PATHS, Path, Truth, exchanges};
use super::{Aligned, Causality, Exchange, Online, Track, TrackKind};

const S: i64 = 1_000_000_000;

/// (error, bound) of a track against the truth at many moments of [from, to].
fn errors(track: &Track, truth: &Truth, from: i64, to: i64) -> Vec<(f64, i64)> {
    let moments = (from..to).step_by(137_000_003);
    let one = |t: i64| {
        let node = t + truth.at(t).round() as i64;
        let aligned = track.to_ref(node).unwrap_or(Aligned { ns: i64::MAX / 4, bound_ns: 0 });
        ((aligned.ns - t) as f64, aligned.bound_ns)
    };
    moments.map(one).collect()
}

fn uncovered(errors: &[(f64, i64)]) -> usize {
    errors.iter().filter(|(error, bound)| error.abs() > *bound as f64).count()
}

fn percentile(mut values: Vec<f64>, p: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * p) as usize]
}

fn rtt_min(exchanges: &[Exchange]) -> i64 {
    exchanges.iter().map(|e| (e.t3 - e.t0) - (e.t2 - e.t1)).min().unwrap()
}

#[test]
fn the_truth_is_inside_the_bar_on_every_path() {
    for path in PATHS {
        let (mut all, mut bounds) = (Vec::new(), Vec::new());
        for seed in 0..10 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let truth = Truth::random(&mut rng);
            let made = exchanges(&truth, path, 60, &mut rng);
            let track = Track::fit(&made, &[]);
            assert!(track.breaks().is_empty(), "{path:?} seed {seed}: {:?}", track.breaks());
            let seen = errors(&track, &truth, S, 60 * S);
            assert_eq!(uncovered(&seen), 0, "{path:?} seed {seed}");
            // Not by being useless: half a round trip, and what jitter and ageing cost.
            let median = track.median_bound_ns().unwrap();
            assert!(median < rtt_min(&made) / 2 + 400_000, "{path:?} seed {seed}: ±{median}");
            all.extend(seen.iter().map(|(error, _)| error.abs()));
            bounds.push(median as f64);
        }
        let at = |p| percentile(all.clone(), p) / 1e3;
        let bound = percentile(bounds, 0.5) / 1e3;
        println!(
            "{path:?}: error p50 {:.1} p99 {:.1} max {:.1} µs, bar ±{bound:.1} µs",
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
}

#[test]
fn stamps_beyond_the_exchanges_keep_a_bar_that_grows_until_nothing_is_said() {
    let mut rng = fastrand::Rng::with_seed(1);
    let truth = Truth::random(&mut rng);
    let track = Track::fit(&exchanges(&truth, Path::Idle, 30, &mut rng), &[]);
    let outside = errors(&track, &truth, 32 * S, 60 * S);
    assert_eq!(uncovered(&outside), 0);
    assert!(outside.last().unwrap().1 > 3 * outside.first().unwrap().1);
    assert_eq!(track.to_ref(500 * S + truth.at(500 * S) as i64), None);
    assert_eq!(track.to_ref(i64::MIN), None);
    assert_eq!(track.to_node(i64::MAX), None);
}

#[test]
fn an_asymmetric_path_is_wrong_by_half_its_asymmetry_and_says_so() {
    let mut rng = fastrand::Rng::with_seed(7);
    let truth = Truth::random(&mut rng);
    let made = exchanges(&truth, Path::Asymmetric, 60, &mut rng);
    let track = Track::fit(&made, &[]);
    let seen = errors(&track, &truth, S, 60 * S);
    let median = percentile(seen.iter().map(|(error, _)| error.abs()).collect(), 0.5);
    assert!((80e3..120e3).contains(&median), "80 and 280 µs differ by 200, half is 100: {median} ns");
    assert_eq!(uncovered(&seen), 0);
    // Two halves of the same path agree: repeatability is blind to it, which is why it is not the bar.
    assert!(track.repeatability_ns().unwrap() < 20_000);
}

#[test]
fn both_directions_agree() {
    let mut rng = fastrand::Rng::with_seed(3);
    let truth = Truth::random(&mut rng);
    let made = exchanges(&truth, Path::Jitter, 30, &mut rng);
    let track = Track::fit(&made, &[]);
    for t in (2 * S..29 * S).step_by(911_000_001) {
        let node = track.to_node(t).unwrap();
        let back = track.to_ref(node.ns).unwrap();
        assert!((back.ns - t).abs() <= 3, "{t}: {node:?} {back:?}");
    }
    let mut online = Online::default();
    made.iter().for_each(|&exchange| online.push(exchange));
    let (at, bound) = online.to_node(31 * S + S / 2).unwrap();
    let true_at = 31.5e9 + truth.at(31 * S + S / 2);
    assert!((at as f64 - true_at).abs() <= bound as f64 && bound < 400_000, "±{bound}");
}

#[test]
fn a_step_is_one_break_and_widens_the_bar_in_its_gap_only() {
    for by in [5e6, -5e6, -4e9, 40_000e9] {
        let mut rng = fastrand::Rng::with_seed(11);
        let truth = Truth { step: Some((30 * S + S / 3, by)), ..Truth::random(&mut rng) };
        let track = Track::fit(&exchanges(&truth, Path::Idle, 60, &mut rng), &[]);
        let breaks = track.breaks();
        assert_eq!(breaks.len(), 1, "{by}");
        let (from, to) = breaks[0];
        assert!(from <= 30 * S + S / 3 && 30 * S + S / 3 <= to && to - from < 3 * S / 2, "{by}: {breaks:?}");
        assert_eq!(uncovered(&errors(&track, &truth, S, 60 * S)), 0, "{by}");
        let wide = |errors: Vec<(f64, i64)>| errors.iter().any(|(_, bound)| *bound > 100_000);
        // After a step back by seconds, stamps of as many seconds before it are shown twice: a reading of them must allow
        // both.
        let twice = if by < 0.0 { (-by) as i64 } else { 0 } + 10_000_000;
        assert!(!wide(errors(&track, &truth, S, from - twice)), "{by}: wide before the gap");
        assert!(!wide(errors(&track, &truth, to + twice, 60 * S)), "{by}: wide after the gap");
        assert!(wide(errors(&track, &truth, from + 1_000_000, to - 1_000_000)), "{by}: narrow in the gap");
    }
}

#[test]
fn a_silence_longer_than_the_window_hides_no_step() {
    for by in [0.0, 5e6, -5e6, -4e9, 300e9] {
        let mut rng = fastrand::Rng::with_seed(13);
        let truth = Truth { step: Some((33 * S, by)), ..Truth::random(&mut rng) };
        let made = exchanges(&truth, Path::Idle, 80, &mut rng);
        let heard: Vec<_> = made.into_iter().filter(|e| !(30 * S..55 * S).contains(&e.t0)).collect();
        let track = Track::fit(&heard, &[]);
        assert_eq!(track.breaks().len(), usize::from(by != 0.0), "{by}");
        assert_eq!(uncovered(&errors(&track, &truth, S, 80 * S)), 0, "{by}");
        if by == 0.0 {
            let gap = errors(&track, &truth, 32 * S, 53 * S);
            assert!(gap.iter().all(|(_, bound)| *bound < 400_000), "both sides reach into it: {gap:?}");
        }
    }
}

#[test]
fn repeatability_is_the_halves_difference_and_not_that_of_their_first_pings() {
    let mut rng = fastrand::Rng::with_seed(17);
    let truth = Truth::random(&mut rng);
    let mut made = exchanges(&truth, Path::Idle, 40, &mut rng);
    // A first ping over a cold connection: 3 ms on its way there.
    made[0].t0 -= 3_000_000;
    let repeatability = Track::fit(&made, &[]).repeatability_ns().unwrap();
    assert!(repeatability < 20_000, "{repeatability} ns");
}

#[test]
fn a_suspend_breaks_the_track_even_if_the_offset_hides_it() {
    let mut rng = fastrand::Rng::with_seed(5);
    let truth = Truth::random(&mut rng);
    let made = exchanges(&truth, Path::Idle, 20, &mut rng);
    let snapshot = |t: i64, slept: i64| v1::ClockSnapshot {
        boot_id: "b".to_owned(),
        raw_ns: t + truth.at(t) as i64,
        mono_ns: t,
        boottime_ns: t + slept,
        ..Default::default()
    };
    let awake: Vec<_> = (1..20).map(|s| snapshot(s * S, 0)).collect();
    assert!(Track::fit(&made, &awake).breaks().is_empty());
    let slept: Vec<_> = (1..20).map(|s| snapshot(s * S, if s > 9 { 7 * S } else { 0 })).collect();
    let track = Track::fit(&made, &slept);
    assert_eq!(track.breaks().len(), 1);
    assert!(track.breaks()[0].0 < 10 * S + S && track.breaks()[0].1 > 8 * S);
    let mut other_boot = awake;
    other_boot.iter_mut().skip(9).for_each(|s| s.boot_id = "c".to_owned());
    assert_eq!(Track::fit(&made, &other_boot).breaks().len(), 1);
}

/// Even bursts fitted, odd bursts held out: each held-out message must not arrive before it was sent.
fn held_out(fitted: &Track, held: &[Exchange]) -> Causality {
    let mut causality = Causality::default();
    let exact = |ns| Aligned { ns, bound_ns: 0 };
    for e in held {
        if let (Some(read), Some(written)) = (fitted.to_ref(e.t1), fitted.to_ref(e.t2)) {
            causality.add(exact(e.t0), read);
            causality.add(written, exact(e.t3));
        }
    }
    causality
}

fn halves(made: &[Exchange]) -> [Vec<Exchange>; 2] {
    [0, 1].map(|parity| made.iter().filter(|e| e.t0 / S % 2 == parity).copied().collect())
}

#[test]
fn mutations_are_caught_by_held_out_causality_or_coverage() {
    let mut rng = fastrand::Rng::with_seed(23);
    let truth = Truth::random(&mut rng);
    let made = exchanges(&truth, Path::Idle, 60, &mut rng);
    let [fitted, held] = halves(&made);
    let honest = held_out(&Track::fit(&fitted, &[]), &held);
    assert!(honest.pairs > 300 && honest.violations == 0, "{honest:?}");

    // A sign flip: the offset is taken for its negative, and its bounds for one another.
    let flip = |e: &Exchange| Exchange { t1: e.t0 + e.t3 - e.t2, t2: e.t0 + e.t3 - e.t1, ..*e };
    let flipped: Vec<_> = fitted.iter().map(flip).collect();
    let caught = held_out(&Track::fit(&flipped, &[]), &held);
    // Twice its offset away: here that is so far that no stamp of it can be placed at all.
    assert_eq!(caught.pairs, 0, "{caught:?}");
    // Near enough to be placed, it is caught by causality.
    let near = Truth { offset: 2e6, drift: 0.0, ..truth };
    let [fitted, held] = halves(&exchanges(&near, Path::Idle, 60, &mut rng));
    assert_eq!(held_out(&Track::fit(&fitted, &[]), &held).violations, 0);
    let flipped: Vec<_> = fitted.iter().map(flip).collect();
    let caught = held_out(&Track::fit(&flipped, &[]), &held);
    assert!(caught.pairs > 300 && caught.violations > 100, "{caught:?}");

    // Shifted by 5 ms.
    let shift = |e: &Exchange| Exchange { t1: e.t1 + 5_000_000, t2: e.t2 + 5_000_000, ..*e };
    let shifted: Vec<_> = fitted.iter().map(shift).collect();
    assert!(held_out(&Track::fit(&shifted, &[]), &held).violations > 100);
}

#[test]
fn a_clock_that_wanders_between_sparse_bursts_is_covered_by_ageing_alone() {
    // Bursts each ten seconds over a quick path: the bounds themselves are ±1 µs, the wander in between is 6 µs.
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let phase = rng.f64() * std::f64::consts::TAU;
        let truth = Truth { wander: [(1e-6, 40e9, phase), (0.0, 1e9, 0.0)], ..Truth::random(&mut rng) };
        let made = exchanges(&truth, Path::Quick, 61, &mut rng);
        let sparse: Vec<_> = made.iter().filter(|e| e.t0 / S % 10 == 0).copied().collect();
        let track = Track::fit(&sparse, &[]);
        assert!(track.breaks().is_empty(), "seed {seed}: {:?}", track.breaks());
        assert_eq!(uncovered(&errors(&track, &truth, 10 * S, 60 * S)), 0, "seed {seed}");
    }
}

#[test]
fn hostile_exchanges_neither_panic_nor_poison() {
    let mut rng = fastrand::Rng::with_seed(31);
    let truth = Truth::random(&mut rng);
    let mut made = exchanges(&truth, Path::Idle, 20, &mut rng);
    let clean = Track::fit(&made, &[]);
    for e in [
        Exchange { t0: i64::MIN, t1: i64::MAX, t2: i64::MIN, t3: i64::MAX },
        Exchange { t0: 5 * S, t1: 0, t2: 0, t3: 4 * S },
        Exchange { t0: 5 * S, t1: 9 * S, t2: 8 * S, t3: 5 * S + 1000 },
        Exchange { t0: 5 * S, t1: 0, t2: 30 * S, t3: 5 * S + 1000 },
    ] {
        made.insert(made.len() / 2, e);
        assert!(!e.is_possible());
        Online::default().push(e);
    }
    made.extend_from_within(3..9);
    made.swap(1, 90);
    let track = Track::fit(&made, &[]);
    assert_eq!((track.rejected(), track.breaks().len()), (4, 0));
    let node = 10 * S + truth.at(10 * S) as i64;
    assert!((track.to_ref(node).unwrap().ns - clean.to_ref(node).unwrap().ns).abs() < 1_000);
    let none = Track::fit(&[], &[]);
    assert_eq!((none.kind(), none.to_ref(0), none.median_bound_ns()), (TrackKind::Unaligned, None, None));
    // A node that answers with noise is no clock at all, and takes no time to find out.
    let noise: Vec<_> = (0..20_000)
        .map(|i| Exchange { t0: i * S / 8, t1: rng.i64(0..S * 1_000), t2: 0, t3: i * S / 8 + 50_000 })
        .map(|e| Exchange { t2: e.t1, ..e })
        .collect();
    assert_eq!(Track::fit(&noise, &[]).kind(), TrackKind::Unaligned);
}

#[test]
fn a_fit_is_the_same_every_time() {
    let mut rng = fastrand::Rng::with_seed(37);
    let truth = Truth::random(&mut rng);
    let made = exchanges(&truth, Path::HeavyTail, 30, &mut rng);
    assert_eq!(format!("{:?}", Track::fit(&made, &[])), format!("{:?}", Track::fit(&made, &[])));
}
