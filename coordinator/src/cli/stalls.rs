//! `tailcliff stalls`: judges the stalls of a stored run again, with other thresholds.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::{EXIT_BROKEN, EXIT_OK, EXIT_OUTPUT, EXIT_USAGE, fail, print};
use crate::args::stalls::StallsArgs;
use crate::load;
use crate::merge::{Merged, merge_by};
use crate::report::stall_plot;
use crate::report::stalls as report;
use crate::stored::RunData;

/// Prints them; the run directory stays as it is.
pub(super) fn main(args: &StallsArgs) -> i32 {
    let rule = match args.rule() {
        Ok(rule) => rule,
        Err(error) => return fail(&error, EXIT_USAGE),
    };
    let data = match load::open(&args.run_dir) {
        Ok(data) => data,
        Err(error) => return fail(&error.to_string(), EXIT_OUTPUT),
    };
    let merged = merge_by(&data, rule);
    let stalls = &merged.stalls;
    if let Some(error) = data.trouble() {
        return fail(&format!("failed to read the journal again: {error}"), EXIT_BROKEN);
    }
    let started = merged.header.started_ref_ns;
    let mut lines = report::lines(stalls, started, args.top);
    if lines.is_empty() {
        lines.push("no stall by these thresholds".to_owned());
    }
    lines.extend(stalls.warnings.iter().map(|warning| format!("warning: {warning}")));
    print(&(lines.join("\n") + "\n"));
    match files(args, &data, &merged) {
        Ok(()) => EXIT_OK,
        Err((path, error)) => fail(&format!("failed to write {path}: {error}"), EXIT_OUTPUT),
    }
}

fn files(args: &StallsArgs, data: &RunData, merged: &Merged) -> Result<(), (String, io::Error)> {
    let stalls = &merged.stalls;
    if let Some(path) = &args.csv {
        write(path, |out| report::write(out, stalls, data))?;
    }
    if let Some(path) = &args.plot {
        let at = |t_s: f64| merged.header.started_ref_ns.saturating_add((t_s * 1e9) as i64);
        let drawn = match args.at {
            Some(t_s) => stall_plot::nearest(stalls, at(t_s)),
            None => stall_plot::longest(stalls, args.request.as_deref()),
        };
        let Some(stall) = drawn else {
            return Err((path.display().to_string(), io::Error::other("there is no such stall to draw")));
        };
        write(path, |out| out.write_all(stall_plot::draw(data, &merged.timeline, stalls, stall).as_bytes()))?;
    }
    Ok(())
}

fn write(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), (String, io::Error)> {
    let whole = || {
        let mut out = BufWriter::new(File::create(path)?);
        fill(&mut out)?;
        out.flush()
    };
    whole().map_err(|error| (path.display().to_string(), error))
}
