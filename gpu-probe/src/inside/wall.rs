//! Reads the wall clock beside the raw one, so that what the server stamped by the one can be placed by the other: a wall
//! clock that steps or is slewed during the run is then seen to, to the tenth of a second.

use std::time::Duration;

use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{Inside, Sink};

const EVERY: Duration = Duration::from_millis(100);
/// Readings that go together, about a second's.
const TOGETHER: usize = 10;
/// A reading can be cut in two by whatever else this core has to do: the narrowest of so many is kept.
const TRIES: usize = 3;

/// Until `shutdown`, while there is a run.
pub(super) async fn read(inside: &Inside, sink: Sink, shutdown: CancellationToken) {
    if !inside.drains() {
        return;
    }
    let mut beat = interval(EVERY);
    // A pause of this process is no reason for a burst after it.
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pairs = Vec::with_capacity(TOGETHER);
    while shutdown.run_until_cancelled(beat.tick()).await.is_some() {
        if sink.is_on() {
            pairs.push(pair());
        }
        if pairs.len() >= TOGETHER {
            hand_on(&sink, &mut pairs);
        }
    }
    if sink.is_on() {
        // The last spans lie before it, and not beyond the last pair.
        pairs.push(pair());
    }
    hand_on(&sink, &mut pairs);
}

fn hand_on(sink: &Sink, pairs: &mut Vec<v1::WallClock>) {
    if !pairs.is_empty() {
        let wall_clocks = std::mem::take(pairs);
        // What does not fit is counted there; the pairs around it stand in for it.
        let _lost = sink.push(v1::Batch { wall_clocks, ..Default::default() });
    }
}

/// Both clocks, read together.
fn pair() -> v1::WallClock {
    let mut best = reading();
    for _ in 1..TRIES {
        let next = reading();
        if next.width_ns < best.width_ns {
            best = next;
        }
    }
    best
}

fn reading() -> v1::WallClock {
    let before = HostClock.now();
    let unix_ns = HostClock.realtime();
    let width_ns = HostClock.now() - before;
    v1::WallClock { raw_ns: before + width_ns / 2, unix_ns, width_ns }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::super::tests::{Heard, inside_of};
    use super::*;

    #[test]
    fn a_pair_is_of_one_moment() {
        let before = HostClock.snapshot();
        let pair = pair();
        let after = HostClock.snapshot();
        assert!(pair.raw_ns >= before.raw_ns && pair.raw_ns <= after.raw_ns);
        assert!(pair.width_ns >= 0 && pair.width_ns <= after.raw_ns - before.raw_ns);
        // Of the same second at least: the two clocks count the same time.
        let apart = |unix: i64, raw: i64| (unix - before.realtime_ns) - (raw - before.raw_ns);
        assert!(apart(pair.unix_ns, pair.raw_ns).abs() < 1_000_000_000);
    }

    #[tokio::test]
    async fn pairs_are_read_while_there_is_a_run_and_spans_to_place_and_no_longer() {
        let heard = Heard::new(1 << 20);
        let stop = CancellationToken::new();
        // Without spans and stamps there is nothing to place.
        read(&Inside::default(), heard.sink.clone(), stop.clone()).await;
        let inside = inside_of(|inside| inside.stamps = Some("x".into()));
        let (sink, token) = (heard.sink.clone(), stop.clone());
        let reading = tokio::spawn(async move { read(&inside, sink, token).await });
        heard.switch.on.store(false, Relaxed);
        tokio::time::sleep(Duration::from_millis(350)).await;
        let (begin, _) = (HostClock.now(), heard.switch.on.store(true, Relaxed));
        let pairs = heard.until(|all| all.wall_clocks.len() >= TOGETHER).await.wall_clocks;
        stop.cancel();
        reading.await.unwrap();
        let all = heard.all().wall_clocks;
        assert!(all.len() > pairs.len(), "a last one");
        assert!(all.iter().all(|pair| pair.raw_ns >= begin));
        assert!(all.is_sorted_by_key(|pair| pair.raw_ns));
        let close = |two: &[v1::WallClock]| two[1].raw_ns - two[0].raw_ns > 50_000_000;
        assert!(all[..pairs.len()].windows(2).all(close), "no bursts");
    }
}
