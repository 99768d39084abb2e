//! Metrics of made-up servers, whose truth is known, against what is told of levels.

use tailcliff_proto::v1::{self, NamedValue, Outcome, ServerHistogram, ServerLatency, ServerSample};

use crate::merge::testrun::{MS, ORIGIN, S, add_probe, offset, push, run};
use crate::merge::{Merged, merge, record};
use crate::stored::RunData;

use super::figures::{Cross, ServerLevel};
use super::metrics::of_levels;

const HERE: &str = "http://127.0.0.1:8000/metrics";
/// Of the first level: its window begins, and ends.
const FROM: i64 = 2 * S;
const TO: i64 = 12 * S;

fn told(data: &RunData) -> (Vec<Option<ServerLevel>>, Merged) {
    let merged = merge(data);
    (of_levels(data, &merged.timeline, &merged.levels), merged)
}

fn first(data: &RunData) -> ServerLevel {
    told(data).0.swap_remove(0).unwrap()
}

/// Scrapes of 2 ms at these moments of the run, by a probe.
fn scrapes(
    of: u64,
    endpoint: &str,
    at: impl Iterator<Item = i64>,
    change: impl Fn(i64, &mut ServerSample),
) -> v1::Batch {
    let sample = |at: i64| {
        let raw_ns = ORIGIN + at + offset(of);
        let mut sample =
            ServerSample { raw_ns, took_ns: 2 * MS, endpoint: endpoint.to_owned(), ..Default::default() };
        change(at, &mut sample);
        sample
    };
    v1::Batch { server_samples: at.map(sample).collect(), ..Default::default() }
}

/// Once a second, off the edges of windows.
fn each_second(to: i64) -> impl Iterator<Item = i64> {
    (0..to).map(|i| i * S + 300 * MS)
}

fn level_of(batch: v1::Batch) -> ServerLevel {
    let mut data = run(1, 1, &[1]);
    let of = add_probe(&mut data);
    push(&mut data, of, batch);
    first(&data)
}

#[test]
fn gauges_are_of_the_window_and_totals_of_the_scrapes_around_it() {
    let told = level_of(scrapes(99, HERE, each_second(20), |at, s| {
        // Nothing outside the window may count.
        let inside = (FROM..TO).contains(&at);
        s.running = Some(if inside { 4.0 } else { 1000.0 });
        s.waiting = Some(if !inside {
            1000.0
        } else if at < 7 * S {
            1.0
        } else {
            3.0
        });
        s.kv_usage = Some(if inside { 0.5 } else { 1.0 });
        s.preemptions = Some((at / S) as f64);
        (s.cache_queries, s.cache_hits) = (Some(100.0 * (at / S) as f64), Some(25.0 * (at / S) as f64));
        (s.drafted, s.accepted) = (Some(7.0), Some(7.0));
        s.named = vec![NamedValue { name: "x{a=\"b\"}".to_owned(), value: -2.0 }];
    }));
    assert_eq!((told.scrapes, told.failed, told.took_ns), (10, 0, Some(2 * MS)));
    assert_eq!(
        (told.running, told.waiting, told.kv_usage),
        (Some((4.0, 4.0)), Some((2.0, 3.0)), Some((0.5, 0.5)))
    );
    // From the scrape at 1.3 s to that at 12.3 s.
    assert_eq!((told.preemptions, told.cache_hit), (Some(11.0), Some(0.25)));
    assert!((told.counted_ns.unwrap() - 11 * S).abs() < MS, "{told:?}");
    assert_eq!(told.spec_accepted, None, "nothing was drafted");
    assert_eq!(told.named, [("x{a=\"b\"}".to_owned(), -2.0, -2.0)]);
    assert!(told.notes.is_empty(), "an eleventh second needs no words: {:?}", told.notes);
    assert!(told.cross.is_empty());
}

