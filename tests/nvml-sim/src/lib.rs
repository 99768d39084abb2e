//! A stand-in `libnvidia-ml.so`: the real C ABI, for the calls that the GPU probe makes through nvml-wrapper, over
//! simulated GPUs scripted by a file (see [`script`]), and a stand-in of the CUDA driver library in the same file. Board and driver call themselves "SIMULATED".
//!
//! The script is read at the first `nvmlInit_v2` of a process: the file named as this library plus `.script` when
//! there is one (so that tests in one process can each have a copy of the library with a script of its own), else the
//! file that `NVML_SIM_SCRIPT` names, else [`script::DEFAULT`].
//!
//! A package that depends on this one gets the shared library built along with it: Cargo compiles both crate types of
//! a dependency, and leaves `libnvml_sim.so` (no hash in the name) in `target/<profile>/deps/`. Only when nvml-sim is
//! itself what is built (`--workspace`, `-p nvml-sim`) is it also linked into `target/<profile>/`, where it can go
//! stale; [`library_path`] therefore looks in `deps` first.

mod abi;
mod board;
mod card;
mod cuda;
mod evidence;
mod evidence_abi;
mod extras;
mod follow;
mod identity_abi;
pub mod script;
pub mod sensor;

use std::path::{Path, PathBuf};

/// File name of the shared library.
pub const LIBRARY: &str = "libnvml_sim.so";

/// What a test or the demo names a script by.
pub const SCRIPT_VARIABLE: &str = "NVML_SIM_SCRIPT";

/// The built shared library, found from where the running executable lies: `target/<profile>/` (a binary), its `deps`
/// (a test), or the same folder (both installed together). `None` when there is none.
pub fn library_path() -> Option<PathBuf> {
    let exe = std::env::current_exe().ok()?;
    let folder = exe.parent()?;
    candidates(folder).into_iter().find(|path| path.is_file())
}

fn candidates(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.join("deps").join(LIBRARY), folder.join(LIBRARY)];
    found.extend(folder.parent().map(|up| up.join("deps").join(LIBRARY)));
    found
}

#[cfg(test)]
mod tests {
    #[test]
    fn tests_find_the_library_in_deps_and_binaries_below_themselves() {
        let of = |folder: &str| super::candidates(std::path::Path::new(folder));
        let deps = std::path::Path::new("/t/debug/deps/libnvml_sim.so");
        assert_eq!(of("/t/debug")[0], deps);
        assert_eq!(of("/t/debug/deps")[1], deps);
        assert_eq!(of("/t/debug/examples")[2], deps);
    }
}
