//! Requests whose truth is known, over clocks that are apart, drift, wander and step: every part is within its bound.

use tailcliff_proto::trace_context::TraceContext;
use tailcliff_proto::v1::{self, NodeKind, Outcome, Phase};

use super::figures::{LevelInside, Part, Source};
use super::index::Index;
use super::join::{Join, join};
use super::levels::{Gather, Matched};
use crate::clock::simulate::{PATHS, Path, Truth, exchanges};
use crate::merge::timeline::Timeline;
use crate::stored::{Incarnation, Node, RunData};

pub(super) const US: i64 = 1_000;
pub(super) const MS: i64 = 1_000_000;
pub(super) const S: i64 = 1_000 * MS;
const EPOCH: i64 = 1_790_000_000 * S;
pub(super) const AGENT: Incarnation = 1;
pub(super) const PROBE: Incarnation = 9;
const SECONDS: i64 = 30;

/// What the wall clock of the server's host does beside its raw clock: (from when by the coordinator's clock, by how much).
#[derive(Clone, Copy, Debug)]
pub(super) enum WallFault {
    None,
    /// Slewed by so many ns a second.
    Slew(i64),
    Step(i64, i64),
}

pub(super) struct World {
    rng: fastrand::Rng,
    pub(super) agent: Truth,
    pub(super) probe: Truth,
    wall: WallFault,
    pub(super) data: RunData,
    /// True parts by request id.
    pub(super) truth: Vec<(String, [i64; 12])>,
}