#[test]
fn two_endpoints_add_up_and_one_that_two_probes_scrape_counts_once() {
    let mut data = run(1, 1, &[1]);
    let of = add_probe(&mut data);
    let load = |n: f64| {
        move |at: i64, s: &mut ServerSample| {
            (s.running, s.kv_usage) = (Some(n), Some(n / 8.0));
            s.preemptions = Some(n * (at / S) as f64);
        }
    };
    let names = ["http://one:8000/metrics", "http://two:8000/metrics"];
    push(&mut data, of, scrapes(99, names[0], each_second(20), load(2.0)));
    push(&mut data, of, scrapes(99, names[1], each_second(20), load(3.0)));
    let two = first(&data);
    assert_eq!((two.running, two.kv_usage), (Some((5.0, 5.0)), Some((0.375, 0.375))));
    assert_eq!((two.preemptions, two.scrapes), (Some(55.0), 20));
    assert!(two.notes.iter().any(|n| n.contains("2 endpoints") && n.contains(names[1])), "{:?}", two.notes);

    // Another probe, on another host, scrapes the first of them, and sees less of it.
    let mut other = crate::stored::Node { exchanges: data.nodes[&1].exchanges.clone(), ..Default::default() };
    other.hello = v1::Hello { name: "other".to_owned(), ..data.nodes[&99].hello.clone() };
    other.index = 7;
    let mut batch = scrapes(1, names[0], (4..9).map(|i| i * S), load(2.0));
    (batch.seq, batch.incarnation) = (1, 98);
    other.batches.push(batch);
    data.nodes.insert(98, other);
    let again = first(&data);
    assert_eq!((again.running, again.preemptions, again.scrapes), (two.running, two.preemptions, 20));
    assert!(again.notes.iter().any(|n| n.contains("probe and other: probe counts")), "{:?}", again.notes);
    // What leads to the host itself is another server on every host.
    let batches = &mut data.nodes.get_mut(&98).unwrap().batches;
    batches[0].server_samples.iter_mut().for_each(|s| s.endpoint = HERE.to_owned());
    let batches = &mut data.nodes.get_mut(&99).unwrap().batches;
    batches.iter_mut().flat_map(|b| &mut b.server_samples).for_each(|s| s.endpoint = HERE.to_owned());
    assert_eq!(first(&data).running, Some((4.0, 4.0)));
}

/// Two names, by one probe, of servers whose requests take so long, s.
fn two_names(takes: [f64; 2]) -> ServerLevel {
    let mut data = run(1, 1, &[1]);
    let of = add_probe(&mut data);
    let names = ["http://127.0.0.1:8000/metrics", "http://10.0.0.5:8000/metrics"];
    // The second is scraped a little later.
    for ((name, takes), later) in names.into_iter().zip(takes).zip([0, 40 * MS]) {
        let load = |at: i64, s: &mut ServerSample| {
            // At rest before 1 s and after 12 s of the run.
            let requests = ((at - S).clamp(0, 11 * S) / (10 * MS)) as f64;
            (s.running, s.preemptions) = (Some(2.0), Some((requests / 100.0).floor()));
            let sum_s = 3.5 + takes * requests;
            let of = ServerLatency::E2e as i32;
            s.histograms = vec![ServerHistogram { of, sum_s, count: 7.0 + requests, ..Default::default() }];
        };
        push(&mut data, of, scrapes(99, name, each_second(20).map(|at| at + later), load));
    }
    first(&data)
}

#[test]
fn one_server_under_two_names_counts_once() {
    let one = two_names([0.25, 0.25]);
    assert_eq!((one.running, one.preemptions, one.scrapes), (Some((2.0, 2.0)), Some(11.0), 10));
    let said = |told: &ServerLevel, words: &str| told.notes.iter().any(|note| note.contains(words));
    assert!(
        said(&one, "10.0.0.5:8000/metrics tell the very same totals") && !said(&one, "doubled"),
        "{one:?}"
    );
    let e2e = &one.cross[0];
    assert!(!e2e.words.contains("endpoints"), "{e2e:?}");
    // Two that share a load evenly count the same, and do not take the same time.
    let two = two_names([0.25, 0.250_000_1]);
    assert_eq!((two.running, two.scrapes), (Some((4.0, 4.0)), 20));
    assert!(said(&two, "if two of them are one server, its figures are doubled"), "{:?}", two.notes);
}

#[test]
fn stamps_that_cannot_be_mute_nothing_and_are_counted() {
    let load = |at: i64, s: &mut ServerSample| {
        (s.running, s.preemptions) = (Some(2.0), Some((at / S) as f64));
    };
    let whole = level_of(scrapes(99, HERE, each_second(20), load));
    let mut odd = scrapes(99, HERE, each_second(20), load);
    let stray = |raw_ns: i64| ServerSample { raw_ns, ..odd.server_samples[0].clone() };
    // After all others, and where no clock is.
    let strays = [stray(ORIGIN + offset(99) + 24 * S), stray(i64::MAX), stray(i64::MIN)];
    odd.server_samples.splice(3..3, strays);
    let mut told = level_of(odd);
    let notes = std::mem::take(&mut told.notes);
    assert_eq!(told, whole);
    assert!(
        notes.iter().any(|note| note.contains("1 scrapes of http") && note.contains("do not follow")),
        "{notes:?}"
    );
    assert!(notes.iter().any(|note| note.contains("2 scrapes of the run have no place")), "{notes:?}");
}

