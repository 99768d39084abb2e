//! Values of flags that plan files have too: times, levels, rates.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::axis::Rate;

/// A length of time, ns: `500ms`, `60s`, `2m`, `1h`, or plain seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "serde_norway::Value", into = "String")]
pub struct Span(pub i64);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let scale = match &text[digits.len()..] {
            "us" => 1e3,
            "ms" => 1e6,
            "s" | "" => 1e9,
            "m" | "min" => 60e9,
            "h" => 3600e9,
            unit => return Err(format!("unknown unit {unit:?}: try 500ms, 60s, 2m or 1h")),
        };
        let number: f64 =
            digits.trim().parse().map_err(|_| "not a time: try 500ms, 60s, 2m or 1h".to_owned())?;
        let ns = number * scale;
        // A week is longer than any level, and keeps every sum of times far from overflow.
        if !(0.0..=604_800e9).contains(&ns) {
            return Err("a time must lie between 0 and 7 days".to_owned());
        }
        Ok(Self(ns as i64))
    }
}

/// As it would be typed.
impl From<Span> for String {
    fn from(Span(ns): Span) -> String {
        let whole = |unit: i64| ns % unit == 0;
        match ns {
            ns if whole(1_000_000_000) => format!("{}s", ns / 1_000_000_000),
            ns if whole(1_000_000) => format!("{}ms", ns / 1_000_000),
            ns => format!("{}us", ns as f64 / 1e3),
        }
    }
}

impl TryFrom<serde_norway::Value> for Span {
    type Error = String;

    fn try_from(value: serde_norway::Value) -> Result<Self, String> {
        scalar(&value).ok_or("not a time: try 500ms, 60s, 2m or 1h")?.parse()
    }
}

/// What stands for levels that are searched for.
const AUTO: &str = "auto";

/// Levels of a sweep: `1,2,4,8`; none for `auto`, which searches for them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "serde_norway::Value", into = "serde_norway::Value")]
pub struct Levels(pub Vec<u32>);

impl Levels {
    /// They are searched for.
    pub fn is_auto(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Levels> for serde_norway::Value {
    fn from(levels: Levels) -> Self {
        if levels.is_auto() { AUTO.into() } else { levels.0.into_iter().collect() }
    }
}

impl FromStr for Levels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == AUTO {
            return Ok(Self(Vec::new()));
        }
        let level = |part: &str| {
            part.trim()
                .parse()
                .map_err(|_| format!("{part:?} is not a number of streams: try 1,2,4,8 or auto"))
        };
        text.split(',').map(level).collect::<Result<_, _>>().map(Self)
    }
}

impl TryFrom<serde_norway::Value> for Levels {
    type Error = String;

    fn try_from(value: serde_norway::Value) -> Result<Self, String> {
        listed(&value).ok_or("not a list of levels: try [1, 2, 4, 8]")?.parse()
    }
}

/// Times: `2s,5s`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "serde_norway::Value")]
pub struct Spans(pub Vec<Span>);

impl FromStr for Spans {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
}

impl TryFrom<serde_norway::Value> for Spans {
    type Error = String;

    fn try_from(value: serde_norway::Value) -> Result<Self, String> {
        listed(&value).ok_or("not a list of times: try [2s, 5s]")?.parse()
    }
}

/// Rates of a sweep: `1,2.5,inf`; none for `auto`, which searches for them.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "serde_norway::Value", into = "serde_norway::Value")]
pub struct Rates(pub Vec<Rate>);

impl Rates {
    /// They are searched for.
    pub fn is_auto(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Rates> for serde_norway::Value {
    fn from(rates: Rates) -> Self {
        // As text where YAML has no number of its own for it.
        let number = |Rate(rate): Rate| match rate.is_finite() {
            true => serde_norway::Value::from(rate),
            false => rate.to_string().into(),
        };
        if rates.is_auto() { AUTO.into() } else { rates.0.into_iter().map(number).collect() }
    }
}

impl FromStr for Rates {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == AUTO {
            return Ok(Self(Vec::new()));
        }
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl TryFrom<serde_norway::Value> for Rates {
    type Error = String;

    fn try_from(value: serde_norway::Value) -> Result<Self, String> {
        listed(&value).ok_or("not a list of rates: try [1, 2, inf]")?.parse()
    }
}

/// A scalar, or a sequence of them with commas between.
fn listed(value: &serde_norway::Value) -> Option<String> {
    match value {
        serde_norway::Value::Sequence(all) => {
            Some(all.iter().map(scalar).collect::<Option<Vec<_>>>()?.join(","))
        }
        one => scalar(one),
    }
}

pub(super) fn scalar(value: &serde_norway::Value) -> Option<String> {
    match value {
        serde_norway::Value::String(text) => Some(text.clone()),
        serde_norway::Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
