//! `tailcliff report`: writes the page of a stored run again; the other files stay as they are.

use std::path::Path;

use super::{EXIT_OK, EXIT_OUTPUT, fail, print};
use crate::args::report::ReportArgs;
use crate::merge::merge;
use crate::report::html;
use crate::{load, outputs};

/// Writes it.
pub(super) fn main(args: &ReportArgs) -> i32 {
    let data = match load::open(&args.run_dir) {
        Ok(data) => data,
        Err(error) => return fail(&error.to_string(), EXIT_OUTPUT),
    };
    let merged = merge(&data);
    let path = args.output.clone().unwrap_or_else(|| args.run_dir.join(outputs::REPORT));
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return fail(&format!("failed to write {}: give the name of a file", path.display()), EXIT_OUTPUT);
    };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = outputs::write(dir, name, |out| {
        html::write(out, &data, &merged)?;
        // A page of a journal that could not be read to its end again would show less than there is.
        data.trouble().map_or(Ok(()), Err)
    });
    match written {
        Ok(()) => {
            print(&format!("{}\n", path.display()));
            EXIT_OK
        }
        Err(error) => fail(&error.to_string(), EXIT_OUTPUT),
    }
}
