//! The trace, read back by the same messages; tests/exports/check reads it by Perfetto's own.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use super::wire::{Packet, TrackDescriptor, Type};
use super::*;
use crate::merge::{merge, testrun};
use crate::report::inside_sample;

struct Read {
    tracks: BTreeMap<u64, TrackDescriptor>,
    names: BTreeMap<u64, String>,
    keys: BTreeMap<u64, String>,
    packets: Vec<Packet>,
}

fn read(mut bytes: &[u8]) -> Read {
    let mut read =
        Read { tracks: BTreeMap::new(), names: BTreeMap::new(), keys: BTreeMap::new(), packets: vec![] };
    while let Some((key, rest)) = bytes.split_first() {
        assert_eq!(*key, 0x0A);
        bytes = rest;
        let packet = Packet::decode_length_delimited(&mut bytes).unwrap();
        for (all, fresh) in packet
            .interned_data
            .iter()
            .flat_map(|d| [(true, &d.event_names), (false, &d.debug_annotation_names)])
        {
            let into = if all { &mut read.names } else { &mut read.keys };
            for name in fresh {
                assert!(into.insert(name.iid.unwrap(), name.name.clone().unwrap()).is_none());
            }
        }
        if let Some(track) = &packet.track_descriptor {
            let parent = track.parent_uuid;
            assert!(parent.is_none_or(|parent| read.tracks.contains_key(&parent)), "a parent comes first");
            assert!(read.tracks.insert(track.uuid.unwrap(), track.clone()).is_none());
        }
        read.packets.push(packet);
    }
    read
}

impl Read {
    fn path(&self, uuid: u64) -> String {
        let track = &self.tracks[&uuid];
        let name = track.name.clone().or_else(|| track.process.clone()?.process_name).unwrap();
        track.parent_uuid.map_or(name.clone(), |parent| format!("{}/{name}", self.path(parent)))
    }

    /// (track, name, from, to) of every slice, checked to nest; instants have no length.
    fn slices(&self) -> Vec<(String, String, u64, u64)> {
        let (mut open, mut all) = (BTreeMap::<u64, Vec<(String, u64)>>::new(), Vec::new());
        let mut last = BTreeMap::<u64, u64>::new();
        for packet in &self.packets {
            let Some(event) = &packet.track_event else { continue };
            let (track, at) = (event.track_uuid.unwrap(), packet.timestamp.unwrap());
            let name = || self.names[&event.name_iid.unwrap()].clone();
            match event.r#type() {
                Type::SliceBegin => open.entry(track).or_default().push((name(), at)),
                Type::SliceEnd => {
                    let (name, from) = open.get_mut(&track).unwrap().pop().unwrap();
                    assert!(from <= at, "{name}");
                    all.push((self.path(track), name, from, at));
                }
                Type::Instant => {
                    all.push((self.path(track), name(), at, at));
                    continue;
                }
                Type::Counter => assert!(event.double_counter_value.unwrap().is_finite()),
                Type::Unspecified => panic!("an event without a type"),
            }
            let before = last.insert(track, at).unwrap_or(0);
            assert!(before <= at, "{} goes back from {before} to {at}", self.path(track));
        }
        assert!(open.values().all(Vec::is_empty), "every slice ends");
        all
    }

    fn args(&self, slice: &str) -> BTreeMap<String, String> {
        let event = self
            .packets
            .iter()
            .filter_map(|p| p.track_event.as_ref())
            .find(|e| e.r#type() == Type::SliceBegin && self.names[&e.name_iid.unwrap()] == slice);
        let said = |a: &wire::DebugAnnotation| {
            let number = a.int_value.map(|n| n.to_string()).or(a.double_value.map(|x| x.to_string()));
            number.or(a.bool_value.map(|b| b.to_string())).or(a.string_value.clone()).unwrap()
        };
        let all = event.unwrap().debug_annotations.iter();
        all.map(|a| (self.keys[&a.name_iid.unwrap()].clone(), said(a))).collect()
    }
}

fn written(data: &RunData, most: u64) -> Read {
    let (merged, mut out) = (merge(data), Vec::new());
    write_most(&mut out, data, &merged, most, |_| Ok(())).unwrap();
    let mut again = Vec::new();
    write_most(&mut again, data, &merge(data), most, |_| Ok(())).unwrap();
    assert_eq!(out, again, "the same run gives the same bytes");
    read(&out)
}

