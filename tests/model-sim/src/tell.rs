//! What is told of each request beside its truth: its span, and its line of stamps, both in wall-clock time. All of it
//! happens on the truth log's thread, after the request is over.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

use crate::clock::Wall;
use crate::config::Config;
use crate::spans::{self, Exporter, Parent, Queue, SpanCounts, SpanFaultKind};
use crate::truth::TruthRecord;

/// The teller of a server's requests.
#[derive(Debug)]
pub(crate) struct Teller {
    spans: Option<Spans>,
    stamps: Option<File>,
}

#[derive(Debug)]
struct Spans {
    exporter: Exporter,
    queue: Queue,
    faults: spans::Faults,
    rng: fastrand::Rng,
}

impl Teller {
    pub(crate) fn start(config: &Config) -> io::Result<Self> {
        let inside = &config.inside;
        let delay = Duration::from_nanos(inside.otlp_delay_ns.max(0).unsigned_abs());
        let exporter = inside.otlp.clone().map(|endpoint| Exporter::start(endpoint, delay)).transpose()?;
        let spans = exporter.map(|exporter| Spans {
            queue: exporter.queue(),
            exporter,
            faults: spans::Faults::new(&inside.span_faults, config.seed),
            rng: fastrand::Rng::new(),
        });
        let stamps = inside.stamps_log.as_deref().map(File::create).transpose()?;
        Ok(Self { spans, stamps })
    }

    /// Tells of a request that is over.
    pub(crate) fn tell(&mut self, record: &TruthRecord) -> io::Result<()> {
        if self.spans.is_none() && self.stamps.is_none() {
            return Ok(());
        }
        // Of one that the engine did not finish nothing is told.
        let Some(wall) = record.wall() else { return Ok(()) };
        if let Some(spans) = &mut self.spans {
            spans.tell(record, &wall);
        }
        match (&mut self.stamps, line(record, &wall)) {
            // Written at once, in one piece: whoever follows the file sees whole lines, soon.
            (Some(file), Some(line)) => file.write_all(line.as_bytes()),
            _ => Ok(()),
        }
    }

    /// Exports the rest.
    pub(crate) fn finish(self) -> io::Result<SpanCounts> {
        self.spans.map_or_else(|| Ok(SpanCounts::default()), |spans| spans.exporter.finish())
    }
}

impl Spans {
    fn tell(&mut self, record: &TruthRecord, wall: &Wall) {
        let parent = record.traceparent.as_deref().and_then(Parent::parse);
        if parent.is_some_and(|parent| !parent.sampled) {
            self.queue.count(|counts| counts.unsampled += 1);
            return;
        }
        let Some(mut span) = spans::span(record, parent, wall, &mut self.rng) else { return };
        let faults = self.faults.next();
        let hit = |kind| faults.contains(&kind);
        self.queue.count(|counts| {
            counts.made += 1;
            counts.lost += u64::from(hit(SpanFaultKind::Lost));
            counts.without_ids += u64::from(hit(SpanFaultKind::NoIds) && !hit(SpanFaultKind::Lost));
        });
        if hit(SpanFaultKind::NoIds) {
            span.strip_ids();
        }
        if !hit(SpanFaultKind::Lost) {
            self.queue.push(span, hit(SpanFaultKind::Garbage));
        }
    }
}

/// Of a request that the engine finished: seconds of the wall clock, with all their digits.
fn line(record: &TruthRecord, wall: &Wall) -> Option<String> {
    let stamps = [
        ("enqueue", record.enqueued_ns?),
        ("dequeue", record.dequeued_ns?),
        ("infer_start", record.dequeued_ns?),
        ("first_token", record.first_token_ns?),
        ("last_token", record.last_token_ns?),
    ];
    let mut line = format!(r#"{{"request_id":{}"#, serde_json::Value::from(record.reply_id()));
    for (name, raw_ns) in stamps {
        let unix_ns = wall.unix_ns(raw_ns);
        let _ = write!(line, r#","{name}":{}.{:09}"#, unix_ns / 1_000_000_000, unix_ns % 1_000_000_000);
    }
    Some(line + "}\n")
}
