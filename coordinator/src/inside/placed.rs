//! What a server told of one request, on the coordinator's clock: the shape in which stalls ask for it.

use tailcliff_proto::v1::RequestRecord;

use super::figures::Part;
use super::index::Index;
use super::join::join;
use crate::clock::Aligned;
use crate::merge::timeline::Timeline;
use crate::stored::Incarnation;

/// One request by its server's own spans, stamps or reply; what was not told is absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// When the server stamped its arrival.
    pub arrival: Option<Aligned>,
    /// When its first token was out.
    pub first_token: Option<Aligned>,
    /// When the server was done with it.
    pub end: Option<Aligned>,
    /// It waited for a place in the batch for so long, ns.
    pub queue_ns: Option<i64>,
    /// Its prompt took so long, ns.
    pub prefill_ns: Option<i64>,
    /// From its first to its last token in the engine, ns.
    pub decode_ns: Option<i64>,
    /// Which server.
    pub server: String,
}

/// What a server told of a record of agent `of`, if it told anything.
pub(crate) fn told(
    index: &Index,
    timeline: &Timeline,
    of: Incarnation,
    record: &RequestRecord,
) -> Option<Told> {
    let join = join(index, timeline, of, record)?;
    // What a reply's durations leave over is no queue of the server's own word.
    let own = |part: Part| join.parts[part as usize].filter(|_| join.server.is_some() || part != Part::Queue);
    Some(Told {
        arrival: join.arrival,
        first_token: join.first_token,
        end: join.end,
        queue_ns: own(Part::Queue),
        prefill_ns: own(Part::Prefill),
        decode_ns: own(Part::Decode),
        server: join.server.map_or_else(String::new, |server| index.server_name(server).to_owned()),
    })
}
