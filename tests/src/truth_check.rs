//! How far tailcliff's exported timeline is from the server's truth log, request by request and token by token: from
//! the files a user gets, not from memory.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use hdrhistogram::Histogram;

/// Distances in ns.
#[derive(Debug)]
pub struct TruthError {
    /// Requests in the truth log whose tokens were all found in the trace.
    pub requests: u64,
    /// Tokens compared.
    pub chunks: u64,
    /// Requests whose number of chunks differs, or that one side lacks.
    pub unmatched: u64,
    /// Arrival at the client less emission by the server.
    pub delivery_ns: Histogram<u64>,
    /// TTFT as the client saw it from its send, less TTFT as the server knows it from its arrival.
    pub added_ttft_ns: Histogram<u64>,
    /// Arrivals dated before their emission by more than their own error bar: must be none.
    pub impossible: u64,
    /// Widest error bar of an arrival.
    pub worst_bound_ns: u64,
}

#[derive(Default)]
struct Traced {
    sent_ns: i64,
    arrivals_ns: Vec<(i64, i64)>,
}

/// Compares `token_trace.csv` of a run with a truth log; `started_ref_ns` is where the trace's time counts from.
///
/// # Errors
/// When a file cannot be read.
pub fn compare(run_dir: &Path, truth_log: &Path, started_ref_ns: i64) -> io::Result<TruthError> {
    let mut traced = read_trace(&run_dir.join("token_trace.csv"), started_ref_ns)?;
    let histogram = || Histogram::new(3).map_err(io::Error::other);
    let mut error = TruthError {
        requests: 0,
        chunks: 0,
        unmatched: 0,
        delivery_ns: histogram()?,
        added_ttft_ns: histogram()?,
        impossible: 0,
        worst_bound_ns: 0,
    };
    for (id, truth) in read_truth(truth_log)? {
        match traced.remove(&id) {
            Some(seen) if seen.arrivals_ns.len() == truth.emissions.len() => error.add(&seen, &truth)?,
            _ => error.unmatched += 1,
        }
    }
    error.unmatched += traced.len() as u64;
    Ok(error)
}

impl TruthError {
    fn add(&mut self, seen: &Traced, truth: &model_sim::TruthRecord) -> io::Result<()> {
        self.requests += 1;
        for (&(at, bound), &emitted) in seen.arrivals_ns.iter().zip(&truth.emissions) {
            self.chunks += 1;
            self.worst_bound_ns = self.worst_bound_ns.max(bound.unsigned_abs());
            if at - emitted < -bound {
                self.impossible += 1;
            }
            let delay = u64::try_from(at - emitted).unwrap_or(0);
            self.delivery_ns.record(delay).map_err(io::Error::other)?;
        }
        if let (Some(first), Some(emitted)) = (seen.arrivals_ns.first(), truth.emissions.first()) {
            let added = (first.0 - seen.sent_ns) - (emitted - truth.arrived_ns);
            self.impossible += u64::from(added < -2 * first.1);
            self.added_ttft_ns.record(u64::try_from(added).unwrap_or(0)).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// A truth log by request id; requests without one and the preflight, which no level counts, are left out.
///
/// # Errors
/// When the file cannot be read, or a line is not a record.
pub fn read_truth(path: &Path) -> io::Result<BTreeMap<String, model_sim::TruthRecord>> {
    let mut by_id = BTreeMap::new();
    for line in std::fs::read_to_string(path)?.lines() {
        let truth: model_sim::TruthRecord = serde_json::from_str(line).map_err(io::Error::other)?;
        if let Some(id) = truth.request_id.clone().filter(|id| id != tailcliff_agent::preflight::REQUEST_ID) {
            by_id.insert(id, truth);
        }
    }
    Ok(by_id)
}

/// Each request's gaps between token arrivals, ms, from a run's `token_trace.csv`.
///
/// # Errors
/// When the file cannot be read.
pub fn gaps_ms(run_dir: &Path) -> io::Result<BTreeMap<String, Vec<f64>>> {
    let traced = read_trace(&run_dir.join("token_trace.csv"), 0)?;
    let gaps = |seen: Traced| seen.arrivals_ns.windows(2).map(|w| (w[1].0 - w[0].0) as f64 / 1e6).collect();
    Ok(traced.into_iter().map(|(id, seen)| (id, gaps(seen))).collect())
}

fn read_trace(path: &Path, started_ref_ns: i64) -> io::Result<BTreeMap<String, Traced>> {
    let text = std::fs::read_to_string(path)?;
    let mut lines = text.lines();
    let columns: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let column = |name: &str| {
        let missing = || io::Error::other(format!("{} has no column {name}", path.display()));
        columns.iter().position(|c| *c == name).ok_or_else(missing)
    };
    let (t, event, id, unc) = (column("t_s")?, column("event")?, column("request_id")?, column("unc_us")?);
    let mut traced: BTreeMap<String, Traced> = BTreeMap::new();
    for line in lines {
        let cells: Vec<&str> = line.split(',').collect();
        let number = |i: usize| cells.get(i).and_then(|c| c.parse::<f64>().ok());
        let (Some(t_s), Some(id)) = (number(t), cells.get(id)) else { continue };
        // Seconds since the start with nine decimals: exact in f64 for runs of days.
        let at = started_ref_ns + (t_s * 1e9).round() as i64;
        let bound = (number(unc).unwrap_or(0.0) * 1e3).ceil() as i64;
        let seen = traced.entry((*id).to_owned()).or_default();
        match cells.get(event) {
            Some(&"client_send") => seen.sent_ns = at,
            Some(&"token_chunk") => seen.arrivals_ns.push((at, bound)),
            _ => {}
        }
    }
    Ok(traced)
}
