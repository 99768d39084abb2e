//! What bounds and places are made of, and what a level's figures count.

use tailcliff_proto::arrivals::SocketWaits;
use tailcliff_proto::v1::{self, ClockSnapshot, Phase};

use super::figures::{How, Part, Source};
use super::index::Index;
use super::join::Join;
use super::levels::{Gather, Matched};
use super::summary::summary;
use super::tests::{AGENT, MS, PROBE, S, US, WallFault, World};
use super::told;
use crate::clock::simulate::Path;
use crate::merge::timeline::Timeline;

fn part(join: &Join, part: Part) -> i64 {
    join.parts[part as usize].unwrap()
}

fn spans(world: &mut World) -> &mut Vec<v1::ServerSpan> {
    &mut world.data.nodes.get_mut(&PROBE).unwrap().batches.last_mut().unwrap().server_spans
}

fn records(world: &mut World) -> &mut Vec<v1::RequestRecord> {
    &mut world.data.nodes.get_mut(&AGENT).unwrap().batches.last_mut().unwrap().records
}

fn walls(world: &mut World) -> &mut Vec<v1::WallClock> {
    &mut world.data.nodes.get_mut(&PROBE).unwrap().batches[0].wall_clocks
}

/// Agent and probe on one host: nothing but its wall clock lies between them.
fn one_host() -> World {
    let mut world = World::new(4, Path::Quick, WallFault::None);
    world.agent = world.probe.clone();
    let exchanges = world.data.nodes[&PROBE].exchanges.clone();
    let boot = |raw_ns: i64| ClockSnapshot {
        boot_id: "host".to_owned(),
        timens_inode: 7,
        raw_ns,
        ..ClockSnapshot::default()
    };
    for node in world.data.nodes.values_mut() {
        node.exchanges = exchanges.clone();
        node.snapshots = exchanges.iter().step_by(8).map(|e| boot(e.t1)).collect();
    }
    world
}

#[test]
fn how_exact_the_wall_clock_was_read_is_in_every_bound() {
    let apart = World::new(4, Path::Quick, WallFault::None);
    for (what, mut world) in [("apart", apart), ("on one host", one_host())] {
        world.serve(20);
        for (_, join) in world.joined() {
            assert!(join.bound_ns.unwrap() < MS, "{what}: {join:?}");
        }
        walls(&mut world).iter_mut().for_each(|reading| reading.width_ns = 4 * MS);
        for (_, join) in world.joined() {
            assert!(join.bound_ns.unwrap() >= 2 * MS, "{what}: {join:?}");
            for stamp in [join.arrival, join.first_token, join.end] {
                assert!(stamp.unwrap().bound_ns >= 2 * MS, "{what}: {join:?}");
            }
        }
    }
}

#[test]
fn the_bound_is_that_of_the_worse_of_a_requests_two_places() {
    let mut world = one_host();
    world.serve(20);
    // Nobody read the wall clock later: the farther a stamp is from there, the less is it known.
    walls(&mut world).truncate(10);
    let joined = world.joined();
    let late: Vec<_> = joined.iter().filter_map(|(_, join)| Some((join, join.end?, join.arrival?))).collect();
    assert!(late.len() > 3);
    for (join, end, arrival) in late {
        let more = end.bound_ns - arrival.bound_ns;
        let length = end.ns - arrival.ns;
        assert!(more > 0 && join.bound_ns.unwrap() > length / 20_000, "{join:?}");
    }
}

#[test]
fn a_part_within_its_bound_below_0_is_possible_and_one_beyond_it_is_not() {
    let mut world = World::new(4, Path::Quick, WallFault::None);
    world.serve(20);
    // Read to within 4 ms, and all stamps 1 ms early: the way up is below 0, and may be above.
    walls(&mut world).iter_mut().for_each(|reading| reading.width_ns = 4 * MS);
    for span in spans(&mut world) {
        (span.start_unix_ns, span.end_unix_ns) =
            (span.start_unix_ns - MS as u64, span.end_unix_ns - MS as u64);
    }
    for (_, join) in world.joined() {
        assert!(part(&join, Part::NetworkUp) < 0 && join.impossible == 0, "{join:?}");
    }
    // The front end is the span's length less the engine's own durations.
    let with = |below: i64| {
        let mut world = World::new(4, Path::Quick, WallFault::None);
        world.serve(20);
        let front: Vec<i64> = world.joined().iter().map(|(_, join)| join.front_ns().unwrap()).collect();
        for (span, front) in spans(&mut world).iter_mut().zip(front) {
            span.decode_ns = span.decode_ns.map(|ns| ns + front + below);
        }
        world.joined().iter().map(|(_, join)| join.impossible).collect::<Vec<_>>()
    };
    assert_eq!(with(1_000), [0; 20]);
    assert_eq!(with(20 * MS), [1 << Part::FrontOut as u32; 20]);
}

