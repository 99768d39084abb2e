//! What a journal's entries say.

use prost::Message;
use tailcliff_proto::v1;

use crate::axis::{Load, Rate};
use crate::clock::Beat;
use crate::stored::Drive;

/// Something worth keeping; each field set is one fact, `incarnation` 0 when it is of the coordinator's own.
#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    /// Whose it is.
    #[prost(fixed64, tag = "1")]
    pub incarnation: u64,
    /// What it is.
    #[prost(oneof = "Fact", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 30, 60")]
    pub fact: Option<Fact>,
}

/// The kinds of entry.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Fact {
    /// `RunHeader` as JSON; the first entry.
    #[prost(string, tag = "2")]
    Header(String),
    /// A node joined.
    #[prost(message, tag = "3")]
    Hello(v1::Hello),
    /// Answered pings: t0, t1, t2, t3 of each in turn, ns.
    #[prost(message, tag = "4")]
    Exchanges(Exchanges),
    /// All clocks of a node.
    #[prost(message, tag = "5")]
    Snapshot(v1::ClockSnapshot),
    /// A bulk batch.
    #[prost(message, tag = "6")]
    Batch(StoredBatch),
    /// A node's preflight.
    #[prost(message, tag = "7")]
    Preflight(v1::PreflightDone),
    /// A level begins.
    #[prost(message, tag = "8")]
    Level(LevelPlanned),
    /// What one agent was asked.
    #[prost(message, tag = "9")]
    Share(LevelShare),
    /// An agent started.
    #[prost(message, tag = "10")]
    Started(v1::LevelStarted),
    /// An agent finished.
    #[prost(message, tag = "11")]
    Done(v1::LevelDone),
    /// An agent's newest counts.
    #[prost(message, tag = "12")]
    Progress(v1::LevelProgress),
    /// A level does not count.
    #[prost(message, tag = "13")]
    Voided(v1::StopReleasing),
    /// A node was lost at this time of the coordinator's clock, ns.
    #[prost(sfixed64, tag = "14")]
    Lost(i64),
    /// Pings that were not answered since the last such entry.
    #[prost(uint64, tag = "15")]
    LostPings(u64),
    /// `RunEnd` as JSON; the last entry.
    #[prost(string, tag = "16")]
    End(String),
    /// The run went on from this level, whatever it came to.
    #[prost(uint32, tag = "17")]
    Passed(u32),
    /// A level counts, but not without this note.
    #[prost(message, tag = "18")]
    Marked(v1::StopReleasing),
    /// Another coordinator took the run over.
    #[prost(message, tag = "19")]
    Resumed(Resumed),
    /// An agent's last word of a level in trace mode.
    #[prost(message, tag = "30")]
    Telemetry(v1::Telemetry),
    /// A heartbeat came.
    #[prost(message, tag = "60")]
    Beat(StoredBeat),
}

/// A heartbeat and when it came.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct StoredBeat {
    /// Sent, on the node's clock.
    #[prost(sfixed64, tag = "1")]
    pub sent_raw_ns: i64,
    /// Came, on the coordinator's.
    #[prost(sfixed64, tag = "2")]
    pub received_ref_ns: i64,
    /// The coordinator's own one that it gives back: sent, on the coordinator's clock.
    #[prost(sfixed64, optional, tag = "3")]
    pub heard_sent_ref_ns: Option<i64>,
    /// Read, on the node's.
    #[prost(sfixed64, optional, tag = "4")]
    pub heard_raw_ns: Option<i64>,
}

impl From<Beat> for StoredBeat {
    fn from(beat: Beat) -> Self {
        let (heard_sent_ref_ns, heard_raw_ns) = beat.heard.unzip();
        let Beat { sent_raw_ns, received_ref_ns, .. } = beat;
        Self { sent_raw_ns, received_ref_ns, heard_sent_ref_ns, heard_raw_ns }
    }
}

impl From<StoredBeat> for Beat {
    fn from(stored: StoredBeat) -> Self {
        let heard = stored.heard_sent_ref_ns.zip(stored.heard_raw_ns);
        Self { sent_raw_ns: stored.sent_raw_ns, received_ref_ns: stored.received_ref_ns, heard }
    }
}

/// Four stamps each, flattened.
#[derive(Clone, PartialEq, Message)]
pub struct Exchanges {
    /// t0, t1, t2, t3, t0, …
    #[prost(sfixed64, repeated, tag = "1")]
    pub stamps_ns: Vec<i64>,
}

/// A batch and when it came.
#[derive(Clone, PartialEq, Message)]
pub struct StoredBatch {
    /// As it was sent.
    #[prost(message, optional, tag = "1")]
    pub batch: Option<v1::Batch>,
    /// Coordinator's raw clock at receipt.
    #[prost(sfixed64, tag = "2")]
    pub received_ref_ns: i64,
}

/// The clocks of a coordinator that took a run over, read together.
#[derive(Clone, PartialEq, Message)]
pub struct Resumed {
    /// Its raw clock, ns.
    #[prost(sfixed64, tag = "1")]
    pub raw_ns: i64,
    /// ns since the Unix epoch, as its host believes.
    #[prost(sfixed64, tag = "2")]
    pub realtime_ns: i64,
    /// Clock domain: boot id and time namespace.
    #[prost(string, tag = "3")]
    pub boot_id: String,
    /// See `boot_id`.
    #[prost(uint64, tag = "4")]
    pub timens_inode: u64,
}

/// A level and its common start on the coordinator's clock.
#[derive(Clone, PartialEq, Message)]
pub struct LevelPlanned {
    /// Serial number within the run, as agents are told it.
    #[prost(uint32, tag = "1")]
    pub level: u32,
    /// Closed loop: streams, all agents together; 0 in open loop.
    #[prost(uint32, tag = "2")]
    pub concurrency: u32,
    /// Common start, ns.
    #[prost(sfixed64, tag = "3")]
    pub start_ref_ns: i64,
    /// Open loop: requests per second, all agents together; infinite for all at once.
    #[prost(double, optional, tag = "4")]
    pub rate_per_s: Option<f64>,
    /// Index in the plan; absent where it is `level`.
    #[prost(uint32, optional, tag = "5")]
    pub rung: Option<u32>,
    /// From 1: times that this rung was begun; 0 in journals that knew of one only.
    #[prost(uint32, tag = "6")]
    pub attempt: u32,
}

impl LevelPlanned {
    /// A level of this load.
    pub fn new(drive: Drive, load: Load, start_ref_ns: i64) -> Self {
        let (concurrency, rate) = (load.concurrency(), load.request_rate());
        Self {
            level: drive.level,
            concurrency: concurrency.unwrap_or_default(),
            start_ref_ns,
            rate_per_s: rate.map(|rate| rate.0),
            rung: Some(drive.rung),
            attempt: drive.attempt,
        }
    }

    /// Which rung of the plan it was, and the how-manieth try.
    pub fn drive(&self) -> Drive {
        Drive { level: self.level, rung: self.rung.unwrap_or(self.level), attempt: self.attempt.max(1) }
    }

    /// What it asks for.
    pub fn load(&self) -> Load {
        self.rate_per_s.map_or(Load::Streams(self.concurrency), |rate| Load::Rate(Rate(rate)))
    }
}

/// One agent's part of a level.
#[derive(Clone, PartialEq, Message)]
pub struct LevelShare {
    /// Index in the plan.
    #[prost(uint32, tag = "1")]
    pub level: u32,
    /// What it was asked.
    #[prost(message, optional, tag = "2")]
    pub share: Option<v1::LoadShare>,
}
