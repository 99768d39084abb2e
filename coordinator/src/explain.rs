//! What a run will do, before it does it: levels, requests, time, tokens, cost, and what is written where. Pure. What
//! depends on the server's speed is told as bounds, and what nobody can know beforehand as unknown.

use serde_json::{Value, json};

use crate::axis::Load;
use crate::calc::{grouped, table, usd_words};
use crate::outputs::FILES;
use crate::plan::{AutoPlan, Cell, Plan};
use crate::report::text::number;

/// Longest rest before a retry, s.
const LONGEST_REST_S: f64 = 10.0;

/// One level to come.
#[derive(Clone, Debug, PartialEq)]
pub struct Rung {
    /// What it asks for.
    pub load: Load,
    /// What it is for, in an experiment.
    pub role: String,
    /// Requests of its measured window; `None` where the server's speed decides.
    pub requests: Option<f64>,
    /// Shortest and longest time that it can take, s.
    pub seconds: (f64, f64),
    /// Length of all its prompts, in the plan's unit; `None` where that is unknown.
    pub input: Option<f64>,
    /// Output tokens that it asks for at most.
    pub output_tokens: Option<f64>,
}

/// A plan, explained.
#[derive(Clone, Debug)]
pub struct Explained<'a> {
    plan: &'a Plan,
    rungs: Vec<Rung>,
    usd_per_hour: Option<f64>,
    dir: String,
}

/// Explains a plan whose outputs go to `dir`, on hardware of so many USD per hour.
pub fn explain(plan: &Plan, dir: String, usd_per_hour: Option<f64>) -> Explained<'_> {
    let levels = plan.levels();
    // As many cells as levels, or none.
    let cell = |i: usize| plan.cells.get(i).filter(|_| plan.cells.len() == levels.len());
    let rungs = levels.iter().enumerate();
    let rungs = rungs.map(|(i, &load)| rung(plan, load, cell(i), plan.stop_of(i as u32))).collect();
    Explained { plan, rungs, usd_per_hour, dir }
}

fn rung(
    plan: &Plan,
    load: Load,
    cell: Option<&Cell>,
    (prompts, duration_ns): (Option<u64>, Option<i64>),
) -> Rung {
    let s = |ns: i64| ns.max(0) as f64 / 1e9;
    let requests = match (prompts, duration_ns, load) {
        (Some(n), ..) => Some(n as f64),
        (None, Some(ns), Load::Rate(rate)) if rate.0.is_finite() => Some(rate.0 * s(ns)),
        _ => None,
    };
    let timeout_ns = cell.and_then(|cell| cell.request_timeout_ns).unwrap_or(plan.request_timeout_ns);
    let tries = f64::from(plan.retries) + 1.0;
    // Each try may take its whole time, and each rest too.
    let each = s(timeout_ns) * tries + LONGEST_REST_S * f64::from(plan.retries);
    let warmup = s(plan.warmup_of(load));
    let drain = s(plan.drain_ns);
    let seconds = match (duration_ns, load) {
        (Some(ns), _) => (warmup + s(ns), warmup + s(ns) + drain),
        (None, Load::Rate(rate)) => {
            let arriving = if rate.0.is_finite() { requests.unwrap_or(0.0) / rate.0 } else { 0.0 };
            (warmup + arriving, warmup + arriving + drain)
        }
        (None, Load::Streams(streams)) => {
            let turns = (requests.unwrap_or(0.0) / f64::from(streams.max(1))).ceil();
            // And what the warm-up left under way.
            (warmup, warmup + (turns + if warmup > 0.0 { 1.0 } else { 0.0 }) * each)
        }
    };
    let role = cell.map_or_else(String::new, |cell| cell.role.clone());
    let output = output_len(plan, cell).zip(requests).map(|(each, n)| each * n);
    let input = input_len(plan, cell).zip(requests).map(|(each, n)| each * n);
    Rung { load, role, requests, seconds, input, output_tokens: output }
}

