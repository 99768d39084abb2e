//! What the merge says of clocks: order of messages, starts, bounds too wide for what they are to hold.

use tailcliff_proto::v1;

use super::testrun::{self, MS, ORIGIN, S, offset};
use super::*;
use crate::clock::{Beat, Causality, Channel, Exchange};

/// Two agents and a probe, with heartbeats both ways that take 100 µs, and starts 20 and 70 µs after their time.
fn run() -> RunData {
    let mut data = testrun::run(3, 2, &[1]);
    testrun::add_probe(&mut data);
    for (&of, node) in &mut data.nodes {
        let beat = |s: i64| Beat {
            sent_raw_ns: ORIGIN + s * S + offset(of),
            received_ref_ns: ORIGIN + s * S + 100_000,
            heard: Some((ORIGIN + s * S - 200_000, ORIGIN + s * S - 100_000 + offset(of))),
        };
        node.beats = (1..15).map(beat).collect();
    }
    let log = &mut data.levels[0];
    let at = log.start_ref_ns;
    for (&of, started) in &mut log.started {
        let late = if of == 1 { 20_000 } else { 70_000 };
        *started = v1::LevelStarted {
            asked_raw_ns: at + offset(of),
            actual_raw_ns: at + offset(of) + late,
            order_sent_ref_ns: Some(at - 500 * MS),
            said_raw_ns: Some(at + offset(of) + 200_000),
            received_ref_ns: Some(at + 300_000),
            ..*started
        };
    }
    data
}

fn of(merged: &Merged, channel: Channel) -> Causality {
    merged.causality.by_channel().find(|(c, _)| *c == channel).map(|(_, c)| *c).unwrap()
}

/// Adds to what every node's clock is said to show in its exchanges.
fn shift(data: &mut RunData, by: i64) {
    for exchange in data.nodes.values_mut().flat_map(|node| &mut node.exchanges) {
        exchange.t1 += by;
        exchange.t2 += by;
    }
}

#[test]
fn every_message_between_two_clocks_is_a_pair_and_a_wrong_clock_breaks_one_direction() {
    let honest = merge(&run());
    let counts: Vec<_> =
        honest.causality.by_channel().map(|(channel, c)| (channel.as_str(), c.pairs, c.violations)).collect();
    let expected = [
        ("batch_to_coordinator", 3, 0),
        ("heartbeat_to_coordinator", 42, 0),
        ("heartbeat_to_node", 42, 0),
        ("start_order_to_start", 2, 0),
        ("started_to_coordinator", 2, 0),
    ];
    assert_eq!(counts, expected);
    assert_eq!(honest.causality.total().pairs, 91);
    let least = of(&honest, Channel::BeatDown).least_ns.unwrap();
    assert!((99_000..101_000).contains(&least), "as long as they took: {least}");
    assert!(!honest.warnings.iter().any(|w| w.contains("suspect")), "{:?}", honest.warnings);
    // A clock thought too far ahead places its stamps too early: what it sent looks early, what it read looks impossible.
    for (by, broken, fine) in
        [(5 * MS, Channel::BeatDown, Channel::BeatUp), (-5 * MS, Channel::BeatUp, Channel::BeatDown)]
    {
        let mut data = run();
        shift(&mut data, by);
        let wrong = merge(&data);
        assert_eq!((of(&wrong, broken).violations, of(&wrong, fine).violations), (42, 0), "{by}");
        assert!(of(&wrong, broken).worst_ns > 4 * MS);
        let warned =
            wrong.warnings.iter().any(|w| w.contains("clock suspect") && w.contains(broken.as_str()));
        assert!(warned, "{:?}", wrong.warnings);
    }
    // An order that came after the start that it led to, by more than the bound.
    let mut data = run();
    data.levels[0].started.get_mut(&2).unwrap().order_sent_ref_ns = Some(data.levels[0].start_ref_ns + MS);
    assert_eq!(of(&merge(&data), Channel::Start).violations, 1);
}

#[test]
fn what_is_out_of_order_within_the_bars_is_counted_and_no_violation() {
    let mut data = run();
    for beat in &mut data.nodes.get_mut(&1).unwrap().beats {
        // The path takes 20 µs each way, so the bar is a little more than that.
        beat.received_ref_ns -= 110_000;
    }
    let merged = merge(&data);
    let up = of(&merged, Channel::BeatUp);
    assert_eq!((up.pairs, up.within_bar, up.violations), (42, 14, 0), "{up:?}");
    assert!((9_000..11_000).contains(&up.worst_ns), "{up:?}");
}

