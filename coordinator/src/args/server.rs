//! Which process the embedded probe takes for the server: as told, or the one that listens where `--url` points to.

use std::net::{IpAddr, UdpSocket};

use crate::local::{Server, ServerArgs};

/// The server's process: what the flags say, else the port of `base_url` when that leads to this host.
pub fn server_of(flags: ServerArgs, base_url: &str) -> Option<Server> {
    let told: Option<Server> = flags.into();
    told.or_else(|| {
        let (host, port) = host_and_port(base_url)?;
        is_here(host).then_some(Server::Port(port))
    })
}

/// Where the server on this host is known to answer, without the `/v1` that its paths begin with.
pub fn base_of(flags: ServerArgs, base_url: &str) -> Option<String> {
    if let Some(port) = flags.server_port {
        return Some(format!("http://127.0.0.1:{port}"));
    }
    let (host, _) = host_and_port(base_url)?;
    let base = base_url.trim_end_matches('/');
    is_here(host).then(|| base.strip_suffix("/v1").unwrap_or(base).to_owned())
}

/// Of a URL, an IPv6 address in its brackets; `None` where its port is no number.
pub(crate) fn host_and_port(base_url: &str) -> Option<(&str, u16)> {
    let (scheme, rest) = base_url.split_once("://")?;
    let authority = rest.split('/').next()?;
    let usual = if scheme == "https" { 443 } else { 80 };
    // The colons of an IPv6 address are within brackets.
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => Some((host, port.parse().ok()?)),
        _ => Some((authority, usual)),
    }
}

/// Whether an address is one of this host's. Other names than its own are not looked up: a load balancer's may well lead
/// here now and elsewhere with the next request.
fn is_here(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        // Only an address of this host can be bound to.
        Ok(address) => UdpSocket::bind((address, 0)).is_ok(),
        Err(_) => {
            let own = tailcliff_proto::host::facts(0).hostname;
            host.eq_ignore_ascii_case("localhost") || host.eq_ignore_ascii_case(&own)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(url: &str) -> Option<Server> {
        server_of(ServerArgs::default(), url)
    }

    #[test]
    fn a_url_of_this_host_names_the_port_and_others_name_nothing() {
        assert_eq!(found("http://127.0.0.1:8000"), Some(Server::Port(8000)));
        assert_eq!(found("http://localhost:8000/prefix"), Some(Server::Port(8000)));
        assert_eq!(found("https://LOCALHOST"), Some(Server::Port(443)));
        assert_eq!(host_and_port("http://[::1]:9000"), Some(("[::1]", 9000)));
        assert_eq!(host_and_port("http://[::1]"), Some(("[::1]", 80)));
        // TEST-NET-1: nobody's.
        for other in
            ["http://192.0.2.1:8000", "http://gpu-node.example:8000", "nonsense", "http://localhost:port"]
        {
            assert_eq!(found(other), None, "{other}");
        }
    }

    #[test]
    fn the_base_of_a_server_on_this_host_is_known() {
        let base = |url| base_of(ServerArgs::default(), url);
        for (url, meant) in [
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
            ("http://localhost:8000/llm/v1/", "http://localhost:8000/llm"),
            ("http://[::1]:9/v1", "http://[::1]:9"),
        ] {
            assert_eq!(base(url).as_deref(), Some(meant));
        }
        assert_eq!(base("http://192.0.2.1:8000"), None);
        // A server behind something else that is asked.
        let flags = ServerArgs { server_pid: None, server_port: Some(9) };
        assert_eq!(base_of(flags, "http://192.0.2.1:8000").as_deref(), Some("http://127.0.0.1:9"));
        let flags = ServerArgs { server_pid: Some(9), server_port: None };
        assert_eq!(base_of(flags, "http://127.0.0.1:8000/v1").as_deref(), Some("http://127.0.0.1:8000"));
    }

    #[test]
    fn a_flag_wins_over_the_url() {
        let flags = ServerArgs { server_pid: Some(7), server_port: None };
        assert_eq!(server_of(flags, "http://127.0.0.1:8000"), Some(Server::Pid(7)));
        let flags = ServerArgs { server_pid: None, server_port: Some(9) };
        assert_eq!(server_of(flags, "http://192.0.2.1:8000"), Some(Server::Port(9)));
    }
}
