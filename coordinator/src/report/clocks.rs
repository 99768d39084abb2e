//! What a reader is told of the clocks: how well each node's is known, in words and in `summary.json`.

use serde_json::{Map, Value, json};

use crate::clock::{Causality, Checked};
use crate::knee::duration;
use crate::merge::Merged;
use crate::merge::bins::Bin;
use crate::merge::nodes::NodeSummary;
use crate::merge::starts::{Start, Starts};
use crate::merge::timeline::Alignment;

use super::text::{json_ms, json_us};

/// Nodes that are named, the widest bounds first.
const NAMED: usize = 6;

/// Lines on the clocks; none when one clock stamps everything.
pub(super) fn lines(merged: &Merged) -> Vec<String> {
    let mut all: Vec<String> = nodes(&merged.nodes).into_iter().collect();
    let is_one_clock = all.is_empty();
    all.extend(merged.gpu_to_token.map(aligned));
    let order = merged.causality.total();
    if !is_one_clock && order.pairs > 0 {
        all.push(format!(
            "cause before effect: {} messages checked, {} out of order within the bounds, {} beyond them",
            order.pairs, order.within_bar, order.violations
        ));
    }
    all
}

fn nodes(all: &[NodeSummary]) -> Option<String> {
    let mut known: Vec<_> = all
        .iter()
        .filter(|node| node.clock == "fitted")
        .filter_map(|node| Some((node.worst_bound_ns?, node.median_bound_ns?, &node.name)))
        .collect();
    known.sort_by_key(|&(worst, ..)| std::cmp::Reverse(worst));
    let one = |&(worst, median, name): &(i64, i64, &String)| match [time(median), time(worst)] {
        [median, worst] if median == worst => format!("{name} ±{median}"),
        [median, worst] => format!("{name} ±{median} (worst ±{worst})"),
    };
    let named: Vec<String> = known.iter().take(NAMED).map(one).collect();
    let rest = known
        .get(NAMED)
        .map(|&(worst, ..)| format!(", and {} more within ±{}", known.len() - NAMED, time(worst)));
    (!named.is_empty()).then(|| format!("clocks: {}{}", named.join(", "), rest.unwrap_or_default()))
}

fn aligned(of: Alignment) -> String {
    if of.worst_ns == 0 {
        return "GPU and token stamps are of one clock: no error between them".to_owned();
    }
    let repeatable = of.repeatable_ns.map_or("of unknown repeatability".to_owned(), |ns| {
        format!("repeatable to {}, which is blind to asymmetric paths", time(ns))
    });
    let (median, worst) = (time(of.median_ns), time(of.worst_ns));
    format!("GPU ↔ token alignment ±{median} (guaranteed; worst ±{worst}; {repeatable})")
}

/// `0` for what is no time.
pub(super) fn time(ns: i64) -> String {
    match u64::try_from(ns) {
        Ok(0) | Err(_) => "0".to_owned(),
        Ok(ns) => duration(ns),
    }
}

/// Counts of pairs, all together and by kind.
pub(super) fn causality(checked: &Checked) -> Value {
    let one = |c: &Causality| {
        json!({
            "pairs": c.pairs,
            "within_bar": c.within_bar,
            "violations": c.violations,
            "worst_us": json_us(Some(c.worst_ns)),
            "least_us": json_us(c.least_ns),
        })
    };
    let kinds: Map<String, Value> =
        checked.by_channel().map(|(channel, c)| (channel.as_str().to_owned(), one(c))).collect();
    let mut all = one(&checked.total());
    all.as_object_mut().into_iter().for_each(|all| drop(all.insert("kinds".to_owned(), json!(kinds))));
    all
}

/// A kind of bin, judged.
pub(super) fn bin(bin: &Bin) -> Value {
    json!({
        "what": bin.what,
        "width_ms": json_ms(Some(bin.width_ns as f64)),
        "bound_us": json_us(Some(bin.bound_ns)),
        "resolved": bin.is_resolved(),
    })
}

/// When the agents of a level started.
pub(super) fn starts(starts: &Starts) -> Value {
    let one = |start: &Start| {
        json!({
            "name": start.name,
            "late_us": json_us(Some(start.late_ns)),
            "bound_us": json_us(Some(start.bound_ns)),
            "order_was_late": start.order_was_late,
        })
    };
    json!({
        "agents": starts.known,
        "spread_us": json_us(Some(starts.spread_ns)),
        "bound_us": json_us(Some(starts.bound_ns)),
        "latest": starts.latest.iter().map(one).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, clock: &'static str, bound_ns: i64) -> NodeSummary {
        NodeSummary {
            name: name.to_owned(),
            clock,
            median_bound_ns: Some(bound_ns),
            worst_bound_ns: Some(2 * bound_ns),
            ..NodeSummary::default()
        }
    }

    #[test]
    fn each_clock_has_its_bound_and_of_many_the_widest_are_named() {
        let even = NodeSummary { worst_bound_ns: Some(9_000), ..node("b", "fitted", 9_000) };
        let few = [node("a", "fitted", 18_000), node("here", "same-clock", 0), even];
        assert_eq!(nodes(&few).unwrap(), "clocks: a ±18.0 µs (worst ±36.0 µs), b ±9.00 µs");
        let many: Vec<_> = (1..=1000).map(|i| node(&format!("n{i}"), "fitted", i * 1_000)).collect();
        let words = nodes(&many).unwrap();
        assert!(words.starts_with("clocks: n1000 ±1.00 ms (worst ±2.00 ms), n999"), "{words}");
        assert!(words.ends_with(", and 994 more within ±1.99 ms"), "{words}");
        assert_eq!(nodes(&few[1..2]), None);
    }
}
