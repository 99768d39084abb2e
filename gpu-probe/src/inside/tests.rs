//! What the tests of the inside view have in common: a sink whose batches can be looked at.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tailcliff_proto::outbox::Outbox;
use tailcliff_proto::v1;
use tokio::sync::mpsc;

use super::{Inside, Sink};
use crate::sampler::Switch;

/// No wait in these tests is meant to take this long.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A sink that is on, and what was pushed into it.
pub(super) struct Heard {
    pub(super) sink: Sink,
    pub(super) switch: Arc<Switch>,
    pub(super) told: mpsc::Receiver<String>,
    outbox: Outbox,
}

impl Heard {
    /// With room for so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        let (outbox, switch) = (Outbox::new(1, bytes), Arc::new(Switch::default()));
        switch.on.store(true, Relaxed);
        let (say, told) = mpsc::channel(64);
        Self { sink: Sink::new(outbox.clone(), switch.clone(), say), switch, told, outbox }
    }

    /// Everything so far, as one batch.
    pub(super) fn all(&self) -> v1::Batch {
        let mut all = v1::Batch::default();
        while let Some(batch) = self.outbox.next_after(all.seq) {
            all.seq = batch.seq;
            all.server_samples.extend(batch.server_samples);
            all.server_spans.extend(batch.server_spans);
            all.server_stamps.extend(batch.server_stamps);
            all.wall_clocks.extend(batch.wall_clocks);
            all.span_tallies.extend(batch.span_tallies);
            all.server_facts.extend(batch.server_facts);
        }
        all
    }

    /// Waits until what came is as `enough` wants it.
    pub(super) async fn until(&self, enough: impl Fn(&v1::Batch) -> bool) -> v1::Batch {
        let wait = async {
            loop {
                let all = self.all();
                if enough(&all) {
                    return all;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, wait).await;
        found.unwrap_or_else(|_| panic!("what came is not enough: {:?}", self.all()))
    }
}

/// A configuration that differs from nothing by `change`.
pub(super) fn inside_of(change: impl FnOnce(&mut Inside)) -> Inside {
    let mut inside = Inside { every: Duration::from_secs(1), ..Inside::default() };
    change(&mut inside);
    inside
}

#[tokio::test]
async fn last_totals_without_room_are_told_in_words() {
    let mut heard = Heard::new(0);
    heard.sink.tally.totals().without_room = 7;
    super::tally::told_beside(async {}, &heard.sink).await;
    let told = heard.told.try_recv().unwrap();
    assert!(told.contains("found no room") && told.contains("7 without room"), "{told}");
    let mut heard = Heard::new(1 << 20);
    heard.sink.tally.totals().without_room = 7;
    super::tally::told_beside(async {}, &heard.sink).await;
    assert!(heard.told.try_recv().is_err());
}

#[tokio::test]
async fn totals_are_told_when_they_change_and_last_of_all() {
    let heard = Heard::new(1 << 20);
    let (tally, sink) = (heard.sink.tally.clone(), heard.sink.clone());
    let others = async {
        tally.totals().received = 5;
        heard.until(|all| all.span_tallies.len() == 1).await;
        // Unchanged for more than a beat: not told again.
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        tally.totals().lines = 2;
    };
    super::tally::told_beside(others, &sink).await;
    let told = heard.all().span_tallies;
    assert_eq!(told.len(), 2);
    assert_eq!((told[0].received, told[0].lines), (5, 0));
    assert_eq!((told[1].received, told[1].lines), (5, 2));
}
