//! Open loop: which of a level's arrivals are this agent's, and each shard's, and in which phase each of them lies.

use std::sync::Arc;

use tailcliff_proto::v1;

use super::arrivals::{Arrivals, Pattern};
use super::{LONGEST_NS, LoadError, Stop};

/// Agents that a level is split over, at most.
const MAX_AGENTS: u32 = 65_536;
/// Fastest arrivals believed, requests per second.
const MAX_RATE_PER_S: f64 = 10e6;
/// Factors of a dataset's times that are believed.
const SCALES: std::ops::RangeInclusive<f64> = 1e-6..=1e6;
/// Shapes of gamma gaps: outside of these nearly all gaps are 0, or all the same.
const SHAPES: std::ops::RangeInclusive<f64> = 1e-3..=1e6;

/// The arrivals of a level and an agent's place among those that share them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Open {
    /// Requests per second of all agents together; infinite for all at once.
    pub rate_per_s: f64,
    /// Law of the gaps.
    pub pattern: Pattern,
    /// In place of a law, the dataset's own times, each multiplied by this.
    pub replay: Option<f64>,
    /// Rise of the rate from 0, ns.
    pub ramp_ns: i64,
    /// What the arrivals follow from, with the level's number.
    pub seed: u64,
    /// The level.
    pub level: u32,
    /// Agents that share the arrivals.
    pub agents: u32,
    /// This agent's number among them.
    pub agent: u32,
    /// Requests of this agent in flight at most, as the plan has it; `None` for as many as the host can hold.
    pub max_in_flight: Option<u32>,
}

impl Open {
    pub(super) fn parse(
        wire: &v1::OpenLoad,
        share: &v1::LoadShare,
        ramp_ns: i64,
        level: u32,
    ) -> Result<Open, LoadError> {
        let rate_per_s = wire.rate_per_s;
        let paced = rate_per_s > 0.0 && rate_per_s <= MAX_RATE_PER_S;
        if !paced && rate_per_s != f64::INFINITY {
            return Err(LoadError::Rate(rate_per_s.to_string()));
        }
        if !(1..=MAX_AGENTS).contains(&wire.agents) || wire.agent >= wire.agents {
            return Err(LoadError::Agent(wire.agent, wire.agents));
        }
        let is_listed = wire.pattern() == v1::ArrivalPattern::Listed;
        let replay = is_listed.then_some(wire.time_scale);
        if replay.is_some_and(|scale| !SCALES.contains(&scale)) {
            return Err(LoadError::TimeScale(wire.time_scale.to_string()));
        }
        let pattern = match wire.pattern() {
            v1::ArrivalPattern::Listed => Pattern::Constant,
            v1::ArrivalPattern::Constant => Pattern::Constant,
            v1::ArrivalPattern::Poisson => Pattern::Poisson,
            v1::ArrivalPattern::Gamma if SHAPES.contains(&wire.burstiness) => Pattern::Gamma(wire.burstiness),
            v1::ArrivalPattern::Gamma => return Err(LoadError::Burstiness(wire.burstiness.to_string())),
            v1::ArrivalPattern::Unspecified => return Err(LoadError::Pattern),
        };
        let max_in_flight = Some(wire.max_in_flight).filter(|&n| n > 0);
        let (agents, agent) = (wire.agents, wire.agent);
        let seed = share.seed;
        Ok(Open { rate_per_s, pattern, replay, ramp_ns, seed, level, agents, agent, max_in_flight })
    }

    /// The arrivals of the whole level; of a replay those in `times_ns`.
    pub fn arrivals(&self, times_ns: &Arc<[i64]>) -> Arrivals {
        if let Some(scale) = self.replay {
            return Arrivals::listed(times_ns.clone(), scale);
        }
        Arrivals::paced(self.pattern, self.rate_per_s, self.ramp_ns, self.seed, self.level)
    }

