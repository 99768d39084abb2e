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
    }
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
    let kib = field("/proc/meminfo", "MemTotal");
    kib.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

fn os_name() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.unwrap_or_default().trim_matches('"').to_owned()
}
