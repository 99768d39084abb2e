//! The server's side: beneath each row of requests one with the server's own stages, and for each endpoint what its metrics
//! said, as curves.

use std::collections::BTreeMap;
use std::io::{self, Write};

use tailcliff_proto::v1::{NodeKind, RequestRecord, ServerSample};

use super::Clock;
use super::curves::Curve;
use super::pick::{Pick, key};
use super::requests::labels;
use super::wire::{Arg, Args, Track, Writer};
use crate::inside::{Joined, Part};
use crate::merge::record::{Try, one_try};
use crate::merge::tally::of_kind;
use crate::report::waterfall;
use crate::stored::{Incarnation, RunData};

/// What a server told of one request.
#[derive(Debug)]
pub(super) struct Side {
    /// Beginning and end by the server, and the stages within, each with its end, ns since the run's start.
    from: u64,
    to: u64,
    stages: Vec<(&'static str, u64)>,
    args: Args,
}

/// The server's sides of the requests that are shown. What has no stamps, such as a reply's durations, has no place.
#[derive(Debug, Default)]
pub(super) struct Sides(BTreeMap<Try, Side>);

impl Sides {
    pub(super) fn take(&mut self, joined: &Joined<'_>, clock: &Clock<'_>, pick: &Pick) {
        if pick.shows(key(joined.of, joined.record)) {
            let side = side(joined, clock);
            self.0.extend(side.map(|side| (one_try(joined.of, joined.record), side)));
        }
    }

    pub(super) fn of(&self, of: Incarnation, record: &RequestRecord) -> Option<&Side> {
        self.0.get(&one_try(of, record))
    }
}

fn side(joined: &Joined<'_>, clock: &Clock<'_>) -> Option<Side> {
    let (arrival, end) = (joined.arrival?.ns, joined.end?.ns);
    let part = |part: Part| joined.parts[part as usize];
    let mut ends = Vec::new();
    if let Some(first) = joined.first_token.map(|at| at.ns) {
        let prefill = first.saturating_sub(part(Part::Prefill).unwrap_or(0));
        let queue = prefill.saturating_sub(part(Part::Queue).unwrap_or(0));
        ends.extend([("front end", queue), ("queue", prefill), ("prefill", first)]);
        ends.extend(part(Part::Decode).map(|decode| ("decode", first.saturating_add(decode))));
    }
    ends.push(("front end", end));
    let stages = ends.into_iter().filter_map(|(stage, ns)| Some((stage, clock.since(ns)?))).collect();
    Some(Side { from: clock.since(arrival)?, to: clock.since(end)?, stages, args: about(joined) })
}

/// The parts as they are: slices cannot go back, and these can.
fn about(joined: &Joined<'_>) -> Args {
    let mut args = vec![
        ("request_id", Arg::text(&joined.record.request_id)),
        ("server", Arg::text(&joined.server)),
        ("source", Arg::text(joined.source.as_str())),
    ];
    args.extend(joined.bound_ns.map(|ns| ("clock_bound_us", Arg::Number(ns as f64 / 1e3))));
    let parts = waterfall::parts().into_iter().zip(joined.parts);
    args.extend(parts.filter_map(|(column, ns)| Some((column.name, Arg::ms(ns?)))));
    let impossible = waterfall::impossible_parts(joined.impossible).join("+");
    if !impossible.is_empty() {
        args.push(("impossible", Arg::text(impossible)));
    }
    args
}

/// Writes one side into its row, which is free from `free` on; returns until when it is taken. Clocks err: a slice that would
/// begin before the one before it ended begins there, and the arguments say what was told.
pub(super) fn write(trace: &mut Writer<impl Write>, row: Track, free: u64, side: &Side) -> io::Result<u64> {
    let from = side.from.max(free);
    let to = side.to.max(from);
    trace.begin(row, from, "in the server", side.args.clone())?;
    let mut at = from;
    for (stage, end) in &side.stages {
        let end = (*end).min(to);
        if end > at {
            trace.slice(row, (at, end), stage)?;
            at = end;
        }
    }
    trace.end(row, to)?;
    Ok(to)
}

/// A reading of a server: its name, its unit, and where it stands in a scrape.
type Gauge = (&'static str, &'static str, fn(&ServerSample) -> Option<f64>);

const GAUGES: [Gauge; 3] = [
    ("running", "requests", |s| s.running),
    ("waiting", "requests", |s| s.waiting),
    ("KV cache in use", "%", |s| s.kv_usage.map(|share| share * 100.0)),
];

/// Endpoints with curves at most.
const ENDPOINTS: usize = 16;

/// Every endpoint's curves.
pub(super) fn gauges(trace: &mut Writer<impl Write>, data: &RunData, clock: &Clock<'_>) -> io::Result<()> {
    for (of, node) in of_kind(data, NodeKind::GpuProbe) {
        let mut endpoints: BTreeMap<String, (Track, BTreeMap<usize, Curve>)> = BTreeMap::new();
        for batch in node.each_batch_with_server() {
            for sample in &batch.server_samples {
                let Some((at, _)) = clock.place(of, sample.raw_ns) else { continue };
                if !endpoints.contains_key(&sample.endpoint) {
                    if endpoints.len() >= ENDPOINTS {
                        continue;
                    }
                    let name = format!("server {} by probe {}", sample.endpoint, node.hello.name);
                    let process = trace.process(&name, labels(clock, of))?;
                    endpoints.insert(sample.endpoint.clone(), (process, BTreeMap::new()));
                }
                let Some((process, curves)) = endpoints.get_mut(&sample.endpoint) else { continue };
                scrape(trace, clock, (*process, curves), at, sample)?;
            }
        }
    }
    Ok(())
}

fn scrape(
    trace: &mut Writer<impl Write>,
    clock: &Clock<'_>,
    (process, curves): (Track, &mut BTreeMap<usize, Curve>),
    at: u64,
    sample: &ServerSample,
) -> io::Result<()> {
    for (i, (name, unit, read)) in GAUGES.iter().enumerate() {
        let Some(value) = read(sample).filter(|value| value.is_finite()) else { continue };
        let curve = match curves.entry(i) {
            std::collections::btree_map::Entry::Occupied(curve) => curve.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(Curve::new(trace.curve(process, name, unit, i as i32)?, clock.step_ns()))
            }
        };
        curve.point(trace, at, value)?;
    }
    Ok(())
}