    /// Of a whole level's arrivals, those of one of this agent's `shards`: each takes its turn among the agent's own.
    pub fn part(&self, arrivals: Arrivals, shard: u32, shards: u32, warmup_ns: i64, stop: Stop) -> Releases {
        // Of the agent's own arrivals, numbered j = (k − agent) / agents, the shard takes those with j mod shards = shard.
        let turn = u64::from(shard) * u64::from(self.agents) + u64::from(self.agent);
        let stride = u64::from(self.agents) * u64::from(shards.max(1));
        Releases::new(arrivals, turn, stride, warmup_ns, stop)
    }
}

/// One arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Number among all of the level's arrivals: it names the prompt, however many agents there are.
    pub number: u64,
    /// From the level's start, ns.
    pub offset_ns: i64,
    /// Phase of that moment.
    pub phase: v1::Phase,
}

/// The arrivals of one part, until the level's end.
#[derive(Clone, Debug)]
pub struct Releases {
    arrivals: Arrivals,
    turn: u64,
    stride: u64,
    warmup_ns: i64,
    stop: Stop,
    drawn: u64,
    measured: u64,
}

impl Releases {
    /// Each `stride`-th of `arrivals`, beginning with number `turn`.
    pub fn new(arrivals: Arrivals, turn: u64, stride: u64, warmup_ns: i64, stop: Stop) -> Releases {
        Releases { arrivals, turn, stride: stride.max(1), warmup_ns, stop, drawn: 0, measured: 0 }
    }

    /// Phase of a moment, ns from the level's start, for a request that no arrival brings; `None` when none is sent then.
    pub fn phase_at(&self, offset_ns: i64) -> Option<v1::Phase> {
        let is_over = match self.stop {
            Stop::Requests(_) => false,
            Stop::Duration(ns) => offset_ns - self.warmup_ns >= ns,
        };
        let phase = if offset_ns < self.warmup_ns { v1::Phase::Warmup } else { v1::Phase::Measured };
        (!is_over).then_some(phase)
    }

    /// The level's next arrival, whoever's it is.
    fn draw(&mut self) -> Option<Arrival> {
        let offset_ns = self.arrivals.next()?;
        let phase = if offset_ns < self.warmup_ns { v1::Phase::Warmup } else { v1::Phase::Measured };
        if phase == v1::Phase::Measured {
            let over = match self.stop {
                Stop::Requests(n) => self.measured >= n || offset_ns > LONGEST_NS,
                Stop::Duration(ns) => offset_ns - self.warmup_ns >= ns,
            };
            if over {
                return None;
            }
            self.measured += 1;
        }
        let number = self.drawn;
        self.drawn += 1;
        Some(Arrival { number, offset_ns, phase })
    }
}

