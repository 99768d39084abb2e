//! What goes wrong with spans, on purpose.

use std::str::FromStr;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanFaultKind {
    /// Exported without trace id, span id and request id.
    NoIds,
    /// Never exported.
    Lost,
    /// An export that is no OTLP goes before it.
    Garbage,
}

/// What goes wrong, and with which spans.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpanFault {
    /// What.
    pub kind: SpanFaultKind,
    /// Hits each span with this probability (seeded); `None`: all that `every` lets through.
    pub probability: Option<f64>,
    /// Hits every n-th span, n ≥ 1; `None`: all that `probability` lets through.
    pub every: Option<u64>,
}

/// A `--span-fault` that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error(
    "failed to read the span fault `{0}`: give no_ids, lost or garbage, and :p=0.1 or :every=10 where not all are meant"
)]
pub struct BadSpanFault(String);

impl FromStr for SpanFault {
    type Err = BadSpanFault;

    /// Reads `kind[:p=0.1,every=10]`.
    fn from_str(text: &str) -> Result<Self, BadSpanFault> {
        let bad = || BadSpanFault(text.to_owned());
        let (kind, fields) = text.split_once(':').unwrap_or((text, ""));
        let kind = match kind {
            "no_ids" => SpanFaultKind::NoIds,
            "lost" => SpanFaultKind::Lost,
            "garbage" => SpanFaultKind::Garbage,
            _ => return Err(bad()),
        };
        let mut fault = Self { kind, probability: None, every: None };
        for field in fields.split(',').filter(|field| !field.is_empty()) {
            let (name, value) = field.split_once('=').ok_or_else(bad)?;
            match name {
                "p" => {
                    let p = value.parse().ok().filter(|p| (0.0..=1.0).contains(p));
                    fault.probability = Some(p.ok_or_else(bad)?);
                }
                "every" => fault.every = Some(value.parse().ok().filter(|n| *n > 0).ok_or_else(bad)?),
                _ => return Err(bad()),
            }
        }
        Ok(fault)
    }
}

/// The faults of a server, and how many spans it has seen.
#[derive(Debug)]
pub(crate) struct Faults {
    rules: Vec<SpanFault>,
    rng: fastrand::Rng,
    seen: u64,
}

impl Faults {
    pub(crate) fn new(rules: &[SpanFault], seed: u64) -> Self {
        Self { rules: rules.to_vec(), rng: fastrand::Rng::with_seed(seed), seen: 0 }
    }

    /// What goes wrong with the next span.
    pub(crate) fn next(&mut self) -> Vec<SpanFaultKind> {
        self.seen += 1;
        let Self { rules, rng, seen } = self;
        let mut hits = |rule: &SpanFault| {
            rule.every.is_none_or(|n| seen.is_multiple_of(n))
                && rule.probability.is_none_or(|p| rng.f64() < p)
        };
        rules.iter().filter(|rule| hits(rule)).map(|rule| rule.kind).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_rules_and_hits_as_often_as_they_say() {
        let rules: Vec<SpanFault> =
            ["lost:every=3", "no_ids:p=0.25"].iter().map(|text| text.parse().unwrap()).collect();
        let mut faults = Faults::new(&rules, 1);
        let hits: Vec<Vec<SpanFaultKind>> = (0..9_000).map(|_| faults.next()).collect();
        let count = |kind| hits.iter().filter(|hit| hit.contains(&kind)).count();
        assert_eq!((count(SpanFaultKind::Lost), count(SpanFaultKind::Garbage)), (3_000, 0));
        assert!((2_000..2_500).contains(&count(SpanFaultKind::NoIds)));
        for bad in ["", "nope", "lost:p=2", "lost:p", "lost:every=0", "lost:x=1"] {
            assert!(bad.parse::<SpanFault>().is_err(), "{bad}");
        }
    }
}
