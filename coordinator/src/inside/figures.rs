//! What is told of a request's parts, of a level and of a run.

use tailcliff_proto::v1::{ServerLatency, SpanTally};

/// Parts of a request's time, in the order in which they pass; together they are its time from intended send to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Intended send → issued: our own lateness, and what a bound on requests in flight held back.
    SendLag,
    /// Issued → connection there.
    Connect,
    /// Connection there → request written.
    Write,
    /// Written → the server's arrival stamp: the way up, and the server's HTTP before it stamps.
    NetworkUp,
    /// Arrival → first token, beyond queue and prefill: tokenising, dispatching, detokenising.
    FrontIn,
    /// Waiting for a place in the batch.
    Queue,
    /// Processing the prompt.
    Prefill,
    /// First → last token in the engine.
    Decode,
    /// First token → end of the span, beyond decode.
    FrontOut,
    /// The server's end → the last bytes in the client's socket, and the server's HTTP after its stamp.
    NetworkDown,
    /// In the socket, until they were read.
    SocketWait,
    /// Last bytes read → request over.
    Read,
}

impl Part {
    /// All, in order.
    pub const ALL: [Self; 12] = [
        Self::SendLag,
        Self::Connect,
        Self::Write,
        Self::NetworkUp,
        Self::FrontIn,
        Self::Queue,
        Self::Prefill,
        Self::Decode,
        Self::FrontOut,
        Self::NetworkDown,
        Self::SocketWait,
        Self::Read,
    ];

    /// The name in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SendLag => "send_lag",
            Self::Connect => "connect",
            Self::Write => "write",
            Self::NetworkUp => "network_up",
            Self::FrontIn => "front_in",
            Self::Queue => "queue",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::FrontOut => "front_out",
            Self::NetworkDown => "network_down",
            Self::SocketWait => "socket_wait",
            Self::Read => "read",
        }
    }

    /// The name for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::SendLag => "client: send lag",
            Self::Connect => "client: connect",
            Self::Write => "client: write",
            Self::NetworkUp => "network up",
            Self::FrontIn => "server: front end, before the first token",
            Self::Queue => "server: queue",
            Self::Prefill => "server: prefill",
            Self::Decode => "server: decode",
            Self::FrontOut => "server: front end, after it",
            Self::NetworkDown => "network down",
            Self::SocketWait => "client: in the socket",
            Self::Read => "client: read",
        }
    }
}

/// A value for each part, ns; `None` where nothing tells.
pub type Parts = [Option<i64>; Part::ALL.len()];

/// How a part is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Both ends by one clock.
    Measured,
    /// Between two clocks: to within the bound of both conversions.
    BetweenClocks,
    /// What the other parts leave over.
    Inferred,
}

impl How {
    /// The name in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::BetweenClocks => "between clocks",
            Self::Inferred => "inferred",
        }
    }
}

/// What told the server's part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Spans over OTLP.
    Spans,
    /// A file of stamps.
    Stamps,
    /// The reply itself: durations without stamps.
    Reply,
}

impl Source {
    /// The name in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Spans => "spans",
            Self::Stamps => "stamps",
            Self::Reply => "reply",
        }
    }
}

/// One part over the joined requests of a level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PartFigures {
    /// Which.
    pub part: Part,
    /// Requests that it is known of.
    pub count: u64,
    /// Mean, ns; may be below 0.
    pub mean_ns: f64,
    /// 95th percentile, exact (nearest rank), ns.
    pub p95_ns: i64,
    /// Requests of which it is below 0 by more than their bound: impossible, and in mean and percentile all the same.
    pub impossible: u64,
    /// How it is known.
    pub how: How,
}

/// The waterfall of a level: completed requests of the measured phase.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LevelInside {
    /// Requests whose server side is known …
    pub joined: u64,
    /// … and those of which nothing came.
    pub unmatched: u64,
    /// (source, requests) of the joined.
    pub sources: Vec<(Source, u64)>,
    /// (probe and service, requests) of those joined by spans or stamps: which server answered.
    pub servers: Vec<(String, u64)>,
    /// In the order of [`Part::ALL`]; parts that nothing tells are left out.
    pub parts: Vec<PartFigures>,
    /// Mean of the whole front end, before and after the first token, ns.
    pub front_ns: Option<f64>,
    /// Its 95th percentile, ns.
    pub front_p95_ns: Option<i64>,
    /// Share of the server's own time that it is.
    pub front_share: Option<f64>,
    /// Requests with any impossible part.
    pub impossible: u64,
    /// Requests of whose server stamps one has no place on the timeline: a step of a wall clock, or no reading of it near.
    pub unplaced: u64,
    /// Median bound of the parts between clocks, ns.
    pub bound_ns: Option<i64>,
    /// The worst, ns.
    pub worst_bound_ns: Option<i64>,
    /// First token made by the server → in the client's socket, mean, ns.
    pub delivery_ns: Option<f64>,
}

/// A latency as the server's own histogram has it, beside ours.
#[derive(Clone, Debug, PartialEq)]
pub struct Cross {
    /// Which.
    pub of: ServerLatency,
    /// Requests (of ITL: gaps) in the server's histogram between the two scrapes.
    pub server_count: u64,
    /// Of the client in the same time.
    pub client_count: u64,
    /// Means, ns; of the client `None` where it has no such latency, such as the queue.
    pub server_mean_ns: f64,
    /// See above.
    pub client_mean_ns: Option<f64>,
    /// Client less server: network and client; `None` where the two did not count the same requests.
    pub difference_ns: Option<f64>,
    /// The server's 95th percentile lies in this bucket, ns; open above where it lies beyond the last.
    pub server_p95_ns: Option<(f64, Option<f64>)>,
    /// What must be said of it.
    pub words: String,
}

/// What the server's metrics say of a level's window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerLevel {
    /// Scrapes within the window, and those of them that failed.
    pub scrapes: u64,
    /// See above.
    pub failed: u64,
    /// Median time of a scrape, ns: how exact its moment is.
    pub took_ns: Option<i64>,
    /// (mean, maximum) of the scrapes.
    pub running: Option<(f64, f64)>,
    /// See above.
    pub waiting: Option<(f64, f64)>,
    /// Share, 0 to 1.
    pub kv_usage: Option<(f64, f64)>,
    /// Over the window: put out of the batch.
    pub preemptions: Option<f64>,
    /// Share of the prompt tokens looked for that the prefix cache had.
    pub cache_hit: Option<f64>,
    /// Share of the drafted tokens that were taken.
    pub spec_accepted: Option<f64>,
    /// What these totals are of: from the scrape before the window to the one after it, ns.
    pub counted_ns: Option<i64>,
    /// By `--server-metric`: series, mean, maximum.
    pub named: Vec<(String, f64, f64)>,
    /// The server's histograms against ours.
    pub cross: Vec<Cross>,
    /// What must be said of it, such as an endpoint gone in mid-run, or totals that began anew.
    pub notes: Vec<String>,
}

/// What is told of the run as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Spans and lines of stamps, and those of no request of this run: start-up, other clients, the preflight.
    pub spans: u64,
    /// See above.
    pub unmatched_spans: u64,
    /// Requests that more than one server's spans, or two spans, tell of.
    pub told_twice: u64,
    /// By probe: what became of what was sent to it.
    pub tallies: Vec<(String, SpanTally)>,
    /// Steps of a probe's wall clock: (probe, by how much, ns, when on the coordinator's clock, ns).
    pub wall_steps: Vec<(String, i64, i64)>,
    /// What a reader must know, in words.
    pub warnings: Vec<String>,
}
