//! Service levels: which requests were good, what share of them at which load, and the highest load that keeps to it.
//!
//! A request is good when it completed and kept every limit. One that failed is not; nor is one that was given up after it
//! had broken a limit already. One that was given up before that is censored: it is in neither count, and counted apart.

mod capacity;
mod power;
pub(crate) mod report;
mod request;
mod share;
mod terms;

#[cfg(test)]
mod tests;

use crate::blocks::Block;

pub use capacity::{Capacity, Economy, capacity};
pub use power::Power;
pub(crate) use request::keeps;
pub use share::interval;
pub use terms::{SloError, plan_of};

/// Requests of a level's measured phase by what an SLO says of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Completed, and kept every limit.
    pub good: u64,
    /// Failed, or broke a limit.
    pub bad: u64,
    /// Given up before any limit was broken, or without the figure that a limit is on: in neither count.
    pub censored: u64,
}

impl Kept {
    /// Counts one request.
    pub(crate) fn count(&mut self, kept: Option<bool>) {
        match kept {
            Some(true) => self.good += 1,
            Some(false) => self.bad += 1,
            None => self.censored += 1,
        }
    }

    /// Those judged.
    pub fn judged(&self) -> u64 {
        self.good + self.bad
    }

    /// good / (good + bad); `None` when none was judged.
    pub fn share(&self) -> Option<f64> {
        (self.judged() > 0).then(|| self.good as f64 / self.judged() as f64)
    }

    /// 95 % interval of the share; `None` when none was judged.
    pub fn interval(&self, blocks: &[Block]) -> Option<(f64, f64)> {
        share::interval(self, blocks)
    }
}
