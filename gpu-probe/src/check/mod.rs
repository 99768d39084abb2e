//! `tailcliff-gpu-probe check`: is this the GPU that it should be, in the state that it should be in, with the memory
//! bandwidth that it is specified with? Then a short watch of it.

mod card;
mod copy;
mod json;
mod plot;
mod reading;
mod screen;
mod spec;
mod text;
mod watch;

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use nvml_wrapper::Nvml;
use tokio_util::sync::CancellationToken;

use crate::config::interval;
use crate::cuda::Cuda;
use crate::nvml::{self, NvmlAbsent};
use card::Card;
use copy::Copied;
use reading::Reading;
use screen::Screen;

/// Shows what GPUs are here and in what state, tests their memory bandwidth, and watches them for a while.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// NVML library, where the loader does not find it
    #[arg(long, value_name = "FILE")]
    pub nvml_path: Option<PathBuf>,
    /// CUDA driver library, where the loader does not find it
    #[arg(long, value_name = "FILE")]
    pub cuda_path: Option<PathBuf>,
    /// Leave the copy test out: it takes up to 2 GiB of GPU memory, and the GPU's whole bandwidth for a fraction of a second
    #[arg(long)]
    pub no_copy: bool,
    /// Time between two looks of the watch: 250ms, 1s
    #[arg(long, value_name = "TIME", default_value = "250ms", value_parser = interval)]
    pub watch_interval: Duration,
    /// How long to watch; 0 for not at all
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub watch_seconds: u32,
    /// Where the watch is kept, as watch.csv and watch.svg, and everything as check.json
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Print one JSON object and nothing else
    #[arg(long)]
    pub json: bool,
}

/// Why a check could not be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There is nothing to check.
    #[error("{0}; is the driver installed? --nvml-path names its library")]
    Absent(NvmlAbsent),
    /// NVML does not work.
    #[error("{0}")]
    Nvml(String),
    /// A GPU does not work: which, and what it said.
    #[error("{0}")]
    Broken(String),
    /// What was found cannot be shown.
    #[error("failed to print the check")]
    Print(#[from] io::Error),
    /// What was found cannot be kept.
    #[error("failed to write {path}: {why}; is --output-dir a place that can be written to?")]
    Keep {
        /// The file or folder.
        path: PathBuf,
        /// What the file system said.
        why: io::Error,
    },
    /// Ctrl-C; what there was is kept.
    #[error("interrupted; what was seen until then is kept")]
    Interrupted,
}

/// How long a driver may take to return once somebody wants to leave.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// One GPU and its test.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    pub(crate) card: Card,
    pub(crate) copied: Copied,
}

/// Everything that was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// Why there is no NVML; empty otherwise.
    pub(crate) nvml_absent: String,
    pub(crate) gpus: Vec<Checked>,
    pub(crate) readings: Vec<Reading>,
    pub(crate) interrupted: bool,
}

impl Report {
    pub(crate) fn is_simulated(&self) -> bool {
        self.gpus.iter().any(|checked| checked.card.simulated)
    }

    /// The first thing that is wrong with a GPU.
    fn trouble(&self) -> Option<String> {
        self.gpus.iter().find_map(|checked| match (&checked.copied, checked.card.trouble.as_str()) {
            (Copied::Failed(why), "") => {
                Some(format!("GPU {}: the copy test failed: {why}", checked.card.index))
            }
            (_, "") => None,
            (_, trouble) => Some(format!("GPU {}: {trouble}", checked.card.index)),
        })
    }
}

/// Makes the check and prints it; `stop` ends its watch early.
///
/// # Errors
/// When there is no NVML, a GPU does not work, or what was found cannot be shown or kept.
pub async fn serve(args: CheckArgs, stop: CancellationToken) -> Result<(), CheckError> {
    // Drivers block, some for seconds.
    let asked = stop.clone();
    let made = move || run(&args, &mut Screen::new(&mut io::stdout(), io::stdout().is_terminal()), &stop);
    let hung = async {
        asked.cancelled().await;
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        made = tokio::task::spawn_blocking(made) => {
            made.unwrap_or_else(|panicked| Err(CheckError::Broken(format!("the check broke off: {panicked}"))))
        }
        () = hung => Err(CheckError::Broken("interrupted; the driver did not return, and nothing was kept".to_owned())),
    }
}

