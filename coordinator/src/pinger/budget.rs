//! One budget of pings that all conversations draw from, in the order in which they ask: no node waits for longer than all
//! others take one burst each, however many a single one asks for.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::bursts::BUDGET_PER_SECOND;

/// Unused budget that may be made up for: a small fleet never waits.
const ALLOWANCE: Duration = Duration::from_millis(256);

#[derive(Debug)]
pub(super) struct Budget {
    /// When all pings drawn so far are paid for.
    paid_at: Mutex<Instant>,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { paid_at: Mutex::new(now.checked_sub(ALLOWANCE).unwrap_or(now)) }
    }

    /// Draws so many pings; when the first of them may be sent.
    pub(super) fn draw(&self, now: Instant, pings: u32) -> Instant {
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = now.checked_sub(ALLOWANCE).map_or(*paid_at, |oldest| oldest.max(*paid_at));
        *paid_at = turn + Duration::from_secs(1) * pings / BUDGET_PER_SECOND;
        turn.max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_take_turns_at_the_budgets_rate() {
        let now = Instant::now();
        let budget = Budget::new(now);
        let turns: Vec<_> = (0..100).map(|_| (budget.draw(now, 16) - now).as_millis()).collect();
        assert!(turns.is_sorted(), "{turns:?}");
        // Of 1,600 pings the first 256 may have been saved up; the others come at one a ms.
        assert!(turns[..16].iter().all(|&ms| ms == 0), "{turns:?}");
        assert!((1_280..=1_600).contains(&turns[99]), "{turns:?}");
    }

    #[test]
    fn one_that_asks_again_and_again_holds_up_nobody_for_more_than_its_burst() {
        let start = Instant::now();
        let budget = Budget::new(start);
        let mut now = start;
        // A greedy node asks as soon as it is served; a modest one asks once a second for 8 seconds.
        let mut worst = Duration::ZERO;
        let mut modest_at = start + Duration::from_secs(1);
        while now < start + Duration::from_secs(8) {
            now = budget.draw(now, 64) + Duration::from_millis(1);
            if now >= modest_at {
                worst = worst.max(budget.draw(now, 8) - now);
                modest_at += Duration::from_secs(1);
            }
        }
        assert!(worst <= Duration::from_millis(64 + 8), "{worst:?}");
    }

    #[test]
    fn a_long_rest_is_no_credit_for_a_flood() {
        let now = Instant::now();
        let budget = Budget::new(now);
        let later = now + Duration::from_secs(3_600);
        let last = (0..1_000).map(|_| budget.draw(later, 1)).max().unwrap();
        assert!(last - later >= Duration::from_millis(1_000 - 257), "{:?}", last - later);
    }
}