#[test]
fn what_a_server_says_of_itself_stands_where_nobody_read_its_wall_clock() {
    let mut world = World::new(4, Path::Quick, WallFault::None);
    world.serve(20);
    walls(&mut world).clear();
    for (truth, join) in world.joined() {
        assert_eq!((join.unplaced, join.bound_ns, join.arrival, join.end), (true, None, None, None));
        assert_eq!(join.parts[Part::NetworkUp as usize].or(join.parts[Part::NetworkDown as usize]), None);
        let front = truth[Part::FrontIn as usize];
        assert!((part(&join, Part::FrontIn) - front).abs() <= 10, "{join:?}");
        assert_eq!(
            join.parts[Part::FrontOut as usize],
            None,
            "nobody knows how long the wall clock's stamps are apart"
        );
    }
}

#[test]
fn delivery_ends_in_the_clients_socket_however_late_it_is_read() {
    for late in [0, 7 * MS] {
        let mut world = World::new(4, Path::Quick, WallFault::None);
        world.serve(20);
        for record in records(&mut world) {
            record.first_token_raw_ns = record.first_token_raw_ns.map(|ns| ns + late);
            let mut waits = SocketWaits::default();
            waits.set(1, Some(late.unsigned_abs()));
            record.socket_waits = waits.into_bytes();
        }
        for (_, join) in world.joined() {
            let off = join.delivery_ns.unwrap() - 200 * US;
            assert!(off.abs() <= join.bound_ns.unwrap() + 300 * US, "{late}: {join:?}");
        }
    }
}

/// Half a minute after the epoch no clock was ever set to, and a part that lasts for more than a day nobody waited for.
#[test]
fn stamps_and_durations_that_cannot_be_are_not_taken() {
    let epoch = 1_790_000_000 * S as u64;
    let span = v1::ServerSpan {
        name: "llm_request".to_owned(),
        start_unix_ns: epoch,
        end_unix_ns: epoch + S as u64,
        queue_ns: Some(MS),
        prefill_ns: Some(90_000 * S),
        decode_ns: Some(i64::MIN),
        ..Default::default()
    };
    let told = |span: &v1::ServerSpan| told::of_span(span, 0);
    let one = told(&span).unwrap();
    assert_eq!((one.queue_ns, one.prefill_ns, one.decode_ns), (Some(MS), None, None));
    assert_eq!(told(&v1::ServerSpan { start_unix_ns: 30 * S as u64, ..span.clone() }), None);
    assert_eq!(told(&v1::ServerSpan { end_unix_ns: u64::MAX, ..span }), None);
    let line = v1::ServerStamps {
        request_id: "a".to_owned(),
        enqueue_unix_ns: Some(30 * S as u64),
        first_token_unix_ns: Some(31 * S as u64),
        ..Default::default()
    };
    let (_, of_line) = told::of_stamps(&line, 0).unwrap();
    assert_eq!((of_line.arrival_unix_ns, of_line.ttft_ns), (None, None));
}

#[test]
fn slices_of_one_request_add_up() {
    let epoch = 1_790_000_000 * S;
    let slice = |name: &str, from: i64, to: i64| v1::ServerSpan {
        trace_id: vec![1; 16],
        name: name.to_owned(),
        start_unix_ns: (epoch + from * MS) as u64,
        end_unix_ns: (epoch + to * MS) as u64,
        ..Default::default()
    };
    let mut all = std::collections::HashMap::new();
    // Put out of the batch after its first chunk, it waited twice.
    for (name, from, to) in [
        ("tokenize", 0, 2),
        ("prefill_waiting", 2, 12),
        ("chunked_prefill", 12, 20),
        ("prefill_waiting", 20, 50),
        ("chunked_prefill", 50, 60),
        ("decode_loop", 60, 90),
        ("Req abc", 0, 95),
    ] {
        told::add_slice(&mut all, &slice(name, from, to), 0);
    }
    told::add_slice(&mut all, &slice("Load weights", 0, 1), 0);
    let told = all.values().next().unwrap().told();
    assert_eq!(told.spans, 7, "another kind of span is none of them");
    assert_eq!((all.len(), told.queue_ns, told.ttft_ns), (1, Some(40 * MS), Some(60 * MS)));
    assert_eq!((told.prefill_ns, told.decode_ns), (Some(48 * MS), Some(30 * MS)));
    assert_eq!((told.arrival_unix_ns, told.end_unix_ns), (Some(epoch), Some(epoch + 95 * MS)));
}

