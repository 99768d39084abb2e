//! The simulated boards of this process, between init and shutdown.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::script::{Call, DEFAULT, Levels, Script};

/// `nvmlReturn_t`.
pub(crate) type Code = u32;
pub(crate) const SUCCESS: Code = 0;
pub(crate) const UNINITIALIZED: Code = 1;
pub(crate) const INVALID_ARGUMENT: Code = 2;
pub(crate) const NOT_SUPPORTED: Code = 3;
pub(crate) const INSUFFICIENT_SIZE: Code = 7;
pub(crate) const NO_PERMISSION: Code = 4;
pub(crate) const NOT_FOUND: Code = 6;
pub(crate) const TIMEOUT: Code = 10;
pub(crate) const GPU_IS_LOST: Code = 15;

/// Memory of every board, bytes.
pub(crate) const MEMORY_BYTES: u64 = 80 << 30;

static INITIALISED: Mutex<Option<Initialised>> = Mutex::new(None);

struct Initialised {
    times: u32,
    boards: Arc<Boards>,
}

/// A played script.
pub(crate) struct Boards {
    script: Script,
    origin_raw_ns: i64,
    /// The origin on the wall clock: the driver stamps its own samples with that.
    origin_wall_us: i64,
}

/// One GPU at one moment.
pub(crate) struct Moment<'a> {
    pub(crate) script: &'a Script,
    pub(crate) gpu: u32,
    pub(crate) at_ns: i64,
    pub(crate) origin_wall_us: i64,
}

fn state() -> MutexGuard<'static, Option<Initialised>> {
    INITIALISED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the script at the first of several inits, as NVML counts them. `library` is this library's own file.
pub(crate) fn init(library: Option<PathBuf>) -> Result<(), Code> {
    let mut state = state();
    if let Some(initialised) = state.as_mut() {
        initialised.times += 1;
        return Ok(());
    }
    let mut script = read_script(library).map_err(|why| {
        // The C ABI has no other way to say it.
        #[allow(clippy::print_stderr)]
        {
            eprintln!("nvml-sim: failed to read the script: {why}");
        }
        INVALID_ARGUMENT
    })?;
    if let Some(code) = script.init_error {
        return Err(code);
    }
    let origin_raw_ns = *script.origin_raw_ns.get_or_insert_with(raw_now);
    let origin_wall_us = (wall_minus_raw() + origin_raw_ns) / 1_000;
    let boards = Boards { script, origin_raw_ns, origin_wall_us };
    *state = Some(Initialised { times: 1, boards: Arc::new(boards) });
    Ok(())
}

fn read_script(library: Option<PathBuf>) -> Result<Script, String> {
    let beside = library.map(|mut path| {
        path.as_mut_os_string().push(".script");
        path
    });
    let named = || std::env::var_os(crate::SCRIPT_VARIABLE).map(PathBuf::from);
    let Some(path) = beside.filter(|path| path.is_file()).or_else(named) else { return DEFAULT.parse() };
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    text.parse().map_err(|e| format!("{}: {e}", path.display()))
}

pub(crate) fn shutdown() -> Result<(), Code> {
    let mut state = state();
    let initialised = state.as_mut().ok_or(UNINITIALIZED)?;
    initialised.times -= 1;
    if initialised.times == 0 {
        *state = None;
    }
    Ok(())
}

pub(crate) fn boards() -> Result<Arc<Boards>, Code> {
    state().as_ref().map(|i| Arc::clone(&i.boards)).ok_or(UNINITIALIZED)
}

impl Boards {
    pub(crate) fn script(&self) -> &Script {
        &self.script
    }

    pub(crate) fn count(&self) -> u32 {
        self.script.gpus
    }

    /// Time since the origin, ns.
    pub(crate) fn now_ns(&self) -> i64 {
        raw_now() - self.origin_raw_ns
    }

    /// Reads one GPU now: the time is taken after the scripted delay, as a slow call reads late.
    ///
    /// # Errors
    /// `GPU_IS_LOST` once the script has it lost; `INVALID_ARGUMENT` when there is no such GPU; what the script says
    /// of this call.
    pub(crate) fn read<T>(
        &self,
        gpu: u32,
        call: Call,
        read: impl FnOnce(Moment<'_>) -> Result<T, Code>,
    ) -> Result<T, Code> {
        if gpu >= self.script.gpus {
            return Err(INVALID_ARGUMENT);
        }
        pause(self.script.call_takes_ns + self.script.extras.takes_ns(call, self.now_ns()));
        let at_ns = self.now_ns();
        if self.script.is_lost(gpu, at_ns) {
            return Err(GPU_IS_LOST);
        }
        let now = Moment { script: &self.script, gpu, at_ns, origin_wall_us: self.origin_wall_us };
        now.needs(call)?;
        read(now)
    }
}

impl Moment<'_> {
    pub(crate) fn levels(&self) -> Levels {
        self.script.levels(self.gpu, self.at_ns)
    }

    /// # Errors
    /// `NOT_SUPPORTED` when the script switches the call off, or MIG does; the error that is scripted for it.
    pub(crate) fn needs(&self, call: Call) -> Result<(), Code> {
        let split = self.script.extras.mig(self.gpu).is_some() && NOT_OF_MIG.contains(&call);
        if split || !self.script.supports(call) {
            return Err(NOT_SUPPORTED);
        }
        self.script.extras.error(call, self.at_ns).map_or(Ok(()), Err)
    }
}

/// What a card that is split into MIG instances does not tell of itself.
const NOT_OF_MIG: [Call; 4] = [Call::Utilization, Call::UtilSamples, Call::MemUtilSamples, Call::GpmSample];

/// Sleeps, as a slow call does.
pub(crate) fn pause(ns: i64) {
    if ns > 0 {
        std::thread::sleep(Duration::from_nanos(ns.unsigned_abs()));
    }
}

fn raw_now() -> i64 {
    clock(ClockId::CLOCK_MONOTONIC_RAW)
}

/// ns, as true as it can be had: between two reads a thread may have to wait for its core.
fn wall_minus_raw() -> i64 {
    let once = |_| {
        let (before, wall, after) = (raw_now(), clock(ClockId::CLOCK_REALTIME), raw_now());
        (after - before, wall - before - (after - before) / 2)
    };
    (0..20).map(once).min().map_or(0, |(_, offset)| offset)
}

fn clock(id: ClockId) -> i64 {
    clock_gettime(id).map_or(0, |t| t.tv_sec() * 1_000_000_000 + t.tv_nsec())
}