fn sample() -> RunData {
    let mut data = testrun::run(21, 3, &[1, 2, 4]);
    testrun::add_probe(&mut data);
    data
}

#[test]
fn agents_requests_stages_levels_and_gpus_are_on_one_timeline() {
    let (data, all) = (sample(), written(&sample(), MOST));
    let slices = all.slices();
    let released: u64 = merge(&data).levels.iter().map(|l| l.all_phases.released()).sum();
    let requests: Vec<_> = slices.iter().filter(|s| s.1.ends_with("request")).collect();
    assert_eq!(requests.len() as u64, released);
    let agents: BTreeSet<&str> = requests.iter().map(|s| s.0.split('/').next().unwrap()).collect();
    assert_eq!(agents, BTreeSet::from(["agent agent-1", "agent agent-2", "agent agent-3"]));
    // Every request of level 0 lies within its slice.
    let level = slices.iter().find(|s| s.1 == "level 0: concurrency 1").unwrap();
    let inside = |s: &&&(String, String, u64, u64)| (level.2..=level.3).contains(&s.2);
    let first: u64 = merge(&data).levels[0].all_phases.released();
    assert_eq!(requests.iter().filter(inside).count() as u64, first);
    assert!(requests.iter().filter(inside).all(|s| s.3 <= level.3));
    for stage in ["warm-up", "window", "prefill", "decode"] {
        assert!(slices.iter().any(|s| s.1 == stage), "{stage}");
    }
    let curves: BTreeSet<String> =
        all.tracks.iter().filter(|t| t.1.counter.is_some()).map(|t| all.path(*t.0)).collect();
    for curve in
        ["agent agent-1/in flight", "agent agent-1/content chunks", "probe probe/GPU 0 power (SIMULATED)"]
    {
        assert!(curves.contains(curve), "{curve} in {curves:?}");
    }
    let labels =
        |t: &TrackDescriptor| t.process.as_ref().map(|p| p.process_labels.concat()).unwrap_or_default();
    assert!(
        all.tracks.values().any(|t| labels(t).starts_with("clock ±20")),
        "the clock's bound stands beside its agent"
    );
    assert!(all.args("request").contains_key("clock_bound_us"));
}

#[test]
fn stages_add_up_to_their_request() {
    let slices = written(&sample(), MOST).slices();
    let (mut stages, mut n) = (0, 0);
    for (_, name, from, to) in slices.iter().filter(|s| s.0.contains("/requests ")) {
        if name == "request" {
            assert_eq!(stages, to - from);
            (stages, n) = (0, n + 1);
        } else if name.ends_with("request") {
            stages = 0;
        } else if !name.starts_with("stall") {
            stages += to - from;
        }
    }
    assert!(n > 100);
}

#[test]
fn of_a_large_run_it_shows_the_slowest_and_a_sample_and_says_so() {
    let data = sample();
    let all = written(&data, 100);
    let told = all.args("run");
    let count = |key: &str| told[key].parse::<u64>().unwrap();
    let slices = all.slices();
    let shown = slices.iter().filter(|s| s.1.ends_with("request")).count() as u64;
    assert_eq!(shown, count("requests_shown"));
    // 3 levels × the 50 slowest, and about 100 others.
    assert!((150..350).contains(&shown) && shown < count("requests"), "{shown} of {}", count("requests"));
    assert!(told["requests_shown_which"].contains("50 slowest"));
    let slowest = merge(&data).levels[0].latencies.e2e.histogram.min_max_ns().unwrap().1;
    let longest = slices.iter().filter(|s| s.1 == "request").map(|s| s.3 - s.2).max().unwrap();
    assert!(longest * 1001 / 1000 >= slowest, "{longest} {slowest}");
}

#[test]
fn a_stall_is_a_moment_within_its_request_with_its_verdict() {
    let mut data = testrun::run(21, 1, &[1]);
    let record = data.nodes.values_mut().flat_map(|n| &mut n.batches).flat_map(|b| &mut b.records);
    let late = record.filter(|r| r.outcome == 1).nth(40).unwrap();
    // Its last chunk came 5 s late.
    let mut arrivals = tailcliff_proto::arrivals::Arrivals::default();
    for (i, arrival) in
        tailcliff_proto::arrivals::decode(&late.arrivals.clone()).map(Result::unwrap).enumerate()
    {
        let more = if i == 6 { 5_000_000_000 } else { 0 };
        arrivals.push(arrival.gap_ns + more, arrival.chars);
    }
    late.arrivals = arrivals.into_bytes();
    late.last_token_raw_ns = late.last_token_raw_ns.map(|at| at + 5_000_000_000);
    late.done_raw_ns += 5_000_000_000;
    let all = written(&data, 5);
    let slices = all.slices();
    let stall = slices.iter().find(|s| s.1.starts_with("stall: ")).unwrap();
    assert!(slices.iter().any(|s| s.0 == stall.0 && s.1 == "request" && (s.2..=s.3).contains(&stall.2)));
}

