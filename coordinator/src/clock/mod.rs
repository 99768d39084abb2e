//! From ping exchanges to one timeline with a guaranteed error bar. Pure: reads no clock, does no I/O.

/// One answered ping: `t0`, `t3` on the coordinator's raw clock, `t1`, `t2` on the node's, ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Ping written.
    pub t0: i64,
    /// Ping read by the node.
    pub t1: i64,
    /// Pong written by the node.
    pub t2: i64,
    /// Pong read.
    pub t3: i64,
}
