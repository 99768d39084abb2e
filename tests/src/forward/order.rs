//! What a forwarder can be told, also as a line of text.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::time::Duration;

use super::Way;

/// What a forwarder can be told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    /// How long bytes take from the dialling side to the other.
    Up(Way),
    /// And back.
    Down(Way),
    /// Close every connection and refuse new ones.
    Cut,
    /// Hold all connections, forward nothing.
    Swallow,
    /// Forward again.
    Heal,
}

impl Display for Order {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let way = |out: &mut Formatter<'_>, name, way: &Way| {
            let [base, jitter] = [way.base, way.jitter].map(|time| time.as_micros());
            write!(out, "{name} {base} {jitter} {}", way.seed)
        };
        match self {
            Self::Up(up) => way(out, "up", up),
            Self::Down(down) => way(out, "down", down),
            Self::Cut => out.write_str("cut"),
            Self::Swallow => out.write_str("swallow"),
            Self::Heal => out.write_str("heal"),
        }
    }
}

impl FromStr for Order {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split(' ').collect();
        let bad = || format!("failed to read {line:?} as an order to a forwarder");
        let way = |base: &str, jitter: &str, seed: &str| {
            let micros = |text: &str| text.parse().map(Duration::from_micros).map_err(|_| bad());
            let seed = seed.parse().map_err(|_| bad())?;
            Ok(Way { base: micros(base)?, jitter: micros(jitter)?, seed })
        };
        match words[..] {
            ["up", base, jitter, seed] => way(base, jitter, seed).map(Self::Up),
            ["down", base, jitter, seed] => way(base, jitter, seed).map(Self::Down),
            ["cut"] => Ok(Self::Cut),
            ["swallow"] => Ok(Self::Swallow),
            ["heal"] => Ok(Self::Heal),
            _ => Err(bad()),
        }
    }
}
