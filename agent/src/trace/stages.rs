//! One completed request taken apart. Pure: stamps in, durations out.
//!
//! The stamps are walked in order and each is held between the one before it and the end, so that client, network and
//! server always add up to the request's E2E; a stamp that had to be moved is counted as impossible.

use tailcliff_proto::clock::RawNs;
use tailcliff_proto::v1::{RequestRecord, TraceStage as Stage};

use crate::timeline::{tpot_ns, ttft_ns};

/// Stages by their number on the wire, of which 0 is none.
pub(crate) const STAGES: usize = 15;

/// What a shard hands over of one request: no more than the copy of a few words.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stamps {
    intended: RawNs,
    issued: Option<RawNs>,
    connected: Option<RawNs>,
    sent: Option<RawNs>,
    headers: Option<RawNs>,
    first_chunk: Option<RawNs>,
    last_chunk: Option<RawNs>,
    done: RawNs,
    reused: bool,
    encode_ns: Option<i64>,
    decode_ns: Option<i64>,
    final_decode_ns: Option<i64>,
    socket_wait_ns: Option<i64>,
    ttft_ns: Option<i64>,
    tpot_ns: Option<i64>,
}

/// Durations of one request, ns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts {
    /// By the number of the stage; `None` where it was not measured.
    pub(crate) stages: [Option<i64>; STAGES],
    /// Our own doing and waiting.
    pub(crate) client_ns: i64,
    /// Making a connection.
    pub(crate) network_ns: i64,
    /// From the send to the last chunk, less what is ours of it.
    pub(crate) server_ns: i64,
    /// Waiting inside our own client: part of `client_ns`.
    pub(crate) backpressure_ns: i64,
    /// Stamps out of order.
    pub(crate) impossible: u64,
}

impl Stamps {
    /// Those of a record.
    pub(crate) fn of(record: &RequestRecord) -> Stamps {
        let signed = |ns: Option<u64>| ns.and_then(|ns| i64::try_from(ns).ok());
        Stamps {
            intended: record.intended_raw_ns,
            issued: record.issued_raw_ns,
            connected: record.connected_raw_ns,
            sent: record.sent_raw_ns,
            headers: record.headers_raw_ns,
            first_chunk: record.first_chunk_raw_ns,
            last_chunk: record.last_chunk_raw_ns,
            done: record.done_raw_ns,
            reused: record.reused_connection,
            encode_ns: record.encode_ns,
            decode_ns: record.decode_ns,
            final_decode_ns: record.final_decode_ns,
            socket_wait_ns: record.socket_wait_sum_ns,
            ttft_ns: signed(ttft_ns(record)),
            tpot_ns: signed(tpot_ns(record)),
        }
    }

    /// Takes it apart.
    ///
    /// Of the time between the send and the last chunk, what bytes lay in the socket and what reading them took are the
    /// client's. The two can overlap where bytes came while we were reading: then the doubt goes against the client, as
    /// far as that time holds.
    pub(crate) fn parts(&self) -> Parts {
        let mut walk = Walk { at: self.intended, end: self.done.max(self.intended), impossible: 0 };
        walk.impossible += u64::from(self.done < self.intended);
        let queue = walk.to(self.issued);
        let acquire = walk.to(self.connected);
        let write = walk.to(self.sent);
        let sent = walk.at;
        let headers = walk.to(self.headers);
        let first_chunk = walk.to(self.first_chunk);
        let stream = walk.to(self.last_chunk);
        let received = walk.end - sent;

        let encode = self.encode_ns.map(|ns| ns.clamp(0, write.unwrap_or(0)));
        let socket_wait = self.socket_wait_ns.map(|ns| ns.clamp(0, received));
        let room = received - socket_wait.unwrap_or(0);
        let decode = self.decode_ns.map(|ns| ns.clamp(0, room));
        let read_ns = socket_wait.unwrap_or(0) + decode.unwrap_or(0);

        let (waited, connect) = if self.reused { (acquire, None) } else { (None, acquire) };
        let backpressure_ns = queue.unwrap_or(0) + waited.unwrap_or(0);
        let mut parts = Parts {
            client_ns: backpressure_ns + write.unwrap_or(0) + read_ns,
            network_ns: connect.unwrap_or(0),
            server_ns: received - read_ns,
            backpressure_ns,
            impossible: walk.impossible,
            ..Parts::default()
        };
        let all = [
            (Stage::Queue, queue),
            (Stage::Acquire, waited),
            (Stage::Connect, connect),
            (Stage::Write, write),
            (Stage::Headers, headers),
            (Stage::FirstChunk, first_chunk),
            (Stage::Stream, stream),
            // The request is over when its last read comes back: what we make of that one is no part of it.
            (Stage::Finish, self.final_decode_ns),
            (Stage::E2e, Some(walk.end - self.intended)),
            (Stage::Encode, encode),
            (Stage::SocketWait, socket_wait),
            (Stage::Decode, decode),
            (Stage::Ttft, self.ttft_ns),
            (Stage::Tpot, self.tpot_ns),
        ];
        all.into_iter().for_each(|(stage, ns)| parts.stages[stage as usize] = ns);
        parts
    }
}

