//! What a server told of one request, on the coordinator's clock: the shape in which stalls ask for it.

use crate::clock::Aligned;

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
