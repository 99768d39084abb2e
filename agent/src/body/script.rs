//! A stream's requests one after another: the turns of a session in sequence, each with what was said before it, then
//! the next session.

use std::sync::Arc;

use bytes::Bytes;
use tailcliff_proto::v1;

use super::{Bodies, Place};

/// A request that is ready to be sent.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The JSON body.
    pub body: Bytes,
    /// How long its stream rests before it, ns: a session's user reads and types.
    pub delay_ns: i64,
    /// What its record says of it.
    pub about: About,
}

/// What was asked, for the record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    pub(super) label: Arc<str>,
    pub(super) entry: Option<u32>,
    pub(super) session: String,
    pub(super) turn: Option<u32>,
    pub(super) asked_tokens: Option<u32>,
    pub(super) input_len: Option<u32>,
}

impl About {
    /// Writes it into the record of the request.
    pub fn mark(&self, record: &mut v1::RequestRecord) {
        record.label = self.label.to_string();
        record.entry = self.entry;
        record.session.clone_from(&self.session);
        record.turn = self.turn;
        record.asked_tokens = self.asked_tokens;
        record.input_len = self.input_len;
    }
}

/// One stream's place in its sessions.
#[derive(Debug)]
pub struct Script {
    bodies: Arc<Bodies>,
    /// Its session is the one under way.
    place: Place,
    turn: u32,
    /// Messages so far, as JSON without the brackets.
    history: Vec<u8>,
}

impl Script {
    pub(super) fn new(bodies: Arc<Bodies>, level: u32, stream: u32) -> Self {
        Self { bodies, place: Place { level, stream, number: 0 }, turn: 0, history: Vec::new() }
    }

    /// The session that a place begins with.
    pub(super) fn at(bodies: Arc<Bodies>, level: u32, number: u64) -> Self {
        Self { place: Place { level, stream: 0, number }, ..Self::new(bodies, level, 0) }
    }

    /// The session under way has more turns.
    pub fn is_mid_session(&self) -> bool {
        self.turn > 0
    }

    /// The next request. `answer` is what the server said to the one before, where that is known; otherwise the
    /// history has the dataset's own answer, or synthetic words of the length that was asked for.
    pub fn next(&mut self, answer: Option<&str>) -> Prepared {
        if self.turn > 0 {
            self.bodies.answered(self.place, self.turn - 1, answer, &mut self.history);
        }
        let prepared = self.bodies.turn(self.place, self.turn, &mut self.history);
        self.turn += 1;
        if self.turn >= self.bodies.turns(self.place) {
            (self.place.number, self.turn) = (self.place.number + 1, 0);
            self.history.clear();
        }
        prepared
    }
}