#[test]
fn a_levels_figures_are_of_its_joined_requests_one_by_one() {
    let mut world = World::new(6, Path::Quick, WallFault::None);
    world.serve(48);
    let all = spans(&mut world);
    // Of ten nothing came, of one of them the reply tells; two servers, and three stamps that cannot be.
    all.drain(38..);
    all[20..].iter_mut().for_each(|span| span.service = "vllm 2".to_owned());
    for span in &mut all[..3] {
        (span.start_unix_ns, span.end_unix_ns) =
            (span.start_unix_ns - 9 * MS as u64, span.end_unix_ns - 9 * MS as u64);
    }
    // One has no place: nobody's wall clock showed that.
    (all[3].start_unix_ns, all[3].end_unix_ns) =
        (all[3].start_unix_ns + 900 * S as u64, all[3].end_unix_ns + 900 * S as u64);
    let (record, truth) = (&mut records(&mut world)[40], (MS, 2 * MS));
    (record.server_prefill_ns, record.server_decode_ns) = (Some(truth.0), Some(truth.1));
    let (index, timeline) = (Index::of(&world.data), Timeline::of(&world.data));
    let mut gather = Gather::default();
    // The first eight of these are of the warm-up, and told of all the same.
    for (i, record) in world.data.nodes[&AGENT].batches[0].records.iter().enumerate() {
        gather.add(&index, &timeline, AGENT, record, !(10..18).contains(&i));
    }
    let records = world.data.nodes[&AGENT].batches[0].records.iter().enumerate();
    let joined: Vec<Join> = records
        .filter(|(i, _)| !(10..18).contains(i))
        .filter_map(|(_, record)| super::join::join(&index, &timeline, AGENT, record))
        .collect();
    assert_eq!(gather.matched, Matched { spans: 38, told_twice: 0 });
    let told = gather.figures(&index).unwrap();
    assert_eq!((told.joined, told.unmatched, told.impossible, told.unplaced), (31, 9, 3, 1));
    assert_eq!(told.sources, [(Source::Spans, 30), (Source::Reply, 1)]);
    assert_eq!(told.servers, [("node-9 vllm 1".to_owned(), 12), ("node-9 vllm 2".to_owned(), 18)]);

    let sorted = |of: &dyn Fn(&Join) -> Option<i64>| {
        let mut all: Vec<i64> = joined.iter().filter_map(of).collect();
        all.sort_unstable();
        all
    };
    let mean = |all: &[i64]| all.iter().sum::<i64>() as f64 / all.len() as f64;
    let is_near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.abs();
    let mut server_ns = 0.0;
    for figures in &told.parts {
        let all = sorted(&|join| join.parts[figures.part as usize]);
        assert_eq!(
            (figures.count, figures.p95_ns),
            (all.len() as u64, all[(all.len() * 95).div_ceil(100) - 1])
        );
        assert!(is_near(figures.mean_ns, mean(&all)), "{figures:?}");
        assert_eq!(figures.impossible, if figures.part == Part::NetworkUp { 3 } else { 0 }, "{figures:?}");
        let how = match figures.part {
            Part::Queue | Part::NetworkDown | Part::FrontOut => How::Inferred,
            Part::NetworkUp => How::BetweenClocks,
            _ => How::Measured,
        };
        assert_eq!(figures.how, how, "{figures:?}");
        if (Part::FrontIn..=Part::FrontOut).contains(&figures.part) {
            server_ns += all.iter().sum::<i64>() as f64;
        }
    }
    let fronts = sorted(&|join| join.front_ns());
    assert_eq!((fronts.len(), told.front_p95_ns), (29, Some(fronts[27])));
    assert!(is_near(told.front_share.unwrap(), fronts.iter().sum::<i64>() as f64 / server_ns));
    let bounds = sorted(&|join| join.bound_ns);
    assert_eq!(
        (told.bound_ns, told.worst_bound_ns),
        (Some(bounds[bounds.len() / 2]), bounds.last().copied())
    );
    assert!(bounds[0] < bounds[bounds.len() / 2]);
    assert!(is_near(told.delivery_ns.unwrap(), mean(&sorted(&|join| join.delivery_ns))));
}

