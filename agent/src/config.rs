//! What a person types (`Args`) and what the agent goes by (`Config`).

use std::path::PathBuf;

use clap::Parser;
use tailcliff_proto::host;
use tailcliff_proto::outbox::SpoolConfig;

/// Threads that make load, at most.
pub const MAX_SHARDS: u32 = 1024;
/// Unacked measurements kept by default, bytes.
pub const OUTBOX_BYTES: usize = 256 << 20;

/// Makes load for a tailcliff run and reports what it measured; it is told everything else by the coordinator.
#[derive(Clone, Debug, Parser)]
#[command(name = "tailcliff-agent", version)]
pub struct Args {
    /// Where the coordinator listens; the agent keeps dialling until it answers
    #[arg(long, value_name = "HOST:PORT")]
    pub coordinator: String,
    /// Name in reports [default: agent-N with an index N, else this host's name]
    #[arg(long)]
    pub name: Option<String>,
    /// Place in the fleet, from 0: an agent started anew with it takes the place of the one before
    #[arg(long, value_name = "N", env = "JOB_COMPLETION_INDEX")]
    pub index: Option<u32>,
    /// Threads that make load [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SHARDS)))]
    pub shards: Option<u32>,
    /// Measurements kept in memory until the coordinator has them on disk, MiB
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub outbox_mib: u32,
    /// Where measurements wait that memory has no room for, while the coordinator is away or slow [default: $TMPDIR, or
    /// /var/tmp]
    #[arg(long, value_name = "DIR")]
    pub spool_dir: Option<PathBuf>,
    /// Most that these may take on disk, MiB; 0 for none
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(0..=16_777_216))]
    pub spool_mib: u32,
}

/// What the agent goes by.
#[derive(Clone, Debug)]
pub struct Config {
    /// Coordinator as HOST:PORT.
    pub coordinator: String,
    /// Name in reports.
    pub name: String,
    /// Place in the fleet, from 0; `None` for whichever is free.
    pub index: Option<u32>,
    /// Threads that make load; each is a runtime with connections of its own. 0 counts as 1.
    pub shards: u32,
    /// Bytes of measurements kept in memory until acked.
    pub outbox_bytes: usize,
    /// Where those go that do not fit; what does not fit there either is left out and counted.
    pub spool: Option<SpoolConfig>,
    /// Where lines for a person go: how dialling fares.
    pub tell: fn(&str),
}

impl Config {
    /// The defaults for a coordinator at HOST:PORT: a shard for each core, and this host's name.
    pub fn new(coordinator: String) -> Config {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let name = host::facts(0).hostname;
        Config {
            coordinator,
            name,
            index: None,
            shards: cores.min(MAX_SHARDS),
            outbox_bytes: OUTBOX_BYTES,
            spool: None,
            tell: |_| {},
        }
    }
}

impl From<Args> for Config {
    fn from(args: Args) -> Config {
        let default = Config::new(args.coordinator);
        Config {
            name: args.name.or_else(|| Some(format!("agent-{}", args.index?))).unwrap_or(default.name),
            index: args.index,
            shards: args.shards.unwrap_or(default.shards),
            outbox_bytes: (args.outbox_mib as usize) << 20,
            spool: SpoolConfig::from_flags(args.spool_dir, args.spool_mib),
            coordinator: default.coordinator,
            tell: default.tell,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_override_the_defaults_and_absurd_ones_are_refused() {
        let parse = |line: &str| Args::try_parse_from(line.split(' ')).map(Config::from);
        let config = parse("agent --coordinator h:1 --name a --shards 3 --outbox-mib 2").unwrap();
        assert_eq!((config.coordinator.as_str(), config.name.as_str()), ("h:1", "a"));
        assert_eq!((config.shards, config.outbox_bytes, config.index), (3, 2 << 20, None));
        let spool = parse("agent --coordinator h:1 --spool-dir /s --spool-mib 3").unwrap().spool.unwrap();
        assert_eq!((spool.dir, spool.bytes), (PathBuf::from("/s"), 3 << 20));
        assert!(parse("agent --coordinator h:1 --spool-dir /s --spool-mib 0").unwrap().spool.is_none());
        assert_eq!(parse("agent --coordinator h:1").unwrap().spool.unwrap().bytes, 1 << 30);
        let config = parse("agent --coordinator h:1 --index 3").unwrap();
        assert_eq!((config.name.as_str(), config.index), ("agent-3", Some(3)));
        assert!(parse("agent --coordinator h:1").unwrap().shards >= 1);
        for bad in ["agent", "agent --coordinator h:1 --shards 0", "agent --coordinator h:1 --shards 2000"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
