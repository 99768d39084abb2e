//! A run whose levels are searched for, driven by a server that is a formula.

use super::tests::{S, arm, finish, finished, leave, ready, shares_of};
use super::*;
use crate::axis::Load;
use crate::blocks::Block;
use crate::plan::AutoPlan;
use crate::search::seen::Trouble;

/// Slots of the server, each a request a second.
const SLOTS: f64 = 10.0;

fn searching() -> Run {
    let auto = AutoPlan { open: false, from: 1.0, to: 64.0, resolution: 0.1, budget_ns: 3_600 * S };
    let plan = Plan { agents: 1, auto: Some(auto), ..Plan::default() };
    Run::new(plan, v1::Target::default(), v1::Workload::default(), 60 * S, 0)
}

/// What the server makes of a level, without any luck.
fn seen(load: Load, trouble: Option<Trouble>) -> Seen {
    let (x, life_s) = (load.x().min(SLOTS), load.x().max(SLOTS) / SLOTS);
    let block = Block {
        seconds: 2.0 * life_s,
        completed: 2.0 * life_s * x,
        e2e_ns: vec![(life_s * 1e9) as i64; 10],
        ..Block::default()
    };
    Seen::of(load, 40.0 * life_s, &vec![block; 20], "e2e", trouble)
}

fn planned(out: &[Command]) -> Option<(Drive, Load)> {
    out.iter().find_map(|c| {
        if let Command::LevelPlanned { drive, load, .. } = c { Some((*drive, *load)) } else { None }
    })
}

/// Drives a level to where its judgement is waited for.
fn drive(run: &mut Run, level: u32) -> Vec<Command> {
    arm(run, level, &[1]);
    finish(run, 3 * S, level, 1, 0)
}

/// All loads of a whole run, and what it said.
fn whole(run: &mut Run, mut out: Vec<Command>) -> (Vec<f64>, Vec<Command>) {
    let (mut loads, mut all) = (Vec::new(), Vec::new());
    while let Some((at, load)) = planned(&out) {
        loads.push(load.x());
        out = drive(run, at.level);
        assert!(out.contains(&Command::Judge(at.level)) && planned(&out).is_none(), "judged before the next");
        out = run.step(4 * S, Event::Judged(Ok(seen(load, None))));
        all.extend(out.iter().filter(|c| matches!(c, Command::Say(_))).map(|c| format!("{c:?}")));
    }
    all.push(format!("{out:?}"));
    let said = leave(run, 5 * S, &[1]);
    assert_eq!(finished(&said), Some(&Ending::Complete));
    assert!(all.iter().any(|line| line.contains("the search is over: knee and cliff are known")), "{all:?}");
    (loads, said)
}

#[test]
fn a_search_climbs_past_the_slots_and_comes_back_to_them() {
    let mut run = searching();
    let out = ready(&mut run, 1);
    let share = shares_of(&out)[&1];
    let stop = v1::load_share::Stop::DurationNs(2 * S);
    assert_eq!((share.concurrency, share.warmup_ns, share.stop), (1, 0, Some(stop)), "nothing is known yet");
    let (loads, _) = whole(&mut run, out);
    assert_eq!(loads[..6], [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]);
    assert!(loads.contains(&9.0) && loads.contains(&11.0), "both sides of the knee: {loads:?}");
    assert!(loads.len() < 20, "{loads:?}");
}

#[test]
fn later_levels_are_as_long_as_requests_take() {
    let mut run = searching();
    let out = ready(&mut run, 1);
    let (at, load) = planned(&out).unwrap();
    drive(&mut run, at.level);
    let out = run.step(4 * S, Event::Judged(Ok(seen(load, None))));
    let share = shares_of(&out)[&1];
    let Some(v1::load_share::Stop::DurationNs(ns)) = share.stop else { panic!("by time") };
    assert!(share.warmup_ns == 2 * S && ns >= 8 * S, "requests of a second: {share:?}");
}

/// Loads of a search to its end, where a level may have trouble: told its load, and how often that was driven before.
fn loads_with(trouble: impl Fn(f64, usize) -> Option<Trouble>) -> Vec<f64> {
    let mut run = searching();
    let mut out = ready(&mut run, 1);
    let mut loads = Vec::new();
    while let Some((at, load)) = planned(&out) {
        let before = loads.iter().filter(|x| **x == load.x()).count();
        loads.push(load.x());
        drive(&mut run, at.level);
        out = run.step(4 * S, Event::Judged(Ok(seen(load, trouble(load.x(), before)))));
        assert!(loads.len() < 60, "it never ends: {loads:?}");
    }
    loads
}

fn times(loads: &[f64], load: f64) -> usize {
    loads.iter().filter(|x| **x == load).count()
}

#[test]
fn what_the_client_could_not_drive_ends_the_climb() {
    let loads = loads_with(|x, _| (x >= 8.0).then_some(Trouble::ClientBound));
    assert_eq!(loads, [1.0, 2.0, 4.0, 8.0, 8.0], "once more, and no further");
}

#[test]
fn a_level_of_no_use_is_driven_three_times_and_no_more() {
    let loads = loads_with(|x, _| (x == 2.0).then_some(Trouble::Drifts(0.3)));
    assert!(times(&loads, 2.0) == 3 && loads.contains(&32.0), "and the climb goes on: {loads:?}");
}

#[test]
fn a_hiccup_of_the_client_is_tried_again_and_ends_nothing() {
    let is_late = |x, before| x == 8.0 && before == 0 || x == 9.0;
    let loads = loads_with(|x, before| is_late(x, before).then_some(Trouble::ClientBound));
    assert!(loads.contains(&32.0), "the climb went on: {loads:?}");
    let nine = times(&loads, 9.0);
    assert!(
        nine == 2 && loads.contains(&11.0),
        "one load that the client cannot drive is left out: {loads:?}"
    );
}

#[test]
fn a_resumed_search_goes_on_where_the_first_was() {
    let mut first = searching();
    let out = ready(&mut first, 1);
    let (loads, _) = whole(&mut first, out);
    let (driven, rest) = loads.split_at(5);
    let next = Drive { level: 9, rung: 5, attempt: 1 };
    let before = driven.iter().map(|x| seen(Load::Streams(*x as u32), None)).collect();
    let mut second = searching().resumed(next, vec![], BTreeMap::new()).having_seen(before, None);
    let out = ready(&mut second, 1);
    assert_eq!(planned(&out).unwrap().0, next);
    assert_eq!(whole(&mut second, out).0, rest);
}

#[test]
fn a_level_that_cannot_be_judged_ends_the_run_with_its_reason() {
    let mut run = searching();
    ready(&mut run, 1);
    drive(&mut run, 0);
    run.step(4 * S, Event::Judged(Err("the disk is gone".to_owned())));
    let out = leave(&mut run, 5 * S, &[1]);
    assert!(
        matches!(finished(&out), Some(Ending::Broken(why)) if why.contains("the disk is gone")),
        "{out:?}"
    );
}

#[test]
fn an_interrupt_while_a_level_is_judged_ends_the_run() {
    let mut run = searching();
    ready(&mut run, 1);
    drive(&mut run, 0);
    run.step(4 * S, Event::Interrupt("interrupted".to_owned()));
    let out = run.step(4 * S, Event::Judged(Ok(seen(Load::Streams(1), None))));
    assert_eq!(planned(&out), None, "nothing more is driven");
    assert!(matches!(finished(&leave(&mut run, 5 * S, &[1])), Some(Ending::Interrupted(_))));
}
