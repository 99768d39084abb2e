//! `tailcliff export`: a stored run for other tools.

use super::{EXIT_OK, EXIT_OUTPUT, EXIT_USAGE, fail, print};
use crate::args::export::ExportArgs;
use crate::export::{ExportError, Format, export};

/// Writes the files and prints their names.
pub(super) fn main(args: &ExportArgs) -> i32 {
    if args.detailed && args.format != Format::VllmJson {
        return fail("bad --detailed: it goes with --format vllm-json", EXIT_USAGE);
    }
    let out = args.output.as_ref().unwrap_or(&args.run_dir);
    match export(&args.run_dir, args.format, out, args.detailed) {
        Ok(paths) => {
            paths.iter().for_each(|path| print(&path.display().to_string()));
            EXIT_OK
        }
        Err(error @ ExportError::NoParquet) => fail(&error.to_string(), EXIT_USAGE),
        Err(error) => fail(&error.to_string(), EXIT_OUTPUT),
    }
}
