//! Deliberate faults of the client, whose truth is known, so that a verdict on a stall can be held against it: a request
//! whose reply is not looked at for a while, and an event loop that stands still. Which request and which loop follows from
//! numbers alone, so that the same plan has the same faults.

use std::time::Duration;

use tailcliff_proto::controls::MAX_CONTROL_NS;
use tailcliff_proto::v1;

use crate::schedule::{Load, Stop};

/// Of one level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Controls {
    pause: Option<Pause>,
    block_ns: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pause {
    ns: i64,
    every: u32,
}

/// When, counted from the level's start, and how long a loop stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) at_ns: i64,
    pub(crate) length: Duration,
}

/// Why an order's controls cannot be carried out.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ControlsError {
    #[error("a control of {0} ns is not between 0 and {MAX_CONTROL_NS}")]
    Length(i64),
    #[error("a control pause is for one request in so many, at least one in 1")]
    Every,
    #[error(
        "a control pause needs HTTP/1.1: over HTTP/2 the connection is read whether a request looks or not"
    )]
    Http2,
    #[error("a control block needs a level that ends by time and is twice as long")]
    NoMiddle,
}

impl Controls {
    /// What an order says; nothing is none.
    ///
    /// # Errors
    /// When it cannot be carried out in such a level.
    pub(crate) fn parse(
        wire: Option<&v1::Controls>,
        load: &Load,
        http2: bool,
    ) -> Result<Controls, ControlsError> {
        let Some(&v1::Controls { pause_ns, every, block_ns }) = wire else { return Ok(Controls::default()) };
        let is_absurd = |ns: &i64| !(0..=MAX_CONTROL_NS).contains(ns);
        if let Some(ns) = [pause_ns, block_ns].into_iter().find(is_absurd) {
            return Err(ControlsError::Length(ns));
        }
        let pause = (pause_ns > 0).then_some(Pause { ns: pause_ns, every });
        if pause.is_some() && every == 0 {
            return Err(ControlsError::Every);
        }
        if pause.is_some() && http2 {
            return Err(ControlsError::Http2);
        }
        if block_ns > 0 && !matches!(load.stop, Stop::Duration(ns) if ns / 2 >= block_ns) {
            return Err(ControlsError::NoMiddle);
        }
        Ok(Controls { pause, block_ns })
    }

    /// Of each run of so many requests of a stream one is paused, which of them is drawn by their numbers: with a fixed
    /// place, it would always be the same shard's, or that of all streams at once. Every try of it is.
    pub(crate) fn pause(&self, stream: u32, request: u64) -> Option<Duration> {
        let Pause { ns, every } = self.pause?;
        let (run, place) = (request / u64::from(every), request % u64::from(every));
        let chosen = mix(run ^ u64::from(stream) << 32) % u64::from(every);
        (place == chosen).then(|| Duration::from_nanos(ns.unsigned_abs()))
    }

    /// The block of a shard, if it is the one whose turn it is in this level.
    pub(crate) fn block(&self, level: u32, shard: u32, shards: u32, load: &Load) -> Option<Block> {
        let Stop::Duration(window_ns) = load.stop else { return None };
        let is_it = self.block_ns > 0 && level.checked_rem(shards) == Some(shard);
        let at_ns = load.warmup_ns.saturating_add(window_ns / 2);
        is_it.then(|| Block { at_ns, length: Duration::from_nanos(self.block_ns.unsigned_abs()) })
    }
}

/// Neighbours fall far apart (the finaliser of splitmix64).
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    fn load(stop: v1::load_share::Stop) -> Load {
        let share =
            v1::LoadShare { concurrency: 4, warmup_ns: 500 * MS, stop: Some(stop), ..Default::default() };
        Load::parse(&share, 0).unwrap()
    }

    fn timed(ns: i64) -> Load {
        load(v1::load_share::Stop::DurationNs(ns))
    }

    fn parse(pause_ns: i64, every: u32, block_ns: i64) -> Result<Controls, ControlsError> {
        let wire = v1::Controls { pause_ns, every, block_ns };
        Controls::parse(Some(&wire), &timed(1_000 * MS), false)
    }

    #[test]
    fn one_in_each_run_of_so_many_is_paused_and_never_the_same_place_for_all() {
        let controls = parse(724 * MS, 20, 0).unwrap();
        let mut places = [0; 20];
        for stream in 0..50 {
            for run in 0..10 {
                let is_paused = |place: &u64| controls.pause(stream, run * 20 + place).is_some();
                let paused: Vec<u64> = (0..20).filter(is_paused).collect();
                assert_eq!(paused.len(), 1, "stream {stream}, run {run}");
                places[paused[0] as usize] += 1;
            }
        }
        assert!(places.iter().all(|&n| n > 5), "{places:?}");
        // Of two shards that take turns at arrivals, each has its part.
        let even = (0..2_000).filter(|&n| n % 2 == 0 && controls.pause(0, n).is_some()).count();
        assert!((30..70).contains(&even), "{even}");
        assert_eq!(controls.pause(0, 0), parse(724 * MS, 20, 0).unwrap().pause(0, 0));
        assert!((0..9).all(|n| parse(MS, 1, 0).unwrap().pause(7, n) == Some(Duration::from_millis(1))));
        assert!((0..99).all(|n| Controls::default().pause(0, n).is_none()));
    }

    #[test]
    fn one_loop_stands_still_in_the_middle_of_the_measured_window() {
        let controls = parse(0, 0, 500 * MS).unwrap();
        let load = timed(1_000 * MS);
        let blocks: Vec<_> = (0..3).map(|shard| controls.block(4, shard, 3, &load)).collect();
        let block = Block { at_ns: 1_000 * MS, length: Duration::from_millis(500) };
        assert_eq!(blocks, [None, Some(block), None]);
        assert_eq!(Controls::default().block(0, 0, 1, &load), None);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(parse(-1, 1, 0), Err(ControlsError::Length(-1)));
        assert_eq!(parse(0, 0, i64::MAX), Err(ControlsError::Length(i64::MAX)));
        assert_eq!(parse(1, 0, 0), Err(ControlsError::Every));
        assert_eq!(parse(0, 0, 501 * MS), Err(ControlsError::NoMiddle));
        let wire = v1::Controls { pause_ns: 1, every: 1, block_ns: 1 };
        let by_number = load(v1::load_share::Stop::Requests(10));
        assert_eq!(Controls::parse(Some(&wire), &by_number, false), Err(ControlsError::NoMiddle));
        assert_eq!(Controls::parse(Some(&wire), &timed(10), true), Err(ControlsError::Http2));
        assert_eq!(Controls::parse(None, &by_number, true), Ok(Controls::default()));
    }
}