#[test]
fn an_endpoint_that_is_gone_is_said_to_be_and_failures_are_counted() {
    let gone = level_of(scrapes(99, HERE, each_second(20), |at, s| {
        if at > 7 * S {
            s.failed = "connection refused".to_owned();
        }
        s.running = Some(1.0);
    }));
    assert_eq!((gone.scrapes, gone.failed, gone.running), (10, 5, Some((1.0, 1.0))));
    let said = gone.notes.iter().any(|n| n.contains("from 6.3 s to 12.0 s of the run (connection refused)"));
    assert!(said, "{:?}", gone.notes);
    // One that is scraped each 5 s is silent for long, and not gone.
    let slow = level_of(scrapes(99, HERE, (0..4).map(|i| i * 5 * S + S), |_, s| s.running = Some(1.0)));
    assert!(slow.scrapes == 2 && slow.notes.is_empty(), "{slow:?}");
    let single = level_of(scrapes(99, HERE, [5 * S].into_iter(), |_, s| s.running = Some(1.0)));
    assert!(
        single.notes.iter().any(|n| n.contains("told nothing") || n.contains("single scrape")),
        "{single:?}"
    );
    let never = level_of(scrapes(99, HERE, each_second(20), |_, s| s.failed = "timeout".to_owned()));
    assert_eq!((never.scrapes, never.failed, never.running, never.preemptions), (10, 10, None, None));
    assert!(
        never.notes.iter().any(|n| n.contains("no scrape") && n.contains("timeout")),
        "{:?}",
        never.notes
    );
    let mut data = run(1, 1, &[1]);
    add_probe(&mut data);
    assert_eq!(told(&data).0, [None]);
}

#[test]
fn a_server_that_began_anew_is_told_and_counted_on() {
    let told = level_of(scrapes(99, HERE, each_second(20), |at, s| {
        let n = at / S;
        s.preemptions = Some(if n < 6 { n } else { n - 6 } as f64);
    }));
    // From 1 to 5, and from 0 to 6.
    assert_eq!(told.preemptions, Some(10.0));
    assert!(told.notes.iter().any(|n| n.contains("began anew")), "{:?}", told.notes);
}

#[test]
fn what_no_server_can_say_is_not_said() {
    for odd in [f64::NAN, f64::INFINITY, -1.0, 1e19] {
        let told = level_of(scrapes(99, HERE, each_second(20), |_, s| {
            (s.running, s.waiting, s.kv_usage) = (Some(odd), Some(odd), Some(odd));
            (s.preemptions, s.cache_queries, s.cache_hits) = (Some(odd), Some(odd), Some(odd));
            s.took_ns = i64::MIN;
            if odd != -1.0 {
                s.named = vec![NamedValue { name: "x".to_owned(), value: odd }];
            }
        }));
        assert_eq!((told.running, told.waiting, told.kv_usage), (None, None, None));
        assert_eq!((told.preemptions, told.cache_hit, told.named.len()), (None, None, 0));
    }
    let mut random = fastrand::Rng::with_seed(4);
    let odd = [i64::MIN, i64::MAX, 0, -1, ORIGIN, ORIGIN + 99_000 * S];
    let mut data = run(1, 1, &[1, 2]);
    let of = add_probe(&mut data);
    let mut batch = scrapes(99, HERE, each_second(40), |_, s| s.running = Some(1.0));
    for sample in batch.server_samples.iter_mut().step_by(2) {
        (sample.raw_ns, sample.took_ns) = (odd[random.usize(0..6)], odd[random.usize(0..6)]);
    }
    push(&mut data, of, batch);
    told(&data);
}

