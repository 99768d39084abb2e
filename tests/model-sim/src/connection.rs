//! One connection: requests in, answers out, one at a time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::api::{self, ApiError, Ask, Frames, Kind};
use crate::clock::{self, Pair};
use crate::engine::{self, Refused};
use crate::fault::{Fault, Faults};
use crate::http::{ReadError, Reader, Request, metrics_page, response};
use crate::live::Entry;
use crate::metrics::Metrics;
use crate::reply::{After, Reply};
use crate::serve::Server;
use crate::tokens::Source;
use crate::truth::{Outcome, TruthRecord, TruthSender};

/// A connection, from its acceptance to its end.
pub(crate) struct Connection {
    pub(crate) id: u64,
    pub(crate) accepted_ns: i64,
    pub(crate) server: Arc<Server>,
}

/// A truth record that is logged however its request ends, even when the task is cancelled.
struct Logged {
    record: TruthRecord,
    truth: TruthSender,
    metrics: Arc<Metrics>,
    /// Why its reply ends, once it is in the engine.
    finish: Option<&'static str>,
}

impl Drop for Logged {
    fn drop(&mut self) {
        self.record.ended_ns = clock::raw_ns();
        if let Some(finish) = self.finish {
            self.metrics.ended(&self.record, finish);
        }
        let empty = TruthRecord::new(0, 0, 0);
        self.truth.send(std::mem::replace(&mut self.record, empty));
    }
}

impl Connection {
    /// Answers requests until either side closes.
    pub(crate) async fn run(self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let (read, mut write) = stream.split();
        let mut reader = Reader::new(read);
        let after = loop {
            match self.exchange(&mut reader, &mut write).await {
                Ok(After::KeepAlive) => {}
                Ok(after) => break after,
                Err(error) => break self.refuse(error, &mut write).await,
            }
        };
        match after {
            After::Reset => drop(write.as_ref().set_zero_linger()),
            _ => part(&mut stream).await,
        }
    }

    /// One request and its answer.
    async fn exchange(
        &self,
        reader: &mut Reader<ReadHalf<'_>>,
        write: &mut WriteHalf<'_>,
    ) -> Result<After, ReadError> {
        let mut request = reader.head().await?;
        if request.expects_continue() {
            write.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.map_err(|_| ReadError::Closed)?;
        }
        reader.body(&mut request).await?;
        let generates = match request.path.as_str() {
            "/v1/chat/completions" => Some(Kind::Chat),
            "/v1/completions" => Some(Kind::Completions),
            _ => None,
        };
        let after = match generates {
            Some(kind) if request.method == "POST" => self.generate(kind, &request, reader, write).await,
            None if (request.method.as_str(), request.path.as_str()) == ("GET", "/metrics") => {
                self.metrics(&request, write).await
            }
            _ => {
                let (status, body) = self.inform(&request, generates.is_some());
                write
                    .write_all(response(status, &body, request.close).as_bytes())
                    .await
                    .map(|()| After::KeepAlive)
            }
        };
        let after = after.map_err(|_| ReadError::Closed)?;
        Ok(if request.close && after == After::KeepAlive { After::Close } else { after })
    }

