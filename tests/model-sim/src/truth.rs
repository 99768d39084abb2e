//! The truth log: for every request, when it truly arrived and when each of its chunks was truly written.
//!
//! Records leave the serving thread through a bounded channel; a thread of their own turns them into lines, flushed
//! every second and at the end, so that the file never delays a token.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{self, Pair, Wall};
use crate::spans::SpanCounts;
use crate::tell::Teller;

/// Records that may wait for the writing thread.
const WAITING: usize = 65_536;

/// How a request ended, as the server saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every token written.
    Completed,
    /// An HTTP error instead of an answer; see `status`.
    Rejected,
    /// Every token written, but one event was cut on purpose.
    Truncated,
    /// An error was sent inside the stream on purpose.
    StreamError,
    /// The connection was dropped on purpose.
    Dropped,
    /// Every token written, without the closing `[DONE]`, on purpose.
    NoDone,
    /// The client closed or failed before the end.
    ClientGone,
    /// The server shut down before the end.
    Aborted,
}

/// One request, all stamps in ns of `CLOCK_MONOTONIC_RAW`. `None`: it never came to that.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TruthRecord {
    /// The request's `x-request-id` header.
    pub request_id: Option<String>,
    /// Which connection of this server carried it, from 0 in order of acceptance.
    pub connection: u64,
    /// That connection left the accept queue.
    pub connection_accepted_ns: i64,
    /// The request was fully read.
    pub arrived_ns: i64,
    /// It entered the engine's queue.
    pub enqueued_ns: Option<i64>,
    /// It left the queue for the batch.
    pub dequeued_ns: Option<i64>,
    /// The engine produced its first token (by the model's clock; the write may be a little later).
    pub first_token_ns: Option<i64>,
    /// Just before the write of each chunk that carries content (reasoning counts); one stamp for a whole reply that
    /// is not streamed.
    pub emissions: Vec<i64>,
    /// After the last write.
    pub ended_ns: i64,
    /// Length of the request's body.
    #[serde(default)]
    pub body_bytes: u64,
    /// Words of the prompt, this server's stand-in for tokens.
    pub prompt_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Tokens asked for.
    pub max_tokens: u64,
    /// Asked to stream.
    pub stream: bool,
    /// HTTP status; `None` if no head was written.
    pub status: Option<u16>,
    /// How it ended.
    pub outcome: Outcome,
    /// The engine produced its last token.
    #[serde(default)]
    pub last_token_ns: Option<i64>,
    /// The front end was done with the first token: just before it was written, where the reply is streamed.
    #[serde(default)]
    pub first_out_ns: Option<i64>,
    /// After the write of the last token.
    #[serde(default)]
    pub last_out_ns: Option<i64>,
    /// Where its span ends.
    #[serde(default)]
    pub span_ended_ns: Option<i64>,
    /// The wall clock when it arrived, ns since the Unix epoch.
    #[serde(default)]
    pub arrived_unix_ns: Option<i64>,
    /// The wall clock where its span ends.
    #[serde(default)]
    pub span_ended_unix_ns: Option<i64>,
    /// The request's `traceparent` header, as it came.
    #[serde(default)]
    pub traceparent: Option<String>,
    /// Asked `/v1/chat/completions`.
    #[serde(default)]
    pub chat: bool,
}

/// Times of a request that the engine finished, ns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EngineTimes {
    pub(crate) queue_ns: i64,
    pub(crate) prefill_ns: i64,
    /// From first to last token, both in the engine.
    pub(crate) decode_ns: i64,
    /// From arrival to the first token's leaving.
    pub(crate) ttft_ns: i64,
    /// From arrival to the last token's leaving.
    pub(crate) e2e_ns: i64,
}

impl TruthRecord {
    pub(crate) fn new(connection: u64, connection_accepted_ns: i64, arrived_ns: i64) -> Self {
        Self {
            request_id: None,
            connection,
            connection_accepted_ns,
            arrived_ns,
            enqueued_ns: None,
            dequeued_ns: None,
            first_token_ns: None,
            emissions: Vec::new(),
            ended_ns: arrived_ns,
            body_bytes: 0,
            prompt_tokens: 0,
            output_tokens: 0,
            max_tokens: 0,
            stream: false,
            status: None,
            outcome: Outcome::Aborted,
            last_token_ns: None,
            first_out_ns: None,
            last_out_ns: None,
            span_ended_ns: None,
            arrived_unix_ns: None,
            span_ended_unix_ns: None,
            traceparent: None,
            chat: false,
        }
    }