#[test]
fn totals_of_a_much_longer_time_than_the_window_say_so() {
    let each = |change: fn(i64, &mut ServerSample)| {
        level_of(scrapes(99, HERE, (0..3).map(|i| i * 9 * S + S), change)).notes
    };
    // From 1 s to 19 s, around 10 s.
    let words = |notes: &[String]| notes.iter().any(|n| n.contains("the 18.0 s from scrape to scrape"));
    assert!(words(&each(|at, s| s.preemptions = Some(at as f64))));
    assert!(!words(&each(|_, s| s.running = Some(1.0))), "of no total there is nothing to say");
}

#[test]
fn of_two_probes_the_one_that_saw_more_counts_whichever_comes_first() {
    let mut data = run(1, 1, &[1]);
    let of = add_probe(&mut data);
    let load = |n: f64| move |_: i64, s: &mut ServerSample| s.running = Some(n);
    let name = "http://one:8000/metrics";
    push(&mut data, of, scrapes(99, name, (4..9).map(|i| i * S), load(1.0)));
    let mut other = crate::stored::Node { exchanges: data.nodes[&1].exchanges.clone(), ..Default::default() };
    other.hello = v1::Hello { name: "other".to_owned(), ..data.nodes[&99].hello.clone() };
    other.index = 7;
    let mut batch = scrapes(1, name, each_second(20), load(2.0));
    (batch.seq, batch.incarnation) = (1, 98);
    other.batches.push(batch);
    data.nodes.insert(98, other);
    let told = first(&data);
    assert_eq!((told.scrapes, told.running), (10, Some((2.0, 2.0))));
    assert!(told.notes.iter().any(|n| n.contains("other counts")), "{:?}", told.notes);
}

/// Upper bounds of a server's buckets, s.
const UPPER_S: [f64; 6] = [0.005, 0.01, 0.02, 0.04, 0.08, 0.16];
/// What the server does not see of each latency: its way.
const WAY: i64 = 2 * MS;

/// (when, how long) of all that a server counts of one run, by latency.
fn truth(data: &RunData) -> Vec<(ServerLatency, Vec<(i64, i64)>)> {
    let mut all = [ServerLatency::Ttft, ServerLatency::Itl, ServerLatency::Tpot, ServerLatency::E2e]
        .map(|of| (of, Vec::new()));
    for (of, node) in data.nodes.range(..90) {
        for record in node.batches.iter().flat_map(|batch| &batch.records) {
            let at = |raw: i64| raw - offset(*of) - ORIGIN;
            let (sent, token) = (record.sent_raw_ns.unwrap(), record.first_token_raw_ns.unwrap());
            let last = record.last_token_raw_ns.unwrap();
            all[0].1.push((at(token), token - sent - WAY));
            let gaps = crate::merge::testrun::gaps(record);
            all[1].1.extend(gaps.iter().map(|ns| (at(last), *ns)));
            if record::outcome(record) == Outcome::Completed {
                all[2].1.push((at(record.done_raw_ns), (last - token) / 7));
                all[3].1.push((at(record.done_raw_ns), record.done_raw_ns - sent - WAY));
            }
        }
    }
    let queue = all[0].1.iter().map(|(at, _)| (*at, MS)).collect();
    all.into_iter().chain([(ServerLatency::Queue, queue)]).collect()
}

fn histogram(of: ServerLatency, all: &[(i64, i64)], until: i64) -> ServerHistogram {
    let values: Vec<f64> =
        all.iter().filter(|(at, _)| *at <= until).map(|(_, ns)| *ns as f64 / 1e9).collect();
    let below = |upper: &f64| values.iter().filter(|v| *v <= upper).count() as f64;
    ServerHistogram {
        of: of as i32,
        upper_s: UPPER_S.to_vec(),
        cumulative: UPPER_S.iter().map(below).collect(),
        sum_s: values.iter().sum(),
        count: values.len() as f64,
    }
}

fn crossed(data: &mut RunData, others: f64) -> Vec<Vec<Cross>> {
    let truth = truth(data);
    let of = add_probe(data);
    let batch = scrapes(99, HERE, each_second(40), |at, s| {
        s.histograms = truth.iter().map(|(of, all)| histogram(*of, all, at + MS)).collect();
        // Somebody else's, in mid-run.
        if at > 6 * S {
            s.histograms
                .iter_mut()
                .for_each(|h| (h.count, h.sum_s) = (h.count + others, h.sum_s + 3.0 * others));
        }
    });
    push(data, of, batch);
    told(data).0.into_iter().map(|level| level.unwrap().cross).collect()
}

