//! Where spans go.

use std::str::FromStr;

/// An OTLP receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// OTLP/gRPC, without TLS.
    Grpc {
        /// `HOST:PORT`.
        authority: String,
    },
    /// OTLP/HTTP with protobuf, without TLS.
    Http {
        /// `HOST:PORT`.
        authority: String,
        /// `/v1/traces`.
        path: String,
    },
}

/// An endpoint that is none.
#[derive(Debug, thiserror::Error)]
#[error("failed to read the OTLP endpoint `{0}`: give grpc://HOST:PORT or http://HOST:PORT/v1/traces")]
pub struct BadEndpoint(String);

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let bad = || BadEndpoint(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(bad)?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let port = authority.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
        let graphic = text.bytes().all(|byte| byte.is_ascii_graphic());
        if !graphic || port.and_then(|port| port.parse::<u16>().ok()).is_none() {
            return Err(bad());
        }
        let authority = authority.to_owned();
        match (scheme, path) {
            ("grpc", "" | "/") => Ok(Self::Grpc { authority }),
            ("http", path) if path.len() > 1 => Ok(Self::Http { authority, path: path.to_owned() }),
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_kinds_and_nothing_else() {
        let grpc: Endpoint = "grpc://127.0.0.1:4317".parse().unwrap();
        assert_eq!(grpc, Endpoint::Grpc { authority: "127.0.0.1:4317".into() });
        let http: Endpoint = "http://[::1]:4318/v1/traces".parse().unwrap();
        assert_eq!(http, Endpoint::Http { authority: "[::1]:4318".into(), path: "/v1/traces".into() });
        for bad in [
            "",
            "127.0.0.1:4317",
            "grpc://h",
            "grpc://:1",
            "grpc://h:1/x",
            "http://h:1",
            "https://h:1/v1/traces",
            "http://h:1/a b",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }
}
