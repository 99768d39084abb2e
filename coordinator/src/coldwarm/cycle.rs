//! What a restart comes to, from what was seen of it.

use serde::Serialize;
use tailcliff_proto::v1;

use super::diagnose::{Diagnosis, First, Quiet, Startup, first, startup};
use super::evidence::{Curves, Series};
use super::protocol::Raw;
use super::sanity::{Sanity, sanity};
use super::server::Process;
use super::spread::Spread;

/// Soon after readiness, ns.
const SOON_NS: i64 = 2_000_000_000;

/// Which request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The first.
    Cold,
    /// The same again, in its turn.
    Warm(u32),
    /// Again, for a whole reply instead of a stream.
    Whole(u32),
    /// Another prompt of the same length.
    Fresh,
}

impl Kind {
    /// `cold_1`, `warm_1`, …
    pub fn name(self) -> String {
        match self {
            Self::Cold => "cold_1".to_owned(),
            Self::Warm(n) => format!("warm_{n}"),
            Self::Whole(n) => format!("whole_{n}"),
            Self::Fresh => "fresh_1".to_owned(),
        }
    }
}

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    /// Which.
    #[serde(skip)]
    pub kind: Kind,
    /// Its name.
    pub run: String,
    /// Sent, and ended; ns of the raw clock.
    pub sent_raw_ns: i64,
    /// See `sent_raw_ns`.
    pub done_raw_ns: i64,
    /// To the first token, s; `None` where there was none, or no stream.
    pub ttft_s: Option<f64>,
    /// To the end, s.
    pub wall_s: f64,
    /// Of prompt and answer, as the server counts them.
    pub total_tokens: Option<u64>,
    /// Of the answer.
    pub output_tokens: Option<u64>,
    /// It ended well.
    pub completed: bool,
    /// What else there is to say.
    pub notes: Vec<String>,
}

impl Run {
    pub(super) fn of(kind: Kind, record: &v1::RequestRecord) -> Self {
        let since = |at: i64| at.saturating_sub(record.intended_raw_ns) as f64 / 1e9;
        let completed = record.outcome() == v1::Outcome::Completed;
        let mut notes = Vec::new();
        if !completed {
            notes.push(format!("failed: {} {}", record.error_kind, record.error_detail).trim().to_owned());
        }
        if completed && record.token_source() != v1::TokenSource::Usage {
            notes.push("the server gave no usage: tokens are chunks or words".to_owned());
        }
        if record.finish_reason != "length" && !record.finish_reason.is_empty() {
            notes.push(format!("ended by {}", record.finish_reason));
        }
        Self {
            kind,
            run: kind.name(),
            sent_raw_ns: record.intended_raw_ns,
            done_raw_ns: record.done_raw_ns,
            ttft_s: record.first_token_raw_ns.map(since),
            wall_s: since(record.done_raw_ns),
            total_tokens: record.prompt_tokens.zip(record.output_tokens).map(|(p, o)| p.saturating_add(o)),
            output_tokens: record.output_tokens,
            completed,
            notes,
        }
    }

    pub(super) fn words(&self) -> String {
        let ttft = self.ttft_s.map_or(String::new(), |s| format!("TTFT {s:.3} s, "));
        let notes = if self.completed { String::new() } else { format!(" ({})", self.notes.join("; ")) };
        format!("{}: {ttft}wall {:.3} s{notes}", self.run, self.wall_s)
    }
}

/// GPU memory in use on all GPUs together, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The least between command and readiness: no server, where the old one is gone before the new one comes.
    pub before_server_bytes: Option<u64>,
    /// When it was ready.
    pub ready_bytes: Option<u64>,
    /// When the first request had ended.
    pub after_cold_bytes: Option<u64>,
    /// What there is.
    pub total_bytes: Option<u64>,
}