/// Mean length of a prompt in the plan's unit, as far as it is known beforehand.
fn input_len(plan: &Plan, cell: Option<&Cell>) -> Option<f64> {
    if plan.prompt.is_some()
        || plan.synthetic.num_turns > 1
        || cell.is_some_and(|cell| cell.prompt_chars.is_some())
    {
        return None;
    }
    match plan.file() {
        Some(file) => file.mean_input_len,
        None => Some(f64::from(plan.input_len) + f64::from(plan.synthetic.shared_prefix_len)),
    }
}

fn output_len(plan: &Plan, cell: Option<&Cell>) -> Option<f64> {
    let of_cell = cell.and_then(|cell| cell.output_len).map(f64::from);
    of_cell.or(plan.file().and_then(|file| file.mean_output_len)).or(Some(f64::from(plan.output_len)))
}

impl Explained<'_> {
    /// Shortest and longest time of all levels together, s; of a search, up to its budget.
    pub fn seconds(&self) -> (f64, f64) {
        match &self.plan.auto {
            Some(auto) => (0.0, auto.budget_ns.max(0) as f64 / 1e9),
            None => {
                self.rungs.iter().fold((0.0, 0.0), |(l, h), rung| (l + rung.seconds.0, h + rung.seconds.1))
            }
        }
    }

    /// Least and most that it costs, USD; `None` without a price.
    pub fn usd(&self) -> Option<(f64, f64)> {
        let (low, high) = self.seconds();
        self.usd_per_hour.map(|price| (price * low / 3_600.0, price * high / 3_600.0))
    }

    fn sum(&self, part: impl Fn(&Rung) -> Option<f64>) -> Option<f64> {
        let known: Option<Vec<f64>> = self.rungs.iter().map(part).collect();
        known.filter(|all| !all.is_empty()).map(|all| all.iter().sum())
    }

    /// For people.
    pub fn text(&self) -> String {
        let plan = self.plan;
        let (low, high) = self.seconds();
        let kind = if plan.streaming { "streamed" } else { "whole replies" };
        let mut out = format!(
            "This is what `tailcliff run` would do; nothing was sent.\n\ntarget   {}{}\n",
            plan.base_url, plan.path
        );
        let mut line = |name: &str, words: &str| out.push_str(&format!("{name:<9}{words}\n"));
        line("model", &format!("{}, {}, {kind}", plan.model, plan.endpoint_type));
        line(
            "first",
            "one real request of 4 tokens; if it fails, the run ends there (`tailcliff preflight`)",
        );
        line("load", &self.load());
        if !self.rungs.is_empty() {
            out.push('\n');
            out.push_str(&self.levels());
            out.push('\n');
        }
        let mut line = |name: &str, words: &str| out.push_str(&format!("{name:<9}{words}\n"));
        line("time", &span_words(low, high));
        if plan.auto.is_none() && plan.duration_ns.is_none() {
            line(
                "",
                match plan.request_rate.is_empty() {
                    true => "the server's speed decides; the most is every request at its --request-timeout",
                    false => "of random arrivals it is a mean",
                },
            );
        }
        let cost = |(low, high): (f64, f64)| format!("{} to {}", usd_words(low), usd_words(high));
        line("cost", &self.usd().map_or("give --gpu-price-per-hour".to_owned(), cost));
        line("written", &format!("{}:", self.dir));
        for files in FILES.chunks(4) {
            line("", &files.join(" "));
        }
        line("", "and the journal, from which `tailcliff merge` writes them again");
        out
    }

    fn load(&self) -> String {
        let plan = self.plan;
        if let Some(auto) = &plan.auto {
            return search(auto);
        }
        let levels = self.rungs.len();
        let warmup = if plan.warmup_ns > 0 {
            format!(
                ", each after {} of warm-up, whose requests come on top",
                time(plan.warmup_ns as f64 / 1e9)
            )
        } else {
            String::new()
        };
        match plan.request_rate.is_empty() {
            true => format!("closed loop, {levels} levels of concurrency{warmup}"),
            false => format!("open loop, {levels} levels of {} arrivals{warmup}", plan.arrival_pattern),
        }
    }

    fn levels(&self) -> String {
        let open = !self.plan.request_rate.is_empty();
        let unit = if self.plan.input_len_unit.is_empty() { "words" } else { &self.plan.input_len_unit };
        let header = [
            if open { "req/s" } else { "concurrency" },
            "requests",
            "time",
            &format!("{unit} in"),
            "tokens out, at most",
        ];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        for rung in &self.rungs {
            let role = if rung.role.is_empty() { String::new() } else { format!(" {}", rung.role) };
            let (low, high) = rung.seconds;
            rows.push(vec![
                format!("{}{role}", rung.load),
                count(rung.requests),
                span_words(low, high),
                count(rung.input),
                count(rung.output_tokens),
            ]);
        }
        rows.push(vec![
            "in all".to_owned(),
            count(self.sum(|rung| rung.requests)),
            String::new(),
            count(self.sum(|rung| rung.input)),
            count(self.sum(|rung| rung.output_tokens)),
        ]);
        table(&rows)
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let (low, high) = self.seconds();
        let rung = |rung: &Rung| {
            json!({
                "concurrency": rung.load.concurrency(),
                "request_rate": rung.load.request_rate(),
                "role": Some(&rung.role).filter(|role| !role.is_empty()),
                "requests": number(rung.requests, 3),
                "seconds": [number(Some(rung.seconds.0), 3), number(Some(rung.seconds.1), 3)],
                "input_length": number(rung.input, 3),
                "output_tokens_at_most": number(rung.output_tokens, 3),
            })
        };
        json!({
            "search": self.plan.auto,
            "levels": self.rungs.iter().map(rung).collect::<Vec<_>>(),
            "requests": number(self.sum(|rung| rung.requests), 3),
            "input_length": number(self.sum(|rung| rung.input), 3),
            "input_length_unit": self.plan.input_len_unit,
            "output_tokens_at_most": number(self.sum(|rung| rung.output_tokens), 3),
            "seconds": [number(Some(low), 3), number(Some(high), 3)],
            "usd": self.usd().map(|(low, high)| [number(Some(low), 6), number(Some(high), 6)]),
            "output_dir": self.dir,
            "files": FILES,
        })
    }
}

