//! The stub as a process of its own: `tailcliff stub`, which calibrate and the bench start and stop.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use clap::ValueEnum;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::{Config, KEEP_BYTES, MAX_TOKENS, Mode, Truth, run};
use crate::host_check;

/// Flags of `tailcliff stub`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where to listen: an address of loopback
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// How replies come
    #[arg(long, value_enum, default_value = "paced")]
    pub mode: Kind,
    /// Paced: to the first token, ms
    #[arg(long, default_value_t = 50.0)]
    pub ttft_ms: f64,
    /// Paced: from token to token, ms
    #[arg(long, default_value_t = 10.0)]
    pub itl_ms: f64,
    /// Paced: shift each request's schedule by a share of the time between tokens, so that streams do not tick in step
    #[arg(long)]
    pub spread: bool,
    /// Tokens of a reply, at most
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_TOKENS)))]
    pub tokens: u32,
    /// Where what it knows goes at the end, as JSON lines [default: standard output]
    #[arg(long)]
    pub truth: Option<PathBuf>,
}

/// Names of the modes.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Kind {
    /// Whole replies, not streamed
    Plain,
    /// Streams whose chunks come all at once
    Burst,
    /// Streams on a schedule
    Paced,
}

impl Args {
    fn config(&self) -> io::Result<Config> {
        let refuse = |text: &str| Err(io::Error::new(ErrorKind::InvalidInput, text));
        if !self.listen.ip().is_loopback() {
            return refuse(
                "failed to listen: a stub serves whoever asks, so --listen must be an address of loopback",
            );
        }
        let ns = |ms: f64| (ms * 1e6) as i64;
        let sane = |ms: f64| (0.0..=3_600_000.0).contains(&ms);
        if !sane(self.ttft_ms) || !sane(self.itl_ms) {
            return refuse("failed to pace: --ttft-ms and --itl-ms lie between 0 and an hour");
        }
        let mode = match self.mode {
            Kind::Plain => Mode::Plain,
            Kind::Burst => Mode::Burst,
            Kind::Paced => {
                Mode::Paced { ttft_ns: ns(self.ttft_ms), itl_ns: ns(self.itl_ms), spread: self.spread }
            }
        };
        Ok(Config { mode, tokens: self.tokens, keep_bytes: KEEP_BYTES })
    }
}

/// Says `listening on ADDRESS`, serves until standard input ends or a signal comes, and then writes what it knows. So a
/// stub whose parent dies ends too.
///
/// # Errors
/// When the flags make no sense, or as the system says.
pub async fn serve(args: Args) -> io::Result<()> {
    let config = args.config()?;
    // As many connections as this host allows; how many that is, those who ask for them check.
    let _as_it_is = host_check::raise_descriptors();
    let listener = TcpListener::bind(args.listen)?;
    // Before anybody can know of this process.
    let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut out = io::stdout();
    writeln!(out, "listening on {}", listener.local_addr()?)?;
    out.flush()?;
    let (stop, stopped) = UnixStream::pair()?;
    let (tell, mut told) = oneshot::channel();
    std::thread::Builder::new().name("stub".to_owned()).spawn(move || {
        let input = io::stdin();
        let _gone = tell.send(run(&config, listener, &[stopped.as_fd(), input.as_fd()]));
    })?;
    let truth = tokio::select! {
        truth = &mut told => truth,
        _ = async { tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} } } => {
            drop(stop);
            told.await
        }
    };
    let truth = truth.map_err(|_| io::Error::other("the stub's thread died"))??;
    write_out(&truth, args.truth)
}

fn write_out(truth: &Truth, path: Option<PathBuf>) -> io::Result<()> {
    let to: Box<dyn Write> = match path {
        Some(path) => Box::new(File::create(path)?),
        None => Box::new(io::stdout()),
    };
    let mut to = BufWriter::with_capacity(1 << 18, to);
    truth.write(&mut to)?;
    to.flush()
}
