//! One level of load in a whole world, in virtual time: clients, the way there, the engine with its GPU, the link back, and
//! a client that takes its time for each chunk. What limits it emerges from the parameters. Each token has three stamps:
//! when the engine made it, when it came to the client's socket, and when the client read it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::engine::{BadParams, Engine, Nature, Params, Request};
use crate::link::{Link, LinkSpeed};
use crate::record::GpuLevels;

/// Bytes of a reply's head.
const HEAD: u64 = 200;

/// Everything that may be the limit.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The engine.
    pub params: Params,
    /// Its further limits.
    pub nature: Nature,
    /// The link from it; `None` for one without limits.
    pub link: Option<LinkSpeed>,
    /// Bytes of a chunk with one token in it.
    pub chunk_bytes: u64,
    /// Half a round trip, ns.
    pub one_way_ns: i64,
    /// What the client takes for each chunk it reads, one after the other, ns.
    pub client_ns: i64,
    /// Shortest and longest prompt, tokens; drawn evenly.
    pub prompt_tokens: (u64, u64),
    /// Shortest and longest answer, tokens; drawn evenly.
    pub output_tokens: (u64, u64),
}

/// A token on its way, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Token {
    /// The engine made it.
    pub emitted_ns: i64,
    /// It came to the client's socket.
    pub arrived_ns: i64,
    /// The client read it.
    pub read_ns: i64,
}

/// One request as it went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorldRequest {
    /// Which client's.
    pub client: usize,
    /// The client's first, on a new connection.
    pub first: bool,
    /// Sent.
    pub sent_ns: i64,
    /// When the reply's head was read.
    pub head_ns: Option<i64>,
    /// Prompt, tokens.
    pub prompt_tokens: u64,
    /// Tokens that were asked for, and come when it ends.
    pub output_tokens: u64,
    /// Tokens that the client read.
    pub tokens: Vec<Token>,
    /// The last of them was read.
    pub done: bool,
}

/// A level as it went. Times are ns from its start.
#[derive(Clone, Debug, Default)]
pub struct WorldLevel {
    /// In the order sent.
    pub requests: Vec<WorldRequest>,
    /// What the GPU shows, from when on.
    pub gpu: Vec<(i64, GpuLevels)>,
    /// (when, bytes sent by then) now and then.
    pub sent_bytes: Vec<(i64, u64)>,
    /// Time that the client was at work, ns.
    pub client_busy_ns: i64,
    /// Sequences put out of the batch for want of KV cache.
    pub preemptions: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// A request comes to the server.
    AtServer(usize),
    /// A chunk comes to the client's socket: of a request, its number; 0 is the head.
    AtClient(usize, u64),
}

/// Drives a level with `clients` in closed loop until `until_ns`; each sends its next request when it has read its last
/// token.
///
/// # Errors
/// Parameters outside their ranges.
pub fn world_level(world: &World, clients: usize, until_ns: i64, seed: u64) -> Result<WorldLevel, BadParams> {
    let engine = Engine::new(world.params.clone())?.with(world.nature);
    let mut run = Run {
        world,
        engine,
        link: world.link.map(Link::new),
        rng: fastrand::Rng::with_seed(seed),
        events: BinaryHeap::new(),
        order: 0,
        emitted: Vec::new(),
        client_free: 0,
        plain_bytes: 0,
        level: WorldLevel::default(),
    };
    (0..clients).for_each(|client| run.send(0, client, true));
    while run.next(until_ns) {}
    run.level.preemptions = run.engine.preemptions();
    Ok(run.level)
}

struct Run<'a> {
    world: &'a World,
    engine: Engine,
    link: Option<Link>,
    rng: fastrand::Rng,
    /// Of two at one moment the one that was foreseen first.
    events: BinaryHeap<Reverse<(i64, u64, What)>>,
    order: u64,
    /// When the engine made each token of each request.
    emitted: Vec<Vec<i64>>,
    client_free: i64,
    /// Over a link without limits.
    plain_bytes: u64,
    level: WorldLevel,
}

