//! A link of limited speed that many connections share, as TCP would have it: what finds room in the link's buffer goes at
//! once in a packet of its own; what does not waits at its sender, and goes in full packets, one connection after the
//! other. Pure, in virtual time.

use std::collections::{HashMap, VecDeque};

/// Bytes of headers of a packet.
const HEADERS: u64 = 66;
/// Most payload of a packet.
const MSS: u64 = 1448;

/// What a link can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkSpeed {
    /// Bytes per second, headers included.
    pub bytes_per_s: f64,
    /// Bytes that its buffer holds.
    pub buffer_bytes: u64,
}

/// What came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// When, ns.
    pub at: i64,
    /// Whose.
    pub conn: u64,
    /// Which message of it.
    pub message: u64,
}

/// Messages of a connection that are not yet in the link's buffer.
#[derive(Debug, Default)]
struct Backlog {
    /// (bytes left to send, number) of each.
    messages: VecDeque<(u64, u64)>,
}

#[derive(Debug)]
struct Packet {
    conn: u64,
    payload: u64,
    /// Messages whose last byte is in it.
    ends: Vec<u64>,
}

/// The link.
#[derive(Debug)]
pub struct Link {
    speed: LinkSpeed,
    waiting: HashMap<u64, Backlog>,
    /// Connections with a backlog, the next to send first.
    turn: VecDeque<u64>,
    buffer: VecDeque<Packet>,
    buffered: u64,
    /// When the packet at the head is through.
    through: Option<i64>,
    sent_bytes: u64,
}

impl Link {
    /// An empty link.
    pub fn new(speed: LinkSpeed) -> Self {
        Self {
            speed,
            waiting: HashMap::new(),
            turn: VecDeque::new(),
            buffer: VecDeque::new(),
            buffered: 0,
            through: None,
            sent_bytes: 0,
        }
    }

    /// Gives it a message at `now`.
    pub fn send(&mut self, now: i64, conn: u64, message: u64, bytes: u64) {
        let backlog = self.waiting.entry(conn).or_default();
        if backlog.messages.is_empty() {
            self.turn.push_back(conn);
        }
        backlog.messages.push_back((bytes.max(1), message));
        self.fill(now);
    }

    /// When the next packet is through.
    pub fn next_event(&self) -> Option<i64> {
        self.through
    }

    /// Bytes sent so far, headers included.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Lets the packet at the head through.
    pub fn step(&mut self) -> Vec<Delivery> {
        let Some((at, packet)) = self.through.zip(self.buffer.pop_front()) else { return Vec::new() };
        self.buffered -= packet.payload + HEADERS;
        self.sent_bytes += packet.payload + HEADERS;
        self.through = None;
        self.fill(at);
        packet.ends.iter().map(|&message| Delivery { at, conn: packet.conn, message }).collect()
    }

    /// Takes packets from the senders, in turn, as long as the buffer has room.
    fn fill(&mut self, now: i64) {
        while let Some(&conn) = self.turn.front() {
            let Some(backlog) = self.waiting.get_mut(&conn) else { break };
            let ready: u64 = backlog.messages.iter().map(|(bytes, _)| *bytes).take(MSS as usize).sum();
            let payload = ready.min(MSS);
            if self.buffered + payload + HEADERS > self.speed.buffer_bytes && !self.buffer.is_empty() {
                break;
            }
            let ends = backlog.take(payload);
            self.turn.pop_front();
            if backlog.messages.is_empty() {
                self.waiting.remove(&conn);
            } else {
                self.turn.push_back(conn);
            }
            self.buffered += payload + HEADERS;
            self.buffer.push_back(Packet { conn, payload, ends });
        }
        if self.through.is_none() {
            let head = self.buffer.front().map(|packet| packet.payload + HEADERS);
            self.through = head.map(|bytes| now + (bytes as f64 / self.speed.bytes_per_s * 1e9) as i64);
        }
    }
}

impl Backlog {
    /// Takes so many bytes; gives the messages that end with them.
    fn take(&mut self, mut bytes: u64) -> Vec<u64> {
        let mut ends = Vec::new();
        while let Some((left, message)) = self.messages.front_mut() {
            if *left > bytes {
                *left -= bytes;
                break;
            }
            bytes -= *left;
            ends.push(*message);
            self.messages.pop_front();
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(link: &mut Link) -> Vec<Delivery> {
        let mut all = Vec::new();
        while link.next_event().is_some() {
            all.append(&mut link.step());
        }
        all
    }

    #[test]
    fn with_room_each_message_goes_at_once_and_alone() {
        let mut link = Link::new(LinkSpeed { bytes_per_s: 1e6, buffer_bytes: 100_000 });
        link.send(0, 1, 0, 234);
        link.send(0, 2, 0, 234);
        let all = drain(&mut link);
        assert_eq!(all.iter().map(|d| (d.at, d.conn)).collect::<Vec<_>>(), [(300_000, 1), (600_000, 2)]);
        assert_eq!(link.sent_bytes(), 600);
    }

    #[test]
    fn without_room_messages_wait_at_their_sender_and_come_together() {
        let mut link = Link::new(LinkSpeed { bytes_per_s: 1e6, buffer_bytes: 300 });
        (0..4).for_each(|message| link.send(0, 1, message, 234));
        let at: Vec<i64> = drain(&mut link).iter().map(|d| d.at).collect();
        assert_eq!(at, [300_000, 1_068_000, 1_068_000, 1_068_000], "one packet of three");
    }

    #[test]
    fn a_message_of_many_packets_ends_with_its_last_and_lets_others_in_between() {
        let mut link = Link::new(LinkSpeed { bytes_per_s: 1e6, buffer_bytes: 1 });
        link.send(0, 1, 0, 3 * MSS);
        link.send(0, 2, 0, 10);
        let all = drain(&mut link);
        assert_eq!(all.iter().map(|d| d.conn).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(all[1].at, (3 * (MSS + HEADERS) + 76) as i64 * 1_000);
    }
}