/// A restart and what followed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cycle {
    /// From 1.
    pub restart: u32,
    /// Its first and warm requests were streamed.
    pub streamed: bool,
    /// When it began.
    pub begun_utc: String,
    /// Command to readiness, s.
    pub ready_s: Option<f64>,
    /// Command to the end of the server before, s; `None` where none was there.
    pub old_gone_s: Option<f64>,
    /// Command to its own end, s; `None` when it stays.
    pub command_s: Option<f64>,
    /// How it ended.
    pub command_exit: Option<i32>,
    /// It still ran at the end: it is the server.
    pub command_stays: bool,
    /// Its requests.
    pub runs: Vec<Run>,
    /// Its GPU memory.
    pub memory: Memory,
    /// Why it took so long until it was ready.
    pub startup: Option<Diagnosis>,
    /// And until the first token.
    pub first: Option<Diagnosis>,
    /// What else went on during the warm runs.
    pub sanity: Sanity,
    /// The server.
    pub process: Process,
    /// As it tells.
    pub server_version: Option<String>,
    /// As its replies are headed.
    pub server_header: Option<String>,
    /// The GPUs.
    #[serde(skip)]
    pub gpus: Vec<v1::GpuFacts>,
    /// Why there are none.
    pub gpu_absent: Option<String>,
    /// What went wrong with the sampling.
    pub sampling_troubles: Vec<String>,
    /// Why it went no further.
    pub trouble: Option<String>,
}

impl Cycle {
    /// Judges what was seen.
    pub(super) fn of(raw: &Raw) -> Self {
        let series = Series::of(&raw.recorded.batches);
        let curves = series.curves();
        let since = |at: Option<i64>| at.zip(raw.from_ns).map(|(at, from)| (at - from) as f64 / 1e9);
        let warm = stretch(&raw.runs, |kind| matches!(kind, Kind::Warm(_)));
        let quiet = quiet(&curves, raw, warm);
        let recorded = &raw.recorded;
        Self {
            restart: raw.number,
            streamed: raw.streamed,
            begun_utc: raw.begun_utc.clone(),
            ready_s: since(raw.ready_ns),
            old_gone_s: since(raw.down_ns),
            command_s: since(raw.command_ended_ns),
            command_exit: raw.command_exit,
            command_stays: raw.stays,
            memory: memory(&series, raw),
            startup: raw.from_ns.zip(raw.ready_ns).map(|(from_ns, ready_ns)| {
                let own_read_bytes = own_read(&series, ready_ns);
                let of = Startup { from_ns, down_ns: raw.down_ns, ready_ns, own_read_bytes };
                startup(&curves, of, quiet, None)
            }),
            first: of_first(raw).map(|of| first(&curves, &of, quiet)),
            sanity: warm.map(|(from, to)| sanity(&series, &curves, from, to)).unwrap_or_default(),
            runs: raw.runs.clone(),
            process: raw.process.clone(),
            server_version: raw.version.clone(),
            server_header: raw.server_header.clone(),
            gpus: recorded.gpus.clone(),
            gpu_absent: Some(recorded.absent.clone()).filter(|why| !why.is_empty()),
            sampling_troubles: recorded.troubles.clone(),
            trouble: raw.trouble.clone(),
        }
    }

    /// The first request, where it ended well.
    pub fn cold(&self) -> Option<&Run> {
        self.runs.iter().find(|run| run.kind == Kind::Cold && run.completed)
    }

    /// Times to the first token of its warm requests, s.
    pub fn warm_ttft(&self) -> Option<Spread> {
        Spread::of(self.warm().filter_map(|run| run.ttft_s))
    }

    /// Times to the end of its warm requests, s.
    pub fn warm_wall(&self) -> Option<Spread> {
        Spread::of(self.warm().map(|run| run.wall_s))
    }

    /// The same for whole replies.
    pub fn whole_wall(&self) -> Option<Spread> {
        let whole = |run: &&Run| matches!(run.kind, Kind::Whole(_)) && run.completed;
        Spread::of(self.runs.iter().filter(whole).map(|run| run.wall_s))
    }

