//! What a person types (`Args`) and what the agent goes by (`Config`).

use std::path::PathBuf;

use clap::Parser;
use tailcliff_proto::host;
use tailcliff_proto::link::Route;
use tailcliff_proto::link::args::{LinkArgs, LinkArgsError};
use tailcliff_proto::outbox::SpoolConfig;
use tailcliff_proto::secret::Secret;

use crate::allow::{Allowed, Rule};

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
    /// Hosts that load may be sent to, whatever the coordinator asks: HOST, HOST:PORT, *.DOMAIN, or an address with or
    /// without /BITS; with http:// or https:// before it, by that alone [default: any]
    #[arg(long, value_name = "[SCHEME://]HOST[:PORT],…", value_delimiter = ',', help_heading = "Security")]
    pub allow_target: Vec<Rule>,
    /// File with an API key of this agent's own, for orders that bring none; without it OPENAI_API_KEY is used when set. It
    /// goes to hosts of --allow-target alone: over https with a certificate that this host's own CAs vouch for, and over
    /// http to loopback, or where --allow-target says so itself: http://vllm:8000
    #[arg(long, value_name = "FILE", help_heading = "Security", requires = "allow_target")]
    pub api_key_file: Option<PathBuf>,
    /// How the coordinator is trusted
    #[command(flatten)]
    pub link: LinkArgs,
}

/// Why the flags cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// TLS or the token.
    #[error(transparent)]
    Link(#[from] LinkArgsError),
    /// The API key cannot be had.
    #[error("failed to read the API key from {from}: {reason}")]
    ApiKey {
        /// The file or the variable.
        from: String,
        /// What is wrong; never the key.
        reason: String,
    },
}

/// What the agent goes by.
#[derive(Clone, Debug)]
pub struct Config {
    /// The way to the coordinator.
    pub coordinator: Route,
    /// Name in reports.
    pub name: String,
    /// Place in the fleet, from 0; `None` for whichever is free.
    pub index: Option<u32>,
    /// Threads that make load; each is a runtime with connections of its own. 0 counts as 1.
    pub shards: u32,
    /// Bytes of measurements kept in memory until acked.
    pub outbox_bytes: usize,
    /// Hosts that load may be sent to.
    pub allowed: Allowed,
    /// For orders that bring no key; goes to hosts that `allowed` names alone, and not where others could read it.
    pub api_key: Option<Secret>,
    /// Where those go that do not fit; what does not fit there either is left out and counted.
    pub spool: Option<SpoolConfig>,
    /// Where lines for a person go: how dialling fares.
    pub tell: fn(&str),
}

impl Config {
    /// The defaults for a coordinator at HOST:PORT: a shard for each core, and this host's name.
    pub fn new(coordinator: impl Into<Route>) -> Config {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let name = host::facts(0).hostname;
        Config {
            coordinator: coordinator.into(),
            name,
            index: None,
            shards: cores.min(MAX_SHARDS),
            outbox_bytes: OUTBOX_BYTES,
            allowed: Allowed::default(),
            api_key: None,
            spool: None,
            tell: |_| {},
        }
    }
}

/// The variable that holds a key where no file does.
const KEY_VARIABLE: &str = "OPENAI_API_KEY";
const MAX_KEY_BYTES: u64 = 64 << 10;

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Config, ConfigError> {
        let default = Config::new(args.link.route(args.coordinator)?);
        let api_key = api_key(args.api_key_file, std::env::var(KEY_VARIABLE).ok())?;
        Ok(Config {
            name: args.name.or_else(|| Some(format!("agent-{}", args.index?))).unwrap_or(default.name),
            index: args.index,
            shards: args.shards.unwrap_or(default.shards),
            outbox_bytes: (args.outbox_mib as usize) << 20,
            spool: SpoolConfig::from_flags(args.spool_dir, args.spool_mib),
            coordinator: default.coordinator,
            allowed: Allowed(args.allow_target),
            api_key,
            tell: default.tell,
        })
    }
}

fn api_key(file: Option<PathBuf>, variable: Option<String>) -> Result<Option<Secret>, ConfigError> {
    let from = file.as_ref().map_or_else(|| KEY_VARIABLE.to_owned(), |path| path.display().to_string());
    let refuse = |reason: String| ConfigError::ApiKey { from: from.clone(), reason };
    let text = match &file {
        Some(path) => {
            let facts = std::fs::metadata(path).map_err(|e| refuse(e.to_string()))?;
            // A device or a pipe could be read for ever.
            if !facts.is_file() || facts.len() > MAX_KEY_BYTES {
                return Err(refuse("not a file with a key".to_owned()));
            }
            std::fs::read_to_string(path).map_err(|e| refuse(e.to_string()))?
        }
        None => variable.unwrap_or_default(),
    };
    match text.trim() {
        "" if file.is_some() => Err(refuse("it holds no key".to_owned())),
        "" => Ok(None),
        key if key.bytes().all(|b| b.is_ascii_graphic()) => Ok(Some(Secret::new(key.to_owned()))),
        _ => Err(refuse("it holds characters that no header can carry".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_override_the_defaults_and_absurd_ones_are_refused() {
        let parse =
            |line: &str| Args::try_parse_from(line.split(' ')).map(|args| Config::try_from(args).unwrap());
        let config = parse("agent --coordinator localhost:1 --name a --shards 3 --outbox-mib 2").unwrap();
        assert_eq!((config.coordinator.address(), config.name.as_str()), ("localhost:1", "a"));
        assert_eq!((config.shards, config.outbox_bytes, config.index), (3, 2 << 20, None));
        let spool =
            parse("agent --coordinator localhost:1 --spool-dir /s --spool-mib 3").unwrap().spool.unwrap();
        assert_eq!((spool.dir, spool.bytes), (PathBuf::from("/s"), 3 << 20));
        assert!(
            parse("agent --coordinator localhost:1 --spool-dir /s --spool-mib 0").unwrap().spool.is_none()
        );
        assert_eq!(parse("agent --coordinator localhost:1").unwrap().spool.unwrap().bytes, 1 << 30);
        let config = parse("agent --coordinator localhost:1 --index 3").unwrap();
        assert_eq!((config.name.as_str(), config.index), ("agent-3", Some(3)));
        assert!(parse("agent --coordinator localhost:1").unwrap().shards >= 1);
        for bad in [
            "agent",
            "agent --coordinator localhost:1 --shards 0",
            "agent --coordinator localhost:1 --shards 2000",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