impl Iterator for Releases {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        loop {
            let arrival = self.draw()?;
            if arrival.number % self.stride == self.turn {
                return Some(arrival);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: i64 = 1_000_000_000;

    fn open(pattern: Pattern, rate_per_s: f64) -> Open {
        Open {
            rate_per_s,
            pattern,
            replay: None,
            ramp_ns: 0,
            seed: 3,
            level: 1,
            agents: 1,
            agent: 0,
            max_in_flight: None,
        }
    }

    fn whole(open: Open, warmup_ns: i64, stop: Stop) -> Vec<Arrival> {
        Open { agents: 1, agent: 0, ..open }
            .part(open.arrivals(&Arc::from([])), 0, 1, warmup_ns, stop)
            .collect()
    }

    proptest! {
        /// However a level is split, its parts are the whole: no arrival is lost, doubled or moved.
        #[test]
        fn agents_and_shards_share_one_sequence(
            agents in 1u32..6, shards in 1u32..5, rate in 1f64..300.0, warmup in 0i64..3 * S,
            by_requests: bool, n in 0u64..400, law in 0..3, ramp_ns in 0i64..2 * S
        ) {
            let pattern = [Pattern::Constant, Pattern::Poisson, Pattern::Gamma(0.5)][law as usize];
            let stop = if by_requests { Stop::Requests(n) } else { Stop::Duration(n as i64 * S / 100) };
            let all = Open { ramp_ns, ..open(pattern, rate) };
            let expected = whole(all, warmup, stop);
            let mut union = Vec::new();
            for agent in 0..agents {
                for shard in 0..shards {
                    let part = Open { agents, agent, ..all }.part(all.arrivals(&Arc::from([])), shard, shards, warmup, stop);
                    let part: Vec<_> = part.collect();
                    let fair = expected.len() / (agents * shards) as usize;
                    prop_assert!(part.len() >= fair && part.len() <= fair + 1);
                    union.extend(part);
                }
            }
            union.sort_by_key(|arrival| arrival.number);
            prop_assert_eq!(&union, &expected);
            prop_assert!(expected.iter().enumerate().all(|(k, arrival)| arrival.number == k as u64));
            let measured = expected.iter().filter(|a| a.phase == v1::Phase::Measured).count() as u64;
            prop_assert!(!by_requests || measured == n);
            prop_assert!(expected.iter().all(|a| (a.phase == v1::Phase::Warmup) == (a.offset_ns < warmup)));
        }

        #[test]
        fn no_open_load_from_the_wire_panics(
            rate_per_s: f64, pattern: i32, burstiness: f64, agents: u32, agent: u32, max_in_flight: u32,
            ramp_ns in 0..=LONGEST_NS, n in 0u64..50
        ) {
            let wire = v1::OpenLoad { rate_per_s, pattern, burstiness, agents, agent, max_in_flight, time_scale: burstiness };
            if let Ok(open) = Open::parse(&wire, &v1::LoadShare::default(), ramp_ns, 0) {
                let mut releases = open.part(open.arrivals(&Arc::from([])), 0, 1, 0, Stop::Requests(n));
                prop_assert!(releases.by_ref().take(3).count() <= 3);
            }
        }
    }

    /// A trace that is replayed is shared out as any other source is.
    #[test]
    fn listed_arrivals_are_shared_by_turns_too() {
        let listed = || Arrivals::listed([0, 5, 5, 9, 20].into(), 10.0);
        let part = |agent, shard| -> Vec<_> {
            let of = Open { agents: 2, agent, ..open(Pattern::Constant, 1.0) };
            let arrivals = of.part(listed(), shard, 2, 60, Stop::Requests(2));
            arrivals.map(|a| (a.number, a.offset_ns, a.phase == v1::Phase::Measured)).collect()
        };
        assert_eq!(part(0, 0), [(0, 0, false), (4, 200, true)]);
        assert_eq!(part(0, 1), [(2, 50, false)]);
        assert_eq!(part(1, 0), [(1, 50, false)]);
        assert_eq!(part(1, 1), [(3, 90, true)]);
    }

    #[test]
    fn a_duration_ends_arrivals_by_their_intended_time() {
        let found = whole(open(Pattern::Constant, 10.0), S, Stop::Duration(2 * S));
        assert_eq!(found.len(), 30);
        assert_eq!(found.iter().filter(|a| a.phase == v1::Phase::Warmup).count(), 10);
        assert!(found.iter().all(|a| a.offset_ns < 3 * S));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let good = v1::OpenLoad { rate_per_s: 2.0, pattern: 2, agents: 2, agent: 1, ..Default::default() };
        let parse = |wire: v1::OpenLoad| Open::parse(&wire, &v1::LoadShare::default(), 0, 0);
        assert_eq!(parse(good).unwrap().pattern, Pattern::Poisson);
        assert_eq!(parse(v1::OpenLoad { rate_per_s: f64::INFINITY, ..good }).unwrap().max_in_flight, None);
        for rate_per_s in [0.0, -1.0, f64::NAN, 1e12] {
            assert!(matches!(parse(v1::OpenLoad { rate_per_s, ..good }), Err(LoadError::Rate(_))));
        }
        assert_eq!(parse(v1::OpenLoad { agent: 2, ..good }), Err(LoadError::Agent(2, 2)));
        assert_eq!(parse(v1::OpenLoad { pattern: 0, ..good }), Err(LoadError::Pattern));
        let gamma = v1::OpenLoad { pattern: 3, ..good };
        assert!(matches!(parse(gamma), Err(LoadError::Burstiness(_))));
    }
}
