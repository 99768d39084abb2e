//! Whether a level's figures are the server's or the client's own, with the evidence. Every level carries one.

mod check;
mod clocks;
#[cfg(test)]
mod tests;

use crate::levels::Level;
use crate::little::Little;
use crate::merge::window::Rule;
use crate::stored::{Incarnation, LevelLog};

pub use check::*;

/// Little's law misses by more than the edges of the window can explain.
pub const LITTLE_RESIDUAL_MAX: f64 = 0.10;
/// Share of failures from which a level says so.
pub const FAILED_SHARE: f64 = 0.01;
/// Completions below which a p95 is the largest value, one request.
pub const THIN_BELOW: u64 = 20;
/// Share of the streams that wait for a connection, from which on it is worth a note.
pub const CONNECTING_SHARE: f64 = 0.02;

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
    /// What was checked, with values and thresholds.
    pub checks: Vec<Check>,
    /// p99 of send lag over all agents, ns.
    pub send_lag_p99_ns: Option<u64>,
    /// p99 of scheduler lag over all agents, ns.
    pub scheduler_lag_p99_ns: Option<u64>,
    /// p99 of how long bytes lay in a socket before they were read, over all agents, ns; `None` where no kernel stamps them.
    pub socket_wait_p99_ns: Option<u64>,
    /// Median interval between two samples of one GPU inside the window, ns.
    pub probe_interval_ns: Option<i64>,
    /// Agents whose start order came too late.
    pub late_starts: u64,
    /// Agents with a share that never said they were done.
    pub lost_agents: u64,
}

/// Judges a level from its merged figures, its log and the probe's resolution in its window; `name` gives agents' names.
pub(crate) fn certify(
    level: &Level,
    log: &LevelLog,
    probe_interval_ns: Option<i64>,
    name: &dyn Fn(Incarnation) -> String,
) -> Certificate {
    let lost = log.shares.keys().filter(|of| !log.done.contains_key(of)).count() as u64;
    let evidence = check::Evidence { level, log, name };
    let mut c = Certificate {
        checks: evidence.checks(),
        socket_wait_p99_ns: check::pooled(log, |h| h.socket_wait.as_ref()).quantile_ns(0.99),
        notes: evidence.hot_shard().into_iter().collect(),
        send_lag_p99_ns: check::pooled(log, |h| h.send_lag.as_ref()).quantile_ns(0.99),
        scheduler_lag_p99_ns: check::pooled(log, |h| h.scheduler_lag.as_ref()).quantile_ns(0.99),
        probe_interval_ns,
        late_starts: log.started.values().filter(|s| s.was_late).count() as u64,
        lost_agents: lost,
        ..Certificate::default()
    };
    c.judge_void(level);
    c.judge_client(level, log);
    c.judge_thin(level);
    c.note_books(level);
    c.note_starts(level, log, name);
    c.note_clock(level);
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
        // Kept by the plan's own rule; but the load asked for was not there all through, and the server is not to blame.
        level.marks.iter().for_each(|mark| self.because(Verdict::ClientBound, mark.clone()));
        if self.lost_agents > 0 && level.voided.is_none() && level.marks.is_empty() {
            let reason = format!("{} agents did not finish the level", self.lost_agents);
            self.because(Verdict::Void, reason);
        }
    }

    /// The value of a check; `None` when it was not measured.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.checks.iter().find(|check| check.name == name)?.value
    }

    fn judge_client(&mut self, level: &Level, log: &LevelLog) {
        let failed: Vec<String> =
            self.checks.iter().filter(|c| c.ok == Some(false)).map(|c| c.reason.clone()).collect();
        failed.into_iter().for_each(|reason| self.because(Verdict::ClientBound, reason));
        if let Some(held) = level.held.as_ref().filter(|held| held.own_bound_hit) {
            let (n, bound) = (held.requests.saturating_add(held.never_sent), held.bound.unwrap_or(0));
            let text = format!("{n} requests held back at the {bound} in flight that the clients can hold");
            self.because(Verdict::ClientBound, text);
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
        self.note_failures(level);
        self.note_bound(level);
        if level.load.is_at_once() {
            self.notes.push("all requests at once: throughput over the makespan".to_owned());
        } else if level.throughput.is_some_and(|t| t.window.rule == Rule::Makespan) {
            let text = "throughput over the makespan, tail included: the steady part was too short";
            self.notes.push(text.to_owned());
        }
        let streams = level.load.concurrency().map(f64::from).or(level.in_flight).unwrap_or(0.0);
        if let Some(waiting) = level.connecting.filter(|n| *n > streams * CONNECTING_SHARE) {
            self.notes.push(format!("{waiting:.1} streams on average were waiting for a connection"));
        }
    }

    /// Failures are the server's to answer for, but the latencies are of what did not fail.
    fn note_failures(&mut self, level: &Level) {
        if let Some(rate) = level.measured.error_rate().filter(|rate| *rate >= FAILED_SHARE) {
            let failed = level.measured.failed;
            self.notes.push(format!(
                "{failed} requests failed ({:.0} %): latencies are of the others",
                rate * 100.0
            ));
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
            (level.control_requests, "of the released were paused on purpose: in throughput, in no latency"),
            (outside.dropped_records, "records dropped by agents"),
            (outside.dropped_windows, "windows of histograms dropped by agents"),
            (outside.dropped_in_flight, "in-flight samples dropped by agents"),
            (outside.dropped_loop_lags, "lags of event loops not told by agents"),
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
