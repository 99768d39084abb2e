//! A stub's connections: each with the reply that it is getting and what its socket has not taken yet.

use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::rc::Rc;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use tailcliff_proto::clock::RawNs;

use super::reply::Pieces;
use super::truth::Kept;

/// Bytes that a client may leave unread beyond its socket's own buffer before it is cut off: the longest burst fits.
const MAX_PENDING: usize = 32 << 20;

/// One client.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    /// Read and not answered: the beginning of a request, or one that came before its turn.
    pub(super) input: Vec<u8>,
    output: Vec<u8>,
    /// The paced reply under way.
    pub(super) current: Option<Current>,
}

/// A reply whose tokens come on a schedule.
pub(super) struct Current {
    pub(super) kept: Kept,
    pub(super) pieces: Rc<Pieces>,
    /// Tokens to come.
    pub(super) left: u32,
    /// When the next one is due: counted from the read, so that a late one delays no other.
    pub(super) due: RawNs,
    /// The connection ends with it.
    pub(super) close: bool,
}

impl Connection {
    /// Sends bytes; what the socket does not take follows when it can.
    pub(super) fn send(&mut self, epoll: &Epoll, key: u64, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        if self.output.is_empty() {
            rest = &bytes[write(&self.stream, bytes)?..];
            if rest.is_empty() {
                return Ok(());
            }
            let both = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
            epoll.modify(&self.stream, &mut EpollEvent::new(both, key))?;
        }
        if self.output.len() + rest.len() > MAX_PENDING {
            return Err(io::Error::new(ErrorKind::OutOfMemory, "the client does not read"));
        }
        self.output.extend_from_slice(rest);
        Ok(())
    }

    /// Sends what is left over.
    pub(super) fn flush(&mut self, epoll: &Epoll, key: u64) -> io::Result<()> {
        let written = write(&self.stream, &self.output)?;
        self.output.drain(..written);
        if self.output.is_empty() {
            self.output = Vec::new();
            epoll.modify(&self.stream, &mut EpollEvent::new(EpollFlags::EPOLLIN, key))?;
        }
        Ok(())
    }
}

/// As many bytes as the socket takes.
fn write(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(n) => written += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(written)
}

/// Connections by key: a place, and how often it has been given away, so that what is late for one connection never
/// reaches the next.
#[derive(Default)]
pub(super) struct Slots {
    places: Vec<Place>,
    free: Vec<u32>,
}

#[derive(Default)]
struct Place {
    generation: u32,
    connection: Option<Connection>,
}

impl Slots {
    pub(super) fn add(&mut self, stream: TcpStream) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[index as usize];
        place.connection = Some(Connection { stream, input: Vec::new(), output: Vec::new(), current: None });
        u64::from(place.generation) << 32 | u64::from(index)
    }

    fn place(&mut self, key: u64) -> Option<&mut Place> {
        let place = self.places.get_mut((key & 0xffff_ffff) as usize)?;
        (u64::from(place.generation) == key >> 32).then_some(place)
    }

    pub(super) fn get(&mut self, key: u64) -> Option<&Connection> {
        self.place(key)?.connection.as_ref()
    }

    /// Takes a connection out of its place, which it keeps.
    pub(super) fn take(&mut self, key: u64) -> Option<Connection> {
        self.place(key)?.connection.take()
    }

    pub(super) fn put_back(&mut self, key: u64, connection: Connection) {
        if let Some(place) = self.place(key) {
            place.connection = Some(connection);
        }
    }

    /// Gives the place of a connection that was taken away for good.
    pub(super) fn free(&mut self, key: u64) {
        if let Some(place) = self.place(key) {
            // The last three keys have meanings of their own: a generation never comes to them.
            place.generation = (place.generation + 1) & 0x7fff_ffff;
            self.free.push((key & 0xffff_ffff) as u32);
        }
    }

    pub(super) fn into_connections(self) -> impl Iterator<Item = Connection> {
        self.places.into_iter().filter_map(|place| place.connection)
    }
}