#[test]
fn what_is_broken_or_empty_is_no_panic() {
    assert!(written(&RunData::default(), MOST).slices().len() == 1);
    let mut data = sample();
    for batch in data.nodes.values_mut().flat_map(|n| &mut n.batches) {
        for (i, record) in batch.records.iter_mut().enumerate() {
            match i % 4 {
                0 => record.done_raw_ns = i64::MIN,
                1 => record.intended_raw_ns = i64::MAX,
                2 => record.sent_raw_ns = Some(i64::MAX),
                _ => record.stream = u32::MAX,
            }
        }
    }
    written(&data, MOST).slices();
    // No clock: nothing can be placed, and that is said.
    data.nodes.values_mut().for_each(|node| node.exchanges.clear());
    let all = written(&data, MOST);
    assert_ne!(all.args("run")["requests_without_a_clock"], "0");
}

#[test]
fn what_the_server_told_lies_beneath_the_client_s_row() {
    let data = inside_sample::run();
    let (merged, mut out) = (merge(&data), Vec::new());
    write_most(&mut out, &data, &merged, MOST, |take| {
        inside_sample::each(&data, &merged.timeline, |joined| {
            take(joined);
            Ok(())
        })
    })
    .unwrap();
    let all = read(&out);
    let slices = all.slices();
    let (mut placed, mut odd) = (Vec::new(), 0);
    inside_sample::each(&data, &merged.timeline, |joined| {
        if let (Some(arrival), Some(end)) = (joined.arrival, joined.end) {
            let since = |ns: i64| ns.saturating_sub(data.header.started_ref_ns).unsigned_abs();
            placed.push((since(arrival.ns), since(end.ns)));
            odd += usize::from(joined.impossible != 0);
        }
        Ok(())
    })
    .unwrap();
    let mut told: Vec<(u64, u64)> =
        slices.iter().filter(|s| s.1 == "in the server").map(|s| (s.2, s.3)).collect();
    placed.sort_unstable();
    told.sort_unstable();
    assert_eq!(told, placed, "each where the server's stamps are");
    assert!(told.len() > 100 && odd > 5);
    let beneath = |s: &&(String, String, u64, u64)| s.0.contains("/the server's side of requests ");
    for stage in ["front end", "queue", "prefill", "decode"] {
        assert!(slices.iter().filter(beneath).any(|s| s.1 == stage), "{stage}");
    }
    let args = all.args("in the server");
    assert!(args.contains_key("queue_ms") && args["clock_bound_us"] == "40", "{args:?}");
    // One that cannot be told as a slice is told in its arguments.
    let keys: Vec<&String> = all.keys.values().collect();
    assert!(keys.iter().any(|key| *key == "impossible"));
    let curves: BTreeSet<String> =
        all.tracks.iter().filter(|t| t.1.counter.is_some()).map(|t| all.path(*t.0)).collect();
    for curve in ["running", "waiting", "KV cache in use"] {
        assert!(
            curves.contains(&format!("server http://127.0.0.1:8000/metrics by probe probe/{curve}")),
            "{curves:?}"
        );
    }
}

#[test]
fn server_sides_that_overlap_still_nest() {
    let data = inside_sample::run();
    let (merged, mut out) = (merge(&data), Vec::new());
    write_most(&mut out, &data, &merged, MOST, |take| {
        inside_sample::each(&data, &merged.timeline, |joined| {
            let mut wrong = joined.clone();
            let late = |at: crate::clock::Aligned| crate::clock::Aligned { ns: at.ns + 10_000_000_000, ..at };
            wrong.end = wrong.end.map(late).filter(|_| joined.record.request % 3 > 0).or(wrong.arrival);
            take(&wrong);
            Ok(())
        })
    })
    .unwrap();
    assert!(read(&out).slices().iter().any(|s| s.1 == "in the server"));
}
