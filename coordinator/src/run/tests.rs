//! A sweep from hello to end, and what interrupts it.

use super::*;
use crate::axis::Rate;
use crate::bursts::{JOIN_BURST, START_BURST};

pub(super) const S: i64 = 1_000_000_000;
const SETTLED: Command = Command::LevelSettled { level: 0, passed: true };

pub(super) fn run_of(agents: u32, levels: &[u32], num_prompts: Option<u64>) -> Run {
    let plan = Plan {
        agents,
        concurrency: levels.to_vec(),
        num_prompts,
        duration_ns: num_prompts.is_none().then_some(S),
        ..Plan::default()
    };
    Run::new(plan, v1::Target::default(), v1::Workload::default(), 60 * S, 0)
}

pub(super) fn ready(run: &mut Run, agents: u64) -> Vec<Command> {
    let mut out = Vec::new();
    for of in 1..=agents {
        out.extend(run.step(0, Event::Joined(of, v1::NodeKind::Agent)));
        out.extend(run.step(0, Event::Pinged(of, JOIN_BURST)));
    }
    for of in 1..=agents {
        let done = v1::PreflightDone { ok: true, ..Default::default() };
        out.extend(run.step(0, Event::Said(of, Said::PreflightDone(done))));
    }
    out
}

pub(super) fn shares_of(out: &[Command]) -> BTreeMap<Incarnation, v1::LoadShare> {
    let planned = |c: &Command| match c {
        Command::LevelPlanned { shares, .. } => Some(shares.clone()),
        _ => None,
    };
    out.iter().find_map(planned).expect("a level was planned")
}

pub(super) fn arm(run: &mut Run, level: u32, agents: &[u64]) -> Vec<Command> {
    let armed =
        |of: &u64| run.step(S, Event::Said(*of, Said::Armed(v1::LevelArmed { level, error: String::new() })));
    let mut out: Vec<_> = agents.iter().flat_map(armed).collect();
    out.extend(agents.iter().flat_map(|of| run.step(S, Event::Pinged(*of, START_BURST))));
    out
}

pub(super) fn finish(run: &mut Run, now: i64, level: u32, of: u64, seq: u64) -> Vec<Command> {
    let done = v1::LevelDone { level, last_batch_seq: seq, ..Default::default() };
    run.step(now, Event::Said(of, Said::Done(done)))
}

pub(super) fn finished(out: &[Command]) -> Option<&Ending> {
    out.iter().find_map(|c| if let Command::Finish(ending) = c { Some(ending) } else { None })
}

fn open_run(agents: u32, rates: &[f64], max_concurrency: Option<u32>) -> Run {
    let plan = Plan {
        agents,
        request_rate: rates.iter().map(|&rate| Rate(rate)).collect(),
        arrival_pattern: "gamma".to_owned(),
        burstiness: Some(0.5),
        max_concurrency,
        num_prompts: Some(90),
        warmup_ns: 2 * S,
        ramp_ns: S,
        seed: 5,
        ..Plan::default()
    };
    Run::new(plan, v1::Target::default(), v1::Workload::default(), 60 * S, 0)
}

#[test]
fn agents_of_an_open_loop_get_turns_of_the_same_arrivals() {
    let mut run = open_run(3, &[2.0, f64::INFINITY], Some(7));
    let shares = shares_of(&ready(&mut run, 3));
    let open = |share: &v1::LoadShare| share.open.unwrap();
    let turns: Vec<_> = shares.values().map(|s| (open(s).agent, open(s).agents)).collect();
    assert_eq!(turns, [(0, 3), (1, 3), (2, 3)]);
    assert_eq!(shares.values().map(|s| open(s).max_in_flight).sum::<u32>(), 7);
    let all = v1::load_share::Stop::Requests(90);
    for share in shares.values() {
        assert_eq!((share.concurrency, share.stop, share.seed), (0, Some(all), 5));
        assert_eq!((share.ramp_ns, share.warmup_ns), (S, 2 * S));
        assert_eq!((open(share).rate_per_s, open(share).burstiness), (2.0, 0.5));
        assert_eq!(open(share).pattern(), v1::ArrivalPattern::Gamma);
    }
    arm(&mut run, 0, &[1, 2, 3]);
    let out: Vec<_> = (1..=3).flat_map(|of| finish(&mut run, 3 * S, 0, of, 0)).collect();
    let shares = shares_of(&out);
    assert!(shares.values().all(|s| (s.warmup_ns, s.ramp_ns) == (0, 0)), "all at once has neither");
}

