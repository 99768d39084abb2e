//! Can this host hold so many streams? Asked once for the highest level before a run, and again when a level is armed:
//! what would fail for certain is refused with what to raise, what may go wrong is a warning. The judgement is pure; the
//! limits are read apart.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tailcliff_proto::{MAX_AGENT_STREAMS, host};

/// `error_kind` of a preflight that this host's limits end.
pub const ERROR_KIND: &str = "host_limit";

/// File descriptors that are not streams: runtimes, gRPC, the binary itself.
const FD_SLACK: u64 = 64;
/// File descriptors of one shard's runtime: epoll twice, a wake-up, signals, a timer.
const FD_SHARD: u64 = 5;
/// Memory that a stream may take, bytes: what the bench holds it to …
const STREAM_BYTES: u64 = 24 << 10;
/// … and its sockets' buffers in the kernel, as much again.
const KERNEL_FACTOR: u64 = 2;
/// Streams that one shard has been shown to hold at a token each 500 ms (see the bench).
const PROVEN_PER_SHARD: u64 = 10_000;

/// What this host allows. Absent where it does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Open files, before and after raising.
    pub descriptors: Option<(u64, u64)>,
    /// Local ports for connections to one address.
    pub ports: Option<u64>,
    /// Memory that is free, bytes.
    pub memory_bytes: Option<u64>,
    /// Cores that this process may use.
    pub cores: u32,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Why it cannot work, and what to raise.
    pub refusals: Vec<String>,
    /// What may make the client the limit.
    pub warnings: Vec<String>,
}

/// Judges `streams` to one address on `shards` threads; with `fresh_connections` each request takes a port of its own.
pub fn judge(limits: &Limits, streams: u64, shards: u64, fresh_connections: bool) -> Findings {
    let mut found = Findings::default();
    if streams > u64::from(MAX_AGENT_STREAMS) {
        let agents = streams.div_ceil(u64::from(MAX_AGENT_STREAMS));
        found.refusals.push(format!(
            "one agent drives at most {MAX_AGENT_STREAMS} streams: use {agents} agents or more for {streams} each"
        ));
    }
    descriptors(limits, streams, shards, &mut found);
    ports(limits, streams, fresh_connections, &mut found);
    let need = streams * STREAM_BYTES * KERNEL_FACTOR;
    if let Some(free) = limits.memory_bytes.filter(|free| need > *free) {
        let (need, free) = (need >> 20, free >> 20);
        found.warnings.push(format!("{streams} streams may take {need} MiB of memory, {free} MiB are free"));
    }
    if limits.cores > 0 && shards > u64::from(limits.cores) {
        found.warnings.push(format!("{shards} shards share {} cores: each delays the others", limits.cores));
    }
    if streams > shards * PROVEN_PER_SHARD {
        let each = streams / shards.max(1);
        found.warnings.push(format!(
            "{each} streams for each shard are more than the {PROVEN_PER_SHARD} that one has been shown to hold: see the \
             certificates, or use more cores or agents"
        ));
    }
    found
}

fn descriptors(limits: &Limits, streams: u64, shards: u64, found: &mut Findings) {
    let need = streams + shards * FD_SHARD + FD_SLACK;
    let Some((before, limit)) = limits.descriptors else { return };
    if need > limit {
        found.refusals.push(format!(
            "{streams} streams need {need} file descriptors, the limit is {limit}: try `ulimit -Hn {need}` as root, \
             LimitNOFILE= of a systemd unit, or more agents on other hosts"
        ));
    } else if need > before {
        found
            .warnings
            .push(format!("the limit of open files was raised from {before} to {limit}, for {need}"));
    }
}

