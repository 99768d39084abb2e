//! An SLO as it is typed, `ttft:500 tpot:50`: vLLM's syntax, limits in ms.

use crate::args::slo::SloArgs;
use crate::plan::SloPlan;

/// Share that must be good unless told otherwise.
const SHARE: f64 = 0.99;
/// A limit longer than a week is none.
const LONGEST_MS: f64 = 604_800e3;

/// Why it is none.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum SloError {
    /// A term that cannot be read.
    #[error("bad --goodput: {0:?} is not METRIC:MS: try ttft:500 tpot:50")]
    Term(String),
    /// A metric that requests do not have.
    #[error("bad --goodput: {0:?} is no metric of a request: try ttft, tpot, itl or e2e")]
    Metric(String),
    /// A limit that is none.
    #[error("bad --goodput: {0:?}: a limit lies above 0 ms and is at most a week: try ttft:500")]
    Limit(String),
    /// A metric with two limits.
    #[error("bad --goodput: {0} is given twice: give one limit for each metric")]
    Twice(String),
    /// What only a stream has.
    #[error(
        "bad --goodput: {0} is not known of replies that come whole (--no-streaming): judge e2e, or ask for streams"
    )]
    NotStreamed(String),
    /// A share that is none.
    #[error("bad --slo-share: it lies above 0 and is at most 1: try 0.99")]
    Share,
    /// A price that is none.
    #[error("bad --gpu-price-per-hour: it lies above 0: try 2.50, in $ an hour for all GPUs together")]
    Price,
    /// Something that says nothing without limits.
    #[error("bad {0}: it says nothing without an SLO: give --goodput too, such as ttft:500 tpot:50")]
    Alone(&'static str),
}

/// What flags say; `None` when they say nothing.
///
/// # Errors
/// The first thing that makes no sense, with what to try.
pub fn plan_of(args: &SloArgs, streaming: bool) -> Result<Option<SloPlan>, SloError> {
    let typed = args.goodput.iter().flat_map(|part| part.split([' ', ',', '\t'])).filter(|t| !t.is_empty());
    let mut terms: Vec<(String, i64)> = Vec::new();
    for (metric, limit_ns) in typed.map(term).collect::<Result<Vec<_>, _>>()? {
        if terms.iter().any(|(before, _)| before == metric) {
            return Err(SloError::Twice(metric.to_owned()));
        }
        if !streaming && metric != "e2e" {
            return Err(SloError::NotStreamed(metric.to_owned()));
        }
        terms.push((metric.to_owned(), limit_ns));
    }
    let share = args.slo_share.unwrap_or(SHARE);
    if !(share > 0.0 && share <= 1.0) {
        return Err(SloError::Share);
    }
    if args.gpu_price_per_hour.is_some_and(|usd| !(usd > 0.0 && usd.is_finite())) {
        return Err(SloError::Price);
    }
    match (terms.is_empty(), args.slo_share, args.gpu_price_per_hour) {
        (false, ..) => Ok(Some(SloPlan { terms, share, usd_per_hour: args.gpu_price_per_hour })),
        (true, Some(_), _) => Err(SloError::Alone("--slo-share")),
        (true, None, Some(_)) => Err(SloError::Alone("--gpu-price-per-hour")),
        (true, None, None) => Ok(None),
    }
}

fn term(text: &str) -> Result<(&'static str, i64), SloError> {
    let (metric, limit) = text.split_once(':').ok_or_else(|| SloError::Term(text.to_owned()))?;
    let metric = match metric.trim().to_ascii_lowercase().as_str() {
        "ttft" => "ttft",
        "tpot" => "tpot",
        "itl" => "itl",
        "e2e" | "e2el" => "e2e",
        _ => return Err(SloError::Metric(metric.to_owned())),
    };
    let limit = limit.trim().trim_end_matches("ms");
    let ms: f64 = limit.parse().map_err(|_| SloError::Term(text.to_owned()))?;
    let ns = (ms * 1e6).round();
    if ms <= LONGEST_MS && ns >= 1.0 {
        Ok((metric, ns as i64))
    } else {
        Err(SloError::Limit(text.to_owned()))
    }
}
