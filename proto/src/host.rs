//! What a node says of the machine it runs on. A fact that cannot be read is empty or 0, as on the wire.

use nix::sys::resource::{Resource, getrlimit};

use crate::v1;

/// Facts of this host; `shards` is the number of load-making threads (0 for a probe).
pub fn facts(shards: u32) -> v1::HostFacts {
    v1::HostFacts {
        hostname: line("/proc/sys/kernel/hostname"),
        os: os_name(),
        kernel: line("/proc/sys/kernel/osrelease"),
        cpu_model: field("/proc/cpuinfo", "model name"),
        cores: std::thread::available_parallelism().map_or(0, |n| n.get() as u32),
        memory_bytes: memory_bytes(),
        shards,
        fd_limit: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
        fd_limit_hard: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard),
        local_ports: local_ports().and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        ..Default::default()
    }
}

/// Local ports that connections to one address can have; `None` where the kernel does not tell.
pub fn local_ports() -> Option<u64> {
    count_ports(&line("/proc/sys/net/ipv4/ip_local_port_range"))
}

fn count_ports(range: &str) -> Option<u64> {
    let mut ends = range.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(low)), Some(Ok(high))) = (ends.next(), ends.next()) else { return None };
    (low <= high).then(|| high - low + 1)
}

/// Memory that could be had without swapping, bytes; `None` where the kernel does not tell.
pub fn memory_available_bytes() -> Option<u64> {
    kib("MemAvailable").map(|kib| kib * 1024)
}

fn line(path: &str) -> String {
    std::fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_default()
}

/// The value of the first `name : value` line of a file under /proc.
fn field(path: &str, name: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let value =
        text.lines().find_map(|l| l.strip_prefix(name)?.trim_start().strip_prefix(':').map(str::trim));
    value.unwrap_or_default().to_owned()
}

fn memory_bytes() -> u64 {
    kib("MemTotal").map_or(0, |kib| kib * 1024)
}

fn kib(name: &str) -> Option<u64> {
    field("/proc/meminfo", name).split_whitespace().next()?.parse().ok()
}

fn os_name() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.unwrap_or_default().trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_counted_with_both_ends() {
        assert_eq!(count_ports("32768\t60999"), Some(28_232));
        assert_eq!(count_ports("1024 1024"), Some(1));
        for odd in ["", "1", "9 1", "a b"] {
            assert_eq!(count_ports(odd), None, "{odd:?}");
        }
    }
}