impl World {
    pub(super) fn new(seed: u64, path: Path, wall: WallFault) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (agent, probe) = (Truth::random(&mut rng), Truth::random(&mut rng));
        let mut data = RunData::default();
        for (of, truth, kind) in [(AGENT, &agent, NodeKind::Agent), (PROBE, &probe, NodeKind::GpuProbe)] {
            let hello =
                v1::Hello { node_kind: kind as i32, name: format!("node-{of}"), ..Default::default() };
            let exchanges = exchanges(truth, path, SECONDS, &mut rng);
            data.nodes.insert(of, Node { hello, exchanges, ..Node::default() });
        }
        let mut world = Self { rng, agent, probe, wall, data, truth: Vec::new() };
        world.read_walls();
        world
    }

    fn raw(truth: &Truth, at: i64) -> i64 {
        at + truth.at(at).round() as i64
    }

    /// The server's wall clock at a moment of the coordinator's.
    fn unix(&self, at: i64) -> i64 {
        let moved = match self.wall {
            WallFault::None => 0,
            WallFault::Slew(rate) => at / S * rate + at % S * rate / S,
            WallFault::Step(from, by) => {
                if at >= from {
                    by
                } else {
                    0
                }
            }
        };
        // It runs at the true rate, as a disciplined clock does; the raw one does not.
        EPOCH + at + moved
    }

    fn read_walls(&mut self) {
        let read = |at: i64| v1::WallClock {
            raw_ns: Self::raw(&self.probe, at),
            unix_ns: self.unix(at),
            width_ns: 80,
        };
        let wall_clocks = (0..(SECONDS + 1) * 10).map(|i| read(S + i * 100 * MS)).collect();
        let batch = v1::Batch { wall_clocks, ..Default::default() };
        self.data.nodes.get_mut(&PROBE).unwrap().batches.push(batch);
    }

    /// A request sent at a moment of the coordinator's clock.
    fn request(&mut self, n: usize, at: i64) -> (v1::RequestRecord, v1::ServerSpan) {
        let mut draw = |most: i64| self.rng.i64(0..most);
        let parts = [
            draw(200 * US),
            draw(500 * US),
            draw(50 * US),
            30 * US + draw(400 * US),
            draw(3 * MS),
            draw(300 * MS),
            draw(30 * MS),
            draw(400 * MS),
            draw(2 * MS),
            30 * US + draw(400 * US),
            draw(80 * US),
            draw(200 * US),
        ];
        let mut stamps = vec![at];
        parts.iter().for_each(|part| stamps.push(stamps[stamps.len() - 1] + part));
        let agent = |i: usize| Self::raw(&self.agent, stamps[i]);
        let id = format!("w-0-0-{n}");
        let first = stamps[7] + 200 * US;
        let record = v1::RequestRecord {
            request: n as u64,
            phase: Phase::Measured as i32,
            intended_raw_ns: agent(0),
            issued_raw_ns: Some(agent(1)),
            connected_raw_ns: Some(agent(2)),
            sent_raw_ns: Some(agent(3)),
            first_token_raw_ns: Some(Self::raw(&self.agent, first)),
            // The token that ended it had no text.
            last_token_raw_ns: Some(agent(8)),
            last_chunk_raw_ns: Some(agent(11)),
            last_chunk_wait_ns: Some(agent(11) - agent(10)),
            done_raw_ns: agent(12),
            outcome: Outcome::Completed as i32,
            content_chunks: 2,
            request_id: id.clone(),
            ..Default::default()
        };
        // The front end's part before the first token stands before the queue here; its durations are true.
        let span = v1::ServerSpan {
            trace_id: TraceContext::of(&id).trace_id.to_be_bytes().to_vec(),
            span_id: (n as u64 + 1).to_be_bytes().to_vec(),
            name: "llm_request".to_owned(),
            request_id: format!("chatcmpl-{id}"),
            start_unix_ns: self.unix(stamps[4]) as u64,
            end_unix_ns: self.unix(stamps[9]) as u64,
            queue_ns: Some(parts[5]),
            prefill_ns: Some(parts[6]),
            decode_ns: Some(parts[7]),
            ttft_ns: Some(parts[4] + parts[5] + parts[6]),
            service: "vllm 1".to_owned(),
            ..Default::default()
        };
        self.truth.push((id, parts));
        (record, span)
    }

    pub(super) fn serve(&mut self, requests: usize) {
        let pairs: Vec<_> = (0..requests)
            .map(|n| {
                let at = 2 * S + n as i64 * (SECONDS - 3) * S / requests as i64;
                self.request(n, at)
            })
            .collect();
        let (records, server_spans) = pairs.into_iter().unzip();
        let mut push = |of, batch| self.data.nodes.get_mut(&of).unwrap().batches.push(batch);
        push(AGENT, v1::Batch { records, ..Default::default() });
        push(PROBE, v1::Batch { server_spans, ..Default::default() });
    }

    /// As a level has it: what was matched, and its figures.
    pub(super) fn gathered(&self) -> (Matched, LevelInside) {
        let (index, timeline) = (Index::of(&self.data), Timeline::of(&self.data));
        let mut gather = Gather::default();
        for record in self.data.nodes[&AGENT].batches.iter().flat_map(|batch| &batch.records) {
            let counts = record.phase == Phase::Measured as i32;
            gather.add(&index, &timeline, AGENT, record, counts);
        }
        (gather.matched, gather.figures(&index).unwrap())
    }

    pub(super) fn joined(&self) -> Vec<(&[i64; 12], Join)> {
        let (index, timeline) = (Index::of(&self.data), Timeline::of(&self.data));
        let records = self.data.nodes[&AGENT].batches.iter().flat_map(|batch| &batch.records);
        records
            .zip(&self.truth)
            .map(|(record, (id, parts))| {
                assert_eq!(*id, record.request_id);
                (parts, join(&index, &timeline, AGENT, record).unwrap())
            })
            .collect()
    }
}

/// What a part may be off: between clocks their bound, else what the fastest of these clocks gains on the true time.
fn allowed(part: Part, truth: i64, join: &Join) -> i64 {
    let drift = truth / 1_000 * 500 / 1_000 + 10;
    match part {
        Part::NetworkUp | Part::NetworkDown => join.bound_ns.unwrap() + drift,
        // Its length is that of the span, whose two stamps are off like any others, less durations that are true.
        Part::FrontOut => 2 * join.bound_ns.unwrap() + drift,
        _ => drift,
    }
}