/// From stamp to stamp, never back and never past the end.
struct Walk {
    at: RawNs,
    end: RawNs,
    impossible: u64,
}

impl Walk {
    fn to(&mut self, stamp: Option<RawNs>) -> Option<i64> {
        let stamp = stamp?;
        let held = stamp.clamp(self.at, self.end);
        self.impossible += u64::from(held != stamp);
        let ns = held - self.at;
        self.at = held;
        Some(ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const E2E: usize = Stage::E2e as usize;

    fn stamps() -> Stamps {
        Stamps {
            intended: 1_000,
            issued: Some(1_010),
            connected: Some(1_030),
            sent: Some(1_060),
            headers: Some(1_160),
            first_chunk: Some(1_260),
            last_chunk: Some(2_260),
            done: 2_300,
            reused: true,
            encode_ns: Some(20),
            decode_ns: Some(140),
            final_decode_ns: Some(40),
            socket_wait_ns: Some(300),
            ttft_ns: Some(260),
            tpot_ns: None,
        }
    }

    #[test]
    fn a_request_is_taken_apart_where_its_stamps_are() {
        let parts = stamps().parts();
        let of = |stage: Stage| parts.stages[stage as usize];
        let lifecycle = [
            Stage::Queue,
            Stage::Acquire,
            Stage::Write,
            Stage::Headers,
            Stage::FirstChunk,
            Stage::Stream,
            Stage::Finish,
        ];
        assert_eq!(lifecycle.map(|s| of(s).unwrap()), [10, 20, 30, 100, 100, 1_000, 40]);
        assert_eq!((of(Stage::Connect), of(Stage::E2e)), (None, Some(1_300)));
        assert_eq!(
            (of(Stage::SocketWait), of(Stage::Decode), of(Stage::Encode)),
            (Some(300), Some(140), Some(20))
        );
        assert_eq!(parts.client_ns, 10 + 20 + 30 + 300 + 140);
        assert_eq!((parts.server_ns, parts.network_ns, parts.backpressure_ns), (800, 0, 30));
        assert_eq!(parts.impossible, 0);
    }

    #[test]
    fn a_new_connection_is_the_networks_and_no_waiting_of_ours() {
        let parts = Stamps { reused: false, ..stamps() }.parts();
        assert_eq!(parts.stages[Stage::Connect as usize], Some(20));
        assert_eq!(parts.stages[Stage::Acquire as usize], None);
        assert_eq!((parts.network_ns, parts.backpressure_ns), (20, 10));
    }

    #[test]
    fn what_was_not_measured_is_absent_and_not_zero() {
        let bare = Stamps {
            encode_ns: None,
            decode_ns: None,
            final_decode_ns: None,
            socket_wait_ns: None,
            last_chunk: None,
            ..stamps()
        };
        let parts = bare.parts();
        for stage in
            [Stage::Encode, Stage::Decode, Stage::SocketWait, Stage::Stream, Stage::Finish, Stage::Tpot]
        {
            assert_eq!(parts.stages[stage as usize], None, "{stage:?}");
        }
        assert_eq!((parts.client_ns, parts.server_ns), (60, 1_240));
    }

    #[test]
    fn a_stamp_before_the_one_before_it_is_shown_as_zero_and_counted() {
        let parts = Stamps { headers: Some(1_040), ..stamps() }.parts();
        assert_eq!(parts.stages[Stage::Headers as usize], Some(0));
        assert_eq!(parts.stages[Stage::FirstChunk as usize], Some(200));
        assert_eq!(parts.impossible, 1);
    }

    fn stamp() -> impl Strategy<Value = Option<i64>> {
        proptest::option::of(-100i64..2_000)
    }

    proptest! {
        #[test]
        fn client_network_and_server_always_partition_e2e(
            (intended, done) in (-100i64..2_000, -100i64..2_000),
            chain in (stamp(), stamp(), stamp(), stamp(), stamp(), stamp()),
            (encode_ns, decode_ns, socket_wait_ns) in (stamp(), stamp(), stamp()),
            reused: bool,
        ) {
            let (issued, connected, sent, headers, first_chunk, last_chunk) = chain;
            let parts = Stamps {
                intended, issued, connected, sent, headers, first_chunk, last_chunk, done, reused,
                encode_ns, decode_ns, final_decode_ns: None, socket_wait_ns, ttft_ns: None, tpot_ns: None,
            }.parts();
            let e2e = parts.stages[E2E].unwrap();
            prop_assert_eq!(e2e, (done - intended).max(0));
            prop_assert_eq!(parts.client_ns + parts.network_ns + parts.server_ns, e2e);
            prop_assert!(parts.client_ns >= 0 && parts.network_ns >= 0 && parts.server_ns >= 0);
            prop_assert!(parts.backpressure_ns <= parts.client_ns);
            prop_assert!(parts.stages.iter().flatten().all(|&ns| ns >= 0 && ns <= e2e));
        }
    }
}
