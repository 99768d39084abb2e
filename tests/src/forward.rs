//! A forwarder of TCP connections with a bad path inside: a delay for each way, jitter, cuts and silences, all at run
//! time. It stands where a network would, and serves on another address the same ports, control and clock, since a node
//! dials the clock at the host that it dialled for control.
//!
//! Threads and no runtime: a delay of 80 µs is below what a runtime's timer can tell apart.

use std::io::{self, BufRead, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use clap::Parser;
use nix::poll::{PollFd, PollFlags, PollTimeout};

use crate::roles::Role;

mod fault;
mod order;
mod pipe;
mod way;

pub use fault::{Held, Which};
pub use order::Order;
pub use way::Way;

/// Between two looks at what was ordered meanwhile.
const LOOK: Duration = Duration::from_millis(10);
/// Connections through one forwarder at a time; more are closed at once.
const MOST_CONNECTIONS: usize = 256;

/// What becomes of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Pass,
    /// Half-open: connections stand, nothing moves and nothing is said.
    Swallow,
    /// Nothing listens.
    Cut,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    up: Way,
    down: Way,
    /// Raised by every cut: connections of an earlier one end.
    generation: u64,
    connections: usize,
    accepted: u64,
    flows: fault::Flows,
    stopped: bool,
}

/// State that all threads look at.
#[derive(Debug)]
struct Shared(Mutex<State>);

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of the bytes of a connection that was accepted in `generation`; `None` when it is to end.
    fn mode(&self, generation: u64) -> Option<Mode> {
        let state = self.state();
        (!state.stopped && state.generation == generation).then_some(state.mode)
    }

    /// Before when bytes that came at `now` may not leave, whatever the way takes.
    fn due(&self, connection: u64, up: bool, now: i64) -> i64 {
        if up { now } else { self.state().flows.due(connection, now) }
    }

    fn way(&self, up: bool) -> Way {
        let state = self.state();
        if up { state.up } else { state.down }
    }
}

/// A forwarder on threads of this process, which end with it.
#[derive(Debug)]
pub struct Forwarder {
    shared: Arc<Shared>,
    address: SocketAddr,
    listening: Vec<JoinHandle<()>>,
}

impl Forwarder {
    /// Listens on `host` at the port of `to` and at the next one, the clock's, and forwards both.
    ///
    /// # Errors
    /// When either cannot be bound: `host` must be another address than that of `to`, such as 127.0.0.2.
    pub fn start(host: IpAddr, to: SocketAddr, up: Way, down: Way) -> io::Result<Self> {
        Self::start_ports(2, host, to, up, down)
    }

    /// The same without the clock: what a firewall does that lets one port pass; or before a server.
    ///
    /// # Errors
    /// As [`Forwarder::start`].
    pub fn start_without_clock(host: IpAddr, to: SocketAddr) -> io::Result<Self> {
        Self::start_ports(1, host, to, Way::default(), Way::default())
    }

    fn start_ports(ports: u16, host: IpAddr, to: SocketAddr, up: Way, down: Way) -> io::Result<Self> {
        let state = State {
            mode: Mode::Pass,
            up,
            down,
            generation: 0,
            connections: 0,
            accepted: 0,
            flows: fault::Flows::default(),
            stopped: false,
        };
        let shared = Arc::new(Shared(Mutex::new(state)));
        let address = SocketAddr::new(host, to.port());
        let mut forwarder = Self { shared, address, listening: Vec::new() };
        for ahead in 0..ports {
            let port =
                to.port().checked_add(ahead).ok_or_else(|| io::Error::other("no port after this one"))?;
            let (from, to) = (SocketAddr::new(host, port), SocketAddr::new(to.ip(), port));
            let listener = TcpListener::bind(from)?;
            let shared = Arc::clone(&forwarder.shared);
            forwarder.listening.push(std::thread::spawn(move || listen(from, listener, to, &shared)));
        }
        Ok(forwarder)
    }

    /// Where it listens for control; the clock is at the next port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Carries out an order; it is in force when this returns.
    pub fn obey(&self, order: Order) {
        let mut state = self.shared.state();
        match order {
            Order::Up(way) => state.up = way,
            Order::Down(way) => state.down = way,
            Order::Heal => state.mode = Mode::Pass,
            Order::Swallow => state.mode = Mode::Swallow,
            Order::Cut => {
                state.mode = Mode::Cut;
                state.generation += 1;
            }
        }
    }

