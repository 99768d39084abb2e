//! The files of a run directory. Each is written to `NAME.partial`, synced and renamed, so a file with its own name is
//! whole; `summary.json` comes last, so where it is, the others are.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::export;
use crate::merge::{Merged, merge};
use crate::report::{
    environment, hlog, host, html, levels_csv, plots, requests, samples, server_trace, stalls, summary,
    summary_md, waterfall,
};
use crate::stored::RunData;

/// The file that is written last: where it is, the others are.
pub const LAST: &str = "summary.json";
/// The page.
pub const REPORT: &str = "report.html";
/// Every file, in the order written.
pub const FILES: [&str; 13] = [
    "requests.csv",
    "token_trace.csv",
    "gpu_trace.csv",
    "host_trace.csv",
    "server_trace.csv",
    "waterfall.csv",
    "stalls.csv",
    "histograms.hlog",
    "environment.json",
    "levels.csv",
    "summary.md",
    REPORT,
    LAST,
];

/// Why an output could not be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write {path}: {source}")]
pub struct OutputError {
    /// The file.
    pub path: PathBuf,
    /// What the file system said.
    pub source: io::Error,
}

/// Merges a run and writes its outputs into `dir`, which must exist; those of an earlier merge are replaced.
///
/// # Errors
/// At the first file that cannot be written; those before it are whole, those after it as they were, and `summary.json`
/// of an earlier merge is gone.
pub fn write_all(dir: &Path, data: &RunData) -> Result<Merged, OutputError> {
    let merged = merge(data);
    remove_stale(&dir.join(LAST))?;
    for (name, picture) in plots::of(&merged) {
        write(dir, name, |out| out.write_all(picture.as_bytes()))?;
    }
    for name in FILES {
        if name == LAST {
            export::beside(dir, data, &merged)?;
        }
        write(dir, name, |out| {
            fill(name, out, data, &merged)?;
            // Of a journal that could not be read to its end again, no file is whole.
            data.trouble().map_or(Ok(()), Err)
        })?;
    }
    sync_directory(dir)?;
    Ok(merged)
}

fn fill(name: &str, out: &mut BufWriter<File>, data: &RunData, merged: &Merged) -> io::Result<()> {
    match name {
        "requests.csv" => requests::write_requests(out, data, &merged.timeline),
        "token_trace.csv" => requests::write_trace(out, data, &merged.timeline),
        "gpu_trace.csv" => samples::write(out, data, &merged.timeline),
        "stalls.csv" => stalls::write(out, &merged.stalls, data),
        "host_trace.csv" => host::write(out, data, &merged.timeline),
        "server_trace.csv" => server_trace::write(out, data, &merged.timeline),
        "waterfall.csv" => waterfall::write(out, data, merged),
        "histograms.hlog" => hlog::write(out, merged),
        "environment.json" => json(out, &environment::environment(data)),
        "levels.csv" => levels_csv::write(out, merged),
        "summary.md" => {
            let (of, about) = (summary::summary(merged), environment::environment(data));
            out.write_all(summary_md::render(&of, &about, &data.header.command).as_bytes())
        }
        REPORT => html::write(out, data, merged),
        _ => json(out, &summary::summary(merged)),
    }
}

pub(crate) fn json(out: &mut impl Write, value: &serde_json::Value) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// A summary beside files of another merge would vouch for them.
pub(crate) fn remove_stale(path: &Path) -> Result<(), OutputError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(OutputError { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

pub(crate) fn write(
    dir: &Path,
    name: &str,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), OutputError> {
    let (path, partial) = (dir.join(name), dir.join(format!("{name}.partial")));
    let whole = || {
        let mut out = BufWriter::with_capacity(1 << 18, File::create(&partial)?);
        fill(&mut out)?;
        out.flush()?;
        out.get_ref().sync_all()?;
        fs::rename(&partial, &path)
    };
    whole().map_err(|source| OutputError { path: dir.join(name), source })
}

/// So that the renames survive a crash too.
fn sync_directory(dir: &Path) -> Result<(), OutputError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|source| OutputError { path: dir.to_owned(), source })
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod trace_tests;
