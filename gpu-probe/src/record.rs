//! Samples kept in memory, for who needs them in the same process and has no coordinator.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tailcliff_proto::v1;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::nvml::NvmlSource;
use crate::sampler::{self, Inputs, Switch};

/// Batches that are kept at most: at two a second, hours.
const MOST_BATCHES: usize = 100_000;

/// A recording under way; it ends when it is dropped.
#[derive(Debug)]
pub struct Recording {
    facts: Vec<v1::GpuFacts>,
    absent: String,
    batches: Arc<Mutex<Vec<v1::Batch>>>,
    troubles: mpsc::Receiver<String>,
    stop: CancellationToken,
    sampler: Option<JoinHandle<()>>,
}

/// What was recorded.
#[derive(Debug, Default)]
pub struct Recorded {
    /// The GPUs; empty without NVML.
    pub gpus: Vec<v1::GpuFacts>,
    /// Why there are none; empty otherwise.
    pub absent: String,
    /// In the order sampled.
    pub batches: Vec<v1::Batch>,
    /// What went wrong, in words.
    pub troubles: Vec<String>,
}

impl Recording {
    /// Begins to sample as `config` says; without NVML the host alone.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn start(config: &Config) -> io::Result<Self> {
        let (say, troubles) = mpsc::channel(64);
        let stop = CancellationToken::new();
        let batches = Arc::new(Mutex::new(Vec::new()));
        let mut recording = Self {
            facts: Vec::new(),
            absent: String::new(),
            batches: batches.clone(),
            troubles,
            stop: stop.clone(),
            sampler: None,
        };
        let source = match NvmlSource::open(config.nvml_path.as_deref()) {
            Ok(source) => Some(source),
            Err(absent) => {
                recording.absent = absent.to_string();
                None
            }
        };
        recording.facts = source.as_ref().map(NvmlSource::facts).unwrap_or_default();
        let inputs = Inputs::of(config, source);
        let switch = Arc::new(Switch::default());
        switch.on.store(true, Relaxed);
        let keep = move |batch| {
            let mut batches = batches.lock().unwrap_or_else(PoisonError::into_inner);
            if batches.len() < MOST_BATCHES {
                batches.push(batch);
                return Ok(());
            }
            Err(Box::new(batch))
        };
        let sampler = sampler::spawn(inputs, Box::new(keep), switch, say, stop)?;
        recording.sampler = Some(sampler);
        Ok(recording)
    }

    /// Why there are no GPUs; empty when there are.
    pub fn absent(&self) -> &str {
        &self.absent
    }

    /// Ends it and gives what was recorded.
    pub fn stop(mut self) -> Recorded {
        self.end();
        let mut troubles = Vec::new();
        while let Ok(trouble) = self.troubles.try_recv() {
            troubles.push(trouble);
        }
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        Recorded {
            gpus: std::mem::take(&mut self.facts),
            absent: std::mem::take(&mut self.absent),
            batches: std::mem::take(&mut *batches),
            troubles,
        }
    }

    fn end(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.sampler.take() {
            let _ended = thread.join();
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.end();
    }
}
