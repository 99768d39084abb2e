//! The report, for people (Markdown) and for programs (JSON). What is not known says so.

mod interpretation;
mod tables;

use serde_json::{Value, json};
use tailcliff_proto::secret::redacted_script;
use tailcliff_proto::v1;

use super::Ending;
use super::conclude::{Anchor, Facts, Knob, anchor, knob};
use super::cycle::Cycle;
use super::diagnose::{Diagnosis, Verdict, overall};
use super::job::Job;
use crate::redact::redacted_query;

/// Of the files that hold what others print.
const RAW_OUTPUT: &str = "raw, in restart-N.log: secrets that the command or the server prints are not left out; only its \
    owner may read it";

/// All that is told.
#[derive(Clone, Debug)]
pub struct Report {
    /// When it began, RFC 3339 UTC.
    pub begun_utc: String,
    /// Of this program.
    pub tailcliff_version: String,
    /// This host.
    pub host: v1::HostFacts,
    /// The command line, without secrets.
    pub command: Vec<String>,
    /// Where the server is.
    pub url: String,
    /// Path of the requests.
    pub path: String,
    /// What was asked for.
    pub model: String,
    /// The restart command, without secrets.
    pub restart_cmd: String,
    /// The one request.
    pub workload: v1::Workload,
    /// What the user told.
    pub metadata: Vec<(String, String)>,
    /// Restarts asked for.
    pub restarts: u32,
    /// Those that there were.
    pub cycles: Vec<Cycle>,
    /// How it ended.
    pub ending: Ending,
    /// Over all restarts: what dominated until the server was ready, …
    pub startup: Verdict,
    /// … and until the first token.
    pub first: Verdict,
    /// For an SLO.
    pub anchor: Option<Anchor>,
    /// What to turn next.
    pub knob: Knob,
}

impl Report {
    pub(super) fn of(job: &Job, cycles: Vec<Cycle>, ending: &Ending) -> Self {
        let all = |of: fn(&Cycle) -> Option<&Diagnosis>| -> Vec<&Diagnosis> {
            cycles.iter().filter_map(of).collect()
        };
        let startup = overall(&all(|cycle| cycle.startup.as_ref()));
        // One that was not streamed is of another length.
        let first = overall(&all(|cycle| cycle.first.as_ref().filter(|_| cycle.streamed)));
        Self {
            begun_utc: String::new(),
            tailcliff_version: String::new(),
            host: v1::HostFacts::default(),
            command: job.command.clone(),
            url: job.target.base_url.clone(),
            path: redacted_query(&job.target.path),
            model: job.target.model.clone(),
            restart_cmd: redacted_script(&job.restart_cmd),
            workload: job.workload.clone(),
            metadata: job.metadata.clone(),
            restarts: job.restarts,
            anchor: anchor(&cycles),
            knob: knob(&Facts::of(&cycles, startup.term, first.term)),
            ending: ending.clone(),
            cycles,
            startup,
            first,
        }
    }

    /// Whether a GPU or its readings are a stand-in's.
    pub fn is_simulated(&self) -> bool {
        self.cycles.iter().flat_map(|cycle| &cycle.gpus).any(|gpu| gpu.simulated)
    }

    /// A fact that the user told.
    fn told(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(k, v)| k == key && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let gpu = |gpu: &v1::GpuFacts| {
            json!({ "index": gpu.index, "name": gpu.name, "driver": gpu.driver, "memory_bytes": gpu.memory_bytes,
                "simulated": gpu.simulated })
        };
        let gpus = self.cycles.last().map(|cycle| cycle.gpus.iter().map(gpu).collect::<Vec<_>>());
        json!({
            "begun_utc": self.begun_utc,
            "tailcliff_version": self.tailcliff_version,
            "simulated": self.is_simulated(),
            "ending": match &self.ending {
                Ending::Complete => "complete".to_owned(),
                Ending::Interrupted => "interrupted".to_owned(),
                Ending::Trouble(why) => why.clone(),
            },
            "command": self.command,
            "target": { "base_url": self.url, "path": self.path, "model": self.model },
            "restart_cmd": self.restart_cmd,
            "restart_output": RAW_OUTPUT,
            "request": { "prompt": self.workload.prompt, "max_tokens": self.workload.max_tokens,
                "temperature": self.workload.temperature, "ignore_eos": self.workload.ignore_eos },
            "host": { "hostname": self.host.hostname, "os": self.host.os, "kernel": self.host.kernel,
                "cpu_model": self.host.cpu_model, "cores": self.host.cores, "memory_bytes": self.host.memory_bytes },
            "metadata": self.metadata.iter().cloned().map(|(k, v)| (k, json!(v))).collect::<serde_json::Map<_, _>>(),
            "gpus": gpus,
            "restarts_asked": self.restarts,
            "restarts": self.cycles.iter().map(cycle).collect::<Vec<_>>(),
            "startup": self.startup,
            "first_request": self.first,
            "slo_anchor": self.anchor,
            "next_knob": self.knob,
        })
    }
}

/// With the figures that follow from its runs.
fn cycle(cycle: &Cycle) -> Value {
    let mut json = serde_json::to_value(cycle).unwrap_or_default();
    let spread = |spread: Option<super::Spread>| {
        spread.map(|s| {
            json!({ "n": s.n, "min_s": s.min, "median_s": s.median, "max_s": s.max, "spread_pct": s.pct(),
                "stable": s.is_stable() })
        })
    };
    json["warm_ttft"] = json!(spread(cycle.warm_ttft()));
    json["warm_wall"] = json!(spread(cycle.warm_wall()));
    json["whole_wall"] = json!(spread(cycle.whole_wall()));
    json["cold_penalty"] = json!({ "ttft": cycle.ttft_penalty(), "wall": cycle.wall_penalty() });
    json
}

/// For people.
pub fn markdown(report: &Report) -> String {
    let mut out = String::new();
    tables::head(&mut out, report);
    tables::server(&mut out, report);
    tables::gpus(&mut out, report);
    tables::cold_and_warm(&mut out, report);
    tables::variance(&mut out, report);
    tables::sanity(&mut out, report);
    interpretation::write(&mut out, report);
    out
}

/// Text of others as a cell of a table, or within a line.
fn plain(text: &str) -> String {
    let one = |c: char| match c {
        '|' => "\\|".to_owned(),
        '`' => "'".to_owned(),
        '<' => "&lt;".to_owned(),
        c if c.is_control() => " ".to_owned(),
        c => c.to_string(),
    };
    text.chars().take(4_000).map(one).collect()
}

fn or_unknown(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).map_or("unknown".to_owned(), plain)
}

fn seconds(s: Option<f64>) -> String {
    s.map_or("–".to_owned(), |s| format!("{s:.3}"))
}
