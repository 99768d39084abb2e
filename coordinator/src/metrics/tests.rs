//! Figures as a scrape reads them.

use std::sync::Arc;

use tailcliff_proto::histogram::LatencyHistogram;
use tailcliff_proto::v1;
use tokio::sync::watch;

use super::figures::{BOUNDS_NS, Buckets, Figures, NodeFigures};
use super::live::Live;
use super::*;
use crate::axis::{Load, Rate};
use crate::stored::Drive;

const MS: i64 = 1_000_000;

fn live() -> (Live, watch::Receiver<Arc<Figures>>) {
    let (publish, newest) = watch::channel(Arc::new(Figures::new(2)));
    (Live::new(publish, 2), newest)
}

fn histogram(ms: impl IntoIterator<Item = i64>) -> LatencyHistogram {
    let mut histogram = LatencyHistogram::default();
    ms.into_iter().for_each(|ms| histogram.record(ms * MS));
    histogram
}

fn progress(level: u32, completed: u64, in_flight: u32) -> v1::LevelProgress {
    let counts = v1::LevelCounts { released: completed, completed, ..Default::default() };
    v1::LevelProgress {
        level,
        counts: Some(counts),
        in_flight,
        output_tokens: completed * 8,
        ..Default::default()
    }
}

/// The value of the line with this beginning.
fn value<'a>(text: &'a str, series: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
}

fn text(newest: &watch::Receiver<Arc<Figures>>) -> String {
    text::render(&newest.borrow().clone())
}

#[test]
fn counts_of_agents_add_up_and_a_level_keeps_its_own() {
    let (mut live, newest) = live();
    let (ttft, e2e) = (histogram([10, 20, 30]), histogram([100, 200, 4_000]));
    live.level(Drive::first(0), Load::Streams(4));
    live.started();
    live.progress(1, &progress(0, 5, 2));
    live.progress(2, &progress(0, 7, 1));
    live.progress(2, &progress(9, 1_000, 9));
    live.tick(0, Some((&ttft, &e2e)));
    let first = text(&newest);
    let of = |name: &str| format!("tailcliff_{name}{{level=\"0\",rung=\"0\",attempt=\"1\"");
    assert_eq!(value(&first, &format!("{},outcome=\"completed\"}}", of("requests_total"))), Some("12"));
    assert_eq!(value(&first, "tailcliff_requests_in_flight"), Some("3"));
    assert_eq!(value(&first, "tailcliff_run_state{state=\"measuring\"}"), Some("1"));
    assert_eq!(value(&first, &format!("{},le=\"0.25\"}}", of("e2e_seconds_bucket"))), Some("2"));
    assert_eq!(value(&first, &format!("{},le=\"+Inf\"}}", of("e2e_seconds_bucket"))), Some("3"));
    // The last word counts, whoever said it last; and what comes after the level is over does not.
    let counts = v1::LevelCounts { released: 9, completed: 8, failed: 1, ..Default::default() };
    live.done(2, &v1::LevelDone { level: 0, counts: Some(counts), ..Default::default() });
    live.settled((&ttft, &e2e));
    live.progress(1, &progress(0, 5_000, 2));
    live.level(Drive { level: 1, rung: 0, attempt: 2 }, Load::Rate(Rate(f64::INFINITY)));
    live.tick(5_000 * MS, None);
    live.over();
    let last = text(&newest);
    assert_eq!(value(&last, &format!("{}}}", of("requests_released_total"))), Some("14"));
    assert_eq!(value(&last, &format!("{},outcome=\"failed\"}}", of("requests_total"))), Some("1"));
    assert_eq!(value(&last, &format!("{}}}", of("output_tokens_total"))), Some("96"));
    let open = "tailcliff_offered_requests_per_second{level=\"1\",rung=\"0\",attempt=\"2\"}";
    assert_eq!(value(&last, open), Some("+Inf"));
    assert_eq!(value(&last, "tailcliff_run_state{state=\"over\"}"), Some("1"));
}

