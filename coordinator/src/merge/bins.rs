//! Is a bin wide enough for what falls in it? An event whose place is known to ±b may lie in a bin or in its neighbour
//! when the bin is narrower than 2b: what such bins show next to each other may be the clocks' doing. One function judges
//! every bin that is listed or drawn over time.

use crate::knee::duration;
use crate::levels::Level;

use super::nodes::NodeSummary;
use super::timeline::Alignment;

/// Bins of one width, and how far what falls in them may be misplaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bin {
    /// Of what.
    pub what: String,
    /// Width, ns.
    pub width_ns: i64,
    /// Half-width of the places of what they hold, ns.
    pub bound_ns: i64,
}

impl Bin {
    /// At least twice as wide as the bound.
    pub fn is_resolved(&self) -> bool {
        self.width_ns >= self.bound_ns.saturating_mul(2)
    }

    /// What to say of one that is not.
    pub fn warning(&self) -> Option<String> {
        let [width, bound, twice] = [self.width_ns, self.bound_ns, self.bound_ns.saturating_mul(2)]
            .map(|ns| duration(ns.max(0).unsigned_abs()));
        (!self.is_resolved()).then(|| {
            format!(
                "{} are {width} wide, but what they hold is placed to ±{bound} only: nothing closer together than \
                 {twice} can be told apart",
                self.what
            )
        })
    }
}

/// Every kind of bin over time that a run's outputs show.
pub(crate) fn bins(levels: &[Level], nodes: &[NodeSummary], gpu_to_token: Option<Alignment>) -> Vec<Bin> {
    let part = |level: &Level| {
        let (window, clock) = (level.throughput?.window, level.clock?);
        let what = format!("the parts of the throughput window at {}", level.load);
        Some(Bin { what, width_ns: window.part_ns(), bound_ns: clock.worst_ns })
    };
    let samples = gpu_to_token.and_then(|alignment| {
        let width_ns = nodes.iter().filter_map(|node| node.gpu_interval_ns).min()?;
        Some(Bin { what: "GPU samples beside tokens".to_owned(), width_ns, bound_ns: alignment.worst_ns })
    });
    levels.iter().filter_map(part).chain(samples).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bin_is_resolved_from_twice_its_bound_on() {
        let bin = |width_ns, bound_ns| Bin { what: "bins".to_owned(), width_ns, bound_ns };
        assert!(bin(200, 100).is_resolved() && bin(1, 0).is_resolved());
        assert_eq!(bin(200, 100).warning(), None);
        let words = bin(10_000_000, 6_100_000).warning().unwrap();
        assert!(
            words.contains("10.0 ms wide") && words.contains("±6.10 ms") && words.contains("12.2 ms"),
            "{words}"
        );
        assert!(!bin(i64::MAX - 1, i64::MAX).is_resolved());
    }
}
