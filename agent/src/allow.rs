//! Which hosts this agent sends load to, whoever gives the orders: what is asked for counts, not where a name resolves to.

use std::net::IpAddr;
use std::str::FromStr;

/// Hosts that may be targets; with no rule, all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed(pub Vec<Rule>);

/// One entry of `--allow-target`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `http` or `https`; `None` for both.
    scheme: Option<&'static str>,
    host: Host,
    /// `None` for every port.
    port: Option<u16>,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Name(String),
    /// Whatever ends in this, a dot before it.
    Below(String),
    /// Addresses that share the first so many bits.
    Net(IpAddr, u32),
}

impl Allowed {
    /// Whether load may go by `scheme` to `host` (an IPv6 address without brackets) at `port`.
    pub fn permits(&self, scheme: &str, host: &str, port: u16) -> bool {
        self.0.is_empty() || self.0.iter().any(|rule| rule.permits(scheme, host, port))
    }

    /// The same by a rule that says `scheme` itself.
    pub fn names(&self, scheme: &str, host: &str, port: u16) -> bool {
        self.0.iter().any(|rule| rule.scheme.is_some() && rule.permits(scheme, host, port))
    }

    /// Every target is allowed.
    pub fn is_any(&self) -> bool {
        self.0.is_empty()
    }

    /// As typed, for a person.
    pub fn words(&self) -> String {
        self.0.iter().map(|rule| rule.text.as_str()).collect::<Vec<_>>().join(", ")
    }
}

impl Rule {
    fn permits(&self, scheme: &str, host: &str, port: u16) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let is_host = match &self.host {
            Host::Name(name) => *name == host,
            Host::Below(suffix) => {
                host.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            Host::Net(net, bits) => host.parse().is_ok_and(|ip| shares(ip, *net, *bits)),
        };
        let is_scheme = self.scheme.is_none_or(|own| own == scheme);
        is_scheme && is_host && self.port.is_none_or(|own| own == port)
    }
}

/// Two addresses of one kind with the same first bits.
fn shares(a: IpAddr, b: IpAddr, bits: u32) -> bool {
    let differing = match (a.to_canonical(), b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => return false,
    };
    differing >= bits
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no host: try HOST, HOST:PORT, http://HOST:PORT, *.example, 10.0.0.0/8 or [::1]:8000"
            )
        };
        let (scheme, rest) = split_scheme(text.trim());
        let (host, port) = split(rest).ok_or_else(wrong)?;
        let host = parse_host(host).ok_or_else(wrong)?;
        Ok(Self { scheme, host, port, text: text.trim().to_owned() })
    }
}

fn split_scheme(text: &str) -> (Option<&'static str>, &str) {
    let of = |scheme: &'static str| {
        let rest = text.strip_prefix(scheme)?.strip_prefix("://")?;
        Some((Some(scheme), rest))
    };
    of("http").or_else(|| of("https")).unwrap_or((None, text))
}

/// Host and port; an IPv6 address has brackets where a port follows.
fn split(text: &str) -> Option<(&str, Option<u16>)> {
    let port = |port: &str| port.parse().ok().filter(|&port: &u16| port > 0).map(Some);
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return match rest.strip_prefix(':') {
            Some(digits) => Some((host, port(digits)?)),
            None => rest.is_empty().then_some((host, None)),
        };
    }
    match text.split_once(':') {
        Some((host, digits)) if !digits.contains(':') => Some((host, port(digits)?)),
        _ => Some((text, None)),
    }
}

fn parse_host(host: &str) -> Option<Host> {
    if let Some((ip, bits)) = host.split_once('/') {
        let (ip, bits): (IpAddr, u32) = (ip.parse().ok()?, bits.parse().ok()?);
        let most = if ip.is_ipv4() { 32 } else { 128 };
        return (bits <= most).then_some(Host::Net(ip, bits));
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Some(Host::Net(ip.to_canonical(), if ip.to_canonical().is_ipv4() { 32 } else { 128 }));
    }
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    match name.strip_prefix("*.") {
        Some(suffix) => is_name(suffix).then(|| Host::Below(suffix.to_owned())),
        None => is_name(&name).then_some(Host::Name(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(text: &str) -> Allowed {
        Allowed(text.split(',').map(|rule| rule.parse().unwrap()).collect())
    }

    #[test]
    fn what_is_asked_for_must_be_named() {
        let rules =
            "llm.example:8000,*.gpu.example,10.1.0.0/16,192.0.2.7:443,[2001:db8::1]:80,2001:db8:1::/48";
        let rules = allowed(rules);
        for (host, port) in [
            ("llm.example", 8000),
            ("LLM.Example.", 8000),
            ("a.gpu.example", 1),
            ("b.a.gpu.example", 65_535),
            ("10.1.255.255", 80),
            ("::ffff:10.1.0.1", 80),
            ("192.0.2.7", 443),
            ("2001:db8::1", 80),
            ("2001:db8:1:ffff::9", 1),
        ] {
            assert!(rules.permits("http", host, port), "{host}:{port}");
            assert!(rules.permits("https", host, port), "{host}:{port}");
            assert!(!rules.names("http", host, port), "{host}:{port}");
        }
        for (host, port) in [
            ("llm.example", 80),
            ("evil-llm.example", 8000),
            ("llm.example.evil.test", 8000),
            ("gpu.example", 1),
            (".gpu.example", 1),
            ("evilgpu.example", 1),
            ("10.2.0.1", 80),
            ("192.0.2.7", 80),
            ("2001:db8::2", 80),
            ("2001:db8:2::1", 1),
            ("localhost", 8000),
        ] {
            assert!(!rules.permits("http", host, port), "{host}:{port}");
        }
        assert!(Allowed::default().permits("http", "anything.test", 1));
        assert!(!Allowed::default().names("http", "anything.test", 1));
    }

    #[test]
    fn a_rule_that_says_a_scheme_permits_no_other() {
        let rules = allowed("http://vllm:8000,https://llm.example,http://10.0.0.0/8,http://[::1]:80,plain");
        for (scheme, host, port) in [
            ("http", "vllm", 8000),
            ("https", "llm.example", 443),
            ("http", "10.1.2.3", 9),
            ("http", "::1", 80),
        ] {
            let other = if scheme == "http" { "https" } else { "http" };
            assert!(rules.permits(scheme, host, port) && rules.names(scheme, host, port), "{scheme} {host}");
            assert!(!rules.permits(other, host, port) && !rules.names(other, host, port), "{other} {host}");
        }
        assert!(!rules.permits("http", "vllm", 80) && !rules.names("http", "vllm", 80));
        assert!(rules.permits("http", "plain", 80) && !rules.names("http", "plain", 80));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for bad in [
            "",
            "*",
            "a:0",
            "a:99999",
            "a:b",
            "10.0.0.0/33",
            "ftp://x",
            "http://",
            "http://x/v1",
            "http://http://x",
            "[::1",
            "[::1]x",
            "x/8",
            "*.",
            "a b",
        ] {
            assert!(bad.parse::<Rule>().is_err(), "{bad}");
        }
        for good in ["::1", "[::1]", "localhost", "localhost:1"] {
            assert!(good.parse::<Rule>().is_ok(), "{good}");
        }
    }
}
