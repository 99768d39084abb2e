//! What a level asks for: streams kept busy (closed loop), or requests that arrive at a rate (open loop). A sweep goes
//! along one of the two axes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Requests per second; infinite for all at once, which is written `inf`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Rate(pub f64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a rate: try 0.5, 20 or inf");
        let number = match text.trim() {
            // As YAML spells it.
            ".inf" => f64::INFINITY,
            text => text.parse().map_err(|_| wrong())?,
        };
        if number > 0.0 { Ok(Self(number)) } else { Err(wrong()) }
    }
}

/// A number, or `"inf"`, for which JSON has none.
impl From<Rate> for Value {
    fn from(rate: Rate) -> Value {
        if rate.0.is_finite() { json!(rate.0) } else { json!(rate.to_string()) }
    }
}

impl TryFrom<Value> for Rate {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match value {
            Value::String(text) => text.parse(),
            value => value.to_string().parse(),
        }
    }
}

/// What one level asks for, of all agents together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// Streams, each with one request in flight.
    Streams(u32),
    /// Requests that arrive.
    Rate(Rate),
}

impl Default for Load {
    fn default() -> Self {
        Load::Streams(0)
    }
}

/// The number alone.
impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Load::Streams(streams) => streams.fmt(f),
            Load::Rate(rate) => rate.fmt(f),
        }
    }
}

impl Load {
    /// Streams of a closed loop.
    pub fn concurrency(&self) -> Option<u32> {
        match self {
            Load::Streams(streams) => Some(*streams),
            Load::Rate(_) => None,
        }
    }

    /// Rate of an open loop.
    pub fn request_rate(&self) -> Option<Rate> {
        match self {
            Load::Streams(_) => None,
            Load::Rate(rate) => Some(*rate),
        }
    }

    /// Requests arrive whatever became of those before.
    pub fn is_open(&self) -> bool {
        self.request_rate().is_some()
    }

    /// Everything arrives at once.
    pub fn is_at_once(&self) -> bool {
        self.request_rate().is_some_and(|rate| rate.0.is_infinite())
    }

    /// Where it lies on its axis.
    pub fn x(&self) -> f64 {
        match self {
            Load::Streams(streams) => f64::from(*streams),
            Load::Rate(rate) => rate.0,
        }
    }

    /// As it is said within a sentence: `concurrency 8`, `2.5 req/s`.
    pub fn words(&self) -> String {
        match self {
            Load::Streams(streams) => format!("concurrency {streams}"),
            Load::Rate(rate) => format!("{rate} req/s"),
        }
    }

    /// Name of its axis.
    pub fn axis(&self) -> &'static str {
        match self {
            Load::Streams(_) => "concurrency",
            Load::Rate(_) => "offered rate",
        }
    }

    /// The number as JSON.
    pub fn json(&self) -> Value {
        match self {
            Load::Streams(streams) => json!(streams),
            Load::Rate(rate) => Value::from(*rate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_as_they_are_written() {
        for (typed, rate) in [("0.5", 0.5), (" 20", 20.0), ("inf", f64::INFINITY), (".inf", f64::INFINITY)] {
            let read: Rate = typed.parse().unwrap();
            assert_eq!(read.0, rate, "{typed}");
            let stored = serde_json::to_string(&read).unwrap();
            assert_eq!(serde_json::from_str::<Rate>(&stored).unwrap(), read, "{stored}");
        }
        for wrong in ["0", "-1", "nan", "fast", ""] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_open_loop_has_no_concurrency() {
        let load = Load::Rate(Rate(2.5));
        assert_eq!((load.concurrency(), load.words().as_str()), (None, "2.5 req/s"));
        assert_eq!(Load::Rate(Rate(f64::INFINITY)).json(), json!("inf"));
        assert_eq!(Load::Streams(8).request_rate(), None);
    }
}