fn search(auto: &AutoPlan) -> String {
    let axis = if auto.open { "req/s offered" } else { "concurrency" };
    format!(
        "a search along {axis} from {} to {}: levels are chosen as it goes, until knee and cliff are known to {:.0} % of where they \
         are, or {} are over",
        auto.from,
        auto.to,
        auto.resolution * 100.0,
        time(auto.budget_ns.max(0) as f64 / 1e9)
    )
}

/// A count with its thousands apart; `?` where nobody knows beforehand.
fn count(n: Option<f64>) -> String {
    n.map_or("?".to_owned(), |n| grouped(&format!("{:.0}", n)))
}

fn span_words(low: f64, high: f64) -> String {
    match (low, high) {
        (low, high) if high - low < 0.05 => time(low),
        (low, high) if low <= 0.0 => format!("up to {}", time(high)),
        (low, high) => format!("{} to {}", time(low), time(high)),
    }
}

/// Seconds for people.
fn time(s: f64) -> String {
    match s {
        s if s < 0.95 => format!("{:.0}ms", s * 1e3),
        s if s < 59.5 => format!("{s:.0}s"),
        s if s < 3_599.5 => format!("{}m{:02}s", s.round() as u64 / 60, s.round() as u64 % 60),
        s => format!("{}h{:02}m", (s / 60.0).round() as u64 / 60, (s / 60.0).round() as u64 % 60),
    }
}

#[cfg(test)]
mod tests;
