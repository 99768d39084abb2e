//! Does the timeline ever show an effect before its cause? Counted, never repaired: no violation does not prove accuracy,
//! since a constant asymmetry of the path shows none.
//!
//! Every message between a node and the coordinator is such a pair, sent before it came. None of those counted here is of
//! the clock's own connection, so that the fit has seen none of them.

use std::collections::BTreeMap;

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
    /// Shortest time from a cause to its effect, as placed; below 0 when one came before it.
    pub least_ns: Option<i64>,
}

impl Causality {
    /// Takes in one pair.
    pub fn add(&mut self, cause: Aligned, effect: Aligned) {
        self.pairs += 1;
        let early = cause.ns.saturating_sub(effect.ns);
        let after = early.saturating_neg();
        self.least_ns = Some(self.least_ns.map_or(after, |least| least.min(after)));
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

    fn join(&mut self, other: &Self) {
        self.pairs += other.pairs;
        self.within_bar += other.within_bar;
        self.violations += other.violations;
        self.worst_ns = self.worst_ns.max(other.worst_ns);
        self.least_ns = [self.least_ns, other.least_ns].into_iter().flatten().min();
    }
}

/// What kind of message, and which way it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// A batch, to the coordinator.
    Batch,
    /// A node's heartbeat, to the coordinator.
    BeatUp,
    /// The coordinator's heartbeat, to a node.
    BeatDown,
    /// An order to start, and the start that it led to.
    Start,
    /// What an agent said of its start, to the coordinator.
    Started,
}

impl Channel {
    /// The name in outputs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch_to_coordinator",
            Self::BeatUp => "heartbeat_to_coordinator",
            Self::BeatDown => "heartbeat_to_node",
            Self::Start => "start_order_to_start",
            Self::Started => "started_to_coordinator",
        }
    }
}

/// Pairs by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    by_channel: BTreeMap<Channel, Causality>,
}

impl Checked {
    /// Takes in one pair.
    pub fn add(&mut self, channel: Channel, cause: Aligned, effect: Aligned) {
        self.by_channel.entry(channel).or_default().add(cause, effect);
    }

    /// All kinds together.
    pub fn total(&self) -> Causality {
        let mut all = Causality::default();
        self.by_channel.values().for_each(|one| all.join(one));
        all
    }

    /// Kinds that were seen.
    pub fn by_channel(&self) -> impl Iterator<Item = (Channel, &Causality)> {
        self.by_channel.iter().map(|(channel, causality)| (*channel, causality))
    }
}

/// Two messages: a node's heartbeat, and the coordinator's one that it gives back. ns, each on the clock of whoever took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Sent, on the node's clock.
    pub sent_raw_ns: i64,
    /// Came, on the coordinator's.
    pub received_ref_ns: i64,
    /// The coordinator's: (sent on its clock, read on the node's).
    pub heard: Option<(i64, i64)>,
}
