//! Why requests fail, by class, so that a run can say what its errors were.

use std::error::Error;
use std::io;

use nix::errno::Errno;

use crate::http1::HttpError;

/// Why a request failed; the wire's `error_kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The host's name has no address.
    Resolve,
    /// Nobody listens there.
    ConnectRefused,
    /// The connection was reset as it was made.
    ConnectReset,
    /// No connection within the connect timeout.
    ConnectTimeout,
    /// No connection, for another reason of the network's.
    Connect,
    /// This host has no file descriptor or no port left: the client is the limit, and no server.
    ClientLimit,
    /// TLS: a certificate that is not trusted, no common version, no common protocol.
    Tls,
    /// An HTTP status other than 2xx.
    HttpStatus,
    /// Bytes that are not the reply that was asked for.
    Malformed,
    /// An error object under HTTP 2xx, in a stream or as a whole reply.
    ErrorEvent,
    /// The connection or the stream ended before the reply did.
    EarlyEnd,
    /// The server was silent for longer than the read timeout.
    ReadTimeout,
    /// The request's own time ran out.
    Timeout,
    /// A reused connection died before a byte of the reply came.
    StaleConnection,
}

impl ErrorKind {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorKind::Resolve => "resolve",
            ErrorKind::ConnectRefused => "connect_refused",
            ErrorKind::ConnectReset => "connect_reset",
            ErrorKind::ConnectTimeout => "connect_timeout",
            ErrorKind::Connect => "connect",
            ErrorKind::ClientLimit => "client_limit",
            ErrorKind::Tls => "tls",
            ErrorKind::HttpStatus => "http_status",
            ErrorKind::Malformed => "malformed",
            ErrorKind::ErrorEvent => "error_event",
            ErrorKind::EarlyEnd => "early_end",
            ErrorKind::ReadTimeout => "read_timeout",
            ErrorKind::Timeout => "timeout",
            ErrorKind::StaleConnection => "stale_connection",
        }
    }

    /// Of a connection that could not be made.
    pub(crate) fn of_connect(error: &io::Error) -> ErrorKind {
        if [Errno::EMFILE, Errno::ENFILE, Errno::EADDRNOTAVAIL, Errno::ENOBUFS].contains(&errno(error)) {
            return ErrorKind::ClientLimit;
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => ErrorKind::ConnectRefused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => ErrorKind::ConnectReset,
            io::ErrorKind::TimedOut => ErrorKind::ConnectTimeout,
            _ => ErrorKind::Connect,
        }
    }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

/// A failed exchange.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: ErrorKind,
    /// One line; secrets may still be in it.
    pub(crate) detail: String,
    /// The reply was read to its end, so that the connection can serve again.
    pub(crate) keep: bool,
}

impl Failure {
    pub(crate) fn new(kind: ErrorKind, detail: impl ToString) -> Failure {
        Failure { kind, detail: detail.to_string(), keep: false }
    }

    pub(crate) fn malformed(detail: impl ToString) -> Failure {
        Failure::new(ErrorKind::Malformed, detail)
    }
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Failure {
        Failure::malformed(error)
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&e| e.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}