impl Run<'_> {
    /// Does what comes next; false when the level is over.
    fn next(&mut self, until_ns: i64) -> bool {
        let event = self.events.peek().map(|Reverse((at, ..))| *at);
        let (engine, link) = (self.engine.next_event(), self.link.as_ref().and_then(Link::next_event));
        let Some(now) = [event, engine, link].into_iter().flatten().min() else { return false };
        if now >= until_ns {
            return false;
        }
        if event == Some(now) {
            if let Some(Reverse((_, _, what))) = self.events.pop() {
                self.happen(now, what);
            }
        } else if link == Some(now) {
            let through = self.link.as_mut().map_or_else(Vec::new, Link::step);
            through.into_iter().for_each(|d| {
                self.foresee(d.at + self.world.one_way_ns, What::AtClient(d.conn as usize, d.message))
            });
        } else {
            self.step(now);
        }
        true
    }

    fn foresee(&mut self, at: i64, what: What) {
        self.events.push(Reverse((at, self.order, what)));
        self.order += 1;
    }

    fn step(&mut self, now: i64) {
        for x in self.engine.step() {
            let of = x.id as usize;
            self.emitted[of].push(x.at);
            self.deliver(x.at, of, x.token_index + 1, self.world.chunk_bytes);
        }
        let shown = self.world.nature.levels(self.engine.activity(), self.world.params.max_num_seqs);
        if self.level.gpu.last().is_none_or(|(_, last)| *last != shown) {
            self.level.gpu.push((now, shown));
        }
        let bytes = self.link.as_ref().map_or(self.plain_bytes, Link::sent_bytes);
        if self.level.sent_bytes.last().is_none_or(|(at, _)| now - at >= 50_000_000) {
            self.level.sent_bytes.push((now, bytes));
        }
    }

    fn deliver(&mut self, now: i64, of: usize, message: u64, bytes: u64) {
        match &mut self.link {
            Some(link) => link.send(now, of as u64, message, bytes),
            None => {
                self.plain_bytes += bytes + 66;
                self.foresee(now + self.world.one_way_ns, What::AtClient(of, message));
            }
        }
    }

    fn send(&mut self, now: i64, client: usize, first: bool) {
        let mut draw = |(low, high): (u64, u64)| self.rng.u64(low..=high);
        let (prompt_tokens, output_tokens) = (draw(self.world.prompt_tokens), draw(self.world.output_tokens));
        let of = self.level.requests.len();
        self.level.requests.push(WorldRequest {
            client,
            first,
            sent_ns: now,
            prompt_tokens,
            output_tokens,
            ..WorldRequest::default()
        });
        self.emitted.push(Vec::new());
        // A new connection takes a round trip more.
        let way = if first { 3 * self.world.one_way_ns } else { self.world.one_way_ns };
        self.foresee(now + way, What::AtServer(of));
    }

    fn happen(&mut self, now: i64, what: What) {
        match what {
            What::AtServer(of) => {
                let request = &self.level.requests[of];
                let request = Request::new(of as u64, request.prompt_tokens, request.output_tokens);
                // One that can never fit has no reply, and its client stops.
                if self.engine.arrive(now, request).is_ok() {
                    self.deliver(now, of, 0, HEAD);
                }
            }
            What::AtClient(of, message) => self.read(now, of, message),
        }
    }

    /// The client reads what has come as soon as it is done with what came before; of one connection all that has come by
    /// then, in one read.
    fn read(&mut self, arrived: i64, of: usize, message: u64) {
        let request = &mut self.level.requests[of];
        let same = request.tokens.last().map(|token| token.read_ns).filter(|read| *read >= arrived);
        let free = arrived.max(self.client_free);
        let read = same.unwrap_or(free);
        self.client_free = free + self.world.client_ns;
        self.level.client_busy_ns += self.world.client_ns;
        let Some(number) = message.checked_sub(1) else {
            request.head_ns = Some(read);
            return;
        };
        let emitted_ns = self.emitted[of][number as usize];
        request.tokens.push(Token { emitted_ns, arrived_ns: arrived, read_ns: read });
        if request.tokens.len() as u64 == request.output_tokens {
            request.done = true;
            let client = request.client;
            self.send(self.client_free, client, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::request_throughput;

    fn world() -> World {
        World {
            params: Params { max_num_seqs: 8, ..Params::default() },
            chunk_bytes: 250,
            one_way_ns: 1_000,
            prompt_tokens: (20, 60),
            output_tokens: (10, 30),
            ..World::default()
        }
    }

    const UNTIL: i64 = 60_000_000_000;

    fn rate(level: &WorldLevel) -> f64 {
        level.requests.iter().filter(|r| r.done).count() as f64 / 60.0
    }

    #[test]
    fn without_further_limits_it_is_the_engine_alone() {
        for clients in [4, 24] {
            let level = world_level(&world(), clients, UNTIL, 1).unwrap();
            // A client that hears of the end only a moment later misses the step that begins at it.
            let implied = request_throughput(&world().params, clients, 40, 20);
            assert!((0.9..1.03).contains(&(rate(&level) / implied)), "{clients}: {} {implied}", rate(&level));
        }
    }

    #[test]
    fn a_narrow_link_carries_what_it_can_and_tokens_come_late() {
        let link = LinkSpeed { bytes_per_s: 60_000.0, buffer_bytes: 20_000 };
        let level = world_level(&World { link: Some(link), ..world() }, 24, UNTIL, 1).unwrap();
        let (at, bytes) = *level.sent_bytes.last().unwrap();
        assert!((bytes as f64 / at as f64 * 1e9 / 60_000.0 - 1.0).abs() < 0.02, "it is full");
        let last = level.requests.iter().rev().find(|r| r.done).unwrap().tokens.last().copied().unwrap();
        assert!(last.arrived_ns - last.emitted_ns > 100_000_000, "{last:?}");
        assert!(rate(&level) < 15.0);
    }

    #[test]
    fn a_slow_client_reads_late_and_is_always_at_work() {
        let level = world_level(&World { client_ns: 3_000_000, ..world() }, 24, UNTIL, 1).unwrap();
        assert!(level.client_busy_ns as f64 > 0.95 * UNTIL as f64);
        let late =
            level.requests.iter().flat_map(|r| &r.tokens).filter(|t| t.read_ns - t.arrived_ns > 5_000_000);
        assert!(late.count() > 1_000);
    }
}
