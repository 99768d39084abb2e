//! All that servers said of single requests, found by what names a request: the trace id that agents send, which follows from
//! the request's own id.

use std::collections::{BTreeMap, HashMap};

use tailcliff_proto::trace_context::TraceContext;
use tailcliff_proto::v1::{NodeKind, RequestRecord, ServerSpan, WallClock};

use super::told::{self, Slices, Told};
use super::wall::{Place, Wall};
use crate::clock::Aligned;
use crate::merge::tally::of_kind;
use crate::merge::timeline::Timeline;
use crate::stored::{Incarnation, RunData};

/// Servers of one probe that are kept apart; more of it are one.
const MOST_SERVERS: usize = 64;

/// Servers keep their stamps as seconds since the epoch in a double, whose steps are 2⁻²² s until 2038.
const GRAIN_NS: i64 = 239;

/// The index of a run. Some 300 bytes for each request that a server told of.
#[derive(Debug, Default)]
pub(crate) struct Index {
    told: HashMap<u128, Told>,
    servers: Vec<Server>,
    walls: BTreeMap<Incarnation, Wall>,
    /// Spans and lines of stamps that came, of whatever, each once.
    pub(crate) spans: u64,
    /// Spans that came from another host than their probe's.
    pub(crate) from_elsewhere: u64,
}

/// Who said it.
#[derive(Clone, Debug)]
struct Server {
    probe: Incarnation,
    /// Probe and service.
    name: String,
    service: String,
}

impl Index {
    /// Reads what all probes sent.
    pub(crate) fn of(data: &RunData) -> Self {
        let mut index = Self::default();
        let mut slices = HashMap::new();
        for (probe, node) in of_kind(data, NodeKind::GpuProbe) {
            let mut readings: Vec<WallClock> = Vec::new();
            for batch in node.each_batch_with_server() {
                readings.extend(&batch.wall_clocks);
                for span in &batch.server_spans {
                    let server = index.server(probe, &node.hello.name, &span.service);
                    index.span(span, server, &mut slices);
                }
                for stamps in &batch.server_stamps {
                    let server = index.server(probe, &node.hello.name, "");
                    let of_line = told::of_stamps(stamps, server);
                    index.spans += 1;
                    let is_new = of_line.is_none_or(|(key, told)| index.add(key, told));
                    index.spans -= u64::from(!is_new);
                }
            }
            index.walls.insert(probe, Wall::new(readings));
        }
        for (key, slices) in slices {
            index.add(key, slices.told());
        }
        index
    }

    fn server(&mut self, probe: Incarnation, name: &str, service: &str) -> usize {
        let known = self.servers.iter().position(|s| s.probe == probe && s.service == service);
        known.unwrap_or_else(|| {
            let mut of_probe = self.servers.iter().enumerate().filter(|(_, s)| s.probe == probe);
            // Whatever it is called, its stamps are of this probe's wall clock.
            if let Some((last, _)) = of_probe.nth(MOST_SERVERS - 1) {
                return last;
            }
            let whole = format!("{name} {service}");
            self.servers.push(Server { probe, name: whole.trim().to_owned(), service: service.to_owned() });
            self.servers.len() - 1
        })
    }

    fn span(&mut self, span: &ServerSpan, server: usize, slices: &mut HashMap<u128, Slices>) {
        self.from_elsewhere += u64::from(span.from_elsewhere);
        let Some(told) = told::of_span(span, server) else {
            self.spans += 1;
            return told::add_slice(slices, span, server);
        };
        // Under the request's own id too, where a proxy began a trace of its own.
        let new = told::keys_of_span(span).map(|key| self.add(key, told)).fold(false, |any, new| any | new);
        self.spans += u64::from(new);
    }

    /// False for what was known.
    fn add(&mut self, key: u128, told: Told) -> bool {
        match self.told.get_mut(&key) {
            None => drop(self.told.insert(key, told)),
            Some(known) if told::is_repeat(known, &told) => return false,
            Some(known) => *known = told::newer(known, &told),
        }
        true
    }

    /// Nobody said anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// What a server said of a request.
    pub(crate) fn find(&self, record: &RequestRecord) -> Option<&Told> {
        if self.told.is_empty() || record.request_id.is_empty() {
            return None;
        }
        self.told.get(&TraceContext::of(&record.request_id).trace_id)
    }

    /// Probe and service.
    pub(crate) fn server_name(&self, server: usize) -> &str {
        self.servers.get(server).map_or("", |server| server.name.as_str())
    }

    /// The probe whose wall clock a server's stamps are of.
    pub(crate) fn probe(&self, server: usize) -> Option<Incarnation> {
        Some(self.servers.get(server)?.probe)
    }

    /// Where a server's stamp may lie on its probe's raw clock.
    pub(crate) fn places(&self, server: usize, unix_ns: i64) -> Vec<Place> {
        let wall = self.probe(server).and_then(|probe| self.walls.get(&probe));
        let grained = |place: Place| Place { bound_ns: place.bound_ns.saturating_add(GRAIN_NS), ..place };
        wall.map(|wall| wall.places(unix_ns).map(grained).collect()).unwrap_or_default()
    }

    /// Steps of the probes' wall clocks: (probe, by how much, ns, when on the coordinator's clock).
    pub(crate) fn steps(&self, timeline: &Timeline) -> Vec<(Incarnation, i64, Aligned)> {
        let of = |(&probe, wall): (&Incarnation, &Wall)| {
            let placed = |(raw, by)| Some((probe, by, timeline.place(probe, raw)?));
            wall.steps().filter_map(placed).collect::<Vec<_>>()
        };
        self.walls.iter().flat_map(of).collect()
    }
}
