//! The measured quantities that tell a client at its limit from a slow server, each with its threshold. A quantity that
//! nobody measured is `None` and decides nothing.

use tailcliff_proto::histogram::{HIGHEST_NS, LatencyHistogram};
use tailcliff_proto::v1;

use crate::levels::Level;
use crate::merge::window::Rule;
use crate::stored::{Incarnation, LevelLog};

/// Share of its time above which a shard is busy enough to be the queue itself: at 85 % a single server's waiting time
/// is over five times its service time (M/M/1).
pub const CPU_SHARE_MAX: f64 = 0.85;
/// Send lag that no latency of interest hides, ns.
pub const SEND_LAG_FLOOR_NS: u64 = 1_000_000;
/// Send lag allowed as a share of the median TTFT: it is inside every latency counted from the intended send.
pub const SEND_LAG_SHARE: f64 = 0.05;
/// The client is the limit when more than this share of its sends are that late …
pub const LATE_SENDS_SHARE: f64 = 0.01;
/// … and at least so many: the one late send of a short level is an accident.
pub const LATE_SENDS_MIN: u64 = 3;
/// A scheduler lag p99 that makes a worker "hot", ns: its runtime's timers tick in milliseconds, so less tells little.
pub const SCHEDULER_LAG_NS: u64 = 5_000_000;
/// What a p95 may be moved by: a shard that comes later than this to 5 % of what is due, or reads 5 % of what has come
/// later than this, ns …
pub const LATE_READ_NS: u64 = 5_000_000;
/// … or than this share of the median TTFT, where that is more.
pub const LATE_READ_SHARE: f64 = 0.10;
/// The quantile of both that decides.
pub const LATE_READ_QUANTILE: f64 = 0.95;
/// Of the streams asked for in closed loop, the share that must be in flight on average.
pub const HELD_SHARE_MIN: f64 = 0.98;
/// What a sampled gauge may miss that by, in standard deviations.
pub const HELD_DEVIATIONS: f64 = 3.0;
/// Longest rest of a stream after a failure, s: such a stream is not in flight for the server's sake.
const LONGEST_REST_S: f64 = 0.1;
/// Samples of the in-flight gauge in a second.
const GAUGE_HZ: f64 = 10.0;
/// Share of the released requests whose records or windows may be dropped.
pub const DROPPED_SHARE_MAX: f64 = 0.001;

/// One quantity and its threshold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Check {
    /// Name in outputs.
    pub name: &'static str,
    /// As measured; `None` when it was not.
    pub value: Option<f64>,
    /// Beyond this the client is the limit.
    pub limit: f64,
    /// Of both.
    pub unit: &'static str,
    /// The limit is a least value and not a greatest.
    pub at_least: bool,
    /// `None` when it was not measured.
    pub ok: Option<bool>,
    /// Where the worst value was seen: agent and shard; empty when it is no one's in particular.
    pub worst: String,
    /// What it means, when it is not ok.
    pub reason: String,
}

impl Check {
    fn at_most(name: &'static str, value: Option<f64>, limit: f64, unit: &'static str) -> Check {
        Check { name, value, limit, unit, ok: value.map(|v| v <= limit), ..Check::default() }
    }

    fn because(self, reason: String) -> Check {
        Check { reason, ..self }
    }

    fn seen_at(self, worst: String) -> Check {
        Check { worst, ..self }
    }
}

/// What the checks look at.
pub(super) struct Evidence<'a> {
    pub(super) level: &'a Level,
    pub(super) log: &'a LevelLog,
    /// Names of agents.
    pub(super) name: &'a dyn Fn(Incarnation) -> String,
}

