//! `histograms.hlog`: the merged histogram of every level and metric as an HdrHistogram interval log, for that family's
//! own tools. Values are ns; tags name level and metric, such as `c8-ttft`, or `r2.5-ttft` in open loop.

use std::io::{self, Write};
use std::time::Duration;

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, IntervalLogWriterError, Tag};

use crate::axis::Load;
use crate::levels::Level;
use crate::merge::Merged;

/// ns in one ms: the log's "max" column is for people.
const MAX_DIVISOR: f64 = 1e6;

/// Writes the log.
///
/// # Errors
/// What `out` says, or a histogram that cannot be encoded.
pub fn write(out: &mut impl Write, merged: &Merged) -> io::Result<()> {
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    builder.add_comment("[Histogram log format version 1.3]");
    builder.add_comment("[tailcliff: values in ns, Interval_Max in ms, one interval a level and metric]");
    if let Ok(start) = chrono::DateTime::parse_from_rfc3339(&merged.header.started_utc) {
        let epoch_s = start.timestamp_millis() as f64 / 1e3;
        builder.add_comment(&format!("[StartTime: {epoch_s:.3} (seconds since epoch)]"));
        builder.add_comment(&format!("[BaseTime: {epoch_s:.3} (seconds since epoch)]"));
    }
    builder.with_max_value_divisor(MAX_DIVISOR);
    let mut log = builder.begin_log_with(out, &mut serializer)?;
    for level in &merged.levels {
        let (start, length) = interval(level, merged.header.started_ref_ns);
        for (name, metric) in level.latencies.named() {
            let tag = format!("{}-{name}", of(level.load));
            let histogram = metric.histogram.hdr();
            log.write_histogram(histogram, start, length, Tag::new(&tag)).map_err(|e| match e {
                IntervalLogWriterError::IoError(e) => e,
                IntervalLogWriterError::SerializeError(e) => io::Error::other(format!("{e:?}")),
            })?;
        }
    }
    Ok(())
}

/// A level in a tag.
fn of(load: Load) -> String {
    match load {
        Load::Streams(streams) => format!("c{streams}"),
        Load::Rate(rate) => format!("r{rate}"),
    }
}

/// Start since the run's start, and length, of what the histograms cover.
fn interval(level: &Level, started_ref_ns: i64) -> (Duration, Duration) {
    let window = level.throughput.map(|t| t.window);
    let start = window.map_or(level.start_ref_ns, |w| w.start_ns).saturating_sub(started_ref_ns);
    let length = window.map_or(0, |w| w.end_ns - w.start_ns);
    let span = |ns: i64| Duration::from_nanos(u64::try_from(ns).unwrap_or(0));
    (span(start), span(length))
}
