//! Closed loop: each stream sends its next request when the one before has ended.

use std::rc::Rc;

use tailcliff_proto::clock::HostClock;

use super::{Due, Shared, Work};
use crate::body::{Prepared, Script};
use crate::schedule::{Slot, Turn};

/// A stream with the body of its first request: written before the start, as it is no part of any latency.
pub(super) struct Stream {
    number: u32,
    slot: Slot,
    script: Script,
    first: Prepared,
}

/// What each stream sends first.
pub(super) fn prepare(work: &Work, slots: Vec<(u32, Slot)>) -> Vec<Stream> {
    let first = |(number, slot): (u32, Slot)| {
        let mut script = work.bodies.script(work.level, number);
        let first = script.next(None);
        Stream { number, slot, script, first }
    };
    slots.into_iter().map(first).collect()
}

/// Serves all streams of a shard to their ends.
pub(super) async fn drive(shared: &Rc<Shared>, first: Vec<Stream>) {
    let mut streams = tokio::task::JoinSet::new();
    for stream in first {
        streams.spawn_local(serve_slot(shared.clone(), stream));
    }
    while streams.join_next().await.is_some() {}
}

/// A stream's slot from its first request to its last.
async fn serve_slot(shared: Rc<Shared>, first: Stream) {
    let work = &shared.work;
    let Stream { number: stream, mut slot, mut script, first: mut prepared } = first;
    let mut client = shared.client();
    // The first request is meant for the start itself, however late this task comes to it.
    let mut free = shared.start;
    if slot.start_ns() > 0 {
        shared.rest(slot.start_ns()).await;
        free = HostClock.now();
    }
    while !work.stop.is_cancelled() {
        let (request, phase) = match slot.turn(free - shared.start) {
            Turn::Release { request, phase } => (request, phase),
            Turn::Dry => return shared.went_dry(free),
            Turn::Over => return,
        };
        let due = Due { stream, request, phase, intended: free, held_ns: None, prepared };
        let went = shared.send(&mut client, due).await;
        // Made before the slot counts as free: writing a prompt is no part of any latency.
        prepared = script.next(went.answer.as_deref());
        let pause = slot.pause_ns(went.failed).max(prepared.delay_ns);
        if pause > 0 {
            shared.rest(pause).await;
        }
        free = HostClock.now();
    }
}
