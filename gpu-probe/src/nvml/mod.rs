//! GPUs through NVML: what they are, and two readers over them. `quick` makes the readings that take microseconds,
//! `deep` those that take milliseconds; each has a thread of its own, and no lock is common to them but the
//! driver's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nvml_wrapper::Nvml;
use nvml_wrapper::device::Device;
use nvml_wrapper::error::NvmlError;
use tailcliff_proto::v1;

mod answers;
mod buffers;
pub(crate) mod deep;
mod fields;
mod found;
mod gpm;
mod presence;
pub(crate) mod processes;
pub(crate) mod quick;
mod xid;

use answers::{Answers, Loss, Reading};
pub(crate) use fields::{Extent, POWER_INSTANT, throttle_bits};
pub(crate) use found::{Found, append};
pub(crate) use presence::Presence;
pub(crate) use processes::{OnGpu, on_gpu};

/// Names tried when none is given.
const LIBRARIES: [&str; 4] = [
    "libnvidia-ml.so.1",
    "libnvidia-ml.so",
    // Where GKE and WSL put it, outside of the loader's own paths.
    "/usr/local/nvidia/lib64/libnvidia-ml.so.1",
    "/usr/lib/wsl/lib/libnvidia-ml.so.1",
];

/// Why there is no NVML here: what was tried, and what each attempt said.
#[derive(Debug, thiserror::Error)]
#[error("no NVML: {0}")]
pub struct NvmlAbsent(String);

/// Every GPU that one NVML library knows.
#[derive(Debug)]
pub struct NvmlSource {
    pub(crate) nvml: Arc<Nvml>,
    cards: Vec<Card>,
}

#[derive(Debug)]
struct Card {
    facts: v1::GpuFacts,
    answers: Answers,
    lost: bool,
}

/// What a reader is made from; each thread has one.
#[derive(Clone, Debug)]
pub(crate) struct Cards {
    pub(crate) nvml: Arc<Nvml>,
    known: Vec<(u32, Answers)>,
    presence: Arc<Presence>,
}

impl NvmlSource {
    /// Loads NVML from `path`, or from where drivers put it.
    ///
    /// # Errors
    /// When no library loads or none initialises: what was tried, and why each failed.
    pub fn open(path: Option<&Path>) -> Result<Self, NvmlAbsent> {
        Self::of(load(path)?)
    }

    fn of(nvml: Nvml) -> Result<Self, NvmlAbsent> {
        let count = nvml.device_count().map_err(|e| NvmlAbsent(format!("failed to count GPUs: {e}")))?;
        if count == 0 {
            return Err(NvmlAbsent("the driver knows no GPU".to_owned()));
        }
        let driver = nvml.sys_driver_version().unwrap_or_default();
        let cards = (0..count).map(|index| Card::of(&nvml, index, &driver)).collect();
        Ok(Self { nvml: Arc::new(nvml), cards })
    }

    /// What they are; one entry per GPU.
    pub fn facts(&self) -> Vec<v1::GpuFacts> {
        self.cards.iter().map(|card| card.facts.clone()).collect()
    }

    /// Reads every GPU once, all that one sample holds. A field that a card does not answer is `None`; a card that is gone
    /// gives no sample.
    pub fn sample(&mut self) -> Vec<v1::GpuSample> {
        let mut samples = Vec::with_capacity(self.cards.len());
        for card in self.cards.iter_mut().filter(|card| !card.lost) {
            match self.nvml.device_by_index(card.facts.index) {
                Ok(device) => samples.extend(card.sample(&device).ok()),
                Err(_) => card.lost = true,
            }
        }
        samples
    }

    /// For the threads that read them.
    pub(crate) fn cards(self) -> Cards {
        let presence = Arc::new(Presence::new(self.cards.iter().map(|card| card.lost)));
        let known = self.cards.into_iter().map(|card| (card.facts.index, card.answers)).collect();
        Cards { nvml: self.nvml, known, presence }
    }
}

