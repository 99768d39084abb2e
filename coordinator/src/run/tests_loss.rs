//! Agents that are lost, replaced or late, and coordinators that took over.

use super::tests::{S, arm, finish, finished, join, leave, preflights, ready, run_of, shares_of};
use super::*;
use crate::bursts::JOIN_BURST;
use crate::plan::FleetRule;

fn planned(out: &[Command]) -> Vec<(Drive, Vec<Incarnation>)> {
    let planned = |c: &Command| match c {
        Command::LevelPlanned { drive, shares, .. } => Some((*drive, shares.keys().copied().collect())),
        _ => None,
    };
    out.iter().filter_map(planned).collect()
}

fn drive(level: u32, rung: u32, attempt: u32) -> Drive {
    Drive { level, rung, attempt }
}

fn stops(out: &[Command]) -> Vec<Incarnation> {
    let stop = |c: &Command| match c {
        Command::Send(of, Order::Stop(_)) => Some(*of),
        _ => None,
    };
    out.iter().filter_map(stop).collect()
}

fn preflighted(run: &mut Run, now: i64, of: u64) -> Vec<Command> {
    let done = v1::PreflightDone { ok: true, ..Default::default() };
    run.step(now, Event::Said(of, Said::PreflightDone(done)))
}

fn voids(out: &[Command]) -> usize {
    out.iter().filter(|c| matches!(c, Command::Void(..))).count()
}

/// Two agents drive the first of two levels when the first of them is lost.
fn with_one_lost(rule: FleetRule) -> (Run, Vec<Command>) {
    let mut run = run_of(2, &[2, 4], None);
    run.plan.fleet = rule;
    ready(&mut run, 2);
    arm(&mut run, 0, &[1, 2]);
    run.step(2 * S, Event::Gone(1));
    let out = run.step(2 * S + LEASE_NS, Event::Tick);
    assert!(!out.contains(&Command::Lost(1)), "still within its lease");
    let out = run.step(2 * S + LEASE_NS + 1, Event::Tick);
    assert!(out.contains(&Command::Lost(1)));
    (run, out)
}

#[test]
fn a_level_that_loses_an_agent_is_driven_again_over_the_others() {
    let (mut run, out) = with_one_lost(FleetRule::default());
    assert_eq!((voids(&out), stops(&out)), (1, vec![2]));
    let out = finish(&mut run, 8 * S, 0, 2, 0);
    assert!(out.contains(&Command::LevelSettled { level: 0, passed: false }));
    assert!(planned(&out).is_empty(), "another may come");
    assert!(planned(&run.step(22 * S, Event::Tick)).is_empty());
    let out = run.step(23 * S, Event::Tick);
    assert_eq!(planned(&out), [(drive(1, 0, 2), vec![2])], "the same rung under a number of its own");
    assert_eq!(shares_of(&out)[&2].concurrency, 2, "its share went to the other");
    arm(&mut run, 1, &[2]);
    let out = finish(&mut run, 30 * S, 1, 2, 0);
    assert!(out.contains(&Command::LevelSettled { level: 1, passed: true }));
    assert_eq!(planned(&out), [(drive(2, 1, 1), vec![2])], "nobody is waited for twice");
}

#[test]
fn whoever_takes_the_place_is_prepared_and_drives_the_next_try() {
    let (mut run, _) = with_one_lost(FleetRule::default());
    finish(&mut run, 8 * S, 0, 2, 0);
    let out = run.step(9 * S, Event::Joined(3, v1::NodeKind::Agent));
    assert_eq!(preflights(&out), 0, "not before its clock is known");
    let out = run.step(9 * S, Event::Pinged(3, JOIN_BURST));
    assert!(matches!(out[..], [Command::Send(3, Order::Preflight(_))]), "the other has done it: {out:?}");
    assert_eq!(planned(&preflighted(&mut run, 9 * S, 3)), [(drive(1, 0, 2), vec![2, 3])]);
}

#[test]
fn a_process_that_takes_the_place_of_one_that_is_gone_is_not_kept_waiting_for_a_lease() {
    let mut run = run_of(2, &[2], None);
    ready(&mut run, 2);
    arm(&mut run, 0, &[1, 2]);
    run.step(2 * S, Event::Gone(1));
    let out = run.step(2 * S, Event::Replaced(1));
    assert!(out.contains(&Command::Lost(1)) && voids(&out) == 1, "{out:?}");
    join(&mut run, 3);
    let out = finish(&mut run, 3 * S, 0, 2, 0);
    assert_eq!(preflights(&out), 1);
    assert_eq!(planned(&preflighted(&mut run, 3 * S, 3)), [(drive(1, 0, 2), vec![2, 3])]);
}