#[test]
fn an_agent_that_may_have_nothing_in_flight_gets_no_turn() {
    let mut run = open_run(3, &[2.0], Some(2));
    let shares = shares_of(&ready(&mut run, 3));
    let open: Vec<_> = shares.values().map(|s| s.open.unwrap()).collect();
    assert_eq!(open.iter().map(|o| (o.agents, o.max_in_flight)).collect::<Vec<_>>(), [(2, 1), (2, 1)]);
    let mut free = open_run(2, &[2.0], None);
    let shares = shares_of(&ready(&mut free, 2));
    assert!(shares.values().all(|s| s.open.unwrap().max_in_flight == 0), "each as many as its host can hold");
}

pub(super) fn leave(run: &mut Run, now: i64, agents: &[u64]) -> Vec<Command> {
    agents.iter().flat_map(|&of| run.step(now, Event::Gone(of))).collect()
}

#[test]
fn a_sweep_from_hello_to_end() {
    let mut run = run_of(3, &[2, 7], Some(10));
    let out = ready(&mut run, 3);
    // Two streams for three agents: one stays idle, and requests follow the streams.
    let shares = shares_of(&out);
    assert_eq!(shares.len(), 2);
    assert!(out.iter().any(|c| matches!(c, Command::Say(line) if line.contains("1 agents have no share"))));
    let out = arm(&mut run, 0, &[1, 2]);
    let start = Command::Start { level: 0, at_ref_ns: S + START_LEAD_NS, agents: vec![1, 2] };
    assert!(out.contains(&start), "{out:?}");
    finish(&mut run, 2 * S, 0, 1, 4);
    let out = finish(&mut run, 2 * S, 0, 2, 9);
    assert!(!out.contains(&SETTLED), "settled before everything was on disk");
    run.step(2 * S, Event::Stored(1, 4));
    let out = run.step(2 * S, Event::Stored(2, 9));
    assert!(out.contains(&SETTLED));
    let shares = shares_of(&out);
    assert_eq!(shares.values().map(|s| s.concurrency).sum::<u32>(), 7);
    let requests = |s: &v1::LoadShare| match s.stop {
        Some(v1::load_share::Stop::Requests(n)) => n,
        _ => 0,
    };
    assert_eq!(shares.values().map(requests).sum::<u64>(), 10);
    // Streams are numbered level-wide, without holes or overlaps.
    let mut next = 0;
    for share in shares.values() {
        assert_eq!(share.first_stream, next);
        next += share.concurrency;
    }
    arm(&mut run, 1, &[1, 2, 3]);
    for of in 1..=3 {
        finish(&mut run, 3 * S, 1, of, 0);
    }
    let out = leave(&mut run, 4 * S, &[1, 2, 3]);
    assert_eq!(finished(&out), Some(&Ending::Complete));
}

#[test]
fn an_agent_back_within_its_lease_is_not_lost() {
    let mut run = run_of(1, &[1], None);
    ready(&mut run, 1);
    arm(&mut run, 0, &[1]);
    run.step(2 * S, Event::Gone(1));
    let out = run.step(4 * S, Event::Joined(1, v1::NodeKind::Agent));
    let again = Command::Start { level: 0, at_ref_ns: S + START_LEAD_NS, agents: vec![1] };
    assert_eq!(out, [again], "it may have missed its start");
    started(&mut run, 0, 1);
    run.step(5 * S, Event::Gone(1));
    assert!(run.step(6 * S, Event::Joined(1, v1::NodeKind::Agent)).is_empty(), "it knows of its start");
    assert!(run.step(20 * S, Event::Tick).is_empty());
}

fn started(run: &mut Run, level: u32, of: u64) {
    run.step(2 * S, Event::Said(of, Said::Started(v1::LevelStarted { level, ..Default::default() })));
}

fn voids(out: &[Command]) -> usize {
    out.iter().filter(|c| matches!(c, Command::Void(0, _))).count()
}

