//! The part of Perfetto's trace format that is written here: tracks, slices, instants and counters. Messages and tags are
//! those of protos/perfetto/trace/trace_packet.proto and its track_event/ (google/perfetto); a trace is its packets, one
//! after the other. Names are interned, so that a slice takes about 20 bytes.

use std::collections::BTreeMap;
use std::io::{self, Write};

use prost::Message;

/// `Trace.packet`, length-delimited.
const PACKET_KEY: u8 = 0x0A;
/// All packets are of one sequence, to which interned names belong.
const SEQUENCE: u32 = 1;
const STATE_CLEARED: u32 = 1;
const NEEDS_STATE: u32 = 2;
const EXPLICIT_ORDER: i32 = 3;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Packet {
    #[prost(uint64, optional, tag = "8")]
    pub(super) timestamp: Option<u64>,
    #[prost(uint32, optional, tag = "10")]
    pub(super) trusted_packet_sequence_id: Option<u32>,
    #[prost(message, optional, tag = "11")]
    pub(super) track_event: Option<TrackEvent>,
    #[prost(message, optional, tag = "12")]
    pub(super) interned_data: Option<InternedData>,
    #[prost(uint32, optional, tag = "13")]
    pub(super) sequence_flags: Option<u32>,
    #[prost(message, optional, tag = "60")]
    pub(super) track_descriptor: Option<TrackDescriptor>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TrackDescriptor {
    #[prost(uint64, optional, tag = "1")]
    pub(super) uuid: Option<u64>,
    #[prost(string, optional, tag = "2")]
    pub(super) name: Option<String>,
    #[prost(message, optional, tag = "3")]
    pub(super) process: Option<ProcessDescriptor>,
    #[prost(uint64, optional, tag = "5")]
    pub(super) parent_uuid: Option<u64>,
    #[prost(message, optional, tag = "8")]
    pub(super) counter: Option<CounterDescriptor>,
    #[prost(int32, optional, tag = "11")]
    pub(super) child_ordering: Option<i32>,
    #[prost(int32, optional, tag = "12")]
    pub(super) sibling_order_rank: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ProcessDescriptor {
    #[prost(int32, optional, tag = "1")]
    pub(super) pid: Option<i32>,
    #[prost(string, optional, tag = "6")]
    pub(super) process_name: Option<String>,
    #[prost(string, repeated, tag = "8")]
    pub(super) process_labels: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CounterDescriptor {
    #[prost(string, optional, tag = "6")]
    pub(super) unit_name: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TrackEvent {
    #[prost(message, repeated, tag = "4")]
    pub(super) debug_annotations: Vec<DebugAnnotation>,
    #[prost(enumeration = "Type", optional, tag = "9")]
    pub(super) r#type: Option<i32>,
    #[prost(uint64, optional, tag = "10")]
    pub(super) name_iid: Option<u64>,
    #[prost(uint64, optional, tag = "11")]
    pub(super) track_uuid: Option<u64>,
    #[prost(double, optional, tag = "44")]
    pub(super) double_counter_value: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Type {
    Unspecified = 0,
    SliceBegin = 1,
    SliceEnd = 2,
    Instant = 3,
    Counter = 4,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DebugAnnotation {
    #[prost(uint64, optional, tag = "1")]
    pub(super) name_iid: Option<u64>,
    #[prost(bool, optional, tag = "2")]
    pub(super) bool_value: Option<bool>,
    #[prost(int64, optional, tag = "4")]
    pub(super) int_value: Option<i64>,
    #[prost(double, optional, tag = "5")]
    pub(super) double_value: Option<f64>,
    #[prost(string, optional, tag = "6")]
    pub(super) string_value: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct InternedData {
    #[prost(message, repeated, tag = "2")]
    pub(super) event_names: Vec<Name>,
    #[prost(message, repeated, tag = "3")]
    pub(super) debug_annotation_names: Vec<Name>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Name {
    #[prost(uint64, optional, tag = "1")]
    pub(super) iid: Option<u64>,
    #[prost(string, optional, tag = "2")]
    pub(super) name: Option<String>,
}

/// A value beside an event.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Arg {
    Int(i64),
    Number(f64),
    Flag(bool),
    Text(String),
}

impl Arg {
    pub(super) fn count(n: impl Into<u64>) -> Self {
        Self::Int(i64::try_from(n.into()).unwrap_or(i64::MAX))
    }

    pub(super) fn ms(ns: i64) -> Self {
        Self::Number(ns as f64 / 1e6)
    }

    pub(super) fn text(words: impl Into<String>) -> Self {
        Self::Text(words.into())
    }
}

/// Values beside an event; those that are not known are left out.
pub(super) type Args = Vec<(&'static str, Arg)>;

/// A track's name for its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Track(u64);

/// Writes a trace. Times are ns since the run's start, and not negative.
pub(super) struct Writer<W> {
    out: W,
    tracks: u64,
    names: BTreeMap<String, u64>,
    args: BTreeMap<&'static str, u64>,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(out: W) -> io::Result<Self> {
        let mut new =
            Self { out, tracks: 0, names: BTreeMap::new(), args: BTreeMap::new(), buffer: Vec::new() };
        new.put(Packet { sequence_flags: Some(STATE_CLEARED), ..Packet::default() })?;
        Ok(new)
    }

    /// A process, which is a group of tracks to whoever looks; `labels` stand beside its name.
    pub(super) fn process(&mut self, name: &str, labels: Vec<String>) -> io::Result<Track> {
        let pid = i32::try_from(self.tracks + 1).ok();
        let process = ProcessDescriptor { pid, process_name: Some(name.to_owned()), process_labels: labels };
        self.describe(TrackDescriptor {
            process: Some(process),
            child_ordering: Some(EXPLICIT_ORDER),
            ..TrackDescriptor::default()
        })
    }

    /// A row of slices within a process, the lower ranks above.
    pub(super) fn track(&mut self, parent: Track, name: &str, rank: i32) -> io::Result<Track> {
        self.describe(TrackDescriptor {
            name: Some(name.to_owned()),
            parent_uuid: Some(parent.0),
            sibling_order_rank: Some(rank),
            ..TrackDescriptor::default()
        })
    }

    /// A curve within a process.
    pub(super) fn curve(&mut self, parent: Track, name: &str, unit: &str, rank: i32) -> io::Result<Track> {
        self.describe(TrackDescriptor {
            name: Some(name.to_owned()),
            parent_uuid: Some(parent.0),
            counter: Some(CounterDescriptor { unit_name: Some(unit.to_owned()) }),
            sibling_order_rank: Some(rank),
            ..TrackDescriptor::default()
        })
    }

    /// A slice begins.
    pub(super) fn begin(&mut self, track: Track, at_ns: u64, name: &str, args: Args) -> io::Result<()> {
        self.event(track, at_ns, Type::SliceBegin, Some(name), args, None)
    }

    /// The slice of a track that began last ends.
    pub(super) fn end(&mut self, track: Track, at_ns: u64) -> io::Result<()> {
        self.event(track, at_ns, Type::SliceEnd, None, Vec::new(), None)
    }

    /// A whole slice.
    pub(super) fn slice(&mut self, track: Track, (from, to): (u64, u64), name: &str) -> io::Result<()> {
        self.begin(track, from, name, Vec::new())?;
        self.end(track, to)
    }

    /// A moment.
    pub(super) fn instant(&mut self, track: Track, at_ns: u64, name: &str, args: Args) -> io::Result<()> {
        self.event(track, at_ns, Type::Instant, Some(name), args, None)
    }

    /// A curve's value from here on.
    pub(super) fn value(&mut self, curve: Track, at_ns: u64, value: f64) -> io::Result<()> {
        self.event(curve, at_ns, Type::Counter, None, Vec::new(), Some(value))
    }

    fn describe(&mut self, descriptor: TrackDescriptor) -> io::Result<Track> {
        self.tracks += 1;
        let track_descriptor = Some(TrackDescriptor { uuid: Some(self.tracks), ..descriptor });
        self.put(Packet { track_descriptor, ..Packet::default() })?;
        Ok(Track(self.tracks))
    }

    fn event(
        &mut self,
        track: Track,
        at_ns: u64,
        kind: Type,
        name: Option<&str>,
        args: Args,
        value: Option<f64>,
    ) -> io::Result<()> {
        let mut fresh = InternedData::default();
        let name_iid = name.map(|name| self.intern_name(name, &mut fresh));
        let debug_annotations =
            args.into_iter().map(|(key, arg)| self.annotate(key, arg, &mut fresh)).collect();
        let track_event = TrackEvent {
            debug_annotations,
            r#type: Some(kind as i32),
            name_iid,
            track_uuid: Some(track.0),
            double_counter_value: value,
        };
        self.put(Packet {
            timestamp: Some(at_ns),
            track_event: Some(track_event),
            interned_data: Some(fresh).filter(|fresh| *fresh != InternedData::default()),
            sequence_flags: Some(NEEDS_STATE),
            ..Packet::default()
        })
    }

    fn intern_name(&mut self, name: &str, fresh: &mut InternedData) -> u64 {
        if let Some(&iid) = self.names.get(name) {
            return iid;
        }
        let iid = self.names.len() as u64 + 1;
        self.names.insert(name.to_owned(), iid);
        fresh.event_names.push(Name { iid: Some(iid), name: Some(name.to_owned()) });
        iid
    }

    fn annotate(&mut self, key: &'static str, arg: Arg, fresh: &mut InternedData) -> DebugAnnotation {
        let next = self.args.len() as u64 + 1;
        let iid = *self.args.entry(key).or_insert_with(|| {
            fresh.debug_annotation_names.push(Name { iid: Some(next), name: Some(key.to_owned()) });
            next
        });
        let mut annotation = DebugAnnotation { name_iid: Some(iid), ..DebugAnnotation::default() };
        match arg {
            Arg::Int(n) => annotation.int_value = Some(n),
            Arg::Number(x) => annotation.double_value = Some(x),
            Arg::Flag(is) => annotation.bool_value = Some(is),
            Arg::Text(words) => annotation.string_value = Some(words),
        }
        annotation
    }

    fn put(&mut self, packet: Packet) -> io::Result<()> {
        let packet = Packet { trusted_packet_sequence_id: Some(SEQUENCE), ..packet };
        self.buffer.clear();
        self.buffer.push(PACKET_KEY);
        packet.encode_length_delimited(&mut self.buffer).map_err(io::Error::other)?;
        self.out.write_all(&self.buffer)
    }
}
