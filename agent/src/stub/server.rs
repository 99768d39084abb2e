//! The stub's one loop: accepts, reads requests, writes replies or their tokens when they are due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, ErrorKind, Read};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{Backlog, listen};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use tailcliff_proto::clock::{HostClock, RawNs};

use super::connection::{Connection, Current, Slots};
use super::reply::{self, Pieces};
use super::request::{Found, Request, find};
use super::truth::{Kept, Truth};
use super::{Config, Mode};

const LISTENER: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;
const END: u64 = u64::MAX - 2;
/// Connections accepted in one turn of the loop, so that tokens that are due do not wait for a flood of them.
const ACCEPTS: usize = 64;
/// One read takes at most this much.
const READ_BYTES: usize = 64 << 10;
const EVENTS: usize = 1024;

/// A token to write; the earliest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: RawNs,
    key: u64,
}

/// A stub and all it has under way.
pub(super) struct Server<'a> {
    config: &'a Config,
    listener: TcpListener,
    epoll: Epoll,
    timer: TimerFd,
    /// What the timer is set to.
    armed: Option<RawNs>,
    slots: Slots,
    due: BinaryHeap<Reverse<Due>>,
    /// The pieces made last: most requests of a load ask for the same length.
    pieces: Rc<Pieces>,
    whole: Rc<Vec<u8>>,
    scratch: Box<[u8]>,
    kept: Vec<Kept>,
    kept_bytes: usize,
    lost: u64,
    requests: u64,
    accepting: bool,
}