#[test]
fn each_order_is_said_again_to_one_who_may_have_missed_it() {
    let mut run = run_of(2, &[2], None);
    let rejoin = |run: &mut Run, of| run.step(2 * S, Event::Joined(of, v1::NodeKind::Agent));
    for of in [1, 2] {
        run.step(0, Event::Joined(of, v1::NodeKind::Agent));
        run.step(0, Event::Pinged(of, JOIN_BURST));
    }
    assert!(matches!(rejoin(&mut run, 2)[..], [Command::Send(2, Order::Preflight(_))]));
    for of in [1, 2] {
        let done = v1::PreflightDone { ok: true, ..Default::default() };
        run.step(0, Event::Said(of, Said::PreflightDone(done)));
    }
    assert!(matches!(rejoin(&mut run, 2)[..], [Command::Send(2, Order::Arm(_))]));
    arm(&mut run, 0, &[1, 2]);
    started(&mut run, 0, 1);
    run.step(3 * S, Event::Interrupt("ctrl-c".to_owned()));
    assert!(matches!(rejoin(&mut run, 1)[..], [Command::Send(1, Order::Stop(_))]));
    assert!(matches!(rejoin(&mut run, 2)[..], [Command::Start { .. }, Command::Send(2, Order::Stop(_))]));
    finish(&mut run, 4 * S, 0, 1, 0);
    assert!(rejoin(&mut run, 1).is_empty(), "it is done");
    finish(&mut run, 4 * S, 0, 2, 0);
    assert!(matches!(&rejoin(&mut run, 1)[..], [Command::Send(1, Order::End(end))] if !end.nothing_driven));
}

#[test]
fn a_start_waits_for_fresh_pings_but_not_for_ever() {
    for pinged in [true, false] {
        let mut run = run_of(1, &[1], None);
        ready(&mut run, 1);
        let armed = v1::LevelArmed { level: 0, error: String::new() };
        let out = run.step(S, Event::Said(1, Said::Armed(armed)));
        assert!(!out.iter().any(|c| matches!(c, Command::Start { .. })), "its clock is a second old");
        let out = match pinged {
            true => run.step(S, Event::Pinged(1, START_BURST)),
            false => run.step(3 * S, Event::Tick),
        };
        assert!(out.iter().any(|c| matches!(c, Command::Start { .. })), "{pinged}");
    }
}

#[test]
fn a_level_that_an_agent_gave_up_is_void() {
    let mut run = run_of(1, &[1], None);
    ready(&mut run, 1);
    arm(&mut run, 0, &[1]);
    let done = v1::LevelDone { level: 0, given_up: "its lease lapsed".to_owned(), ..Default::default() };
    let out = run.step(9 * S, Event::Said(1, Said::Done(done.clone())));
    assert!(matches!(&out[0], Command::Void(0, why) if why.contains("lease")), "{out:?}");
    assert_eq!(voids(&run.step(9 * S, Event::Said(1, Said::Done(done)))), 0, "told once");
}

#[test]
fn an_agent_lost_between_its_end_and_its_last_batch_voids_the_level() {
    for (stored, void) in [(3, 1), (4, 0)] {
        let mut run = run_of(2, &[2], None);
        ready(&mut run, 2);
        arm(&mut run, 0, &[1, 2]);
        finish(&mut run, 3 * S, 0, 1, 4);
        run.step(3 * S, Event::Stored(1, stored));
        run.step(3 * S, Event::Gone(1));
        let out = run.step(3 * S + LEASE_NS + 1, Event::Tick);
        assert_eq!(voids(&out), void, "batches up to {stored} of 4: {out:?}");
    }
}

#[test]
fn batches_that_come_slowly_are_waited_for_as_long_as_they_come() {
    for (last, void) in [(60, 0), (29, 1)] {
        let mut run = run_of(2, &[2], None);
        ready(&mut run, 2);
        arm(&mut run, 0, &[1, 2]);
        finish(&mut run, 3 * S, 0, 1, 60);
        finish(&mut run, 3 * S, 0, 2, 0);
        let step = |seq: i64| run.step((3 + 2 * seq) * S, Event::Stored(1, seq as u64));
        let out: Vec<_> = (1..=last).flat_map(step).collect();
        assert_eq!(out.contains(&SETTLED), void == 0, "two minutes for 60 batches");
        let out = run.step((3 + 2 * last + 40) * S, Event::Tick);
        assert_eq!(voids(&out), void, "{out:?}");
    }
}

