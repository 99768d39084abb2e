//! Latency without load: one request after another, each with the server to itself.

use crate::levels::Level;

use super::figures::Figures;
use super::single::Single;

/// What a baseline came to. Times in ns.
#[derive(Clone, Debug, Default)]
pub struct Baseline {
    /// Why it does not count, if so.
    pub voided: Option<String>,
    /// Requests that did not complete.
    pub not_completed: u64,
    /// Intended send → end.
    pub e2e_ns: Figures,
    /// Intended send → first token; `None` where no answer was streamed.
    pub ttft_ns: Option<Figures>,
    /// Per token after the first.
    pub tpot_ns: Option<Figures>,
    /// Of each request: its tokens over its wall time, tokens/s.
    pub tokens_per_s: Option<Figures>,
    /// Answers whose tokens are a stated proxy (chunks or words).
    pub proxy_tokens: u64,
}

impl Baseline {
    /// Of its only level; `None` when nothing completed.
    pub(super) fn of<'a>(mut levels: impl Iterator<Item = &'a Level>) -> Option<Self> {
        let level = levels.next()?;
        let e2e_ns = figures(level, |single| single.e2e_ns)?;
        Some(Self {
            voided: level.voided.clone(),
            not_completed: level.measured.released() - level.measured.completed,
            e2e_ns,
            ttft_ns: figures(level, |single| single.ttft_ns),
            tpot_ns: figures(level, |single| single.tpot_ns),
            tokens_per_s: Figures::of(level.singles.iter().filter_map(tokens_per_s)),
            proxy_tokens: level.outside.proxy_tokens,
        })
    }
}

/// Figures of one time of a level's completed requests, ns.
pub(super) fn figures(level: &Level, time: impl Fn(&Single) -> Option<i64>) -> Option<Figures> {
    Figures::of(level.singles.iter().filter_map(|single| Some(time(single)? as f64)))
}

fn tokens_per_s(single: &Single) -> Option<f64> {
    let (tokens, ns) = (single.output_tokens? as f64, single.e2e_ns.filter(|ns| *ns > 0)? as f64);
    Some(tokens / (ns / 1e9))
}