#[test]
fn starts_are_placed_and_late_ones_named() {
    let merged = merge(&run());
    let starts = merged.levels[0].starts.clone().unwrap();
    assert_eq!((starts.known, starts.latest[0].name.as_str()), (2, "agent-2"));
    assert!((49_900..50_100).contains(&starts.spread_ns), "{starts:?}");
    assert!((40_000..80_000).contains(&starts.bound_ns), "both bounds: {starts:?}");
    let notes = |data: &RunData| merge(data).levels[0].certificate.notes.join("; ");
    assert!(!notes(&run()).contains("started"));
    let mut data = run();
    let late = data.levels[0].started.get_mut(&1).unwrap();
    (late.actual_raw_ns, late.was_late) = (late.actual_raw_ns + 30 * MS, true);
    let notes = notes(&data);
    assert!(notes.contains("1 agents got their start order late: agent-1"), "{notes}");
    assert!(notes.contains("agents started 29.9") || notes.contains("agents started 30.0"), "{notes}");
    assert!(notes.contains("apart, agent-1 last"), "{notes}");
    // One that said nothing, or nothing that can be placed, is no start.
    data.levels[0].started.get_mut(&1).unwrap().actual_raw_ns = i64::MIN;
    assert_eq!(merge(&data).levels[0].starts.clone().unwrap().known, 1);
    data.levels[0].started.clear();
    assert_eq!(merge(&data).levels[0].starts, None);
}

/// A path whose round trip is 40 ms, both ways alike: the clock is known to no better than ±20 ms.
#[test]
fn a_clock_that_cannot_be_known_well_is_said_so_and_spoils_no_latency() {
    let mut data = run();
    for node in data.nodes.values_mut() {
        node.exchanges
            .iter_mut()
            .for_each(|e| *e = Exchange { t0: e.t0 - 20 * MS, t3: e.t3 + 20 * MS, ..*e });
    }
    let (fine, wide) = (merge(&run()), merge(&data));
    assert!(fine.bins.iter().all(bins::Bin::is_resolved), "{:?}", fine.bins);
    let warnings = wide.warnings.join("\n");
    assert!(warnings.contains("agent agent-1: its clock is known to ±20."), "{warnings}");
    assert!(warnings.contains("GPU samples beside tokens are 10.0 ms wide"), "{warnings}");
    let level = &wide.levels[0];
    assert!(level.certificate.notes.iter().any(|n| n.contains("common timeline to ±20.")), "{level:?}");
    assert_eq!(level.certificate.verdict, fine.levels[0].certificate.verdict);
    let p95 = |level: &Level| level.latencies.ttft.percentile_ns(95.0);
    assert_eq!(p95(level), p95(&fine.levels[0]));
    let unresolved: Vec<_> = wide.bins.iter().filter(|bin| !bin.is_resolved()).collect();
    assert_eq!(unresolved.len(), 1, "a second's part of the window is wide enough: {:?}", wide.bins);
}

/// The clock of one agent's host steps by 40 ms in the middle of its load, or the host sleeps for so long.
#[test]
fn a_step_is_one_break_said_where_and_widens_the_bar_there_only() {
    let at = ORIGIN + 8 * S + S / 2;
    for by in [40 * MS, -40 * MS] {
        let mut data = run();
        let node = data.nodes.get_mut(&2).unwrap();
        let step = |e: &mut Exchange| *e = Exchange { t1: e.t1 + by, t2: e.t2 + by, ..*e };
        node.exchanges.iter_mut().filter(|e| e.t0 > at).for_each(step);
        let after = |raw: &mut i64| *raw += if *raw - offset(2) > at { by } else { 0 };
        node.beats.iter_mut().for_each(|beat| {
            after(&mut beat.sent_raw_ns);
            beat.heard.iter_mut().for_each(|(_, read)| after(read));
        });
        let merged = merge(&data);
        let summary = merged.nodes.iter().find(|node| node.name == "agent-2").unwrap();
        assert_eq!(summary.breaks, [(ORIGIN + 8 * S + 20_000, ORIGIN + 9 * S + 20_000)], "{by}");
        let said = merged.warnings.iter().find(|w| w.contains("its clock broke 1 times")).unwrap();
        assert!(said.contains("first between 8.0 and 9.0 s of the run"), "{said}");
        let bound = |at: i64, by: i64| merged.timeline.place(2, at + offset(2) + by).unwrap().bound_ns;
        assert!(bound(at, 0) > 19 * MS, "{by}: in the gap the clock may be either");
        assert!(bound(at - 2 * S, 0) < MS && bound(at + 2 * S, by) < MS, "{by}");
        assert_eq!(of(&merged, Channel::BeatUp).violations, 0, "{by}");
        assert_eq!(of(&merged, Channel::BeatDown).violations, 0, "{by}");
        // Nobody else's clock is touched.
        assert!(merged.nodes.iter().filter(|node| node.name != "agent-2").all(|node| node.breaks.is_empty()));
    }
}