#[test]
fn an_agent_that_is_there_but_never_ends_is_given_up() {
    let mut run = run_of(2, &[2], None);
    ready(&mut run, 2);
    arm(&mut run, 0, &[1, 2]);
    finish(&mut run, 3 * S, 0, 1, 0);
    assert!(run.step(30 * S, Event::Tick).is_empty());
    let out = run.step(40 * S, Event::Tick);
    assert_eq!(voids(&out), 1, "{out:?}");
    assert!(
        out.contains(&Command::LevelSettled { level: 0, passed: false }),
        "what the other measured is kept"
    );
}

#[test]
fn nodes_inside_that_fail_break_the_run_or_cost_the_gpu_columns() {
    let mut run = run_of(1, &[1], None);
    run.plan.probes = 1;
    let out = run.step(0, Event::Failed(v1::NodeKind::GpuProbe, "no thread".to_owned()));
    assert!(matches!(&out[..], [Command::Say(line)] if line.contains("no thread")));
    let out = ready(&mut run, 1);
    assert!(!shares_of(&out).is_empty(), "nobody waits for the probe");
    run.step(S, Event::Failed(v1::NodeKind::Agent, "no memory".to_owned()));
    let out = leave(&mut run, S, &[1]);
    assert_eq!(finished(&out), Some(&Ending::Broken("no memory".to_owned())));
}

#[test]
fn a_second_interrupt_ends_the_wait_for_nodes_to_leave() {
    let mut run = run_of(1, &[1], None);
    ready(&mut run, 1);
    arm(&mut run, 0, &[1]);
    finish(&mut run, 3 * S, 0, 1, 0);
    assert_eq!(finished(&run.step(4 * S, Event::Interrupt("one".to_owned()))), None);
    let out = run.step(4 * S, Event::Interrupt("two".to_owned()));
    assert_eq!(finished(&out), Some(&Ending::Complete), "the plan was carried out all the same");
}

#[test]
fn an_interrupt_drains_the_level_and_a_second_one_does_not_wait() {
    let mut run = run_of(1, &[1, 2], None);
    ready(&mut run, 1);
    arm(&mut run, 0, &[1]);
    let out = run.step(2 * S, Event::Interrupt("ctrl-c".to_owned()));
    assert!(matches!(&out[0], Command::Send(1, Order::Stop(stop)) if stop.level == 0));
    let out = finish(&mut run, 3 * S, 0, 1, 0);
    assert!(out.contains(&Command::LevelSettled { level: 0, passed: false }), "what was measured is kept");
    assert!(!out.iter().any(|c| matches!(c, Command::LevelPlanned { .. })), "no further level");
    let out = leave(&mut run, 4 * S, &[1]);
    assert_eq!(finished(&out), Some(&Ending::Interrupted("ctrl-c".to_owned())));

    let mut run = run_of(1, &[1], None);
    ready(&mut run, 1);
    arm(&mut run, 0, &[1]);
    run.step(2 * S, Event::Interrupt("ctrl-c".to_owned()));
    let out = run.step(2 * S, Event::Interrupt("ctrl-c".to_owned()));
    assert!(out.iter().any(|c| matches!(c, Command::Send(1, Order::End(_)))));
}

#[test]
fn nodes_that_never_come_and_targets_that_refuse_end_the_run() {
    let mut run = run_of(2, &[1], None);
    run.step(0, Event::Joined(1, v1::NodeKind::Agent));
    run.step(61 * S, Event::Tick);
    let out = leave(&mut run, 62 * S, &[1]);
    assert!(matches!(finished(&out), Some(Ending::NodesMissing(why)) if why.contains("1 of 2 agents")));

    let mut run = run_of(1, &[1], None);
    run.step(0, Event::Joined(1, v1::NodeKind::Agent));
    run.step(0, Event::Pinged(1, JOIN_BURST));
    let refused = v1::PreflightDone { error_kind: "not_found".to_owned(), ..Default::default() };
    let out = run.step(0, Event::Said(1, Said::PreflightDone(refused)));
    assert!(out.iter().any(|c| matches!(c, Command::Send(1, Order::End(end)) if end.nothing_driven)));
    let out = leave(&mut run, S, &[1]);
    assert!(matches!(finished(&out), Some(Ending::Target(kind, _)) if kind == "not_found"));
}

