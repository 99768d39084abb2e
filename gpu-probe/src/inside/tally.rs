//! What became of spans and stamps, counted in one place and told as totals: a tally that is lost heals with the next.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tailcliff_proto::v1;

use super::Sink;

const EVERY: Duration = Duration::from_secs(1);

/// The totals so far; a handle.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally(Arc<Mutex<v1::SpanTally>>);

impl Tally {
    /// The totals, to be raised; not held across a wait.
    pub(super) fn totals(&self) -> MutexGuard<'_, v1::SpanTally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the totals while `others` count, once a second if they have changed, and when they are done.
pub(super) async fn told_beside(others: impl Future<Output = ()>, sink: &Sink) {
    let mut told = v1::SpanTally::default();
    let mut others = std::pin::pin!(others);
    let mut beat = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            () = &mut others => break,
            _ = beat.tick() => tell(sink, &mut told),
        }
    }
    tell(sink, &mut told);
    let totals = *sink.tally.totals();
    if totals != told {
        let lost = totals.without_room - told.without_room;
        sink.tell(format!(
            "the last counts of spans and stamps found no room to be kept, nor did {lost} of these since the ones before: \
             in all {} spans received, {} lines of stamps, {} without room",
            totals.received, totals.lines, totals.without_room
        ));
    }
}

/// One that finds no room is told a second later.
fn tell(sink: &Sink, told: &mut v1::SpanTally) {
    let totals = *sink.tally.totals();
    if totals == *told {
        return;
    }
    if sink.takes(v1::Batch { span_tallies: vec![totals], ..Default::default() }) {
        *told = totals;
    }
}
