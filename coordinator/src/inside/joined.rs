//! Requests one by one with the server's side beside the client's.

use std::io;

use tailcliff_proto::v1;

use super::{Parts, Source};
use crate::clock::Aligned;
use crate::merge::timeline::Timeline;
use crate::stored::{Incarnation, RunData};

/// A request whose server side is known.
#[derive(Clone, Debug)]
pub struct Joined<'a> {
    /// Who sent it, by which clock the record's stamps are, and its name.
    pub of: Incarnation,
    /// See above.
    pub agent: &'a str,
    /// The client's side.
    pub record: &'a v1::RequestRecord,
    /// What told the server's.
    pub source: Source,
    /// Probe and service: which server answered.
    pub server: String,
    /// How far apart the two clocks may be, ns.
    pub bound_ns: Option<i64>,
    /// Where its time went.
    pub parts: Parts,
    /// Bit i: the i-th of [`super::Part::ALL`] is below 0 by more than the bound.
    pub impossible: u32,
    /// The server's own stamps on the coordinator's clock: the request's arrival …
    pub arrival: Option<Aligned>,
    /// … its first token …
    pub first_token: Option<Aligned>,
    /// … and its end.
    pub end: Option<Aligned>,
    /// Tokens of prompt and answer by the server's count.
    pub tokens: (Option<u64>, Option<u64>),
}

/// Every joined request, by agent, in the order of its records.
///
/// # Errors
/// The first of `write`.
pub fn each_joined(
    _data: &RunData,
    _timeline: &Timeline,
    _write: impl FnMut(&Joined<'_>) -> io::Result<()>,
) -> io::Result<()> {
    Ok(())
}