    /// `None` of a request that the engine did not finish.
    pub(crate) fn engine_times(&self) -> Option<EngineTimes> {
        let (dequeued_ns, first_ns) = (self.dequeued_ns?, self.first_token_ns?);
        Some(EngineTimes {
            queue_ns: dequeued_ns - self.enqueued_ns?,
            prefill_ns: first_ns - dequeued_ns,
            decode_ns: self.last_token_ns? - first_ns,
            ttft_ns: self.first_out_ns? - self.arrived_ns,
            e2e_ns: self.last_out_ns? - self.arrived_ns,
        })
    }

    /// The wall clock from its arrival to its span's end; `None` without either.
    pub(crate) fn wall(&self) -> Option<Wall> {
        let from = Pair { raw_ns: self.arrived_ns, unix_ns: self.arrived_unix_ns? };
        Some(Wall { from, to: Pair { raw_ns: self.span_ended_ns?, unix_ns: self.span_ended_unix_ns? } })
    }

    /// What names it in its reply and its span: its own id, or one of the server's.
    pub(crate) fn reply_id(&self) -> String {
        self.request_id.clone().unwrap_or_else(|| format!("{:x}-{}", self.connection, self.arrived_ns))
    }
}

/// What a server knows once it has ended.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// The first `Config::keep_truth` records, in order of ending.
    pub records: Vec<TruthRecord>,
    /// Every request that ended.
    pub total: u64,
    /// Requests whose record was lost because the writing thread lagged.
    pub lost: u64,
    /// What became of the requests' spans.
    pub spans: SpanCounts,
}

/// Where requests leave their records.
#[derive(Clone)]
pub(crate) struct TruthSender {
    sender: SyncSender<TruthRecord>,
    lost: Arc<AtomicU64>,
}

impl TruthSender {
    pub(crate) fn send(&self, record: TruthRecord) {
        if self.sender.try_send(record).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The writing thread. It ends when every [`TruthSender`] is gone.
pub(crate) struct TruthWriter {
    thread: JoinHandle<io::Result<Truth>>,
    lost: Arc<AtomicU64>,
}

impl TruthWriter {
    /// Starts writing to `file`, if any, keeping the first `keep` records in memory too and telling of each by `teller`.
    pub(crate) fn start(file: Option<&Path>, keep: usize, teller: Teller) -> io::Result<(TruthSender, Self)> {
        let file = file.map(File::create).transpose()?.map(BufWriter::new);
        let (sender, records) = sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let thread = std::thread::Builder::new()
            .name("truth".into())
            .spawn(move || write(&records, file, keep, teller))?;
        Ok((TruthSender { sender, lost: lost.clone() }, Self { thread, lost }))
    }

    /// Waits for the last line. Every [`TruthSender`] must have been dropped.
    pub(crate) fn finish(self) -> io::Result<Truth> {
        let truth = self.thread.join().map_err(|_| io::Error::other("the truth log's thread panicked"))??;
        let lost = self.lost.load(Ordering::Relaxed);
        Ok(Truth { lost, total: truth.total + lost, ..truth })
    }
}

fn write(
    records: &Receiver<TruthRecord>,
    mut file: Option<BufWriter<File>>,
    keep: usize,
    mut teller: Teller,
) -> io::Result<Truth> {
    let mut truth = Truth::default();
    let mut flushed_ns = clock::raw_ns();
    loop {
        let record = records.recv_timeout(Duration::from_secs(1));
        if let Ok(record) = &record {
            teller.tell(record)?;
        }
        if let (Ok(record), Some(file)) = (&record, &mut file) {
            serde_json::to_writer(&mut *file, record)?;
            file.write_all(b"\n")?;
        }
        let ended = matches!(record, Err(RecvTimeoutError::Disconnected));
        if let Some(file) = &mut file
            && (ended || clock::raw_ns() - flushed_ns > 1_000_000_000)
        {
            file.flush()?;
            flushed_ns = clock::raw_ns();
        }
        if let Ok(record) = record {
            truth.total += 1;
            if truth.records.len() < keep {
                truth.records.push(record);
            }
        }
        if ended {
            truth.spans = teller.finish()?;
            return Ok(truth);
        }
    }
}
