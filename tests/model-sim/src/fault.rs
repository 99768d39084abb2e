//! Faults that real servers show, chosen by the server's flags or by a request's own `sim_fault` field.

use serde::{Deserialize, Deserializer};

use crate::engine::Cause;

/// Longest pause or loading time, ms: an hour.
const LONGEST_MS: u64 = 3_600_000;

/// NVML's bits for clocks that are held down: by the power cap in software, by heat in software, by heat in hardware.
const THROTTLE_BITS: [u32; 3] = [0x4, 0x20, 0x40];

/// One fault. In JSON an object with `kind` (snake case) and the fields; as a flag `kind:field=value,field=value`.
/// Tokens count from 0.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// Token `token` comes `ms` after the one before it (or after its own time, if it is the first), and all later
    /// ones as much later.
    Pause {
        /// Which token is late.
        token: u64,
        /// The gap before it, ms.
        #[serde(deserialize_with = "milliseconds")]
        ms: u64,
    },
    /// Token `token` never comes; the connection stays open.
    Stall {
        /// The token that never comes.
        token: u64,
    },
    /// The connection closes instead of token `token`.
    Drop {
        /// The token that never comes.
        token: u64,
        /// With a TCP reset instead of an orderly end.
        #[serde(default)]
        reset: bool,
    },
    /// An HTTP error instead of an answer: 500, 503, 429, …
    Status {
        /// 400 ..= 599.
        #[serde(deserialize_with = "error_code")]
        code: u16,
    },
    /// The event of token `token` is cut in the middle of its JSON.
    Truncate {
        /// The token whose event is cut.
        token: u64,
    },
    /// An error event instead of token `token`, then `[DONE]`.
    StreamError {
        /// The token that never comes.
        token: u64,
    },
    /// The stream ends without `[DONE]`.
    NoDone,
    /// Several tokens per chunk.
    Chunk {
        /// How many; ≥ 1. The chunk leaves with its last token.
        #[serde(deserialize_with = "at_least_one")]
        tokens: u64,
    },
    /// The first tokens are `reasoning_content`.
    Reasoning {
        /// How many.
        tokens: u64,
    },
    /// The connection closes after a streamed reply although keep-alive was promised, as llama.cpp's server does.
    Close,
    /// The response head leaves with the first token, as llama.cpp's server does.
    LateHeaders,
    /// 503 for the server's first `ms` milliseconds, as while loading a model.
    Loading {
        /// Since the server's start, ms.
        #[serde(deserialize_with = "milliseconds")]
        ms: u64,
    },
    /// Engine: before token `token` of this request no step runs for `ms`, and the GPU is idle. All wait.
    IdlePause {
        /// Before which token.
        #[serde(default)]
        token: u64,
        /// How long, ms.
        #[serde(deserialize_with = "milliseconds")]
        ms: u64,
    },
    /// Engine: the same with the GPU at its limit.
    ExtraCompute {
        /// Before which token.
        #[serde(default)]
        token: u64,
        /// How long, ms.
        #[serde(deserialize_with = "milliseconds")]
        ms: u64,
    },
    /// Engine: before token `token` this request leaves the batch for `ms` or more, and its tokens are computed again.
    Preempt {
        /// Before which token.
        #[serde(default)]
        token: u64,
        /// How long, ms.
        #[serde(deserialize_with = "milliseconds")]
        ms: u64,
    },
    /// Engine: from token `token` of this request on all steps run slower for `ms`.
    Throttle {
        /// Before which token.
        #[serde(default)]
        token: u64,
        /// How long, ms.
        #[serde(deserialize_with = "milliseconds")]
        ms: u64,
        /// How many times longer a step takes; 2 ..= 10,000.
        #[serde(deserialize_with = "times")]
        factor: u64,
        /// NVML's bits for the reason: 4, 32 or 64.
        #[serde(default = "power_cap", deserialize_with = "throttle_bits")]
        bits: u32,
    },
}

fn times<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    within(d, 2, 10_000)
}

fn power_cap() -> u32 {
    THROTTLE_BITS[0]
}

fn throttle_bits<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    let value = u32::deserialize(d)?;
    let error = || serde::de::Error::custom(format!("{value} is none of 4, 32 and 64"));
    THROTTLE_BITS.contains(&value).then_some(value).ok_or_else(error)
}