    /// Everything that is not generation.
    fn inform(&self, request: &Request, generates: bool) -> (u16, String) {
        let server = &self.server;
        match (request.method.as_str(), request.path.as_str()) {
            (_, _) if generates => (405, r#"{"detail":"Method Not Allowed"}"#.into()),
            ("GET", "/health" | "/v1/models") if server.loading() => (503, loading().body()),
            ("GET", "/health") => (200, String::new()),
            ("GET", "/version") => (200, VERSION.into()),
            ("GET", "/v1/models") if !server.authorised(request) => (401, UNAUTHORISED.into()),
            ("GET", "/v1/models") => (200, api::models(&server.config, clock::unix_seconds())),
            ("POST", "/sim/fault") => match server.inject(&request.body) {
                Ok(()) => (200, "{}".into()),
                Err(error) => (error.status, error.body()),
            },
            (_, "/health" | "/version" | "/metrics" | "/v1/models" | "/sim/fault") => {
                (405, r#"{"detail":"Method Not Allowed"}"#.into())
            }
            _ => (404, r#"{"detail":"Not Found"}"#.into()),
        }
    }

    async fn metrics(&self, request: &Request, write: &mut WriteHalf<'_>) -> io::Result<After> {
        match self.server.metrics_page().await {
            Some(page) => {
                write.write_all(metrics_page(&page, request.close).as_bytes()).await?;
                Ok(After::KeepAlive)
            }
            None => Ok(After::Close),
        }
    }

    async fn generate(
        &self,
        kind: Kind,
        request: &Request,
        reader: &mut Reader<ReadHalf<'_>>,
        write: &mut WriteHalf<'_>,
    ) -> io::Result<After> {
        let arrived = Pair::read();
        let arrived_ns = arrived.raw_ns;
        let record = TruthRecord::new(self.id, self.accepted_ns, arrived_ns);
        let (truth, metrics) = (self.server.truth.clone(), self.server.metrics.clone());
        let mut logged = Logged { record, truth, metrics, finish: None };
        logged.record.arrived_unix_ns = Some(arrived.unix_ns);
        logged.record.request_id.clone_from(&request.request_id);
        logged.record.traceparent.clone_from(&request.traceparent);
        logged.record.chat = kind == Kind::Chat;
        let taken_ns = self.server.taken(arrived_ns).await;
        match self.admit(kind, request, taken_ns, &mut logged.record) {
            Ok(admitted) => {
                self.server.metrics.entered();
                logged.finish = Some(admitted.finish);
                self.answer(admitted, &mut logged.record, reader, write).await
            }
            Err((status, body)) => {
                logged.record.status = Some(status);
                logged.record.outcome = Outcome::Rejected;
                write.write_all(response(status, &body, request.close).as_bytes()).await?;
                Ok(After::KeepAlive)
            }
        }
    }

    /// Checks a request and puts it in the queue, or gives the status and body to refuse it with.
    fn admit(
        &self,
        kind: Kind,
        request: &Request,
        taken_ns: i64,
        record: &mut TruthRecord,
    ) -> Result<Admitted, (u16, String)> {
        let server = &self.server;
        if !server.authorised(request) {
            return Err((401, UNAUTHORISED.into()));
        }
        let refusal = |error: ApiError| (error.status, error.body());
        let mut ask = api::read(kind, &request.body, &server.config).map_err(refusal)?;
        record.body_bytes = request.body.len() as u64;
        record.prompt_tokens = ask.prompt_tokens;
        record.max_tokens = ask.max_tokens;
        record.stream = ask.stream;
        if server.loading() {
            return Err(refusal(loading()));
        }
        let faults = server.faults(std::mem::take(&mut ask.faults));
        if let Some(status) = faults.status(server.age_ns()) {
            return Err(refusal(ApiError::of_status(status, "refused, as it was asked to")));
        }
        let (output_tokens, finish) = server.length(&ask);
        let whole = engine::Request::new(0, ask.prompt_tokens, ask.max_tokens);
        let entry = Entry {
            request: engine::Request { output_tokens, ..whole },
            name: request.request_id.clone(),
            causes: faults.0.iter().filter_map(Fault::cause).collect(),
        };
        let source = server.mill.enter(taken_ns, entry).map_err(|e| refusal(refused(e)))?;
        record.enqueued_ns = Some(taken_ns);
        Ok(Admitted { ask, faults, finish, source })
    }

    async fn answer(
        &self,
        admitted: Admitted,
        record: &mut TruthRecord,
        reader: &mut Reader<ReadHalf<'_>>,
        write: &mut WriteHalf<'_>,
    ) -> io::Result<After> {
        let Admitted { ask, faults, finish, source } = admitted;
        let (config, timer, metrics) = (&self.server.config, &self.server.timer, &*self.server.metrics);
        let frames = Frames::new(&ask, &config.model, &record.reply_id(), clock::unix_seconds());
        let front_end_ns = config.inside.front_end_ns.1;
        let (ask, faults) = (&ask, &faults);
        let reply = Reply { out: write, timer, ask, faults, frames, finish, record, metrics, front_end_ns };
        let ended = tokio::select! {
            ended = reply.write(source) => ended,
            () = reader.closed() => Err(io::ErrorKind::ConnectionAborted.into()),
        };
        if ended.is_err() {
            record.outcome = Outcome::ClientGone;
        }
        ended
    }

    async fn refuse(&self, error: ReadError, write: &mut WriteHalf<'_>) -> After {
        if let ReadError::Bad(status, message) = error {
            let body = ApiError::of_status(status, message).body();
            let _ = write.write_all(response(status, &body, true).as_bytes()).await;
        }
        After::Close
    }
}

/// A request on its way.
struct Admitted {
    ask: Ask,
    faults: Faults,
    finish: &'static str,
    source: Source,
}

/// What is simulated says so.
const VERSION: &str = concat!(r#"{"version":"model-sim "#, env!("CARGO_PKG_VERSION"), r#""}"#);
const UNAUTHORISED: &str = r#"{"error":"Unauthorized"}"#;

fn loading() -> ApiError {
    ApiError::of_status(503, "Loading model")
}

fn refused(error: Refused) -> ApiError {
    match error {
        Refused::TooLong { needed, budget } => ApiError::bad_request(
            format!("The request needs {needed} tokens of KV cache, but only {budget} exist."),
            None,
        ),
        Refused::QueueFull(waiting) => {
            ApiError::of_status(503, format!("The server is full: {waiting} requests are waiting."))
        }
    }
}

/// Most bytes read and thrown away when a connection ends.
const MAX_DRAIN: usize = 1024 * 1024;

/// Ends a connection so that the last reply arrives: closing with unread bytes would reset it, so what the peer still
/// sends is read and thrown away, for a moment and up to a bound.
async fn part(stream: &mut TcpStream) {
    let _ = stream.shutdown().await;
    let (mut rest, mut drained) = (vec![0; 16 * 1024], 0);
    let drain = async {
        while let Ok(n @ 1..) = stream.read(&mut rest).await {
            drained += n;
            if drained > MAX_DRAIN {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(500), drain).await;
}
