//! Every request whose server side is known, one by one.

use std::io;

use tailcliff_proto::v1::RequestRecord;

use super::figures::{Parts, Source};
use super::join::join;
use crate::clock::Aligned;
use crate::merge::{Merged, tally};
use crate::stored::{Incarnation, RunData};

/// A request whose server side is known.
#[derive(Clone, Debug)]
pub struct Joined<'a> {
    /// The agent that sent it; an agent that was started anew is another.
    pub of: Incarnation,
    /// Its name.
    pub agent: &'a str,
    /// As the agent told it.
    pub record: &'a RequestRecord,
    /// What told the server's side.
    pub source: Source,
    /// Probe and service; empty where the reply told it.
    pub server: String,
    /// How far the parts between two clocks may be off, ns.
    pub bound_ns: Option<i64>,
    /// Where its time went; together the time from intended send to end, where all are known.
    pub parts: Parts,
    /// Bit i: `Part::ALL[i]` is below 0 by more than can be explained.
    pub impossible: u32,
    /// The server's arrival stamp on the coordinator's clock.
    pub arrival: Option<Aligned>,
    /// Its first token.
    pub first_token: Option<Aligned>,
    /// Its end.
    pub end: Option<Aligned>,
}

/// Gives each to `write`, in the order of `requests.csv`.
///
/// # Errors
/// The first of `write`.
pub fn each_joined(
    data: &RunData,
    merged: &Merged,
    mut write: impl FnMut(&Joined<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let (index, timeline) = (&merged.index, &merged.timeline);
    for (of, node) in tally::agents(data) {
        for batch in node.each_batch() {
            for record in &batch.records {
                let Some(join) = join(index, timeline, of, record) else { continue };
                write(&Joined {
                    of,
                    agent: &node.hello.name,
                    record,
                    source: join.source,
                    server: join.server.map_or_else(String::new, |s| index.server_name(s).to_owned()),
                    bound_ns: join.bound_ns,
                    parts: join.parts,
                    impossible: join.impossible,
                    arrival: join.arrival,
                    first_token: join.first_token,
                    end: join.end,
                })?;
            }
        }
    }
    Ok(())
}