impl Fault {
    /// What it does to the engine as a whole, and before which token of its request.
    pub(crate) fn cause(&self) -> Option<(u64, Cause)> {
        let ns = |ms: u64| ms as i64 * 1_000_000;
        Some(match *self {
            Self::IdlePause { token, ms } => (token, Cause::IdlePause { ns: ns(ms) }),
            Self::ExtraCompute { token, ms } => (token, Cause::ExtraCompute { ns: ns(ms) }),
            Self::Preempt { token, ms } => (token, Cause::Preempt { ns: ns(ms) }),
            Self::Throttle { token, ms, factor, bits } => {
                (token, Cause::Throttle { ns: ns(ms), factor: factor as f64, bits })
            }
            _ => return None,
        })
    }
}

fn milliseconds<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    within(d, 0, LONGEST_MS)
}

fn at_least_one<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    within(d, 1, u64::MAX)
}

fn error_code<'de, D: Deserializer<'de>>(d: D) -> Result<u16, D::Error> {
    within(d, 400, 599).map(|code| code as u16)
}

fn within<'de, D: Deserializer<'de>>(d: D, low: u64, high: u64) -> Result<u64, D::Error> {
    let value = u64::deserialize(d)?;
    let error = || serde::de::Error::custom(format!("{value} is not in {low} ..= {high}"));
    (low..=high).contains(&value).then_some(value).ok_or_else(error)
}

/// A fault of the server's flags, and which requests it hits.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultRule {
    /// What happens.
    pub fault: Fault,
    /// Hits each request with this probability (seeded); `None`: all that `every` lets through.
    pub probability: Option<f64>,
    /// Hits every n-th request, n ≥ 1; `None`: all that `probability` lets through.
    pub every: Option<u64>,
    /// Hits no request: takes hold so long after the server's start, ms. Only what is about the engine can.
    pub at_ms: Option<u64>,
}

impl FaultRule {
    /// Whether it hits the `count`-th request (from 1).
    pub(crate) fn hits(&self, count: u64, rng: &mut fastrand::Rng) -> bool {
        self.at_ms.is_none()
            && self.every.is_none_or(|n| count.is_multiple_of(n))
            && self.probability.is_none_or(|p| rng.f64() < p)
    }
}

/// A `--fault` flag that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("failed to read the fault `{text}`: {reason}")]
pub struct BadFault {
    text: String,
    reason: String,
}

impl std::str::FromStr for FaultRule {
    type Err = BadFault;

    /// Reads `kind[:field=value,…]`, where `p=0.1` and `every=10` choose the requests, or `at_ms=5000` a time.
    fn from_str(text: &str) -> Result<Self, BadFault> {
        let bad = |reason: String| BadFault { text: text.to_owned(), reason };
        let (kind, fields) = text.split_once(':').unwrap_or((text, ""));
        let mut object = serde_json::Map::new();
        object.insert("kind".into(), kind.into());
        let (mut probability, mut every, mut at_ms) = (None, None, None);
        for field in fields.split(',').filter(|f| !f.is_empty()) {
            let (name, value) = field.split_once('=').ok_or_else(|| bad(format!("`{field}` has no `=`")))?;
            let value: serde_json::Value = serde_json::from_str(value).map_err(|e| bad(e.to_string()))?;
            match name {
                "p" => probability = Some(value.as_f64().filter(|p| (0.0..=1.0).contains(p))),
                "every" => every = Some(value.as_u64().filter(|n| *n > 0)),
                "at_ms" => at_ms = Some(value.as_u64().filter(|ms| *ms <= LONGEST_MS)),
                _ => drop(object.insert(name.to_owned(), value)),
            }
        }
        if probability == Some(None) || every == Some(None) {
            return Err(bad("p must be in 0 ..= 1 and every at least 1".into()));
        }
        let fault: Fault = serde_json::from_value(object.into()).map_err(|e| bad(e.to_string()))?;
        let alone = probability.is_none() && every.is_none() && fault.cause().is_some();
        if at_ms == Some(None) || (at_ms.is_some() && !alone) {
            let what = "at_ms is up to an hour, without p and every, and for what is about the engine";
            return Err(bad(what.into()));
        }
        let (probability, every, at_ms) = (probability.flatten(), every.flatten(), at_ms.flatten());
        Ok(Self { fault, probability, every, at_ms })
    }
}

/// All faults of one request, in the form that the reply asks about them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Faults(pub(crate) Vec<Fault>);

/// What goes wrong instead of, or with, one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtToken {
    Stall,
    Drop { reset: bool },
    Error,
    Truncate,
}

