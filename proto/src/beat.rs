//! A node's heartbeats. Each gives back when the coordinator's newest one was sent and read: messages in both directions
//! whose order shows whether the timeline holds, on another connection than the one that it was made from.

use crate::clock::HostClock;
use crate::v1;

/// What was heard since the last heartbeat.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beats {
    /// (sent on the coordinator's clock, read on ours), ns.
    heard: Option<(i64, i64)>,
}

impl Beats {
    /// The coordinator's heartbeat came.
    pub fn hear(&mut self, beat: &v1::Heartbeat) {
        self.heard = Some((beat.sent_raw_ns, HostClock.now()));
    }

    /// Our next one; what was heard is given back once.
    pub fn beat(&mut self) -> v1::Heartbeat {
        let (heard_sent_ns, heard_raw_ns) = self.heard.take().unzip();
        v1::Heartbeat { sent_raw_ns: HostClock.now(), heard_sent_ns, heard_raw_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_given_back_once() {
        let mut beats = Beats::default();
        assert_eq!(beats.beat().heard_sent_ns, None);
        for sent_raw_ns in [5, 7] {
            beats.hear(&v1::Heartbeat { sent_raw_ns, ..Default::default() });
        }
        let beat = beats.beat();
        assert_eq!(beat.heard_sent_ns, Some(7));
        assert!(beat.heard_raw_ns.unwrap() <= beat.sent_raw_ns);
        assert_eq!(beats.beat().heard_sent_ns, None);
    }
}
