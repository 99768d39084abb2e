//! How far tailcliff's exported timeline is from the server's truth log, request by request and token by token: from
//! the files a user gets, not from memory.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::str::FromStr;

use hdrhistogram::Histogram;

use crate::csv::Table;

/// Distances in ns. What an error bar allows to lie below zero is shown as zero.
#[derive(Debug)]
pub struct TruthError {
    /// Requests in the truth log whose tokens were all found in the trace.
    pub requests: u64,
    /// Tokens compared.
    pub chunks: u64,
    /// Requests whose number of chunks differs, or that one side lacks.
    pub unmatched: u64,
    /// Requests that the server got more than once under one id, beyond the first: must be none.
    pub duplicates: u64,
    /// Arrival at the client less emission by the server.
    pub delivery_ns: Histogram<u64>,
    /// TTFT as the client saw it from its send, less TTFT as the server knows it from its arrival: the way there and
    /// back, and the wait until the client comes to read.
    pub after_send_ns: Histogram<u64>,
    /// The same from the intended send, which TTFT counts from: all that the client adds, with connecting, encoding and
    /// the wait for its turn among those that start together.
    pub from_intended_ns: Histogram<u64>,
    /// The same without each stream's first request: no connecting, and no start of all streams at once.
    pub under_way_ns: Histogram<u64>,
    /// Arrivals dated before their emission by more than their own error bar: must be none.
    pub impossible: u64,
    /// Widest error bar of an arrival.
    pub worst_bound_ns: u64,
}

/// A server's truth log.
#[derive(Debug)]
pub struct Truth {
    /// The first record of each request id.
    pub by_id: BTreeMap<String, model_sim::TruthRecord>,
    /// Further records of an id: the same request, sent again.
    pub duplicates: u64,
}

/// What `requests.csv` says of a request that got a token.
#[derive(Clone, Copy)]
struct Ttft {
    ns: i64,
    first_of_stream: bool,
}

/// What `token_trace.csv` says of a request.
#[derive(Debug, Default)]
pub(crate) struct Traced {
    sent_ns: i64,
    /// Of each token chunk, and how far it may be off.
    pub(crate) arrivals_ns: Vec<(i64, i64)>,
}

/// Compares `token_trace.csv` and `requests.csv` of a run with a truth log; `started_ref_ns` is where the trace's time
/// counts from.
///
/// # Errors
/// When a file cannot be read.
pub fn compare(run_dir: &Path, truth_log: &Path, started_ref_ns: i64) -> io::Result<TruthError> {
    let mut traced = read_trace(&run_dir.join("token_trace.csv"), started_ref_ns)?;
    let ttft = read_ttft(&run_dir.join("requests.csv"))?;
    let truth = read_truth(truth_log)?;
    let histogram = || Histogram::new(3).map_err(io::Error::other);
    let mut error = TruthError {
        requests: 0,
        chunks: 0,
        unmatched: 0,
        duplicates: truth.duplicates,
        delivery_ns: histogram()?,
        after_send_ns: histogram()?,
        from_intended_ns: histogram()?,
        under_way_ns: histogram()?,
        impossible: 0,
        worst_bound_ns: 0,
    };
    for (id, truth) in truth.by_id {
        match traced.remove(&id) {
            Some(seen) if seen.arrivals_ns.len() == truth.emissions.len() => {
                error.add(&seen, ttft.get(&id).copied(), &truth)?;
            }
            _ => error.unmatched += 1,
        }
    }
    error.unmatched += traced.len() as u64;
    Ok(error)
}

impl TruthError {
    fn add(&mut self, seen: &Traced, ttft: Option<Ttft>, truth: &model_sim::TruthRecord) -> io::Result<()> {
        self.requests += 1;
        for (&(at, bound), &emitted) in seen.arrivals_ns.iter().zip(&truth.emissions) {
            self.chunks += 1;
            self.worst_bound_ns = self.worst_bound_ns.max(bound.unsigned_abs());
            self.impossible += u64::from(at - emitted < -bound);
            record(&mut self.delivery_ns, at - emitted)?;
        }
        if let (Some(first), Some(emitted)) = (seen.arrivals_ns.first(), truth.emissions.first()) {
            let served = emitted - truth.arrived_ns;
            let added = first.0 - seen.sent_ns - served;
            self.impossible += u64::from(added < -2 * first.1);
            record(&mut self.after_send_ns, added)?;
            let ttft = ttft.ok_or_else(|| io::Error::other("a request with tokens has no TTFT"))?;
            record(&mut self.from_intended_ns, ttft.ns - served)?;
            if !ttft.first_of_stream {
                record(&mut self.under_way_ns, ttft.ns - served)?;
            }
        }
        Ok(())
    }
}

/// Records a distance, which must not be negative but by an error bar.
fn record(into: &mut Histogram<u64>, ns: i64) -> io::Result<()> {
    into.record(u64::try_from(ns).unwrap_or(0)).map_err(io::Error::other)
}