    /// Closes every connection (RST) and refuses new ones.
    pub fn cut(&self) {
        self.obey(Order::Cut);
    }

    /// Forwards nothing and says nothing: connections stand, new ones are accepted, and both ends may wait for ever.
    pub fn swallow(&self) {
        self.obey(Order::Swallow);
    }

    /// Forwards again: after a cut what is dialled anew, after a silence also all that was under way.
    pub fn heal(&self) {
        self.obey(Order::Heal);
    }

    /// Connections that it has accepted since its start.
    pub fn accepted(&self) -> u64 {
        self.shared.state().accepted
    }

    /// Connections that stand.
    pub fn connections(&self) -> usize {
        self.shared.state().connections
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.shared.state().stopped = true;
        for thread in self.listening.drain(..) {
            // One that panicked has nothing left to clean up.
            let _ended = thread.join();
        }
    }
}

/// Accepts until the forwarder is dropped. During a cut nobody listens, so that the system refuses.
fn listen(from: SocketAddr, first: TcpListener, to: SocketAddr, shared: &Arc<Shared>) {
    let mut listener = Some(first);
    loop {
        let (mode, stopped) = {
            let state = shared.state();
            (state.mode, state.stopped)
        };
        if stopped {
            return;
        }
        match (&listener, mode) {
            (Some(_), Mode::Cut) => listener = None,
            (Some(open), _) => accept(open, to, shared),
            (None, Mode::Cut) => std::thread::sleep(LOOK),
            (None, _) => match TcpListener::bind(from) {
                Ok(open) => listener = Some(open),
                Err(_) => std::thread::sleep(LOOK),
            },
        }
    }
}

fn accept(listener: &TcpListener, to: SocketAddr, shared: &Arc<Shared>) {
    let mut polled = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::ZERO);
    if !nix::poll::poll(&mut polled, patience).is_ok_and(|ready| ready > 0) {
        return;
    }
    let Ok((near, _)) = listener.accept() else { return };
    let (generation, number) = {
        let mut state = shared.state();
        state.accepted += 1;
        if state.mode == Mode::Cut || state.connections >= MOST_CONNECTIONS {
            return;
        }
        state.connections += 1;
        let number = state.accepted;
        state.flows.add(number);
        (state.generation, number)
    };
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        let _ended = pipe::forward(near, to, &shared, generation, number);
        let mut state = shared.state();
        state.connections -= 1;
        state.flows.remove(number);
    });
}

/// Closes with a RST once the last user is gone.
fn reset_at_close(stream: &TcpStream) {
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    // At worst it ends with a FIN.
    let _gone = nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &linger);
}

/// Flags of the role `forward`.
#[derive(Debug, Parser)]
pub struct Args {
    /// Address to listen on.
    #[arg(long)]
    host: IpAddr,
    /// Where the coordinator listens for control; the clock is at the next port.
    #[arg(long)]
    to: SocketAddr,
}

/// Plays the role `forward`: orders come line by line on standard input, which ends it, and each is answered by `done`.
///
/// # Errors
/// When it cannot listen, or does not understand an order.
pub fn play(args: &Args) -> io::Result<()> {
    let forwarder = Forwarder::start(args.host, args.to, Way::default(), Way::default())?;
    let mut out = io::stdout();
    writeln!(out, "forwarding {}", forwarder.address())?;
    for line in io::stdin().lock().lines() {
        let order = line?.parse().map_err(io::Error::other)?;
        forwarder.obey(order);
        writeln!(out, "done")?;
    }
    Ok(())
}

/// A forwarder in a process of its own, for instance in another network namespace.
#[derive(Debug)]
pub struct Remote {
    role: Role,
    /// Where it listens for control.
    pub address: String,
}

impl Remote {
    /// Starts `command` (a copy of the running binary, perhaps behind a wrapper) as a forwarder.
    ///
    /// # Errors
    /// When the process cannot be made or cannot listen.
    pub fn start(command: std::process::Command, host: &str, to: &str) -> io::Result<Self> {
        let role = Role::start_with(command, "forward", &["--host", host, "--to", to])?;
        let address = role.line("forwarding ")?;
        Ok(Self { role, address })
    }

    /// Carries out an order; it is in force when this returns.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn order(&mut self, order: Order) -> io::Result<()> {
        self.role.tell(&order.to_string())?;
        self.role.line("done").map(drop)
    }
}

#[cfg(test)]
mod tests;
