//! One level of a calibration: a stub, a client, and what both say.

use std::path::PathBuf;
use std::sync::Arc;

use tailcliff_proto::v1::{Outcome, Phase, RequestRecord};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::child::Stub;
use super::measure::{Client, Seen, added, held, tokens};
use super::{BURST, CalibrateError, TOKENS, TTFT_MS, WARMUP_NS};
use crate::args::{CalibrateArgs, Levels, Span, SweepArgs};
use crate::config::Config;
use crate::display::Display;
use crate::drive::{self, Listeners, Setup};
use crate::load::load;
use crate::local::{Embedded, Inside, Truth, plain_reqwest};
use crate::run::Ending;
use crate::stored::RunData;

/// What the stub does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    Paced { itl_ms: f64 },
    Burst,
}

/// What all levels share.
pub(super) struct Bench<'a> {
    pub(super) args: &'a CalibrateArgs,
    pub(super) folder: Folder,
    /// Ctrl-C.
    pub(super) stop: CancellationToken,
}

/// Where runs are written while they are needed; removed when dropped.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn make() -> Result<Folder, CalibrateError> {
        let path = std::env::temp_dir().join(format!("tailcliff-calibrate-{:x}", fastrand::u64(..)));
        // Not there before: what is removed in the end is ours.
        std::fs::create_dir(&path).map_err(|source| CalibrateError::Folder { path: path.clone(), source })?;
        Ok(Folder(path))
    }

    fn run(&self) -> PathBuf {
        self.0.join("run")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed lies in the system's folder for such things.
        let _left = std::fs::remove_dir_all(&self.0);
    }
}

impl Work {
    fn flags(self) -> Vec<String> {
        let flags = match self {
            Work::Paced { itl_ms } => {
                format!("--mode paced --ttft-ms {TTFT_MS} --itl-ms {itl_ms} --spread --tokens {TOKENS}")
            }
            Work::Burst => format!("--mode burst --tokens {}", BURST.1),
        };
        flags.split(' ').map(str::to_owned).collect()
    }

    fn tokens(self) -> u32 {
        match self {
            Work::Paced { .. } => TOKENS,
            Work::Burst => BURST.1,
        }
    }
}

