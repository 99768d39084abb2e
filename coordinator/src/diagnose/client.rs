//! The bend that is the client's own: levels that it could not drive are no part of knee and cliff; when these are judged
//! all the same and there is a bend, it is the client's.

use crate::knee::{self, Rung, duration};
use crate::plan::CliffRule;

use super::seen::Seen;
use super::{Cause, Diagnosis, Evidence, evidence};

/// The client's bend, when the levels that it could not drive show one and the others do not.
pub(super) fn of(rule: &CliffRule, seen: &[Seen]) -> Option<Diagnosis> {
    let rungs: Vec<Rung> = seen.iter().filter(|level| !level.is_void).map(rung).collect();
    let (knee, cliff) = (knee::knee(rule, &rungs), knee::cliff(rule, &rungs));
    let bound = seen.iter().find(|level| level.client.is_some())?;
    let before = |x: f64| seen.iter().rev().find(|level| !level.is_void && level.load.x() < x);
    let (at, words) = match (knee.at, cliff.at) {
        (Some(at), _) => (at, &knee.words),
        (None, Some(at)) => (before(at.x())?.load, &cliff.words),
        (None, None) => return None,
    };
    let below = seen.iter().find(|level| level.load == at)?;
    let above = seen.iter().find(|level| !level.is_void && level.load.x() > at.x())?;
    // Where it bends before the client was at its limit, that limit does not explain it.
    let reasons = above.client.as_ref()?;
    let mut all = vec![Evidence {
        signal: "certificate",
        words: format!(
            "at {}: ok; at {}: client-bound, {}",
            before(bound.load.x()).map_or_else(|| "no level".to_owned(), |l| l.load.to_string()),
            above.load,
            reasons
        ),
    }];
    all.extend(evidence::of_client(below, above));
    let took = above
        .e2e_ns
        .map_or_else(String::new, |ns| format!(" (mean E2E there {})", duration(ns.max(0.0) as u64)));
    Some(Diagnosis {
        cause: Cause::ClientBound,
        confidence: 0.95,
        candidates: Vec::new(),
        words: format!(
            "cause: client-bound: from {} on the client was the limit, not the server{took}: {words}",
            above.load.words()
        ),
        evidence: all,
        excluded: Vec::new(),
    })
}

fn rung(level: &Seen) -> Rung {
    Rung {
        load: level.load,
        offered: level.offered,
        throughput: level.throughput.filter(|x| *x > 0.0),
        judged_ns: level.judged_ns,
        skip: None,
    }
}