#[test]
fn what_a_server_closes_is_learned_once_for_all_agents() {
    let mut run = run_of(2, &[2], None);
    for of in 1..=2 {
        run.step(0, Event::Joined(of, v1::NodeKind::Agent));
        run.step(0, Event::Pinged(of, JOIN_BURST));
    }
    let closes = v1::PreflightDone { ok: true, closes_after_reply: true, ..Default::default() };
    let keeps = v1::PreflightDone { ok: true, ..Default::default() };
    run.step(0, Event::Said(1, Said::PreflightDone(closes)));
    let out = run.step(0, Event::Said(2, Said::PreflightDone(keeps)));
    assert!(shares_of(&out).values().all(|share| share.fresh_connections));
}

#[test]
fn a_host_that_cannot_hold_the_highest_level_ends_the_run_before_any_load() {
    let mut run = run_of(3, &[1, 1_000], None);
    let mut asked = Vec::new();
    for of in 1..=3 {
        asked.extend(run.step(0, Event::Joined(of, v1::NodeKind::Agent)));
        asked.extend(run.step(0, Event::Pinged(of, JOIN_BURST)));
    }
    let most = |c: &Command| match c {
        Command::Send(_, Order::Preflight(order)) => Some(order.most_streams),
        _ => None,
    };
    assert_eq!(asked.iter().filter_map(most).collect::<Vec<_>>(), [334; 3], "a third of 1,000, rounded up");
    let warned =
        v1::PreflightDone { ok: true, warnings: vec!["little memory".to_owned()], ..Default::default() };
    let out = run.step(0, Event::Said(1, Said::PreflightDone(warned)));
    assert!(out.iter().any(|c| matches!(c, Command::Say(line) if line.contains("little memory"))));
    let short = v1::PreflightDone {
        error_kind: HOST_LIMIT.to_owned(),
        error: "try `ulimit`".to_owned(),
        ..Default::default()
    };
    run.step(0, Event::Said(2, Said::PreflightDone(short)));
    let out = leave(&mut run, S, &[1, 2, 3]);
    assert!(matches!(finished(&out), Some(Ending::Broken(why)) if why.contains("try `ulimit`")), "{out:?}");
}

fn corpus_of(agents: u32, parts: u32) -> Run {
    let mut run = run_of(agents, &[4, 8], Some(10)).with_corpus(9, parts);
    run.workload.pick = Some(v1::Pick { corpus_id: 9, ..Default::default() });
    run
}

pub(super) fn join(run: &mut Run, of: u64) -> Vec<Command> {
    let mut out = run.step(0, Event::Joined(of, v1::NodeKind::Agent));
    out.extend(run.step(0, Event::Pinged(of, JOIN_BURST)));
    out
}

fn held(run: &mut Run, now: i64, of: u64, held: u32) -> Vec<Command> {
    let said = v1::CorpusHeld { corpus_id: 9, held, error: String::new() };
    run.step(now, Event::Said(of, Said::CorpusHeld(said)))
}

fn parts_to(out: &[Command], of: u64) -> Vec<u32> {
    let part = |c: &Command| match c {
        Command::SendPart(to, number) if *to == of => Some(*number),
        _ => None,
    };
    out.iter().filter_map(part).collect()
}

pub(super) fn preflights(out: &[Command]) -> usize {
    out.iter().filter(|c| matches!(c, Command::Send(_, Order::Preflight(_)))).count()
}

#[test]
fn a_dataset_is_told_before_the_preflight_a_few_parts_at_a_time() {
    let mut run = corpus_of(2, 6);
    assert!(parts_to(&join(&mut run, 1), 1).is_empty(), "not before all are there");
    let out = join(&mut run, 2);
    assert_eq!((parts_to(&out, 1), parts_to(&out, 2)), (vec![0, 1, 2, 3], vec![0, 1, 2, 3]));
    assert_eq!(preflights(&out), 0);
    assert_eq!(parts_to(&held(&mut run, 1, 1, 1), 1), [4]);
    assert_eq!(parts_to(&held(&mut run, 1, 1, 1), 1), [0; 0], "said twice");
    assert_eq!(parts_to(&held(&mut run, 1, 1, 3), 1), [5]);
    // What was under way is lost with a connection.
    run.step(2, Event::Gone(1));
    let out = run.step(3, Event::Joined(1, v1::NodeKind::Agent));
    assert_eq!(parts_to(&out, 1), [3, 4, 5]);
    assert_eq!(preflights(&held(&mut run, 4, 1, 6)), 0, "the other has not all");
    held(&mut run, 4, 2, 4);
    assert_eq!(preflights(&held(&mut run, 5, 2, 6)), 2);
}

