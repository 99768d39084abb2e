//! `tailcliff-gpu-probe sensors`: watches this host's GPUs for a while and prints what each of their signals can show.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::time::Duration;

use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1;
use tokio_util::sync::CancellationToken;

use super::trace::TraceWriter;
use super::{Watch, name, notes};
use crate::config::{self, Config};
use crate::record::{Recorded, Recording};

/// What a person types after `sensors`.
#[derive(Clone, Debug, clap::Args)]
pub struct SensorsArgs {
    /// How long to watch, s. Power has to move meanwhile, with pulses of many lengths, for windows to be found: run a load
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,
    /// Sampling interval: 10ms, 1s
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = config::interval)]
    pub interval: Duration,
    /// NVML library, where the loader does not find it
    #[arg(long, value_name = "FILE")]
    pub nvml_path: Option<PathBuf>,
    /// Also keep what was read, as lines of text that can be played again
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
}

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum SensorsError {
    /// No GPU can be read; says what was tried.
    #[error("{0}; is the driver installed? --nvml-path names its library")]
    Absent(String),
    /// No thread can be made.
    #[error("failed to start sampling")]
    Start(#[source] io::Error),
    /// The recording cannot be written.
    #[error("failed to write the recording {0}")]
    Record(PathBuf, #[source] io::Error),
    /// The table cannot be written.
    #[error("failed to print the table")]
    Print(#[from] io::Error),
    /// Ctrl-C; the table was printed.
    #[error("interrupted; the table is of what was seen until then")]
    Interrupted,
    /// Ctrl-C, and a driver that does not return; or a thread that broke off.
    #[error("{0}")]
    Broken(String),
}

/// How often the end is looked for.
const LOOK: Duration = Duration::from_millis(100);
/// How long a driver, and what is left to find, may take once somebody wants to leave.
const LAST_WORDS: Duration = Duration::from_secs(15);

/// As [`run`], on standard output, in a thread of its own: drivers block.
///
/// # Errors
/// As [`run`]; when the driver does not return after `stop`.
pub async fn serve(args: SensorsArgs, stop: CancellationToken, tell: fn(&str)) -> Result<(), SensorsError> {
    let asked = stop.clone();
    let hung = async {
        asked.cancelled().await;
        tokio::time::sleep(LAST_WORDS).await;
    };
    let made = tokio::task::spawn_blocking(move || run(&args, &mut io::stdout(), &stop, tell));
    tokio::select! {
        made = made => {
            made.unwrap_or_else(|panicked| Err(SensorsError::Broken(format!("watching broke off: {panicked}"))))
        }
        () = hung => Err(SensorsError::Broken("interrupted; the driver did not return".to_owned())),
    }
}

/// Watches as long as is asked, or until `stop`, then prints; says meanwhile what it does.
///
/// # Errors
/// When there is no NVML, or something cannot be written.
pub fn run(
    args: &SensorsArgs,
    out: &mut impl Write,
    stop: &CancellationToken,
    tell: fn(&str),
) -> Result<(), SensorsError> {
    let config =
        Config { interval: args.interval, nvml_path: args.nvml_path.clone(), ..Config::new(String::new()) };
    let recording = Recording::start(&config).map_err(SensorsError::Start)?;
    if !recording.absent().is_empty() {
        return Err(SensorsError::Absent(recording.absent().to_owned()));
    }
    // Before a minute is spent on watching; not before there is something to watch, over an older recording.
    let unwritten = |error| SensorsError::Record(args.record.clone().unwrap_or_default(), error);
    let file = args.record.as_ref().map(File::create).transpose().map_err(unwritten)?;
    tell(&format!("watching for {} s", args.seconds));
    let began = HostClock.monotonic();
    let watched = || u64::try_from((HostClock.monotonic() - began) / 1_000_000_000).unwrap_or(0);
    while watched() < args.seconds && !stop.is_cancelled() {
        std::thread::sleep(LOOK);
    }
    let seconds = watched();
    let recorded = recording.stop();
    if let Some(file) = file {
        keep(&recorded, args, seconds, file).map_err(unwritten)?;
    }
    print(&recorded, seconds, out)?;
    if stop.is_cancelled() { Err(SensorsError::Interrupted) } else { Ok(()) }
}

fn keep(recorded: &Recorded, args: &SensorsArgs, seconds: u64, file: File) -> io::Result<()> {
    let cards = recorded.gpus.iter().map(|gpu| format!("GPU {}\n", title(gpu)));
    let how = format!("read each {} ms for {} s", args.interval.as_secs_f64() * 1e3, seconds);
    let mut writer = TraceWriter::new(BufWriter::new(file), &(cards.collect::<String>() + &how))?;
    recorded.batches.iter().try_for_each(|batch| writer.add(batch))?;
    writer.end()
}

fn title(gpu: &v1::GpuFacts) -> String {
    let simulated = if gpu.simulated { "; SIMULATED" } else { "" };
    format!("{}: {}, driver {}{simulated}", gpu.index, gpu.name, gpu.driver)
}

/// Prints what was recorded, in a table for each GPU.
///
/// # Errors
/// When `out` cannot be written.
pub fn print(recorded: &Recorded, seconds: u64, out: &mut impl Write) -> io::Result<()> {
    let mut watch = Watch::default();
    recorded.batches.iter().for_each(|batch| watch.see(batch));
    let mut reports = watch.reports(true);
    reports.sort_by_key(|report| report.signal);
    for gpu in &recorded.gpus {
        writeln!(out, "GPU {}: sensors, watched for {seconds} s", title(gpu))?;
        writeln!(
            out,
            "{:<26} {:>22} {:>16} {:>8} {:>8} {:>8} {:<13} note",
            "signal", "period [5-95 %]", "window", "delay", "read", "updates", "found by"
        )?;
        for report in reports.iter().filter(|report| report.gpu == gpu.index) {
            writeln!(out, "{}", row(report).trim_end())?;
        }
        gpu.notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))?;
    }
    recorded.troubles.iter().try_for_each(|trouble| writeln!(out, "note: {trouble}"))?;
    writeln!(
        out,
        "Windows are found only while power moves, by pulses of many lengths; a read is of what is read together."
    )
}

fn row(report: &v1::SensorReport) -> String {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let time = |ns: i64| notes::time(ns as f64);
    let period = report.period_ns.map(|period| {
        let ends = report.period_low_ns.zip(report.period_high_ns);
        let ends = ends.map(|(low, high)| format!(" [{:.0}-{:.0}]", low as f64 / 1e6, high as f64 / 1e6));
        time(period) + &ends.unwrap_or_default()
    });
    let window = report.window_ns.map(|ns| match report.window_bar_ns {
        Some(bar) => notes::with_bar(ns as f64, bar as f64),
        None => time(ns),
    });
    let read = (report.read_ns > 0).then(|| format!("{} µs", report.read_ns / 1_000));
    format!(
        "{:<26} {:>22} {:>16} {:>8} {:>8} {:>8} {:<13} {}",
        name(report.signal()),
        or_none(period),
        or_none(window),
        or_none(report.delay_ns.map(time)),
        or_none(read),
        report.updates,
        report.method.replace('_', " "),
        if report.refused.is_empty() { &report.note } else { &report.refused },
    )
}