#[test]
fn by_rule_the_rest_is_kept_and_marked() {
    let (mut run, out) = with_one_lost(FleetRule { keep_rest: true, ..FleetRule::default() });
    assert_eq!((voids(&out), stops(&out).len()), (0, 0));
    assert!(out.iter().any(|c| matches!(c, Command::Mark(0, why) if why.contains("lost"))));
    let out = finish(&mut run, 9 * S, 0, 2, 0);
    assert!(out.contains(&Command::LevelSettled { level: 0, passed: true }));
    assert!(planned(&out).is_empty(), "another may come");
    assert_eq!(planned(&run.step(30 * S, Event::Tick)), [(drive(1, 1, 1), vec![2])]);
}

#[test]
fn with_nobody_left_there_is_no_rest_to_keep() {
    let (mut run, _) = with_one_lost(FleetRule { keep_rest: true, ..FleetRule::default() });
    let given_up = v1::LevelDone { level: 0, given_up: "its lease lapsed".to_owned(), ..Default::default() };
    let out = run.step(9 * S, Event::Said(2, Said::Done(given_up)));
    assert_eq!(voids(&out), 1, "{out:?}");
}

#[test]
fn a_level_is_not_tried_for_ever() {
    let mut run = run_of(2, &[2, 4], None);
    ready(&mut run, 2);
    for level in 0..3 {
        arm(&mut run, level, &[1, 2]);
        let given_up = v1::LevelDone { level, given_up: "its lease lapsed".to_owned(), ..Default::default() };
        run.step(2 * S, Event::Said(1, Said::Done(given_up)));
        let out = finish(&mut run, 3 * S, level, 2, 0);
        let next = if level < 2 { drive(level + 1, 0, level + 2) } else { drive(3, 1, 1) };
        assert!(out.contains(&Command::LevelSettled { level, passed: level == 2 }), "{out:?}");
        assert_eq!(planned(&out), [(next, vec![1, 2])]);
    }
}

#[test]
fn an_agent_lost_before_the_start_leaves_no_trace_of_the_level() {
    let mut run = run_of(2, &[2], None);
    run.plan.fleet.rejoin_wait_ns = 0;
    ready(&mut run, 2);
    run.step(S, Event::Said(1, Said::Leaving(v1::Leaving::default())));
    run.step(S, Event::Gone(1));
    let out = run.step(S, Event::Tick);
    assert_eq!((planned(&out), voids(&out)), (vec![(drive(1, 0, 1), vec![2])], 0));
}

#[test]
fn a_run_without_agents_waits_for_others_and_ends_without_them() {
    let mut run = run_of(1, &[1], None);
    ready(&mut run, 1);
    arm(&mut run, 0, &[1]);
    run.step(2 * S, Event::Gone(1));
    let out = run.step(8 * S, Event::Tick);
    assert!(out.contains(&Command::LevelSettled { level: 0, passed: false }), "{out:?}");
    let out = run.step(24 * S, Event::Tick);
    assert!(
        matches!(finished(&out), Some(Ending::Broken(why)) if why.contains("every agent was lost")),
        "{out:?}"
    );
}

#[test]
fn a_late_agent_that_cannot_reach_the_server_is_sent_off_alone() {
    let mut run = run_of(1, &[1, 2], None);
    ready(&mut run, 1);
    arm(&mut run, 0, &[1]);
    join(&mut run, 2);
    let out = finish(&mut run, 3 * S, 0, 1, 0);
    assert_eq!(preflights(&out), 1, "before the next level it is asked to try");
    let refused = v1::PreflightDone { error: "no route".to_owned(), ..Default::default() };
    let out = run.step(4 * S, Event::Said(2, Said::PreflightDone(refused)));
    assert!(
        out.iter().any(|c| matches!(c, Command::TurnAway(2, why) if why.contains("no route"))),
        "{out:?}"
    );
    assert_eq!(planned(&out), [(drive(1, 1, 1), vec![1])]);
}

