//! What a stored run measured that a calculator can take: users at once at its knee or within its SLO, tokens of a
//! request, tokens per second. Read from its `summary.json`, of whatever version: what is not in it is absent.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::experiment::{OVERLOAD, RECOVERY};

/// A level of whose requests a larger share failed serves nobody well: no capacity.
const MOST_FAILED: f64 = 0.05;
/// Roles of an experiment's rungs that are more than a server is meant to bear, or its rest from that.
const NO_CAPACITY: [&str; 2] = [OVERLOAD, RECOVERY];
/// No summary is longer.
const MOST_BYTES: u64 = 1 << 30;

/// Why a run says nothing.
#[derive(Debug, thiserror::Error)]
pub enum MeasuredError {
    /// It cannot be read.
    #[error(
        "failed to read {path}: {reason}: give the directory of a run that is over; `tailcliff merge RUN_DIR` writes its \
         summary again"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Nothing in it counts.
    #[error("failed to find a usable level in {path}: {reason}")]
    Nothing {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
}

/// One level that counts.
#[derive(Clone, Debug, PartialEq)]
pub struct MeasuredLevel {
    /// Concurrency, or the rate of an open loop; infinite for all at once.
    pub load: f64,
    /// Users at once: the streams, or what was measured in flight of an open loop; absent where nobody could.
    pub users: Option<f64>,
    /// Mean tokens of a completed request, prompt and output together; absent where some have no count.
    pub tokens_per_request: Option<f64>,
    /// Output tokens per second.
    pub output_tokens_per_s: Option<f64>,
}

/// Users that a server serves at once, and what says so.
#[derive(Clone, Debug, PartialEq)]
pub struct Capacity {
    /// Users at once.
    pub users: f64,
    /// Key in `summary.json`.
    pub key: &'static str,
    /// What it is, in words.
    pub words: String,
    /// Output tokens per second there.
    pub output_tokens_per_s: Option<f64>,
}

/// What a run measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// The run's name.
    pub name: String,
    /// Open loop.
    pub is_open: bool,
    /// Levels that count, ascending; neither void nor client-bound nor thin, none of an overload, and at most 5 % failed.
    pub levels: Vec<MeasuredLevel>,
    /// Load at the knee.
    pub knee_at: Option<f64>,
    /// Highest load within the SLO.
    pub slo_at: Option<f64>,
    /// (name, GiB, simulated) of the GPUs seen.
    pub gpus: Vec<(String, f64, bool)>,
}

/// Reads a run directory's summary.
///
/// # Errors
/// When there is none, or nothing in it counts.
pub fn read(dir: &Path) -> Result<Measured, MeasuredError> {
    let path = if dir.is_dir() { dir.join(crate::outputs::LAST) } else { dir.to_owned() };
    let fail = |reason: String| MeasuredError::Read { path: path.clone(), reason };
    let facts = std::fs::metadata(&path).map_err(|e| fail(e.to_string()))?;
    if facts.len() > MOST_BYTES {
        return Err(fail("it is too long for a summary".to_owned()));
    }
    let text = std::fs::read_to_string(&path).map_err(|e| fail(e.to_string()))?;
    let summary: Value = serde_json::from_str(&text)
        .map_err(|e| fail(format!("it is not JSON at line {} column {}", e.line(), e.column())))?;
    let measured = of_summary(&summary);
    match (measured.levels.is_empty(), summary["levels"].is_array()) {
        (true, false) => {
            Err(MeasuredError::Nothing { path, reason: "it has no levels: is it a summary of a run?" })
        }
        (true, true) => {
            let reason = "all of them are void, thin, client-bound or of an overload, or too many of their requests failed";
            Err(MeasuredError::Nothing { path, reason })
        }
        (false, _) => Ok(measured),
    }
}

/// Of a summary.
pub fn of_summary(summary: &Value) -> Measured {
    let is_open = summary["run"]["load"]["loop"] == "open";
    let axis = if is_open { "request_rate" } else { "concurrency" };
    let gpu = |gpu: &Value| {
        let gib = gpu["memory_gib"].as_f64().filter(|gib| *gib > 0.0)?;
        let name: String = gpu["name"].as_str()?.chars().filter(|c| !c.is_control()).take(60).collect();
        Some((name, gib, gpu["simulated"] == true))
    };
    let mut levels: Vec<_> = array(&summary["levels"]).iter().filter_map(|l| level(l, axis)).collect();
    levels.sort_by(|a, b| a.load.total_cmp(&b.load));
    Measured {
        name: summary["run"]["name"]
            .as_str()
            .unwrap_or_default()
            .chars()
            .filter(|c| !c.is_control())
            .collect(),
        is_open,
        levels,
        knee_at: load(&summary["knee"][axis]),
        slo_at: load(&summary["slo"]["at"]),
        gpus: array(&summary["calculators"]["measured"]["gpus"]).iter().filter_map(gpu).collect(),
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A place on the axis.
fn load(value: &Value) -> Option<f64> {
    let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
    number.filter(|load| *load > 0.0)
}

fn level(level: &Value, axis: &str) -> Option<MeasuredLevel> {
    let positive = |value: &Value| value.as_f64().filter(|x| *x > 0.0);
    let completed = positive(&level["completed"])?;
    if level["certificate"]["verdict"] != "ok" || !level["voided"].is_null() {
        return None;
    }
    let is_too_much = level["role"].as_str().is_some_and(|role| NO_CAPACITY.contains(&role));
    if is_too_much || level["error_rate"].as_f64().is_some_and(|share| share > MOST_FAILED) {
        return None;
    }
    let all_counted = level["outside"]["without_tokens"] == 0;
    let tokens = positive(&level["total_input_tokens"]).zip(positive(&level["total_output_tokens"]));
    Some(MeasuredLevel {
        load: load(&level[axis])?,
        users: positive(&level["concurrency"]).or_else(|| positive(&level["little"]["l"])),
        tokens_per_request: tokens
            .filter(|_| all_counted)
            .map(|(prompt, output)| (prompt + output) / completed),
        output_tokens_per_s: positive(&level["output_throughput"]),
    })
}

impl Measured {
    /// Users at once that the server serves well: within its SLO where one was given, else at the knee, else at the highest
    /// level that counts, which is then a lower bound. `None` where no level tells its users.
    pub fn capacity(&self) -> Option<Capacity> {
        let highest = self.levels.last()?.load;
        let found = [
            (self.slo_at, "slo.at", "highest load within the SLO"),
            (self.knee_at, "knee", "load at the knee"),
            (Some(highest), "levels", "no knee was found: at least the highest level that counts"),
        ];
        found.into_iter().find_map(|(at, key, what)| {
            let level = self.level_at(at?)?;
            // A limit between two levels is the axis' own where that is users.
            let users = if self.is_open { level.users? } else { at? };
            let output_tokens_per_s =
                level.output_tokens_per_s.filter(|_| level.load == at.unwrap_or(f64::NAN));
            let words = match self.is_open {
                true => format!("{what}, {} req/s, with {users:.1} in flight", at.unwrap_or(level.load)),
                false => format!("{what}, concurrency {users}"),
            };
            Some(Capacity { users, key, words, output_tokens_per_s })
        })
    }

    /// The highest level at or below a load.
    fn level_at(&self, load: f64) -> Option<&MeasuredLevel> {
        self.levels.iter().rfind(|level| level.load <= load)
    }

    /// Mean tokens of a request over the levels that count; `None` where none tells.
    pub fn tokens_per_request(&self) -> Option<f64> {
        let all: Vec<f64> = self.levels.iter().filter_map(|level| level.tokens_per_request).collect();
        (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
    }
}