fn check(world: &World, what: &str) -> i64 {
    let joined = world.joined();
    let mut worst = 0;
    for (truth, join) in &joined {
        let whole: i64 = truth.iter().sum();
        for (i, part) in Part::ALL.into_iter().enumerate() {
            let (told, allowed) = (join.parts[i].unwrap(), allowed(part, truth[i], join));
            // What the span's length gains by drift over the whole answer is its rest's.
            let allowed = if part == Part::FrontOut { allowed + whole / 2_000 } else { allowed };
            assert!(
                (told - truth[i]).abs() <= allowed,
                "{what}: {part:?} {told}, truly {}, ±{allowed}",
                truth[i]
            );
        }
        let sum: i64 = join.parts.iter().map(|part| part.unwrap()).sum();
        let e2e = whole + whole / 2_000;
        assert!((sum - whole).abs() <= e2e - whole + 10, "{what}: all parts are the whole: {sum}, {whole}");
        assert_eq!(
            (join.impossible, join.unplaced, join.source),
            (0, false, Source::Spans),
            "{what}: {join:?}"
        );
        worst = worst.max(join.bound_ns.unwrap());
    }
    worst
}

#[test]
fn every_part_is_within_its_bound_whatever_the_clocks_and_the_paths() {
    for path in PATHS {
        for seed in 0..2 {
            for wall in [WallFault::None, WallFault::Slew(400_000)] {
                let mut world = World::new(seed, path, wall);
                world.serve(150);
                check(&world, &format!("{path:?} {seed} {wall:?}"));
            }
        }
    }
}

#[test]
fn a_step_of_the_servers_wall_clock_misplaces_nothing() {
    let at = 15 * S + 33 * MS;
    for by in [3 * S, -3 * S, 40 * MS, -40 * MS, 3600 * S, -3600 * S] {
        let mut world = World::new(7, Path::Asymmetric, WallFault::Step(at, by));
        world.serve(300);
        let joined = world.joined();
        let placed: Vec<_> = joined.iter().filter(|(_, join)| !join.unplaced).collect();
        assert!(placed.len() >= 290, "{by}: {} of 300 have a place", placed.len());
        for (truth, join) in placed {
            let bound = join.bound_ns.unwrap();
            let up = join.parts[Part::NetworkUp as usize].unwrap();
            assert!((up - truth[3]).abs() <= bound + 10, "{by}: up {up}, truly {}, ±{bound}", truth[3]);
            let down = join.parts[Part::NetworkDown as usize].unwrap();
            assert!((down - truth[9]).abs() <= bound + 10, "{by}: down {down}, truly {}, ±{bound}", truth[9]);
            assert_eq!(join.impossible, 0, "{by}: {join:?}");
        }
        let steps = Index::of(&world.data).steps(&Timeline::of(&world.data));
        assert_eq!(steps.len(), 1, "{by}: {steps:?}");
        assert!((steps[0].1 - by).abs() < 100_000, "{by}: {steps:?}");
    }
}

/// A server whose host's wall clock is not the probe's: what comes out is impossible, shown and counted.
#[test]
fn a_wrong_wall_clock_shows_as_impossible_parts() {
    for off in [5 * MS, -5 * MS] {
        let mut world = World::new(3, Path::Idle, WallFault::None);
        world.serve(60);
        let spans =
            world.data.nodes.get_mut(&PROBE).unwrap().batches.iter_mut().flat_map(|b| &mut b.server_spans);
        for span in spans {
            span.start_unix_ns = span.start_unix_ns.wrapping_add_signed(off);
            span.end_unix_ns = span.end_unix_ns.wrapping_add_signed(off);
        }
        let part = if off > 0 { Part::NetworkDown } else { Part::NetworkUp };
        for (truth, join) in world.joined() {
            assert_eq!(join.impossible, 1 << part as u32, "{off}");
            let told = join.parts[part as usize].unwrap();
            assert!(
                (told - truth[part as usize] + off.abs()).abs() <= join.bound_ns.unwrap() + 10,
                "not clipped"
            );
        }
    }
}

