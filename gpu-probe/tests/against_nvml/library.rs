//! A copy of the stand-in library with a script of its own, so that tests in one process do not share one.

use std::path::{Path, PathBuf};

pub(crate) fn library(dir: &Path, script: &str) -> PathBuf {
    library_then(dir, || script.to_owned())
}

/// The script is made when the library, which is large, lies there.
pub(crate) fn library_then(dir: &Path, script: impl FnOnce() -> String) -> PathBuf {
    let copy = dir.join(nvml_sim::LIBRARY);
    std::fs::copy(nvml_sim::library_path().unwrap(), &copy).unwrap();
    std::fs::write(dir.join(format!("{}.script", nvml_sim::LIBRARY)), script()).unwrap();
    copy
}