fn run(args: &CheckArgs, screen: &mut Screen<'_>, stop: &CancellationToken) -> Result<(), CheckError> {
    if args.json {
        screen.silence();
    }
    if let Some(dir) = &args.output_dir {
        // Before the time is spent, not after.
        fs::create_dir_all(dir).map_err(|why| CheckError::Keep { path: dir.clone(), why })?;
        keep(dir, "check.json", "")?;
    }
    let nvml = match nvml::load(args.nvml_path.as_deref()) {
        Ok(nvml) => nvml,
        Err(absent) => {
            let report = Report { nvml_absent: absent.to_string(), ..Report::default() };
            finish(args, &report, screen)?;
            return Err(CheckError::Absent(absent));
        }
    };
    let mut report = Report { gpus: check_all(&nvml, args, screen)?, ..Report::default() };
    let working = report.gpus.iter().filter(|checked| checked.card.trouble.is_empty());
    let gpus: Vec<u32> = working.map(|checked| checked.card.index).collect();
    let pace = watch::Pace {
        interval: args.watch_interval,
        length: Duration::from_secs(u64::from(args.watch_seconds)),
    };
    let is_kept = args.output_dir.is_some() || args.json;
    report.readings = watch::watch(&nvml, &gpus, pace, screen, is_kept, stop)?;
    report.interrupted = stop.is_cancelled();
    finish(args, &report, screen)?;
    match report.trouble() {
        Some(trouble) => Err(CheckError::Broken(trouble)),
        None if report.interrupted => Err(CheckError::Interrupted),
        None => Ok(()),
    }
}

/// Each card is shown as soon as it was tested.
fn check_all(nvml: &Nvml, args: &CheckArgs, screen: &mut Screen<'_>) -> Result<Vec<Checked>, CheckError> {
    let cards = card::cards(nvml).map_err(CheckError::Nvml)?;
    if cards.is_empty() {
        return Err(CheckError::Nvml("the driver knows no GPU".to_owned()));
    }
    let cuda = if args.no_copy {
        Err("by --no-copy".to_owned())
    } else {
        Cuda::open(args.cuda_path.as_deref()).map_err(|absent| absent.to_string())
    };
    let mut all = Vec::new();
    for card in cards {
        let copied = match &cuda {
            _ if !card.trouble.is_empty() => Copied::Skipped("the GPU does not answer".to_owned()),
            Ok(cuda) => copy::test(cuda, &card.uuid),
            Err(why) => Copied::Skipped(why.clone()),
        };
        let checked = Checked { card, copied };
        screen.say(&text::card(&checked))?;
        all.push(checked);
    }
    Ok(all)
}

fn finish(args: &CheckArgs, report: &Report, screen: &mut Screen<'_>) -> Result<(), CheckError> {
    let json = format!("{:#}\n", json::report(report));
    if let Some(dir) = &args.output_dir {
        keep(dir, "check.json", &json)?;
        if report.readings.is_empty() {
            // A picture of an earlier check beside this one's figures would be taken for its own.
            for name in ["watch.csv", "watch.svg"] {
                let _absent = fs::remove_file(dir.join(name));
            }
        } else {
            keep(dir, "watch.csv", &watch::csv(&report.readings))?;
            keep(dir, "watch.svg", &plot::svg(report))?;
            screen.say(&[format!("kept in {}: check.json, watch.csv, watch.svg", dir.display())])?;
        }
    }
    if args.json {
        screen.answer(&json)?;
    }
    Ok(())
}

/// Whole, or not under its own name.
fn keep(dir: &Path, name: &str, text: &str) -> Result<(), CheckError> {
    let (path, partial) = (dir.join(name), dir.join(format!("{name}.partial")));
    let written = fs::write(&partial, text).and_then(|()| fs::rename(&partial, &path));
    written.map_err(|why| CheckError::Keep { path, why })
}
