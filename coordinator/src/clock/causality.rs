//! Does the timeline ever show an effect before its cause? Counted, never repaired: no violation does not prove accuracy,
//! since a constant asymmetry of the path shows none.

use super::Aligned;

/// Counts over cause-and-effect pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Causality {
    /// Pairs seen.
    pub pairs: u64,
    /// Effect before cause, but within the two error bars.
    pub within_bar: u64,
    /// Effect before cause by more than both bars: a clock is wrong.
    pub violations: u64,
    /// Furthest that an effect came before its cause, ns; 0 when none did.
    pub worst_ns: i64,
}

impl Causality {
    /// Takes in one pair.
    pub fn add(&mut self, cause: Aligned, effect: Aligned) {
        self.pairs += 1;
        let early = cause.ns.saturating_sub(effect.ns);
        if early <= 0 {
            return;
        }
        self.worst_ns = self.worst_ns.max(early);
        if early > cause.bound_ns.saturating_add(effect.bound_ns) {
            self.violations += 1;
        } else {
            self.within_bar += 1;
        }
    }
}