impl Bench<'_> {
    fn duration_ns(&self, work: Work) -> i64 {
        match work {
            Work::Paced { .. } => self.args.duration.0,
            Work::Burst => BURST.2.min(self.args.duration.0),
        }
    }

    /// Our own client, through the path of `tailcliff run`; with its certificate's verdict and reasons.
    pub(super) async fn ours(
        &self,
        streams: u32,
        work: Work,
    ) -> Result<(Client, String, Vec<String>), CalibrateError> {
        let stub = Stub::start(&work.flags())?;
        let merged = self.drive(streams, work, &stub.address).await?;
        let data = load(&self.folder.run()).map_err(drive::RunError::from)?;
        let truth = self.truth(stub).await?;
        // Gone before the next level needs the room.
        let _left = std::fs::remove_dir_all(self.folder.run());
        let fail = |text: &str| CalibrateError::Level(streams, text.to_owned());
        let level = merged.levels.first().ok_or_else(|| fail("the level was never started"))?;
        let log = data.levels.first().ok_or_else(|| fail("the level left no log"))?;
        let start = log.started.values().map(|s| s.asked_raw_ns).min();
        let from = start.ok_or_else(|| fail("the agent never said that it started"))? + WARMUP_NS;
        let cpu_ns: i64 = log.done.values().filter_map(|d| Some(d.health.as_ref()?.cpu_ns)).sum();
        let client = Client {
            added: added(seen(&data), &truth.served),
            held_gauge: level.little.map(|l| l.in_flight),
            ..client(&truth, from, from + self.duration_ns(work), cpu_ns)
        };
        believable(streams, &client)?;
        let certificate = &level.certificate;
        Ok((client, certificate.verdict.as_str().to_owned(), certificate.reasons.clone()))
    }

    async fn drive(
        &self,
        streams: u32,
        work: Work,
        address: &str,
    ) -> Result<crate::merge::Merged, CalibrateError> {
        let sweep = SweepArgs {
            url: Some(address.to_owned()),
            model: Some("stub".to_owned()),
            concurrency: Some(Levels(vec![streams])),
            duration: Some(Span(self.duration_ns(work))),
            warmup: Some(Span(WARMUP_NS)),
            drain: Some(Span(2_000_000_000)),
            input_len: Some(16),
            output_len: Some(work.tokens()),
            output_dir: Some(self.folder.run()),
            ..SweepArgs::default()
        };
        let mut config = Config::from_args(sweep, None)?;
        config.plan.probes = 0;
        config.check_agents()?;
        let embedded = Embedded {
            gpu_interval_ns: 0,
            nvml_path: None,
            server: None,
            inside: Inside::default(),
            with_agent: true,
            probe: None,
            shards: self.args.shards,
        };
        let setup = Setup {
            door: crate::door::Door::of_this_process().map_err(crate::drive::RunError::Start)?,
            wait_ns: 30_000_000_000,
            embedded: Some(embedded),
            command: vec!["calibrate".to_owned()],
            resume: None,
            hosts: crate::ssh::Failures::none(),
        };
        let display = Display::new(Box::new(std::io::sink()), false, 1);
        let listeners = Listeners::bind("127.0.0.1:0", None)?;
        let outcome = drive::drive(config, listeners, setup, self.interrupts(), display).await?;
        let fail = |why: &str| CalibrateError::Level(streams, why.to_owned());
        match outcome.ending {
            Ending::Complete => outcome.merged.ok_or_else(|| fail("nothing was measured")),
            Ending::Interrupted(_) => Err(CalibrateError::Interrupted),
            Ending::NodesMissing(why) | Ending::Target(_, why) | Ending::Broken(why) => Err(fail(&why)),
        }
    }

    /// For one run: it ends at once when we are to stop.
    fn interrupts(&self) -> mpsc::Receiver<String> {
        let (out, inbox) = mpsc::channel(2);
        let stop = self.stop.clone();
        tokio::spawn(async move {
            tokio::select! { () = stop.cancelled() => {}, () = out.closed() => return }
            for _ in 0..2 {
                let _over = out.send("interrupted".to_owned()).await;
            }
        });
        inbox
    }

    /// Plain reqwest under the same load.
    pub(super) async fn reqwest(&self, streams: u32, work: Work) -> Result<Client, CalibrateError> {
        let stub = Stub::start(&work.flags())?;
        let duration_ns = self.duration_ns(work);
        let tokens = work.tokens();
        let body = move |stream: usize, request: usize| {
            format!(
                r#"{{"model":"stub","max_tokens":{tokens},"stream":true,"stream_options":{{"include_usage":true}},"messages":[{{"role":"user","content":"{stream}-{request} asks what the load is when it rises and falls and then rises once again"}}]}}"#
            )
        };
        let load = plain_reqwest::Load {
            url: format!("http://{}/v1/chat/completions", stub.address),
            name: Some("reqwest"),
            streams: streams as usize,
            requests_each: usize::MAX,
            duration_ns: Some(WARMUP_NS + duration_ns),
            streaming: true,
            body: Arc::new(body),
        };
        let stop = self.stop.clone();
        let done = tokio::task::spawn_blocking(move || {
            // The runtime of the load must not be within this one.
            std::thread::spawn(move || plain_reqwest::run(&load, &stop)).join()
        });
        let done = done.await.map_err(std::io::Error::other)?;
        let done =
            done.map_err(|_| CalibrateError::Level(streams, "plain reqwest panicked".to_owned()))??;
        let truth = self.truth(stub).await?;
        let from = done.records.iter().map(|r| r.intended_ns).min().unwrap_or(0) + WARMUP_NS;
        let measured = done.records.iter().filter(|r| r.intended_ns >= from);
        let seen = measured.filter_map(|r| {
            let first_token_ns = *r.arrivals_ns.first()?;
            Some(Seen { id: &r.request_id, intended_ns: r.intended_ns, sent_ns: r.sent_ns, first_token_ns })
        });
        let client = Client {
            added: added(seen, &truth.served),
            ..client(&truth, from, from + duration_ns, done.cpu_ns)
        };
        believable(streams, &client)?;
        Ok(client)
    }

    async fn truth(&self, stub: Stub) -> Result<Truth, CalibrateError> {
        if self.stop.is_cancelled() {
            return Err(CalibrateError::Interrupted);
        }
        let truth = tokio::task::spawn_blocking(move || stub.end()).await;
        Ok(truth.map_err(std::io::Error::other)??)
    }
}

fn client(truth: &Truth, from_ns: i64, to_ns: i64, cpu_ns: i64) -> Client {
    let tokens = tokens(&truth.served);
    Client {
        held_stub: held(&truth.served, from_ns, to_ns),
        cpu_ns_per_event: (tokens > 0).then(|| cpu_ns as f64 / tokens as f64),
        ..Client::default()
    }
}

/// The completed requests of the measured phase of a run.
pub fn seen(data: &RunData) -> impl Iterator<Item = Seen<'_>> {
    let records = data.nodes.values().flat_map(|node| &node.batches).flat_map(|batch| &batch.records);
    let counts = |r: &&RequestRecord| r.phase() == Phase::Measured && r.outcome() == Outcome::Completed;
    records.filter(counts).filter_map(|r| {
        let (sent_ns, first_token_ns) = (r.sent_raw_ns?, r.first_token_raw_ns?);
        Some(Seen { id: &r.request_id, intended_ns: r.intended_raw_ns, sent_ns, first_token_ns })
    })
}

/// A figure that contradicts the stub is worse than none.
fn believable(streams: u32, client: &Client) -> Result<(), CalibrateError> {
    let added = &client.added;
    let fail = |text: String| Err(CalibrateError::Level(streams, text));
    if added.impossible > 0 {
        return fail(format!("{} tokens were seen before they were written", added.impossible));
    }
    if added.unmatched > 0 {
        return fail(format!("{} requests never reached the stub", added.unmatched));
    }
    if added.after_send.is_empty() {
        return fail("no request was completed; give a longer --duration".to_owned());
    }
    Ok(())
}
