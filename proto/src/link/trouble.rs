//! What goes wrong between two ends before they understand each other, in words that say what to do.

use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// Why an attempt to connect came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// No connection: nodes are often started a moment before their coordinator.
    #[error("{0}; is it running, is the port right?")]
    Unreachable(String),
    /// It was taken, and then nothing came.
    #[error("nothing came within {0:?}; is it a tailcliff coordinator, is the port right?")]
    Silent(Duration),
    /// The two ends do not agree on how the connection is secured.
    #[error("{0}")]
    Tls(String),
}

/// What a TLS error means to the end that dialled `host`.
pub(super) fn of_dialler(error: &io::Error, host: &str) -> Trouble {
    let Some(tls) = rustls_of(error) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                Trouble::Tls("the coordinator closed the connection during the TLS handshake".to_owned())
            }
            _ => Trouble::Unreachable(error.to_string()),
        };
    };
    Trouble::Tls(match tls {
        Error::InvalidCertificate(why) => certificate(why, "the coordinator's certificate", host),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the coordinator answers without TLS: start it with --tls-dir too, or leave this node's away"
                .to_owned()
        }
        Error::AlertReceived(alert) => {
            format!("the coordinator {}", refusal(*alert, "this node's certificate"))
        }
        other => format!("TLS failed: {other}"),
    })
}

/// What a TLS error means to the end that was dialled.
pub fn of_listener(error: &io::Error) -> String {
    let Some(tls) = rustls_of(error) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                "it closed the connection during the TLS handshake".to_owned()
            }
            _ => error.to_string(),
        };
    };
    match tls {
        Error::InvalidCertificate(why) => certificate(why, "its certificate", ""),
        Error::NoCertificatesPresented => {
            "it showed no client certificate: start it with a --tls-dir of its own".to_owned()
        }
        Error::InvalidMessage(_) => "it does not speak TLS, which this coordinator asks for".to_owned(),
        Error::AlertReceived(alert) => format!("it {}", refusal(*alert, "this coordinator's certificate")),
        other => format!("TLS failed: {other}"),
    }
}

fn certificate(why: &CertificateError, whose: &str, host: &str) -> String {
    use CertificateError as E;
    match why {
        E::Expired | E::ExpiredContext { .. } => {
            format!("{whose} has expired: make new ones with `tailcliff certs`, or check both hosts' clocks")
        }
        E::NotValidYet | E::NotValidYetContext { .. } => {
            format!("{whose} is not valid yet: check both hosts' clocks")
        }
        E::UnknownIssuer | E::BadSignature => {
            format!("{whose} was not signed by the CA of --tls-ca: both ends need files of the same CA")
        }
        E::NotValidForName => format!("{whose} is not for {host:?}: name it in `tailcliff certs --host`"),
        E::NotValidForNameContext { presented, .. } => format!(
            "{whose} is not for {host:?} but for {}: dial it by such a name, or name this one in `tailcliff certs --host`",
            presented.join(", ")
        ),
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            format!("{whose} is not made for this end: do nodes and coordinator have each other's files?")
        }
        other => format!("{whose} cannot be used: {other}"),
    }
}

/// What a peer's alert says of our certificate; the peer's own output knows more.
fn refusal(alert: AlertDescription, which: &str) -> String {
    use AlertDescription as A;
    match alert {
        A::CertificateExpired => {
            format!("says that {which} has expired: make new ones with `tailcliff certs`")
        }
        A::UnknownCA | A::DecryptError => {
            format!("does not trust the CA of {which}: both ends need files of the same CA")
        }
        A::CertificateRequired => format!("asks for a certificate and did not get {which}"),
        A::UnsupportedCertificate => {
            format!(
                "says that {which} is not made for this end: do nodes and coordinator have each other's files?"
            )
        }
        A::BadCertificate | A::CertificateUnknown | A::CertificateRevoked | A::AccessDenied => {
            format!(
                "turned {which} down: its own output says why (another name, another time, not signed by its CA)"
            )
        }
        A::NoApplicationProtocol | A::ProtocolVersion | A::HandshakeFailure => {
            format!("speaks TLS, but not as tailcliff does ({alert:?}): is the port right?")
        }
        other => format!("ended TLS with {other:?}"),
    }
}

/// tokio-rustls wraps what rustls found.
fn rustls_of(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// The innermost cause: tonic's own words are "transport error".
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |e| e.source()).last().map_or_else(String::new, ToString::to_string)
}