#[test]
fn a_run_that_was_taken_over_goes_on_with_the_level_that_was_under_way() {
    let mut run = run_of(1, &[1, 2, 4], None).resumed(drive(5, 1, 2), vec![4], BTreeMap::new());
    let out = ready(&mut run, 1);
    let stop = |c: &Command| matches!(c, Command::Send(1, Order::Stop(stop)) if stop.level == 4);
    assert!(out.iter().any(stop), "it may still be driven: {out:?}");
    assert_eq!(planned(&out), [(drive(5, 1, 2), vec![1])]);
    arm(&mut run, 5, &[1]);
    assert_eq!(planned(&finish(&mut run, 3 * S, 5, 1, 0)), [(drive(6, 2, 1), vec![1])]);
    arm(&mut run, 6, &[1]);
    finish(&mut run, 4 * S, 6, 1, 0);
    assert_eq!(finished(&leave(&mut run, 5 * S, &[1])), Some(&Ending::Complete));
}

#[test]
fn an_interrupted_level_is_not_passed_and_not_driven_again() {
    let mut run = run_of(1, &[1, 2], None);
    ready(&mut run, 1);
    arm(&mut run, 0, &[1]);
    run.step(2 * S, Event::Interrupt("ctrl-c".to_owned()));
    let out = finish(&mut run, 3 * S, 0, 1, 0);
    assert!(out.contains(&Command::LevelSettled { level: 0, passed: false }));
    assert!(planned(&out).is_empty());
}

#[test]
fn a_late_agent_that_cannot_be_armed_is_sent_off_and_the_others_are_armed_anew() {
    let mut run = run_of(1, &[2, 4], None);
    ready(&mut run, 1);
    arm(&mut run, 0, &[1]);
    join(&mut run, 2);
    finish(&mut run, 3 * S, 0, 1, 0);
    assert_eq!(planned(&preflighted(&mut run, 3 * S, 2)), [(drive(1, 1, 1), vec![1, 2])]);
    let refused = v1::LevelArmed { level: 1, error: "no files left".to_owned() };
    let out = run.step(4 * S, Event::Said(2, Said::Armed(refused)));
    assert!(
        out.iter().any(|c| matches!(c, Command::TurnAway(2, why) if why.contains("no files left"))),
        "{out:?}"
    );
    assert_eq!(planned(&out), [(drive(2, 1, 1), vec![1])]);
}

#[test]
fn an_agent_that_never_answers_the_preflight_does_not_end_a_run_under_way() {
    let mut run = run_of(1, &[2, 4], None);
    ready(&mut run, 1);
    arm(&mut run, 0, &[1]);
    join(&mut run, 2);
    finish(&mut run, 3 * S, 0, 1, 0);
    let out = run.step(3 * S + PREFLIGHT_PATIENCE_NS + 1, Event::Tick);
    assert!(out.iter().any(|c| matches!(c, Command::TurnAway(2, _))), "{out:?}");
    assert_eq!(planned(&out), [(drive(1, 1, 1), vec![1])]);
}

#[test]
fn a_run_that_is_gone_on_with_does_not_wait_for_ever_for_those_it_had_lost() {
    let mut run = run_of(3, &[2], None).resumed(drive(1, 0, 2), vec![0], BTreeMap::from([(1, 7)]));
    join(&mut run, 1);
    let out = run.step(61 * S, Event::Tick);
    assert!(out.iter().any(|c| matches!(c, Command::Say(line) if line.contains("going on"))), "{out:?}");
    assert_eq!(planned(&preflighted(&mut run, 61 * S, 1)), [(drive(1, 0, 2), vec![1])]);
    arm(&mut run, 1, &[1]);
    let out = finish(&mut run, 63 * S, 1, 1, 7);
    assert!(
        out.contains(&Command::LevelSettled { level: 1, passed: true }),
        "its batches were on disk: {out:?}"
    );
}

/// A probe goes on taking a server's last spans for seconds after the run: who left meanwhile is not lost.
#[test]
fn who_leaves_after_the_end_is_not_lost_however_long_another_stays() {
    let mut run = run_of(2, &[2], None);
    ready(&mut run, 2);
    arm(&mut run, 0, &[1, 2]);
    finish(&mut run, 8 * S, 0, 1, 0);
    let out = finish(&mut run, 8 * S, 0, 2, 0);
    assert!(out.iter().any(|c| matches!(c, Command::Send(1, Order::End(_)))), "{out:?}");
    let mut out = run.step(8 * S, Event::Gone(1));
    out.extend((9..20).flat_map(|s| run.step(s * S, Event::Tick)));
    assert!(!out.iter().any(|c| matches!(c, Command::Lost(_) | Command::Finish(_))), "{out:?}");
    let out = run.step(20 * S, Event::Gone(2));
    assert!(out.iter().any(|c| matches!(c, Command::Finish(Ending::Complete))), "{out:?}");
}