impl Faults {
    /// The first fault at `token`.
    pub(crate) fn at(&self, token: u64) -> Option<AtToken> {
        self.0.iter().find_map(|fault| match *fault {
            Fault::Stall { token: k } if k == token => Some(AtToken::Stall),
            Fault::Drop { token: k, reset } if k == token => Some(AtToken::Drop { reset }),
            Fault::StreamError { token: k } if k == token => Some(AtToken::Error),
            Fault::Truncate { token: k } if k == token => Some(AtToken::Truncate),
            _ => None,
        })
    }

    /// The gap that must lie before `token`, ns.
    pub(crate) fn pause_ns(&self, token: u64) -> Option<i64> {
        self.0.iter().find_map(|fault| match *fault {
            Fault::Pause { token: k, ms } if k == token => Some(ms as i64 * 1_000_000),
            _ => None,
        })
    }

    /// The HTTP error to answer with, `since_start_ns` after the server's start.
    pub(crate) fn status(&self, since_start_ns: i64) -> Option<u16> {
        self.0.iter().find_map(|fault| match *fault {
            Fault::Status { code } => Some(code),
            Fault::Loading { ms } if since_start_ns < ms as i64 * 1_000_000 => Some(503),
            _ => None,
        })
    }

    pub(crate) fn tokens_per_chunk(&self) -> u64 {
        self.0
            .iter()
            .find_map(|f| if let Fault::Chunk { tokens } = f { Some(*tokens) } else { None })
            .unwrap_or(1)
    }

    pub(crate) fn reasoning_tokens(&self) -> u64 {
        self.0
            .iter()
            .find_map(|f| if let Fault::Reasoning { tokens } = f { Some(*tokens) } else { None })
            .unwrap_or(0)
    }

    pub(crate) fn has(&self, fault: &Fault) -> bool {
        self.0.contains(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_flags() {
        let rule: FaultRule = "pause:token=5,ms=724,every=10".parse().unwrap();
        assert_eq!(
            rule,
            FaultRule {
                fault: Fault::Pause { token: 5, ms: 724 },
                probability: None,
                every: Some(10),
                at_ms: None
            }
        );
        let rule: FaultRule = "late_headers:p=0.25".parse().unwrap();
        assert_eq!((rule.fault, rule.probability, rule.every), (Fault::LateHeaders, Some(0.25), None));
        let rule: FaultRule = "throttle:ms=500,factor=40,bits=64,at_ms=5000".parse().unwrap();
        assert_eq!(rule.at_ms, Some(5000));
        assert_eq!(rule.fault, Fault::Throttle { token: 0, ms: 500, factor: 40, bits: 64 });
        assert_eq!("close".parse::<FaultRule>().unwrap().fault, Fault::Close);
    }

    #[test]
    fn says_what_is_wrong_with_a_flag() {
        for (flag, part) in [
            ("pauze", "unknown variant"),
            ("pause:token=5", "missing field `ms`"),
            ("pause:token=5,ms=1,x=2", "unknown field"),
            ("pause:token", "no `=`"),
            ("pause:token=-1,ms=1", "invalid value"),
            ("status:code=200", "not in 400"),
            ("chunk:tokens=0", "not in 1"),
            ("close:p=1.5", "p must be"),
            ("close:every=0", "every at least 1"),
            ("pause:token=1,ms=99999999999", "not in 0"),
            ("pause:token=1,ms=9,at_ms=5", "about the engine"),
            ("idle_pause:ms=9,at_ms=5,every=2", "without p and every"),
            ("throttle:ms=9,factor=1", "not in 2"),
            ("throttle:ms=9,factor=40,bits=1", "none of 4"),
        ] {
            let message = flag.parse::<FaultRule>().unwrap_err().to_string();
            assert!(message.contains(part) && message.contains(flag), "{message}");
        }
    }

    #[test]
    fn rules_hit_as_often_as_they_say() {
        let mut rng = fastrand::Rng::with_seed(1);
        let every: FaultRule = "close:every=3".parse().unwrap();
        assert_eq!((1..=9).filter(|n| every.hits(*n, &mut rng)).collect::<Vec<_>>(), [3, 6, 9]);
        let often: FaultRule = "close:p=0.3".parse().unwrap();
        let hits = (0..10_000).filter(|n| often.hits(*n, &mut rng)).count();
        let timed: FaultRule = "idle_pause:ms=5,at_ms=5".parse().unwrap();
        assert!(!timed.hits(1, &mut rng), "it hits no request");
        assert!((2_700..3_300).contains(&hits), "{hits}");
    }
}