#[test]
fn an_agent_that_claims_too_much_or_cannot_use_the_dataset() {
    let mut run = corpus_of(1, 100);
    join(&mut run, 1);
    assert_eq!(preflights(&held(&mut run, 1, 1, u32::MAX)), 0, "it was sent four");
    assert_eq!(parts_to(&held(&mut run, 1, 1, 4), 1), [0; 0]);
    let other = v1::CorpusHeld { corpus_id: 8, held: 100, error: "mine".to_owned() };
    assert!(run.step(2, Event::Said(1, Said::CorpusHeld(other))).is_empty(), "of another corpus");
    let broken = v1::CorpusHeld { corpus_id: 9, held: 4, error: "no tokenizer".to_owned() };
    run.step(3, Event::Said(1, Said::CorpusHeld(broken)));
    let out = leave(&mut run, 4, &[1]);
    assert!(matches!(finished(&out), Some(Ending::Broken(why)) if why.contains("no tokenizer")), "{out:?}");
}

#[test]
fn a_dataset_that_does_not_get_through_ends_the_run() {
    let mut run = corpus_of(1, 2);
    join(&mut run, 1);
    held(&mut run, 50 * S, 1, 1);
    run.step(100 * S, Event::Tick);
    assert!(matches!(run.phase, Phase::Corpus), "the patience is for each part");
    run.step(111 * S, Event::Tick);
    let out = leave(&mut run, 112 * S, &[1]);
    assert!(matches!(finished(&out), Some(Ending::Broken(why)) if why.contains("dataset")), "{out:?}");
}

#[test]
fn each_level_draws_by_its_streams_and_from_another_place() {
    let mut run = corpus_of(1, 1);
    join(&mut run, 1);
    held(&mut run, 1, 1, 1);
    let mut picks = Vec::new();
    let done = v1::PreflightDone { ok: true, ..Default::default() };
    let mut out = run.step(1, Event::Said(1, Said::PreflightDone(done)));
    for level in 0..2 {
        let arm_of = |c: &Command| match c {
            Command::Send(_, Order::Arm(arm)) => arm.workload.clone()?.pick,
            _ => None,
        };
        picks.extend(out.iter().find_map(arm_of).map(|pick| (pick.streams, pick.first)));
        arm(&mut run, level, &[1]);
        out = finish(&mut run, 2 * S, level, 1, 0);
    }
    assert_eq!(picks, [(4, 0), (8, 10)], "ten requests a level");
}

#[test]
fn few_parts_of_a_dataset_are_on_the_way_to_all_agents_together() {
    let mut run = corpus_of(100, 6);
    let mut out: Vec<_> = (1..=100).flat_map(|of| join(&mut run, of)).collect();
    let sent = |out: &[Command]| out.iter().filter(|c| matches!(c, Command::SendPart(..))).count();
    assert_eq!(sent(&out), 128);
    let mut told = BTreeMap::<u64, u32>::new();
    for round in 0.. {
        assert!(round < 1_000, "it does not get through");
        let parts: Vec<u64> = out
            .iter()
            .filter_map(|c| if let Command::SendPart(to, _) = c { Some(*to) } else { None })
            .collect();
        if parts.is_empty() {
            break;
        }
        out.clear();
        for of in parts {
            let all = told.entry(of).or_default();
            *all += 1;
            out.extend(held(&mut run, 1, of, *all));
        }
    }
    assert!(told.len() == 100 && told.values().all(|&parts| parts == 6), "{told:?}");
    assert!(matches!(run.phase, Phase::Preflight));
}

#[test]
fn a_run_that_reads_gpus_rests_before_its_first_level_alone() {
    let mut run = run_of(2, &[1, 2], Some(10));
    run.step(0, Event::ReadsGpus);
    ready(&mut run, 2);
    let start_of = |out: &[Command]| {
        out.iter().find_map(|c| match c {
            Command::Start { at_ref_ns, .. } => Some(*at_ref_ns),
            _ => None,
        })
    };
    let first = arm(&mut run, 0, &[1]);
    assert_eq!(start_of(&first), Some(S + START_LEAD_NS + IDLE_NS));
    finish(&mut run, 9 * S, 0, 1, 0);
    run.step(9 * S, Event::ReadsGpus);
    let second = arm(&mut run, 1, &[1, 2]);
    assert_eq!(start_of(&second), Some(S + START_LEAD_NS));
}
