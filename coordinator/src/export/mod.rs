//! A stored run for other tools: Parquet for pandas, polars and DuckDB, a trace for ui.perfetto.dev, and result files as
//! vLLM's own benchmark writes them. All are made from the journal, so any run can be exported at any time, and none but
//! Parquet, where this build has it, is written unasked: a run directory holds what most people open.

#[cfg(feature = "parquet")]
mod parquet;
mod perfetto;
mod vllm;

use std::fs;
use std::path::{Path, PathBuf};

use crate::journal::JournalError;
use crate::load;
use crate::merge::{Merged, merge};
use crate::outputs::{OutputError, write};
use crate::stored::RunData;

/// Parquet twins of the CSVs of the same names.
pub const PARQUET_FILES: [&str; 4] =
    ["requests.parquet", "token_trace.parquet", "server_trace.parquet", "waterfall.parquet"];

/// What to make of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// requests, token_trace, server_trace and waterfall .parquet: the CSVs with types, times as int64 in ns.
    Parquet,
    /// trace.perfetto-trace for ui.perfetto.dev: agents, requests, stages, stalls and GPUs on one timeline.
    Perfetto,
    /// A vllm-level…json each level, with the keys of vLLM's benchmark results.
    VllmJson,
}

/// Why a run could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// It cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The directory cannot be made.
    #[error("failed to make {dir}: {source}; name another --output")]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// This build can't.
    #[error(
        "failed to write Parquet: this build has none; build with `cargo build --release --features parquet`, or use the \
         image, which has it"
    )]
    NoParquet,
}

/// Exports the run in `dir` into `out`, which is made when it is not there; returns what was written.
///
/// # Errors
/// As they are named.
pub fn export(dir: &Path, format: Format, out: &Path, detailed: bool) -> Result<Vec<PathBuf>, ExportError> {
    if format == Format::Parquet && cfg!(not(feature = "parquet")) {
        return Err(ExportError::NoParquet);
    }
    let data = load::open(dir)?;
    let merged = merge(&data);
    fs::create_dir_all(out).map_err(|source| ExportError::Directory { dir: out.to_owned(), source })?;
    let names = match format {
        Format::Parquet => parquet_files(out, &data, &merged)?,
        Format::Perfetto => perfetto_file(out, &data, &merged)?,
        Format::VllmJson => vllm_files(out, &data, &merged, detailed)?,
    };
    Ok(names.into_iter().map(|name| out.join(name)).collect())
}

fn parquet_files(out: &Path, data: &RunData, merged: &Merged) -> Result<Vec<String>, ExportError> {
    beside(out, data, merged)?;
    Ok(PARQUET_FILES.map(str::to_owned).to_vec())
}

/// Writes the Parquet files of a run directory; a build without Parquet removes those of an earlier merge, which the new
/// CSVs do not speak for.
///
/// # Errors
/// When a file cannot be written or removed.
#[cfg(feature = "parquet")]
pub(crate) fn beside(dir: &Path, data: &RunData, merged: &Merged) -> Result<(), OutputError> {
    parquet::write_all(dir, data, merged)
}

/// Writes the Parquet files of a run directory; a build without Parquet removes those of an earlier merge, which the new
/// CSVs do not speak for.
///
/// # Errors
/// When a file cannot be written or removed.
#[cfg(not(feature = "parquet"))]
pub(crate) fn beside(dir: &Path, _: &RunData, _: &Merged) -> Result<(), OutputError> {
    PARQUET_FILES.iter().try_for_each(|name| crate::outputs::remove_stale(&dir.join(name)))
}

fn perfetto_file(out: &Path, data: &RunData, merged: &Merged) -> Result<Vec<String>, ExportError> {
    write(out, perfetto::NAME, |file| {
        perfetto::write(file, data, merged)?;
        data.trouble().map_or(Ok(()), Err)
    })?;
    Ok(vec![perfetto::NAME.to_owned()])
}

fn vllm_files(
    out: &Path,
    data: &RunData,
    merged: &Merged,
    detailed: bool,
) -> Result<Vec<String>, ExportError> {
    let mut names = Vec::new();
    for level in &merged.levels {
        let name = vllm::file_name(level);
        write(out, &name, |file| {
            vllm::write(file, data, merged, level, detailed)?;
            data.trouble().map_or(Ok(()), Err)
        })?;
        names.push(name);
    }
    Ok(names)
}