/// The library at `path`, or where drivers put it, initialised.
pub(crate) fn load(path: Option<&Path>) -> Result<Nvml, NvmlAbsent> {
    let names = match path {
        Some(path) => vec![path.to_owned()],
        None => LIBRARIES.iter().map(PathBuf::from).collect(),
    };
    let mut tried = Vec::new();
    for name in names {
        let error = match Nvml::builder().lib_path(name.as_os_str()).init() {
            Ok(nvml) => return Ok(nvml),
            Err(NvmlError::LibloadingError(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        let name = name.display().to_string();
        // The loader's own words begin with the file's name.
        let why = error.strip_prefix(&format!("{name}: ")).unwrap_or(&error).to_owned();
        tried.push((name, why));
    }
    Err(NvmlAbsent(reasons(&tried)))
}

/// What was tried, and why each failed; a reason that several share is said once.
fn reasons(tried: &[(String, String)]) -> String {
    let runs = tried.chunk_by(|a, b| a.1 == b.1);
    let run = |same: &[(String, String)]| {
        let names: Vec<&str> = same.iter().map(|(name, _)| name.as_str()).collect();
        format!("{}: {}", names.join(", "), same[0].1)
    };
    runs.map(run).collect::<Vec<_>>().join("; ")
}

impl Card {
    fn of(nvml: &Nvml, index: u32, driver: &str) -> Self {
        let device = nvml.device_by_index(index);
        let opened = device.as_ref().ok();
        let name = opened.and_then(|d| d.name().ok()).unwrap_or_default();
        // The stand-in of the tests calls its boards and its driver so; no vendor does.
        let simulated = name.contains("SIMULATED") || driver.contains("SIMULATED");
        let facts = v1::GpuFacts {
            index,
            uuid: opened.and_then(|d| d.uuid().ok()).unwrap_or_default(),
            name,
            driver: driver.to_owned(),
            memory_bytes: opened.and_then(|d| d.memory_info().ok()).map_or(0, |m| m.total),
            simulated,
            notes: Vec::new(),
        };
        let mut card = Self { facts, answers: Answers::default(), lost: device.is_err() };
        match device {
            Ok(device) => card.get_to_know(nvml, &device),
            Err(error) => {
                let note = format!("it could not be opened ({error}): no samples of it until it can be");
                card.facts.notes.push(note);
            }
        }
        card
    }

    /// First readings of every kind find out what this card does not answer; one that is lost meanwhile is found so again.
    fn get_to_know(&mut self, nvml: &Nvml, device: &Device<'_>) {
        let _sampled = self.sample(device);
        let index = self.facts.index;
        for mut buffer in buffers::Buffer::all() {
            let _read = buffer.read(index, device, &mut self.answers, &mut buffers::Steps::default());
        }
        let _has_gpm = self.answers.ask(Reading::Gpm, || gpm::has(device));
        let _listens = self.answers.ask(Reading::Xids, || xid::listen(nvml, device).map(drop));
        self.answers.forget_failures();
        self.facts.notes = self.answers.notes();
        self.facts.notes.extend(mig_note(device));
    }

    fn sample(&mut self, device: &Device<'_>) -> Result<v1::GpuSample, Loss> {
        let answers = &mut self.answers;
        fields::stamped(self.facts.index, |sample| {
            fields::quick(device, answers, Extent::Full, sample)?;
            fields::energy(device, answers, sample)?;
            fields::levels(device, answers, sample)
        })
    }
}

/// What must be known of a card that is split: its readings are not those of one instance.
fn mig_note(device: &Device<'_>) -> Option<String> {
    if device.mig_is_mig_device_handle().is_ok_and(|is_instance| is_instance) {
        return Some("this is a MIG instance: power and energy are its card's, if given at all".to_owned());
    }
    if !device.mig_mode().is_ok_and(|mode| mode.current == 1) {
        return None;
    }
    let most = device.mig_device_count().unwrap_or(0).min(64);
    let instances = (0..most).filter(|&i| device.mig_device_by_index(i).is_ok()).count();
    Some(format!(
        "MIG mode is on ({instances} instances): utilisation of an instance is not given, and power and energy are the \
         whole card's, shared by all of its instances"
    ))
}