#[test]
fn a_level_counts_what_is_joined_unmatched_and_impossible() {
    let mut world = World::new(11, Path::Idle, WallFault::None);
    world.serve(40);
    let truths = world.truth.clone();
    let node = world.data.nodes.get_mut(&PROBE).unwrap();
    let spans = &mut node.batches.last_mut().unwrap().server_spans;
    // Ten are told of by nobody; two came, by their stamps, before they were sent.
    spans.truncate(30);
    for span in &mut spans[..2] {
        span.start_unix_ns -= 50_000_000;
        span.end_unix_ns -= 50_000_000;
    }
    // A warm-up's request is matched, and in no figure.
    world.data.nodes.get_mut(&AGENT).unwrap().batches[0].records[29].phase = Phase::Warmup as i32;
    let (matched, level) = world.gathered();
    assert_eq!(matched, Matched { spans: 30, told_twice: 0 });
    assert_eq!((level.joined, level.unmatched, level.impossible, level.unplaced), (29, 10, 2, 0));
    assert_eq!(
        (level.sources.as_slice(), level.servers.as_slice()),
        (&[(Source::Spans, 29)][..], &[("node-9 vllm 1".to_owned(), 29)][..])
    );
    let of = |part: Part| level.parts.iter().find(|figures| figures.part == part).unwrap();
    let queue = of(Part::Queue);
    let mut true_ns: Vec<i64> = truths[..29].iter().map(|(_, parts)| parts[5]).collect();
    true_ns.sort_unstable();
    let mean = true_ns.iter().sum::<i64>() as f64 / 29.0;
    assert!((queue.mean_ns - mean).abs() < 1.0 && queue.p95_ns == true_ns[27], "{queue:?}");
    assert_eq!((of(Part::NetworkUp).impossible, of(Part::NetworkUp).how), (2, How::BetweenClocks));
    assert_eq!(
        (of(Part::Decode).impossible, of(Part::Decode).how, of(Part::FrontOut).how),
        (0, How::Measured, How::Inferred)
    );
    assert!(level.worst_bound_ns >= level.bound_ns && level.bound_ns > Some(0));
    let share = level.front_share.unwrap();
    assert!((0.0..0.1).contains(&share), "{share}");
    let of_run = summary(&world.data, &Timeline::of(&world.data), &Index::of(&world.data), matched);
    assert_eq!((of_run.spans, of_run.unmatched_spans), (30, 0));
    let of_run =
        summary(&world.data, &Timeline::of(&world.data), &Index::of(&world.data), Matched::default());
    assert_eq!(of_run.unmatched_spans, 30);
}

/// SGLang's names, as its source has them: a request is ten spans of one trace.
#[test]
fn slices_of_one_trace_are_one_request() {
    let mut world = World::new(9, Path::Quick, WallFault::None);
    world.serve(3);
    let truths = world.truth.clone();
    let node = world.data.nodes.get_mut(&PROBE).unwrap();
    let spans = std::mem::take(&mut node.batches.last_mut().unwrap().server_spans);
    let mut slices = Vec::new();
    for (span, (_, parts)) in spans.iter().zip(&truths) {
        let start = span.start_unix_ns as i64;
        let mut slice = |name: &str, from: i64, to: i64| {
            slices.push(v1::ServerSpan {
                trace_id: span.trace_id.clone(),
                span_id: (slices.len() as u64 + 1).to_be_bytes().to_vec(),
                name: name.to_owned(),
                start_unix_ns: (start + from) as u64,
                end_unix_ns: (start + to) as u64,
                ..Default::default()
            });
        };
        let whole = span.end_unix_ns as i64 - start;
        let [queue, prefill, decode] = [4, 5, 6].map(|i| parts[4..=i].iter().sum::<i64>());
        slice("Bootstrap Room 0x0", 0, whole);
        slice("tokenize", 0, parts[4]);
        slice("prefill_waiting", queue, prefill);
        slice("prefill_forward", prefill, decode);
        slice("decode_loop", decode, decode + parts[7]);
        // An exporter that tried again.
        slice("prefill_waiting", queue, prefill);
    }
    node.batches.last_mut().unwrap().server_spans = slices;
    for (truth, join) in world.joined() {
        for part in [Part::FrontIn, Part::Queue, Part::Prefill, Part::Decode] {
            let (told, truth) = (join.parts[part as usize].unwrap(), truth[part as usize]);
            assert!((told - truth).abs() <= 10, "{part:?}: {told}, truly {truth}");
        }
        assert_eq!(join.impossible, 0, "{join:?}");
    }
    assert_eq!(world.gathered().0.spans, 18);
}