#[test]
fn what_is_not_known_has_no_line_and_no_name_breaks_out_of_its_label() {
    let (mut live, newest) = live();
    let sample = v1::GpuSample { gpu: 1, power_average_mw: Some(312_500), ..Default::default() };
    let facts = v1::GpuFacts { index: 1, simulated: true, ..Default::default() };
    live.probe("p\"\n\\", &[facts]);
    live.samples("p\"\n\\", &[sample, v1::GpuSample { gpu: 1, ..Default::default() }]);
    let node = |name: &str, clock_bound_ns| NodeFigures {
        name: name.to_owned(),
        is_agent: true,
        connected: true,
        clock_bound_ns,
    };
    live.nodes(vec![node("a", Some(20_000)), node("b", None)]);
    live.tick(0, None);
    let text = text(&newest);
    let gpu = "tailcliff_gpu_power_watts{probe=\"p\\\"\\n\\\\\",gpu=\"1\",simulated=\"true\"}";
    assert_eq!(value(&text, gpu), Some("312.5"), "{text}");
    assert!(!text.contains("tailcliff_gpu_utilisation_ratio{"), "not read, which is not 0");
    assert_eq!(value(&text, "tailcliff_clock_bound_seconds{node=\"a\"}"), Some("0.00002"));
    assert!(!text.contains("node=\"b\""));
    assert_eq!(value(&text, "tailcliff_nodes_connected{kind=\"agent\"}"), Some("2"));
    assert!(!text.contains("tailcliff_level "), "no level yet");
}

#[test]
fn a_broken_probe_takes_no_memory_and_broken_agents_overflow_nothing() {
    let (mut live, newest) = live();
    let samples = (0..5_000).map(|gpu| v1::GpuSample { gpu, gpu_util_pct: Some(1), ..Default::default() });
    live.samples("p", &samples.collect::<Vec<_>>());
    live.level(Drive::first(0), Load::Streams(1));
    for of in 0..3 {
        live.progress(of, &progress(0, u64::MAX / 8, u32::MAX));
    }
    live.tick(0, None);
    assert_eq!(newest.borrow().gpus.len(), 1_024);
    assert_eq!(newest.borrow().levels[0].output_tokens, u64::MAX);
}

#[test]
fn a_copy_is_left_once_a_second() {
    let (mut live, mut newest) = live();
    live.level(Drive::first(0), Load::Streams(1));
    let none = histogram([]);
    let mut copies = 0;
    for beat in 0..40 {
        newest.mark_unchanged();
        live.tick(beat * 250 * MS, Some((&none, &none)));
        copies += u32::from(newest.has_changed().unwrap());
    }
    assert_eq!(copies, 10);
}

#[test]
fn buckets_hold_what_their_bound_says_to_the_histogram_s_precision() {
    let buckets = Buckets::of(&histogram(1..=1_000));
    let expected: Vec<u64> = BOUNDS_NS.iter().map(|b| (b / MS.unsigned_abs()).min(1_000)).collect();
    for ((bound, n), exact) in BOUNDS_NS.iter().zip(buckets.up_to).zip(expected) {
        assert!(n.abs_diff(exact) <= 1 + exact / 1_000, "up to {bound} ns: {n}, {exact} expected");
    }
    assert_eq!(buckets.count, 1_000);
    assert!((buckets.sum_s - 500.5).abs() < 0.5, "{}", buckets.sum_s);
    assert_eq!(Buckets::of(&histogram([])).sum_s, 0.0);
}

#[test]
fn a_port_alone_is_loopback_s_and_any_other_address_says_what_is_exposed() {
    let bound = |address: &str| spelled_out(address);
    assert_eq!((bound("9464"), bound(":9464")), ("127.0.0.1:9464".to_owned(), "127.0.0.1:9464".to_owned()));
    for spelled in ["0.0.0.0:9464", "[::]:1", "localhost:1", ""] {
        assert_eq!(bound(spelled), spelled);
    }
    assert!(words("0.0.0.0:9464".parse().unwrap()).contains("whoever reaches it"));
    assert_eq!(words("127.0.0.1:1".parse().unwrap()), "metrics on http://127.0.0.1:1/metrics");
}