impl Evidence<'_> {
    /// Every check, in the order printed.
    pub(super) fn checks(&self) -> Vec<Check> {
        vec![
            self.cpu(),
            self.send_lag(),
            self.scheduler_lag(),
            self.socket_wait(),
            self.held(),
            self.descriptors(),
            self.ports(),
            self.drops(),
        ]
    }

    /// The larger of a floor and a share of the median answer, ns.
    fn allowed(&self, floor_ns: u64, share: f64) -> u64 {
        let latencies = &self.level.latencies;
        let answer = latencies.ttft.percentile_ns(50.0).or(latencies.e2e.percentile_ns(50.0));
        floor_ns.max((answer.unwrap_or(0) as f64 * share) as u64)
    }

    fn health(&self) -> impl Iterator<Item = (Incarnation, &v1::ClientHealth)> {
        self.log.done.iter().filter_map(|(&of, done)| Some((of, done.health.as_ref()?)))
    }

    fn shards(&self) -> impl Iterator<Item = (Incarnation, &v1::ShardHealth)> {
        self.health().flat_map(|(of, health)| health.shard_health.iter().map(move |shard| (of, shard)))
    }

    fn shard_name(&self, of: Incarnation, shard: &v1::ShardHealth) -> String {
        format!("{}, shard {}", (self.name)(of), shard.shard)
    }

    fn cpu(&self) -> Check {
        let of_shards = self.shards().filter_map(|(of, shard)| {
            let share = (shard.wall_ns > 0).then(|| shard.cpu_ns as f64 / shard.wall_ns as f64)?;
            Some((share, self.shard_name(of, shard)))
        });
        let of_agents = self.health().filter_map(|(of, health)| {
            let available = health.wall_ns as f64 * f64::from(health.shards);
            Some(((available > 0.0).then(|| health.cpu_ns as f64 / available)?, (self.name)(of)))
        });
        let (share, worst) = largest(of_agents.chain(of_shards));
        let check = Check::at_most("cpu_share_busiest_shard", share, CPU_SHARE_MAX, "share");
        let (share, limit) = (share.unwrap_or(0.0) * 100.0, CPU_SHARE_MAX * 100.0);
        check.because(format!("{worst} was {share:.0} % busy (limit {limit:.0} %)")).seen_at(worst)
    }

    fn send_lag(&self) -> Check {
        let allowed = self.allowed(SEND_LAG_FLOOR_NS, SEND_LAG_SHARE);
        let lags = pooled(self.log, |h| h.send_lag.as_ref());
        let late = lags.hdr().count_between(allowed, HIGHEST_NS).saturating_add(lags.out_of_range());
        let (n, p99) = (lags.len(), lags.quantile_ns(0.99).map_or(0.0, ms));
        let most = (LATE_SENDS_MIN as f64 - 1.0).max(n as f64 * LATE_SENDS_SHARE);
        let seen = (n + lags.out_of_range() > 0).then_some(late as f64);
        let check = Check::at_most("late_sends", seen, most, "sends");
        let allowed = ms(allowed);
        check.because(format!("{late} of {n} sends over {allowed:.1} ms late (p99 {p99:.1} ms)"))
    }

    fn socket_wait(&self) -> Check {
        let allowed = self.allowed(LATE_READ_NS, LATE_READ_SHARE);
        let of_agents = self.health().filter_map(|(of, health)| {
            Some((ms(quantile(health.socket_wait.as_ref()?, LATE_READ_QUANTILE)?), (self.name)(of)))
        });
        let (wait, worst) = largest(of_agents);
        let check = Check::at_most("socket_wait_p95_worst_agent", wait, ms(allowed), "ms");
        let reason = format!(
            "{worst} read what had come {:.1} ms late (p95; limit {:.1} ms)",
            wait.unwrap_or(0.0),
            ms(allowed)
        );
        check.because(reason).seen_at(worst)
    }

    fn scheduler_lag(&self) -> Check {
        let allowed = self.allowed(LATE_READ_NS, LATE_READ_SHARE);
        let of_shards = self.shards().filter_map(|(of, shard)| {
            Some((shard.scheduler_lag_p95_ns? as f64 / 1e6, self.shard_name(of, shard)))
        });
        let of_agents = self.health().filter_map(|(of, health)| {
            Some((ms(quantile(health.scheduler_lag.as_ref()?, LATE_READ_QUANTILE)?), (self.name)(of)))
        });
        let (lag, worst) = largest(of_agents.chain(of_shards));
        let check = Check::at_most("scheduler_lag_p95_worst_shard", lag, ms(allowed), "ms");
        let reason = format!(
            "{worst} came {:.1} ms late to what was due (p95; limit {:.1} ms)",
            lag.unwrap_or(0.0),
            ms(allowed)
        );
        check.because(reason).seen_at(worst)
    }

    /// The shard whose scheduler lag is worst at p99, when that makes it hot.
    pub(super) fn hot_shard(&self) -> Option<String> {
        let of = |(of, shard): (Incarnation, &v1::ShardHealth)| {
            let max = shard.scheduler_lag_max_ns.unwrap_or(0) as f64 / 1e6;
            Some((shard.scheduler_lag_p99_ns? as f64 / 1e6, max, self.shard_name(of, shard)))
        };
        let hot = self.shards().filter_map(of).filter(|(p99, ..)| *p99 >= ms(SCHEDULER_LAG_NS));
        let (p99, max, name) = hot.max_by(|a, b| a.0.total_cmp(&b.0))?;
        Some(format!("{name} was hot: scheduler lag p99 {p99:.1} ms, max {max:.1} ms"))
    }

    /// In closed loop a stream is not in flight only while it rests after a failure, for the server's sake, or while the
    /// client is at work between two requests. Connecting counts as in flight: that wait is the network's and the server's.
    fn held(&self) -> Check {
        let asked: u64 = self.log.shares.values().map(|share| u64::from(share.concurrency)).sum();
        let window = self.level.throughput.map(|t| t.window).filter(|w| w.rule != Rule::Makespan);
        let value = window.zip(self.level.in_flight).filter(|_| asked > 0).map(|(window, held)| {
            let resting = self.level.measured.failed as f64 * LONGEST_REST_S / window.seconds();
            let samples = (window.seconds() * GAUGE_HZ).max(1.0);
            let noise = HELD_DEVIATIONS * (asked as f64 * (1.0 - HELD_SHARE_MIN) / samples).sqrt();
            // What failures' rests and the gauge's own noise may explain is no fault of the client's.
            (held / asked as f64, HELD_SHARE_MIN - (resting + noise) / asked as f64)
        });
        let share = value.map(|(share, _)| share);
        let limit = value.map_or(HELD_SHARE_MIN, |(_, limit)| limit.max(0.0));
        let ok = value.map(|(share, _)| share >= limit);
        let held = self.level.in_flight.unwrap_or(0.0);
        let reason = format!(
            "{held:.1} of {asked} streams were in flight on average (limit {:.0} %), and failures do not explain it",
            limit * 100.0
        );
        let check = Check::at_most("in_flight_held", share, limit, "share of asked");
        Check { at_least: true, ok, reason, ..check }
    }

    fn descriptors(&self) -> Check {
        let n = self.level.host_limits.descriptors;
        let reason = format!("{n} connections failed for lack of file descriptors: raise `ulimit -n`");
        Check::at_most("descriptor_failures", Some(n as f64), 0.0, "connections").because(reason)
    }

    fn ports(&self) -> Check {
        let n = self.level.host_limits.ports;
        let reason = format!(
            "{n} connections failed for lack of local ports: widen net.ipv4.ip_local_port_range, or use more hosts"
        );
        Check::at_most("port_failures", Some(n as f64), 0.0, "connections").because(reason)
    }

    fn drops(&self) -> Check {
        let outside = &self.level.outside;
        let dropped = outside.dropped_records.saturating_add(outside.dropped_windows);
        let released = self.level.all_phases.released();
        let share = (released > 0).then(|| dropped as f64 / released as f64);
        let reason = format!("agents dropped {dropped} records and windows of {released} requests");
        Check::at_most("dropped", share, DROPPED_SHARE_MAX, "share of released").because(reason)
    }
}

fn quantile(wire: &v1::Histogram, quantile: f64) -> Option<u64> {
    LatencyHistogram::try_from(wire).ok()?.quantile_ns(quantile)
}

/// Of equal ones the last: a shard says more than its agent.
fn largest(all: impl Iterator<Item = (f64, String)>) -> (Option<f64>, String) {
    let worst = all.max_by(|a, b| a.0.total_cmp(&b.0));
    worst.map_or((None, String::new()), |(value, name)| (Some(value), name))
}

pub(super) fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// Over all agents; one that cannot be read is left out.
pub(super) fn pooled(
    log: &LevelLog,
    part: fn(&v1::ClientHealth) -> Option<&v1::Histogram>,
) -> LatencyHistogram {
    let mut all = LatencyHistogram::default();
    for wire in log.done.values().filter_map(|done| part(done.health.as_ref()?)) {
        if let Ok(histogram) = LatencyHistogram::try_from(wire) {
            all.add(&histogram);
        }
    }
    all
}