/// Reads a truth log; requests without an id and the preflight, which no level counts, are left out.
///
/// # Errors
/// When the file cannot be read, or a line is not a record.
pub fn read_truth(path: &Path) -> io::Result<Truth> {
    let mut truth = Truth { by_id: BTreeMap::new(), duplicates: 0 };
    for line in std::fs::read_to_string(path)?.lines() {
        let record: model_sim::TruthRecord = serde_json::from_str(line).map_err(io::Error::other)?;
        let id = record.request_id.clone().filter(|id| id != tailcliff_agent::preflight::REQUEST_ID);
        match id.map(|id| truth.by_id.entry(id)) {
            Some(std::collections::btree_map::Entry::Vacant(place)) => drop(place.insert(record)),
            Some(std::collections::btree_map::Entry::Occupied(_)) => truth.duplicates += 1,
            None => {}
        }
    }
    Ok(truth)
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

/// Reads a trace, by request id, onto the clock that `started_ref_ns` is of.
pub(crate) fn read_trace(path: &Path, started_ref_ns: i64) -> io::Result<BTreeMap<String, Traced>> {
    let table = Table::read(path)?;
    let (t, event) = (table.column("t_s")?, table.column("event")?);
    let (id, unc) = (table.column("request_id")?, table.column("unc_us")?);
    let mut traced: BTreeMap<String, Traced> = BTreeMap::new();
    for row in &table.rows {
        // Seconds since the start with nine decimals: exact in f64 for runs of days.
        let at = started_ref_ns + (number::<f64>(&row[t])? * 1e9).round() as i64;
        let bound = (number::<f64>(&row[unc])? * 1e3).ceil() as i64;
        let seen = traced.entry(row[id].clone()).or_default();
        match row[event].as_str() {
            "client_send" => seen.sent_ns = at,
            "token_chunk" => seen.arrivals_ns.push((at, bound)),
            _ => {}
        }
    }
    Ok(traced)
}

/// By request id, of the requests that have one.
fn read_ttft(path: &Path) -> io::Result<BTreeMap<String, Ttft>> {
    let table = Table::read(path)?;
    let (id, request, ttft) =
        (table.column("request_id")?, table.column("request")?, table.column("ttft_ms")?);
    let known = table.rows.iter().filter(|row| !row[ttft].is_empty());
    let read = |row: &Vec<String>| {
        let ns = (number::<f64>(&row[ttft])? * 1e6).round() as i64;
        Ok((row[id].clone(), Ttft { ns, first_of_stream: number::<u64>(&row[request])? == 0 }))
    };
    known.map(read).collect()
}

fn number<T: FromStr>(cell: &str) -> io::Result<T> {
    cell.parse().map_err(|_| io::Error::other(format!("{cell:?} is no number")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdata;

    #[test]
    fn an_id_that_the_server_saw_twice_is_a_duplicate() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lines = ["a", "b", "a", "a", tailcliff_agent::preflight::REQUEST_ID]
            .map(|id| testdata::truth_line(id, "completed", &[]));
        std::fs::write(file.path(), lines.concat()).unwrap();
        let truth = read_truth(file.path()).unwrap();
        assert_eq!((truth.by_id.len(), truth.duplicates), (2, 2));
    }

    /// One request: intended at 1 s, sent 100 µs later, read by the server 20 µs after that, first token 50 ms later and
    /// seen 30 µs after its emission, the second 10 ms after the first.
    fn error_of(request: u64, trace_tail: &str) -> TruthError {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let truth = testdata::truth_line("a", "completed", &[1_050_120_000, 1_060_120_000]);
        let truth = truth.replace(r#""arrived_ns":0"#, r#""arrived_ns":1000120000"#);
        std::fs::write(at("truth"), truth).unwrap();
        let rows = format!("request_id,request,ttft_ms\na,{request},50.150000\nnever,9,\n");
        std::fs::write(at("requests.csv"), rows).unwrap();
        let trace = format!(
            "t_s,event,request_id,unc_us\n1.0001,client_send,a,5\n1.05015,token_chunk,a,5\n{trace_tail}"
        );
        std::fs::write(at("token_trace.csv"), trace).unwrap();
        compare(dir.path(), &at("truth"), 0).unwrap()
    }

    #[test]
    fn what_the_client_adds_is_told_from_its_send_and_from_the_intended_one() {
        let error = error_of(0, "1.06015,token_chunk,a,5\n");
        assert_eq!((error.requests, error.chunks, error.unmatched, error.impossible), (1, 2, 0, 0));
        let max = |h: &Histogram<u64>| h.max() / 1_000;
        let seen = [&error.after_send_ns, &error.from_intended_ns, &error.delivery_ns].map(max);
        assert_eq!(seen, [50, 150, 30]);
        assert_eq!(error.under_way_ns.len(), 0, "it is the first of its stream");
        assert_eq!(max(&error_of(1, "1.06015,token_chunk,a,5\n").under_way_ns), 150);
    }

    #[test]
    fn a_lost_token_and_one_from_the_future_show() {
        assert_eq!(error_of(0, "").unmatched, 1, "one token of two");
        let early = error_of(0, "1.06011,token_chunk,a,5\n");
        assert_eq!((early.requests, early.impossible), (1, 1), "10 µs early, the bar is 5");
        assert_eq!(error_of(0, "1.060117,token_chunk,a,5\n").impossible, 0, "3 µs early");
        assert_eq!(error_of(0, "1.06015,token_chunk,a,5\n1,client_send,other,5\n").unmatched, 1);
    }
}