#[test]
fn spans_join_by_trace_or_by_request_and_repeats_are_one() {
    let mut world = World::new(5, Path::Quick, WallFault::None);
    world.serve(4);
    let node = world.data.nodes.get_mut(&PROBE).unwrap();
    let spans = &mut node.batches.last_mut().unwrap().server_spans;
    // A proxy began a trace of its own; a completion's id is numbered; an exporter tried again; one is of nobody's.
    spans[0].trace_id = vec![7; 16];
    (spans[1].trace_id, spans[1].request_id) = (Vec::new(), format!("cmpl-{}-0", "w-0-0-1"));
    let again = spans[2].clone();
    let mut strange = spans[3].clone();
    (strange.trace_id, strange.request_id) = (vec![9; 16], "chatcmpl-other".to_owned());
    spans.extend([again, strange]);
    // Start-up spans are of no request.
    spans.push(v1::ServerSpan {
        name: "Load weights".to_owned(),
        trace_id: vec![3; 16],
        start_unix_ns: 5,
        ..Default::default()
    });
    let index = Index::of(&world.data);
    assert_eq!(index.spans, 6, "the repeat is none");
    assert_eq!(world.joined().len(), 4);
    assert_eq!(world.gathered().0, Matched { spans: 4, told_twice: 0 });
    // Two servers told of one request: the one that ended last answered.
    let node = world.data.nodes.get_mut(&PROBE).unwrap();
    let mut other = node.batches.last().unwrap().server_spans[2].clone();
    (other.service, other.end_unix_ns) = ("vllm 2".to_owned(), other.end_unix_ns + 1_000);
    node.batches.push(v1::Batch { server_spans: vec![other], ..Default::default() });
    let index = Index::of(&world.data);
    assert_eq!(world.gathered().0, Matched { spans: 5, told_twice: 1 });
    let join = world.joined()[2].1;
    assert_eq!(index.server_name(join.server.unwrap()), "node-9 vllm 2");
}

#[test]
fn stamps_of_a_file_tell_what_spans_tell() {
    let mut world = World::new(8, Path::Jitter, WallFault::None);
    world.serve(50);
    let node = world.data.nodes.get_mut(&PROBE).unwrap();
    let spans = std::mem::take(&mut node.batches.last_mut().unwrap().server_spans);
    let line = |span: &v1::ServerSpan| {
        let after = |ns: i64| Some(span.start_unix_ns.wrapping_add_signed(ns));
        let [queue, prefill, decode, ttft] =
            [span.queue_ns, span.prefill_ns, span.decode_ns, span.ttft_ns].map(Option::unwrap);
        v1::ServerStamps {
            request_id: span.request_id.trim_start_matches("chatcmpl-").to_owned(),
            enqueue_unix_ns: after(0),
            dequeue_unix_ns: after(queue),
            infer_start_unix_ns: after(ttft - prefill),
            first_token_unix_ns: after(ttft),
            last_token_unix_ns: after(ttft + decode),
            read_raw_ns: 0,
        }
    };
    node.batches.last_mut().unwrap().server_stamps = spans.iter().map(line).collect();
    for (truth, join) in world.joined() {
        assert_eq!(join.source, Source::Stamps);
        for part in [Part::FrontIn, Part::Queue, Part::Prefill, Part::Decode] {
            let (told, truth) = (join.parts[part as usize].unwrap(), truth[part as usize]);
            assert!((told - truth).abs() <= 10, "{part:?}: {told}, truly {truth}");
        }
        // The server's end is its last token: what its front end did afterwards is on the way down.
        let down = join.parts[Part::NetworkDown as usize].unwrap();
        assert!(
            (down - truth[8] - truth[9]).abs() <= join.bound_ns.unwrap() + truth.iter().sum::<i64>() / 2_000
        );
    }
}

