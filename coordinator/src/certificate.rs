//! Whether a level's figures are the server's or the client's own, with the evidence. Every level carries one.

use tailcliff_proto::histogram::{HIGHEST_NS, LatencyHistogram};
use tailcliff_proto::v1;

use crate::levels::Level;
use crate::little::Little;
use crate::merge::window::Rule;
use crate::stored::LevelLog;

/// Share of its shards' time above which an agent is busy enough to be the queue itself: at 85 % a single server's
/// waiting time is over five times its service time (M/M/1).
pub const CPU_SHARE_MAX: f64 = 0.85;
/// Send lag that no latency of interest hides, ns.
pub const SEND_LAG_FLOOR_NS: u64 = 1_000_000;
/// Send lag allowed as a share of the median TTFT: it is inside every latency counted from the intended send.
pub const SEND_LAG_SHARE: f64 = 0.05;
/// The client is the limit when more than this share of its sends are that late …
pub const LATE_SENDS_SHARE: f64 = 0.01;
/// … and at least so many: the one late send of a short level is an accident.
pub const LATE_SENDS_MIN: u64 = 3;
/// A scheduler lag p99 that makes a worker "hot", ns.
pub const SCHEDULER_LAG_NS: u64 = 5_000_000;
/// Little's law misses by more than the edges of the window can explain.
pub const LITTLE_RESIDUAL_MAX: f64 = 0.10;
/// Completions below which a p95 is the largest value, one request.
pub const THIN_BELOW: u64 = 20;

/// What may be said of a level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The figures are the server's.
    #[default]
    Ok,
    /// Too few requests to say much.
    Thin,
    /// The client could not drive it: the figures are the client's.
    ClientBound,
    /// It does not count.
    Void,
}

impl Verdict {
    /// The name in outputs.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Thin => "thin",
            Verdict::ClientBound => "client-bound",
            Verdict::Void => "void",
        }
    }
}

/// The verdict, why, and the numbers behind it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Certificate {
    /// The gravest that applies.
    pub verdict: Verdict,
    /// What led to it.
    pub reasons: Vec<String>,
    /// What a reader should know but that does not change the verdict.
    pub notes: Vec<String>,
    /// Busiest agent's CPU time over its shards' wall time.
    pub cpu_share: Option<f64>,
    /// p99 of send lag over all agents, ns.
    pub send_lag_p99_ns: Option<u64>,
    /// p99 of scheduler lag over all agents, ns.
    pub scheduler_lag_p99_ns: Option<u64>,
    /// Median interval between two samples of one GPU inside the window, ns.
    pub probe_interval_ns: Option<i64>,
    /// Agents whose start order came too late.
    pub late_starts: u64,
    /// Agents with a share that never said they were done.
    pub lost_agents: u64,
}

/// Judges a level from its merged figures, its log and the probe's resolution in its window.
pub(crate) fn certify(level: &Level, log: &LevelLog, probe_interval_ns: Option<i64>) -> Certificate {
    let lost = log.shares.keys().filter(|of| !log.done.contains_key(of)).count() as u64;
    let mut c = Certificate {
        cpu_share: log.done.values().filter_map(cpu_share).max_by(f64::total_cmp),
        send_lag_p99_ns: p99(log, |h| h.send_lag.as_ref()),
        scheduler_lag_p99_ns: p99(log, |h| h.scheduler_lag.as_ref()),
        probe_interval_ns,
        late_starts: log.started.values().filter(|s| s.was_late).count() as u64,
        lost_agents: lost,
        ..Certificate::default()
    };
    c.judge_void(level);
    c.judge_client(level, log);
    c.judge_thin(level);
    c.note_books(level);
    c.note_outside(level);
    c
}

impl Certificate {
    fn because(&mut self, verdict: Verdict, reason: String) {
        self.verdict = self.verdict.max(verdict);
        self.reasons.push(reason);
    }

    fn judge_void(&mut self, level: &Level) {
        if let Some(why) = &level.voided {
            self.because(Verdict::Void, why.clone());
        }
        if self.lost_agents > 0 && level.voided.is_none() {
            let reason = format!("{} agents did not finish the level", self.lost_agents);
            self.because(Verdict::Void, reason);
        }
    }