fn ports(limits: &Limits, streams: u64, fresh_connections: bool, found: &mut Findings) {
    let Some(ports) = limits.ports else { return };
    if streams > ports {
        found.refusals.push(format!(
            "{streams} streams to one address need as many local ports, the host has {ports}: try \
             `sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"` as root, or more agents on other hosts"
        ));
    } else if fresh_connections {
        found.warnings.push(format!(
            "each request takes a new connection, whose port rests about a minute after it: over {} requests/s, the \
             host's {ports} local ports may run out",
            ports / 60
        ));
    }
}

/// Raises the limit of open files as far as this process may; the limit before and after, `None` when it cannot be read.
pub fn raise_descriptors() -> Option<(u64, u64)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return Some((soft, hard));
    }
    Some((soft, soft))
}

/// Requests that this host can have in flight, one connection each, its limit of open files raised as far as may be.
pub fn most_streams(shards: u64) -> u64 {
    let files = raise_descriptors().map_or(u64::MAX, |(_, limit)| limit);
    let files = files.saturating_sub(shards * FD_SHARD + FD_SLACK);
    files.min(host::local_ports().unwrap_or(u64::MAX)).min(u64::from(MAX_AGENT_STREAMS))
}

/// Checks this host for a number of streams, raising its limit of open files where that is needed.
pub fn check(streams: u64, shards: u64, fresh_connections: bool) -> Findings {
    let soft = getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft);
    let fits = soft.is_none_or(|soft| streams + shards * FD_SHARD + FD_SLACK <= soft);
    let limits = Limits {
        descriptors: if fits { soft.map(|soft| (soft, soft)) } else { raise_descriptors() },
        ports: host::local_ports(),
        memory_bytes: host::memory_available_bytes(),
        cores: std::thread::available_parallelism().map_or(0, |n| n.get() as u32),
    };
    judge(&limits, streams, shards, fresh_connections)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roomy() -> Limits {
        Limits {
            descriptors: Some((20_000, 20_000)),
            ports: Some(28_232),
            memory_bytes: Some(8 << 30),
            cores: 2,
        }
    }

    #[test]
    fn a_host_with_room_has_nothing_to_say() {
        assert_eq!(judge(&roomy(), 10_000, 1, false), Findings::default());
        assert_eq!(judge(&Limits::default(), 60_000, 16, false), Findings::default(), "nothing is known");
    }

    #[test]
    fn each_limit_that_is_too_low_is_named_with_what_to_raise() {
        let refusal = |limits: Limits, streams| judge(&limits, streams, 1, false).refusals.join("\n");
        let need = 1_000 + FD_SHARD + FD_SLACK;
        let tight = |limit| Limits { descriptors: Some((limit, limit)), ..roomy() };
        assert_eq!(refusal(tight(need), 1_000), "");
        let text = refusal(tight(need - 1), 1_000);
        assert!(text.contains(&format!("need {need} file descriptors, the limit is {}", need - 1)), "{text}");
        assert!(text.contains(&format!("ulimit -Hn {need}")), "{text}");
        assert_eq!(refusal(roomy(), 19_000), "");
        let few = Limits { ports: Some(999), ..roomy() };
        assert!(refusal(few, 1_000).contains("ip_local_port_range"));
        assert_eq!(refusal(Limits { ports: Some(1_000), ..few }, 1_000), "");
        assert!(refusal(Limits::default(), 65_537).contains("use 2 agents"));
    }

    #[test]
    fn what_may_go_wrong_is_a_warning() {
        let warning = |limits: Limits, streams, shards, fresh| {
            let found = judge(&limits, streams, shards, fresh);
            assert!(found.refusals.is_empty(), "{found:?}");
            found.warnings.join("\n")
        };
        let raised = Limits { descriptors: Some((256, 20_000)), ..roomy() };
        assert!(warning(raised, 1_000, 1, false).contains("raised from 256 to 20000"));
        assert_eq!(warning(raised, 100, 1, false), "", "raised, but not for this");
        assert!(
            warning(Limits { memory_bytes: Some(10 << 20), ..roomy() }, 1_000, 1, false).contains("46 MiB")
        );
        assert!(warning(roomy(), 1_000, 3, false).contains("3 shards share 2 cores"));
        assert!(warning(roomy(), 10_001, 1, false).contains("more than the 10000"));
        assert!(warning(roomy(), 10, 1, true).contains("470 requests/s"));
    }
}