impl<'a> Server<'a> {
    pub(super) fn new(
        config: &'a Config,
        listener: TcpListener,
        ends: &[BorrowedFd<'_>],
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        // A thousand streams connect at once; beyond a short backlog each would wait a second for its SYN's repetition.
        listen(&listener, Backlog::MAXALLOWABLE)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        // Edge-triggered: setting it anew is all that it takes, it need not be read.
        epoll.add(timer.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, TIMER))?;
        for end in ends {
            match epoll.add(end, EpollEvent::new(EpollFlags::EPOLLIN, END)) {
                // A file has no end to wait for.
                Ok(()) | Err(Errno::EPERM) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let pieces = Rc::new(Pieces::new(config.tokens));
        Ok(Self {
            config,
            listener,
            epoll,
            timer,
            armed: None,
            slots: Slots::default(),
            due: BinaryHeap::new(),
            whole: Rc::new(whole(config.mode, &pieces)),
            pieces,
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            kept: Vec::new(),
            kept_bytes: 0,
            lost: 0,
            requests: 0,
            accepting: true,
        })
    }

    pub(super) fn run(mut self) -> io::Result<Truth> {
        let mut events = vec![EpollEvent::empty(); EVENTS];
        loop {
            let timeout = self.write_due()?;
            let ready = match self.epoll.wait(&mut events, timeout) {
                Err(Errno::EINTR) => 0,
                other => other?,
            };
            for event in &events[..ready] {
                match event.data() {
                    END => return Ok(self.finish()),
                    LISTENER => self.accept()?,
                    TIMER => self.armed = None,
                    key => self.serve(key, event.events()),
                }
            }
        }
    }

    fn finish(mut self) -> Truth {
        for connection in std::mem::take(&mut self.slots).into_connections() {
            self.keep(connection.current.map(|current| current.kept));
        }
        let served = self.kept.into_iter().map(Kept::into_served).collect();
        Truth { served, lost: self.lost }
    }

    fn keep(&mut self, kept: Option<Kept>) {
        let Some(kept) = kept else { return };
        self.kept_bytes += kept.bytes();
        if self.kept_bytes > self.config.keep_bytes {
            self.lost += 1;
        } else {
            self.kept.push(kept);
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        for _ in 0..ACCEPTS {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    // One that is gone already shows at its first read.
                    let _gone = stream.set_nodelay(true);
                    stream.set_nonblocking(true)?;
                    let key = self.slots.add(stream);
                    if let Some(connection) = self.slots.get(key) {
                        self.epoll.add(&connection.stream, EpollEvent::new(EpollFlags::EPOLLIN, key))?;
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e)
                    if [Errno::EMFILE, Errno::ENFILE]
                        .map(|n| n as i32)
                        .contains(&e.raw_os_error().unwrap_or(0)) =>
                {
                    // Asked again when a connection ends: until then it would only be told the same, over and over.
                    self.epoll.delete(&self.listener)?;
                    self.accepting = false;
                    break;
                }
                Err(e) if e.kind() == ErrorKind::ConnectionAborted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn serve(&mut self, key: u64, ready: EpollFlags) {
        let Some(mut connection) = self.slots.take(key) else { return };
        let mut alive = !ready.contains(EpollFlags::EPOLLOUT) || connection.flush(&self.epoll, key).is_ok();
        if alive && ready != EpollFlags::EPOLLOUT {
            alive = self.read(&mut connection, key);
        }
        if alive {
            self.slots.put_back(key, connection);
        } else {
            self.drop_connection(key, connection);
        }
    }

    fn drop_connection(&mut self, key: u64, connection: Connection) {
        self.slots.free(key);
        self.keep(connection.current.map(|current| current.kept));
        if !self.accepting {
            self.accepting =
                self.epoll.add(&self.listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER)).is_ok();
        }
    }

    /// Reads what is there and answers the requests in it; false when the connection is over.
    fn read(&mut self, connection: &mut Connection, key: u64) -> bool {
        let mut scratch = std::mem::take(&mut self.scratch);
        let alive = match (&connection.stream).read(&mut scratch) {
            Ok(0) => false,
            Ok(n) => {
                let at = HostClock.now();
                // What is left would be told again: the socket is level-triggered.
                self.take_in(connection, key, at, &scratch[..n])
            }
            Err(e) => [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&e.kind()),
        };
        self.scratch = scratch;
        alive
    }

    fn take_in(&mut self, connection: &mut Connection, key: u64, at: RawNs, bytes: &[u8]) -> bool {
        // As a rule a read holds one whole request, which is never copied.
        if connection.input.is_empty() && connection.current.is_none() {
            match self.answer_all(connection, key, at, bytes) {
                Some(used) => connection.input.extend_from_slice(&bytes[used..]),
                None => return false,
            }
            return true;
        }
        connection.input.extend_from_slice(bytes);
        self.answer_input(connection, key, at)
    }

    fn answer_input(&mut self, connection: &mut Connection, key: u64, at: RawNs) -> bool {
        let mut input = std::mem::take(&mut connection.input);
        let used = self.answer_all(connection, key, at, &input);
        input.drain(..used.unwrap_or(0));
        connection.input = input;
        // One that sends on while it is being answered is not read without end.
        used.is_some() && (connection.current.is_none() || connection.input.len() <= READ_BYTES)
    }

    /// Answers the whole requests in `bytes`, one at a time; how many bytes they took, `None` when the connection is over.
    fn answer_all(
        &mut self,
        connection: &mut Connection,
        key: u64,
        at: RawNs,
        bytes: &[u8],
    ) -> Option<usize> {
        let mut used = 0;
        while connection.current.is_none() && used < bytes.len() {
            match find(&bytes[used..]) {
                Found::Whole(request) => {
                    used += request.length;
                    self.answer(connection, key, at, &request).ok()?;
                    if request.close && connection.current.is_none() {
                        return None;
                    }
                }
                Found::Part => break,
                Found::Bad => {
                    let _gone = connection.send(&self.epoll, key, reply::REFUSED);
                    return None;
                }
            }
        }
        Some(used)
    }

    fn answer(
        &mut self,
        connection: &mut Connection,
        key: u64,
        at: RawNs,
        request: &Request<'_>,
    ) -> io::Result<()> {
        if !request.is_post {
            return connection.send(&self.epoll, key, reply::MODELS);
        }
        let tokens = request.max_tokens.unwrap_or(u32::MAX).clamp(1, self.config.tokens);
        if self.pieces.tokens != tokens {
            self.pieces = Rc::new(Pieces::new(tokens));
            self.whole = Rc::new(whole(self.config.mode, &self.pieces));
        }
        let mut kept = Kept::new(request.id, at);
        let Mode::Paced { ttft_ns, itl_ns, spread } = self.config.mode else {
            kept.wrote(HostClock.now(), tokens);
            kept.whole = true;
            let whole = self.whole.clone();
            self.keep(Some(kept));
            return connection.send(&self.epoll, key, &whole);
        };
        self.requests += 1;
        let shift = if spread { share(self.requests, itl_ns) } else { 0 };
        let due = at + ttft_ns + shift;
        connection.current =
            Some(Current { kept, pieces: self.pieces.clone(), left: tokens, due, close: request.close });
        self.due.push(Reverse(Due { at: due, key }));
        Ok(())
    }

    /// Writes what is due; how long the next wait may take.
    fn write_due(&mut self) -> io::Result<EpollTimeout> {
        let mut now = HostClock.now();
        let mut turns = 0;
        while let Some(Reverse(due)) = self.due.peek().copied() {
            if due.at > now {
                self.arm(due.at, now)?;
                return Ok(EpollTimeout::NONE);
            }
            // Late already: requests that came meanwhile must be read all the same.
            turns += 1;
            if turns > EVENTS {
                return Ok(EpollTimeout::ZERO);
            }
            self.due.pop();
            self.write_token(due.key, now);
            now = HostClock.now();
        }
        Ok(EpollTimeout::NONE)
    }

    fn arm(&mut self, at: RawNs, now: RawNs) -> io::Result<()> {
        if self.armed != Some(at) {
            let wait = TimeSpec::from_duration(Duration::from_nanos((at - now).unsigned_abs()));
            self.timer.set(Expiration::OneShot(wait), TimerSetTimeFlags::empty())?;
            self.armed = Some(at);
        }
        Ok(())
    }

    fn write_token(&mut self, key: u64, now: RawNs) {
        // Its connection may be gone, and another in its place: the key tells them apart.
        let Some(mut connection) = self.slots.take(key) else { return };
        let Some(current) = connection.current.as_mut() else { return self.slots.put_back(key, connection) };
        current.kept.wrote(now, 1);
        let pieces = current.pieces.clone();
        let is_first = current.left == pieces.tokens;
        current.left -= 1;
        let is_last = current.left == 0;
        let bytes = pieces.of(is_first, is_last);
        let mut alive = connection.send(&self.epoll, key, bytes).is_ok();
        if is_last {
            alive &= self.end_reply(&mut connection, key);
        } else if let (Some(current), Mode::Paced { itl_ns, .. }) =
            (&mut connection.current, self.config.mode)
        {
            current.due += itl_ns;
            self.due.push(Reverse(Due { at: current.due, key }));
        }
        if alive {
            self.slots.put_back(key, connection);
        } else {
            self.drop_connection(key, connection);
        }
    }

    /// The reply is over: the next request may be there already. False when the connection is to end.
    fn end_reply(&mut self, connection: &mut Connection, key: u64) -> bool {
        let Some(mut current) = connection.current.take() else { return false };
        current.kept.whole = true;
        let close = current.close;
        self.keep(Some(current.kept));
        !close && (connection.input.is_empty() || self.answer_input(connection, key, HostClock.now()))
    }
}

fn whole(mode: Mode, pieces: &Pieces) -> Vec<u8> {
    match mode {
        Mode::Plain => reply::plain(pieces.tokens),
        Mode::Burst => pieces.whole(),
        Mode::Paced { .. } => Vec::new(),
    }
}

/// A share of `whole_ns` that differs from request to request and is even over many: the fractions of the golden ratio.
fn share(number: u64, whole_ns: i64) -> i64 {
    let fraction = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    ((u128::from(fraction) * u128::from(whole_ns.unsigned_abs())) >> 32) as i64
}