    /// cold_1 / warm median of the time to the first token.
    pub fn ttft_penalty(&self) -> Option<f64> {
        ratio(self.cold()?.ttft_s?, self.warm_ttft()?.median)
    }

    /// The same of the time to the end.
    pub fn wall_penalty(&self) -> Option<f64> {
        ratio(self.cold()?.wall_s, self.warm_wall()?.median)
    }

    fn warm(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(|run| matches!(run.kind, Kind::Warm(_)) && run.completed)
    }
}

fn ratio(cold: f64, warm: f64) -> Option<f64> {
    (warm > 0.0).then(|| cold / warm)
}

fn stretch(runs: &[Run], of: impl Fn(Kind) -> bool) -> Option<(i64, i64)> {
    let mut these = runs.iter().filter(|run| of(run.kind));
    let first = these.next()?;
    Some((first.sent_raw_ns, these.next_back().unwrap_or(first).done_raw_ns))
}

/// The lower of two: before the restart, and during the warm requests.
fn quiet(curves: &Curves, raw: &Raw, warm: Option<(i64, i64)>) -> Quiet {
    let rate = |from: i64, to: i64| {
        let rise = curves.disk.as_ref()?.rise(from, to)?;
        (to > from).then(|| rise / ((to - from) as f64 / 1e9))
    };
    let before = raw.from_ns.and_then(|from| rate(raw.recording_ns.max(from - 900_000_000), from));
    let both = [before, warm.and_then(|(from, to)| rate(from, to))];
    Quiet { disk_bytes_per_s: both.into_iter().flatten().min_by(f64::total_cmp) }
}

/// The first that was read of the server's own since it was ready; it has read little since.
fn own_read(series: &Series, ready_ns: i64) -> Option<f64> {
    let since = series.host.iter().filter(|s| (ready_ns..ready_ns + SOON_NS).contains(&s.raw_ns));
    since.filter_map(|s| s.server_read_bytes).map(|bytes| bytes as f64).next()
}

fn memory(series: &Series, raw: &Raw) -> Memory {
    let cold = raw.runs.first();
    let after = cold.map(|cold| raw.runs.get(1).map_or(cold.done_raw_ns, |next| next.sent_raw_ns));
    let begun = raw.from_ns.zip(raw.ready_ns);
    Memory {
        before_server_bytes: begun.and_then(|(from, ready)| series.least_gpu_memory(from, ready)),
        ready_bytes: cold.and_then(|cold| series.gpu_memory_at(cold.sent_raw_ns)),
        after_cold_bytes: after.and_then(|at| series.gpu_memory_at(at)),
        total_bytes: series.gpu_memory_total(),
    }
}

/// The first request beside those that count for it: by first tokens where there are streams, else by ends.
fn of_first(raw: &Raw) -> Option<First> {
    let time = |run: &Run| {
        let s = if raw.streamed { run.ttft_s } else { Some(run.wall_s) };
        s.filter(|_| run.completed).map(|s| (s * 1e9) as i64)
    };
    let cold = raw.runs.iter().find(|run| run.kind == Kind::Cold)?;
    let warm = raw.runs.iter().filter(|run| matches!(run.kind, Kind::Warm(_)));
    Some(First {
        sent_ns: cold.sent_raw_ns,
        until_ns: cold.sent_raw_ns + time(cold)?,
        warm_ns: warm.filter_map(time).collect(),
        fresh_ns: raw.runs.iter().find(|run| run.kind == Kind::Fresh).and_then(time),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_that_no_server_can_mean_are_no_panic() {
        let record = v1::RequestRecord {
            prompt_tokens: Some(u64::MAX),
            output_tokens: Some(2),
            ..v1::RequestRecord::default()
        };
        assert_eq!(Run::of(Kind::Cold, &record).total_tokens, Some(u64::MAX));
    }
}
