//! When a client did not read: its event loop stood still, or it paused on purpose. While that was so, what arrived waited in
//! its socket, and nothing that it saw says when.

use std::collections::BTreeMap;

use crate::merge::tally::agents;
use crate::stored::RunData;

use super::gaps::Gap;
use super::is_sane;

/// What a loop that comes back does first may take so long, ns.
const SLACK_NS: i64 = 5_000_000;

/// For each stall the share of it in which its own loop is known not to have run, 0 to 1, and whether that lasted to its
/// end.
pub(super) fn unread(data: &RunData, gaps: &[Gap]) -> Vec<(f64, bool)> {
    let mut lags: BTreeMap<(u64, u32), Vec<(i64, i64)>> = BTreeMap::new();
    for (of, node) in agents(data) {
        for batch in node.each_batch_with_loop_lags() {
            for lag in batch.loop_lags.iter().filter(|lag| is_sane(lag.from_raw_ns) && is_sane(lag.to_raw_ns))
            {
                lags.entry((of, lag.shard)).or_default().push((lag.from_raw_ns, lag.to_raw_ns));
            }
        }
    }
    lags.values_mut().for_each(|all| all.sort_unstable());
    let none = Vec::new();
    let share = |gap: &Gap| {
        let of_shard = lags.get(&(gap.of, gap.shard)).unwrap_or(&none);
        // One after the other on one thread: they do not overlap, so the first that can matter is found by its end.
        let first = of_shard.partition_point(|lag| lag.1 <= gap.from_raw_ns);
        let near = of_shard[first..].iter().take_while(|lag| lag.0 < gap.to_raw_ns);
        let (mut paused, mut to_the_end) = (0, false);
        for &(from, to) in near.chain(&gap.control_raw_ns) {
            paused += to.min(gap.to_raw_ns).saturating_sub(from.max(gap.from_raw_ns)).max(0);
            to_the_end |= from < gap.to_raw_ns && to.saturating_add(SLACK_NS) >= gap.to_raw_ns;
        }
        ((paused as f64 / gap.length_ns().max(1) as f64).min(1.0), to_the_end)
    };
    gaps.iter().map(share).collect()
}