#[test]
fn a_reply_with_durations_is_cut_by_them() {
    let mut world = World::new(2, Path::Quick, WallFault::None);
    world.serve(10);
    world.data.nodes.get_mut(&PROBE).unwrap().batches.clear();
    let truths = world.truth.clone();
    let records = &mut world.data.nodes.get_mut(&AGENT).unwrap().batches[0].records;
    for (record, (_, truth)) in records.iter_mut().zip(&truths) {
        (record.server_prefill_ns, record.server_decode_ns) = (Some(truth[6]), Some(truth[7]));
    }
    for (truth, join) in world.joined() {
        assert_eq!((join.source, join.server, join.bound_ns), (Source::Reply, None, None));
        let queue = join.parts[Part::Queue as usize].unwrap();
        // The ways and the front end are in it: they cannot be told apart.
        let less = truth[3] + truth[4] + truth[5];
        assert!(
            (less..less + MS).contains(&(queue + less / 2_000)) || (queue - less).abs() < MS,
            "{queue} {less}"
        );
        let sum: i64 = join.parts.iter().flatten().sum();
        let whole: i64 = truth.iter().sum();
        assert!((sum - whole).abs() <= whole / 2_000, "{sum} {whole}");
        assert_eq!(join.parts[Part::NetworkUp as usize], None, "absent is no 0");
    }
}

#[test]
fn what_a_server_does_not_tell_is_absent_and_no_other_part() {
    let mut world = World::new(4, Path::Quick, WallFault::None);
    world.serve(2);
    let node = world.data.nodes.get_mut(&PROBE).unwrap();
    let spans = &mut node.batches.last_mut().unwrap().server_spans;
    (spans[0].ttft_ns, spans[0].prefill_ns) = (None, None);
    spans[1].decode_ns = None;
    let joined = world.joined();
    let told = |n: usize, part: Part| joined[n].1.parts[part as usize];
    assert!(told(0, Part::Queue).is_some() && told(0, Part::Decode).is_some());
    assert_eq!((told(0, Part::FrontIn), told(0, Part::Prefill), told(0, Part::FrontOut)), (None, None, None));
    assert!(told(1, Part::FrontIn).is_some());
    assert_eq!((told(1, Part::Decode), told(1, Part::FrontOut), joined[1].1.front_ns()), (None, None, None));
}

/// An exporter that dials from another address may be on another host: each way is known only to within both.
#[test]
fn stamps_from_elsewhere_are_no_more_exact_than_their_request_allows() {
    for off in [0, 5 * MS, -5 * MS] {
        let mut world = World::new(6, Path::Idle, WallFault::None);
        world.serve(30);
        let spans =
            world.data.nodes.get_mut(&PROBE).unwrap().batches.iter_mut().flat_map(|b| &mut b.server_spans);
        for span in spans {
            span.from_elsewhere = true;
            span.start_unix_ns = span.start_unix_ns.wrapping_add_signed(off);
            span.end_unix_ns = span.end_unix_ns.wrapping_add_signed(off);
        }
        for (truth, join) in world.joined() {
            let up = join.parts[Part::NetworkUp as usize].unwrap();
            assert!((up - truth[3]).abs() <= join.bound_ns.unwrap() + 10, "{off}: {up}, truly {}", truth[3]);
            assert_eq!(join.impossible, 0, "{off}");
            assert!(join.arrival.unwrap().bound_ns >= off.abs() - MS, "{off}: {join:?}");
        }
        assert_eq!(Index::of(&world.data).from_elsewhere, 30);
    }
}

/// What a step left without a place is told as such; nothing is made of the difference of its stamps.
#[test]
fn a_request_that_a_step_left_without_a_place_has_no_length() {
    let mut world = World::new(7, Path::Idle, WallFault::Step(15 * S + 33 * MS, 2 * S));
    world.serve(10);
    let node = world.data.nodes.get_mut(&PROBE).unwrap();
    // What the wall clock never showed.
    node.batches.last_mut().unwrap().server_spans[0].start_unix_ns = (EPOCH + 16 * S) as u64;
    let join = world.joined()[0].1;
    assert!(join.unplaced && join.impossible == 0, "{join:?}");
    let absent = [Part::NetworkUp, Part::FrontOut, Part::NetworkDown].map(|part| join.parts[part as usize]);
    assert_eq!(absent, [None; 3]);
    assert!(join.parts[Part::FrontIn as usize].is_some() && join.parts[Part::Queue as usize].is_some());
    assert_eq!(world.gathered().1.unplaced, 1);
}
