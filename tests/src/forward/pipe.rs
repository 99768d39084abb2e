//! One connection through a forwarder: for each way a thread that reads and dates, and one that writes when it is due,
//! with a bounded queue between them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};

use tailcliff_proto::clock::HostClock;

use super::{LOOK, Mode, Shared, reset_at_close, way};

/// Longest piece that is read at once, bytes.
const PIECE: usize = 16 << 10;
/// Pieces under way at most, each way: at 16 KiB that is 4 MiB.
const PIECES: usize = 256;

/// Bytes and when they are due at the other end; no bytes: the end.
type Piece = (i64, Vec<u8>);

struct End<'a> {
    shared: &'a Shared,
    generation: u64,
    connection: u64,
    is_up: bool,
}

/// Carries a connection until both ends have closed it, or a cut.
pub(super) fn forward(
    near: TcpStream,
    to: SocketAddr,
    shared: &Arc<Shared>,
    generation: u64,
    connection: u64,
) -> io::Result<()> {
    prepare(&near)?;
    // Whoever is swallowed does not reach the other side.
    while shared.mode(generation) == Some(Mode::Swallow) {
        std::thread::sleep(LOOK);
    }
    let far = TcpStream::connect_timeout(&to, std::time::Duration::from_secs(5));
    let far = far.inspect_err(|_| reset_at_close(&near))?;
    prepare(&far)?;
    std::thread::scope(|threads| {
        for (from, to, is_up) in [(&near, &far, true), (&far, &near, false)] {
            let (pieces, inbox) = sync_channel(PIECES);
            let end = move || End { shared, generation, connection, is_up };
            threads.spawn(move || end().read(from, &pieces));
            threads.spawn(move || end().write(to, &inbox));
        }
    });
    Ok(())
}

/// Reads and writes give up now and then, to look at what was ordered.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LOOK))?;
    stream.set_write_timeout(Some(LOOK))
}

fn is_patience(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

impl End<'_> {
    fn mode(&self) -> Option<Mode> {
        self.shared.mode(self.generation)
    }

    fn read(&self, mut from: &TcpStream, pieces: &SyncSender<Piece>) {
        let mut random = fastrand::Rng::with_seed(self.shared.way(self.is_up).seed);
        let mut buffer = vec![0; PIECE];
        // Bytes of one connection do not overtake each other.
        let mut last_due = i64::MIN;
        while let Some(mode) = self.mode() {
            if mode != Mode::Pass {
                std::thread::sleep(LOOK);
                continue;
            }
            let length = match from.read(&mut buffer) {
                Ok(length) => length,
                Err(error) if is_patience(&error) => continue,
                Err(_) => break,
            };
            let now = HostClock.now();
            let due = now + self.shared.way(self.is_up).delay_ns(&mut random);
            last_due = last_due.max(due).max(self.shared.due(self.connection, self.is_up, now));
            if !self.queue((last_due, buffer[..length].to_vec()), pieces) || length == 0 {
                return;
            }
        }
        reset_at_close(from);
    }

    /// True when the writer took it; it may be held up, but not for ever.
    fn queue(&self, mut piece: Piece, pieces: &SyncSender<Piece>) -> bool {
        while self.mode().is_some() {
            match pieces.try_send(piece) {
                Ok(()) => return true,
                Err(TrySendError::Full(back)) => piece = back,
                Err(TrySendError::Disconnected(_)) => return false,
            }
            std::thread::sleep(LOOK / 10);
        }
        false
    }

    fn write(&self, mut to: &TcpStream, inbox: &Receiver<Piece>) {
        while self.mode().is_some() {
            let (due, bytes) = match inbox.recv_timeout(LOOK) {
                Ok(piece) => piece,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            way::wait_until(due);
            if bytes.is_empty() {
                // It may be gone already.
                let _gone = to.shutdown(Shutdown::Write);
                return;
            }
            if self.write_all(&mut to, &bytes).is_err() {
                break;
            }
        }
        reset_at_close(to);
        // Wakes the reader of the same socket, and through it the other way: a broken connection is broken in both.
        let _gone = to.shutdown(Shutdown::Read);
    }

    fn write_all(&self, to: &mut &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.mode().ok_or(ErrorKind::ConnectionAborted)? {
                Mode::Pass => {}
                _ => {
                    std::thread::sleep(LOOK);
                    continue;
                }
            }
            match to.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if is_patience(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
