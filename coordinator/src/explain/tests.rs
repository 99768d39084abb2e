use super::*;
use crate::args::{Levels, Span, SweepArgs};
use crate::config::Config;

fn plan(change: impl FnOnce(&mut SweepArgs)) -> Plan {
    let mut args =
        SweepArgs { url: Some("h:1".to_owned()), model: Some("m".to_owned()), ..SweepArgs::default() };
    change(&mut args);
    Config::from_args(args, None).unwrap().plan
}

#[test]
fn a_sweep_by_time_is_bounded_by_its_drain() {
    let plan = plan(|a| {
        a.concurrency = Some(Levels(vec![1, 8]));
        (a.duration, a.warmup) = (Some(Span(60_000_000_000)), Some(Span(10_000_000_000)));
        a.drain = Some(Span(5_000_000_000));
    });
    let explained = explain(&plan, "runs/x".to_owned(), Some(3_600.0));
    assert_eq!(explained.seconds(), (140.0, 150.0));
    assert_eq!(explained.usd(), Some((140.0, 150.0)));
    let text = explained.text();
    assert!(
        text.contains("1m10s to 1m15s") && text.contains("$140 to $150") && text.contains("runs/x:\n"),
        "{text}"
    );
    // How many requests a closed loop makes in a minute, only the server knows.
    assert_eq!((explained.json()["requests"].clone(), explained.rungs[0].requests), (Value::Null, None));
}

#[test]
fn a_sweep_by_count_is_bounded_by_its_timeouts() {
    let plan = plan(|a| {
        a.concurrency = Some(Levels(vec![1, 3]));
        (a.num_prompts, a.request_timeout) = (Some(10), Some(Span(2_000_000_000)));
    });
    let explained = explain(&plan, String::new(), None);
    assert_eq!(explained.rungs.iter().map(|r| r.seconds).collect::<Vec<_>>(), [(0.0, 20.0), (0.0, 8.0)]);
    let json = explained.json();
    assert_eq!(
        (json["requests"].as_f64(), json["output_tokens_at_most"].as_f64()),
        (Some(20.0), Some(2_560.0))
    );
    assert_eq!((json["input_length"].as_f64(), json["usd"].clone()), (Some(2_560.0), Value::Null));
    assert!(explained.text().contains("up to 28s"), "{}", explained.text());
}

#[test]
fn an_open_loop_is_as_long_as_its_arrivals() {
    let plan = plan(|a| {
        a.request_rate = Some("2,4".parse().unwrap());
        (a.num_prompts, a.drain) = (Some(40), Some(Span(1_000_000_000)));
    });
    let explained = explain(&plan, String::new(), None);
    assert_eq!(explained.rungs.iter().map(|r| r.seconds).collect::<Vec<_>>(), [(20.0, 21.0), (10.0, 11.0)]);
    assert!(explained.text().contains("open loop, 2 levels of poisson arrivals"), "{}", explained.text());
}

#[test]
fn a_search_tells_its_bounds_and_its_budget() {
    let auto = AutoPlan { open: false, from: 1.0, to: 512.0, resolution: 0.1, budget_ns: 900_000_000_000 };
    let plan = Plan { concurrency: Vec::new(), auto: Some(auto), ..plan(|_| {}) };
    let explained = explain(&plan, String::new(), Some(4.0));
    assert_eq!((explained.seconds(), explained.usd()), ((0.0, 900.0), Some((0.0, 1.0))));
    let text = explained.text();
    assert!(text.contains("from 1 to 512") && text.contains("10 %") && text.contains("15m00s"), "{text}");
}

#[test]
fn cells_ask_for_their_own() {
    let cell = |output_len, num_prompts| Cell {
        output_len: Some(output_len),
        num_prompts: Some(num_prompts),
        ..Cell::default()
    };
    let plan = Plan { concurrency: vec![1, 1], cells: vec![cell(10, 3), cell(20, 4)], ..plan(|_| {}) };
    let explained = explain(&plan, String::new(), None);
    assert_eq!(explained.rungs.iter().map(|r| r.output_tokens).collect::<Vec<_>>(), [Some(30.0), Some(80.0)]);
}