#[test]
fn the_difference_to_the_servers_own_histogram_is_the_way() {
    let mut data = run(5, 2, &[1, 2]);
    for (level, all) in crossed(&mut data, 0.0).into_iter().enumerate() {
        let of = |of: ServerLatency| all.iter().find(|cross| cross.of == of).unwrap();
        for (latency, way) in [(ServerLatency::Ttft, WAY), (ServerLatency::E2e, WAY)] {
            let cross = of(latency);
            assert_eq!(cross.server_count, cross.client_count, "{cross:?}");
            let difference = cross.difference_ns.unwrap_or_else(|| panic!("level {level}: {cross:?}"));
            assert!((difference - way as f64).abs() < 1_000.0, "{cross:?}");
        }
        for latency in [ServerLatency::Itl, ServerLatency::Tpot] {
            assert!(of(latency).difference_ns.unwrap().abs() < 1_000.0, "{:?}", of(latency));
        }
        let queue = of(ServerLatency::Queue);
        assert_eq!((queue.client_mean_ns, queue.difference_ns, queue.client_count), (None, None, 0));
        assert!((queue.server_mean_ns - MS as f64).abs() < 1.0);
        // Its 95th percentile lies in the bucket that is told.
        let (low, high) = of(ServerLatency::Ttft).server_p95_ns.unwrap();
        assert_eq!((low, high), (20.0 * MS as f64, Some(40.0 * MS as f64)));
    }
}

#[test]
fn without_a_scrape_after_the_level_the_words_say_so() {
    let until = |seconds: i64| {
        let mut data = run(5, 2, &[1, 2]);
        let truth = truth(&data);
        let of = add_probe(&mut data);
        let batch = scrapes(99, HERE, each_second(seconds), |at, s| {
            s.histograms = truth.iter().map(|(of, all)| histogram(*of, all, at + MS)).collect();
        });
        push(&mut data, of, batch);
        let cross = first(&data).cross.swap_remove(0);
        (cross.difference_ns.is_some(), cross.words.contains("no scrape came after the level had ended"))
    };
    assert_eq!((until(14), until(11)), ((true, false), (true, true)));
}

#[test]
fn answers_that_end_before_any_content_are_no_disagreement() {
    let mut data = run(5, 2, &[1, 2]);
    let truth = truth(&data);
    let of = add_probe(&mut data);
    let mut silent = 0;
    for record in data.nodes.values_mut().flat_map(|n| &mut n.batches).flat_map(|b| &mut b.records) {
        if record.request % 4 == 1 && record::outcome(record) == Outcome::Completed {
            (record.first_token_raw_ns, record.last_token_raw_ns) = (None, None);
            (record.content_chunks, record.text_len) = (0, 0);
            silent += 1;
        }
    }
    assert!(silent > 20);
    let batch = scrapes(99, HERE, each_second(40), |at, s| {
        s.histograms = truth.iter().map(|(of, all)| histogram(*of, all, at + MS)).collect();
    });
    push(&mut data, of, batch);
    let ttft = first(&data).cross.swap_remove(0);
    assert!(ttft.server_count > ttft.client_count + 10 && ttft.difference_ns.is_some(), "{ttft:?}");
    assert!(ttft.words.contains("completed requests had no content"), "{}", ttft.words);
}

#[test]
fn what_others_asked_of_the_server_leaves_no_difference() {
    let mut data = run(5, 2, &[1, 2]);
    let all = crossed(&mut data, 100.0);
    let first = &all[0][0];
    assert_eq!((first.of, first.difference_ns), (ServerLatency::Ttft, None));
    assert!(first.client_mean_ns.is_some() && first.server_count == first.client_count + 100);
    assert!(first.words.contains("other clients") && first.words.contains("cut off"), "{}", first.words);
    assert!(all[1][0].difference_ns.is_some(), "they asked while the first level ran");
}

#[test]
fn requests_that_a_server_counts_beyond_its_last_bucket_are_open_above() {
    let mut data = run(5, 1, &[1]);
    let of = add_probe(&mut data);
    let batch = scrapes(99, HERE, each_second(20), |at, s| {
        let slow: Vec<(i64, i64)> = (0..100).map(|i| (i * S / 10, 500 * MS)).collect();
        s.histograms = vec![histogram(ServerLatency::Decode, &slow, at)];
    });
    push(&mut data, of, batch);
    let told = first(&data);
    assert_eq!(told.cross[0].server_p95_ns, Some((160.0 * MS as f64, None)));
}