    fn judge_client(&mut self, level: &Level, log: &LevelLog) {
        if let Some(share) = self.cpu_share.filter(|share| *share > CPU_SHARE_MAX) {
            let text = format!(
                "an agent's shards were {:.0} % busy (limit {:.0} %)",
                share * 100.0,
                CPU_SHARE_MAX * 100.0
            );
            self.because(Verdict::ClientBound, text);
        }
        let answer = level.latencies.ttft.percentile_ns(50.0).or(level.latencies.e2e.percentile_ns(50.0));
        let allowed = SEND_LAG_FLOOR_NS.max((answer.unwrap_or(0) as f64 * SEND_LAG_SHARE) as u64);
        let lags = pooled(log, |h| h.send_lag.as_ref());
        let late = lags.hdr().count_between(allowed, HIGHEST_NS).saturating_add(lags.out_of_range());
        if late >= LATE_SENDS_MIN && late as f64 > lags.len() as f64 * LATE_SENDS_SHARE {
            let (n, p99) = (lags.len(), ms(self.send_lag_p99_ns.unwrap_or(0)));
            let text = format!("{late} of {n} sends over {:.1} ms late (p99 {p99:.1} ms)", ms(allowed));
            self.because(Verdict::ClientBound, text);
        }
        if let Some(held) = level.held.as_ref().filter(|held| held.own_bound_hit) {
            let (n, bound) = (held.requests.saturating_add(held.never_sent), held.bound.unwrap_or(0));
            let text = format!("{n} requests held back at the {bound} in flight that the clients can hold");
            self.because(Verdict::ClientBound, text);
        }
        if let Some(lag) = self.scheduler_lag_p99_ns.filter(|lag| *lag >= SCHEDULER_LAG_NS) {
            self.notes.push(format!("scheduler lag p99 {:.1} ms", ms(lag)));
        }
        if log.done.values().any(|done| done.health.is_none()) {
            self.notes.push("an agent said nothing of its own health".to_owned());
        }
    }

    fn judge_thin(&mut self, level: &Level) {
        let completed = level.measured.completed;
        if completed < THIN_BELOW {
            self.because(Verdict::Thin, format!("{completed} completed requests (a p95 needs {THIN_BELOW})"));
        }
    }

    fn note_books(&mut self, level: &Level) {
        let is_missed = |l: &Little| l.residual.abs() > LITTLE_RESIDUAL_MAX.max(l.chance);
        if let Some(little) = level.little.filter(is_missed) {
            let percent = little.residual * 100.0;
            self.notes.push(format!("Little's law misses by {percent:+.0} %: gauge and records disagree"));
        }
        self.note_bound(level);
        if level.load.is_at_once() {
            self.notes.push("all requests at once: throughput over the makespan".to_owned());
        } else if level.throughput.is_some_and(|t| t.window.rule == Rule::Makespan) {
            let text = "throughput over the makespan, tail included: the steady part was too short";
            self.notes.push(text.to_owned());
        }
        if self.late_starts > 0 {
            self.notes.push(format!("{} agents got their start order late", self.late_starts));
        }
        if level.clock.is_none() && level.all_phases.released() > 0 {
            self.notes.push("no stamp could be placed on the common timeline".to_owned());
        }
    }

    /// What the plan's own bound on requests in flight did: the load that it let through is not the one offered.
    fn note_bound(&mut self, level: &Level) {
        let Some(held) = level.held.as_ref().filter(|held| !held.own_bound_hit) else { return };
        if let Some(p99) = held.waits.quantile_ns(0.99) {
            let (n, p99) = (held.requests, ms(p99));
            self.notes.push(format!(
                "{n} requests held back by --max-concurrency (p99 {p99:.1} ms, in their latency)"
            ));
        }
        if held.never_sent > 0 {
            let n = held.never_sent;
            self.notes
                .push(format!("{n} arrivals were never sent and are in no latency: the level ended first"));
        }
    }

    fn note_outside(&mut self, level: &Level) {
        let outside = &level.outside;
        let counts = [
            (level.measured.unreported, "requests unreported"),
            (level.retried, "of the released are retries"),
            (outside.dropped_records, "records dropped by agents"),
            (outside.dropped_windows, "windows of histograms dropped by agents"),
            (outside.dropped_traces, "token traces left out"),
            (outside.bad_windows, "windows unreadable"),
            (outside.bad_traces, "token traces unreadable"),
            (outside.out_of_range, "values out of the histogram's range"),
            (outside.unaligned, "requests without a place on the timeline"),
            (outside.without_tokens, "completed requests without a token count"),
            (outside.proxy_tokens, "token counts that are a proxy (chunks or words)"),
        ];
        self.notes.extend(counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")));
    }
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

fn cpu_share(done: &v1::LevelDone) -> Option<f64> {
    let health = done.health.as_ref()?;
    let available = health.wall_ns as f64 * f64::from(health.shards);
    (available > 0.0).then(|| health.cpu_ns as f64 / available)
}

fn p99(log: &LevelLog, part: fn(&v1::ClientHealth) -> Option<&v1::Histogram>) -> Option<u64> {
    pooled(log, part).quantile_ns(0.99)
}

/// Over all agents; one that cannot be read is left out.
fn pooled(log: &LevelLog, part: fn(&v1::ClientHealth) -> Option<&v1::Histogram>) -> LatencyHistogram {
    let mut all = LatencyHistogram::default();
    for wire in log.done.values().filter_map(|done| part(done.health.as_ref()?)) {
        if let Ok(histogram) = LatencyHistogram::try_from(wire) {
            all.add(&histogram);
        }
    }
    all
}
