//! The files as a reader finds them.

use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use tailcliff_proto::v1::{self, Outcome};

use super::*;
use crate::axis::{Load, Rate};
use crate::merge::testrun;
use crate::report::inside_sample;

fn sample() -> RunData {
    let mut data = testrun::run(21, 3, &[1, 2, 4]);
    testrun::add_probe(&mut data);
    data
}

fn written(data: &RunData) -> (tempfile::TempDir, Merged) {
    let dir = tempfile::tempdir().unwrap();
    let merged = write_all(dir.path(), data).unwrap();
    (dir, merged)
}

fn read(dir: &tempfile::TempDir, name: &str) -> String {
    fs::read_to_string(dir.path().join(name)).unwrap()
}

/// Rows of a CSV file, quotes honoured.
fn csv(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut cell, mut inside) = (Vec::new(), Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if inside && chars.peek() == Some(&'"') => cell.extend(chars.next()),
            '"' => inside = !inside,
            ',' if !inside => row.push(std::mem::take(&mut cell)),
            '\n' if !inside => {
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            c => cell.push(c),
        }
    }
    assert!(row.is_empty() && cell.is_empty(), "the file ends with a line break");
    let columns = rows[0].len();
    assert!(rows.iter().all(|r| r.len() == columns), "every row has {columns} cells");
    rows
}

fn column(rows: &[Vec<String>], name: &str) -> Vec<String> {
    let at = rows[0].iter().position(|c| c == name).unwrap_or_else(|| panic!("no column {name}"));
    rows[1..].iter().map(|row| row[at].clone()).collect()
}

#[test]
fn a_second_merge_elsewhere_is_the_same_to_the_byte() {
    let data = sample();
    let ((one, _), (two, _)) = (written(&data), written(&data));
    // A third over the first's files.
    write_all(one.path(), &data).unwrap();
    for name in FILES {
        assert!(!read(&one, name).is_empty());
        assert_eq!(read(&one, name), read(&two, name), "{name}");
        assert!(!read(&one, name).contains(one.path().to_str().unwrap()), "{name}");
    }
    let beside = if cfg!(feature = "parquet") { crate::export::PARQUET_FILES.len() } else { 0 };
    assert_eq!(fs::read_dir(one.path()).unwrap().count(), FILES.len() + beside, "no partial file is left");
}

#[test]
fn headers_begin_with_the_promised_columns() {
    let (dir, _) = written(&sample());
    let first = |name: &str| read(&dir, name).lines().next().unwrap().to_owned();
    assert!(first("token_trace.csv").starts_with("t_s,event,text_len,"));
    assert!(
        first("gpu_trace.csv")
            .starts_with("t_s,power_w,gpu_util_pct,mem_util_pct,sm_clock_mhz,mem_clock_mhz,")
    );
    assert!(first("requests.csv").starts_with("t_s,unc_us,"));
    let levels = first("levels.csv");
    for key in [
        "concurrency",
        "request_throughput",
        "p99_ttft_ms",
        "median_e2el_ms",
        "p95_e2el_ms_ci_lo",
        "certificate_verdict",
    ] {
        assert!(levels.split(',').any(|c| c == key), "{key} in {levels}");
    }
}

#[test]
fn requests_csv_has_a_row_a_request_on_the_common_timeline() {
    let data = sample();
    let (dir, merged) = written(&data);
    let rows = csv(&read(&dir, "requests.csv"));
    let released: u64 = merged.levels.iter().map(|l| l.all_phases.released()).sum();
    assert_eq!(rows.len() as u64 - 1, released);
    let (t_s, e2e) = (column(&rows, "t_s"), column(&rows, "e2el_ms"));
    // The first request of every agent is sent at the common start, 1 s into the run.
    for (at, name) in t_s.iter().zip(column(&rows, "request_id")).filter(|(_, id)| id.as_str() == "r-0-0") {
        assert!((at.parse::<f64>().unwrap() - 1.0).abs() < 1e-4, "{name} at {at}");
    }
    let completed = column(&rows, "outcome").iter().filter(|o| *o == "completed").count();
    assert_eq!(e2e.iter().filter(|ms| !ms.is_empty()).count(), completed, "only the completed have an E2E");
    assert!(
        column(&rows, "error_detail").iter().any(|d| d == "503, \"busy\"\nretry"),
        "text survives quoting"
    );
}

#[test]
fn the_token_trace_tells_each_chunk_when_it_came() {
    let (dir, _) = written(&sample());
    let rows = csv(&read(&dir, "token_trace.csv"));
    let mine: Vec<_> = rows.iter().filter(|r| r[3] == "r-0-0" && r[4] == "agent-1").collect();
    let events: Vec<&str> = mine.iter().map(|r| r[1].as_str()).collect();
    assert_eq!(events, [vec!["client_send"], vec!["token_chunk"; 8], vec!["client_done"]].concat());
    let lengths: Vec<u64> = mine.iter().map(|r| r[2].parse().unwrap()).collect();
    assert_eq!(lengths, [0, 4, 8, 12, 16, 20, 24, 28, 32, 32]);
    let times: Vec<f64> = mine.iter().map(|r| r[0].parse().unwrap()).collect();
    let data = sample();
    let record = &data.nodes[&1].batches[0].records[0];
    let gap = (record.last_token_raw_ns.unwrap() - record.intended_raw_ns) as f64 / 1e9;
    // The first gap counts from the intended send, 50 µs before the send.
    assert!((times[8] - times[0] - gap + 50e-6).abs() < 1e-6, "{times:?}");
}

#[test]
fn a_slow_reading_has_a_row_of_its_own_and_does_not_shorten_the_interval() {
    let mut data = sample();
    let probe = data.nodes.values_mut().find(|node| node.hello.name == "probe").unwrap();
    let samples = &mut probe.batches[0].gpu_samples;
    let energy = |s: &v1::GpuSample| v1::GpuSample {
        raw_ns: s.raw_ns + 3_000_000,
        energy_mj: Some(5_000),
        ..Default::default()
    };
    let slow: Vec<_> = samples.iter().map(energy).collect();
    samples.extend(slow);
    samples.sort_by_key(|s| s.raw_ns);
    let (dir, merged) = written(&data);
    let rows = csv(&read(&dir, "gpu_trace.csv"));
    assert_eq!(rows.len(), 401);
    assert_eq!((rows[2][1].as_str(), column(&rows, "energy_j")[1].as_str()), ("", "5.000"));
    let probe = merged.nodes.iter().find(|node| node.name == "probe").unwrap();
    assert_eq!(probe.gpu_interval_ns, Some(10_000_000));
}

#[test]
fn what_a_gpu_did_not_say_is_an_empty_cell() {
    let (dir, _) = written(&sample());
    let rows = csv(&read(&dir, "gpu_trace.csv"));
    assert_eq!(rows.len(), 201);
    assert_eq!(rows[1][1..6], ["312.500", "87", "", "", ""].map(str::to_owned));
    assert_eq!(rows[3][1], "", "no instant power, which is not 0 W");
    assert!((rows[1][0].parse::<f64>().unwrap() - 3.0).abs() < 1e-4);
    assert!(column(&rows, "simulated").iter().all(|s| s == "true"));
    assert_eq!(column(&rows, "energy_j")[0], "1234.567");
    let (dir, _) = written(&testrun::run(1, 1, &[1]));
    assert_eq!(read(&dir, "gpu_trace.csv").lines().count(), 1, "a header alone without a GPU");
}

#[test]
fn the_host_is_on_the_same_timeline_and_what_it_did_not_say_is_an_empty_cell() {
    let (dir, _) = written(&sample());
    let rows = csv(&read(&dir, "host_trace.csv"));
    assert_eq!(rows.len(), 21);
    assert_eq!(column(&rows, "disk_read_bytes")[..3], ["0", "4096", "8192"].map(str::to_owned));
    assert_eq!(column(&rows, "cpu_busy_s")[2], "0.300000000");
    for absent in ["page_cache_bytes", "server_cpu_s", "other_gpu_processes"] {
        assert!(column(&rows, absent).iter().all(String::is_empty), "{absent}");
    }
    let gpu = csv(&read(&dir, "gpu_trace.csv"));
    let t_s = |rows: &[Vec<String>], i: usize| column(rows, "t_s")[i].parse::<f64>().unwrap();
    assert!((t_s(&rows, 1) - t_s(&gpu, 10)).abs() < 1e-6, "both read the same clock at the same moment");
    assert!(column(&rows, "unc_us").iter().all(|us| us.parse::<f64>().unwrap() > 0.0));
    let (dir, _) = written(&testrun::run(1, 1, &[1]));
    assert_eq!(read(&dir, "host_trace.csv").lines().count(), 1, "a header alone without a probe");
}

#[test]
fn what_a_server_told_has_files_of_its_own() {
    let (dir, _) = written(&inside_sample::run());
    let scrapes = csv(&read(&dir, "server_trace.csv"));
    assert_eq!(scrapes.len(), 1 + inside_sample::SCRAPES);
    assert!(column(&scrapes, "named").iter().any(|named| named == "my_gauge{a=\"b\"}=7"));
    let joined = csv(&read(&dir, "waterfall.csv"));
    assert!(joined[0].starts_with(&["t_s", "request_id", "agent"].map(str::to_owned)));
    let (dir, _) = written(&testrun::run(1, 1, &[1]));
    for name in ["server_trace.csv", "waterfall.csv"] {
        assert_eq!(read(&dir, name).lines().count(), 1, "a header alone of {name}");
    }
}

#[test]
fn the_summary_says_null_for_what_is_unknown() {
    let mut data = sample();
    let all = data.nodes.values_mut().flat_map(|n| &mut n.batches);
    for batch in all {
        batch.windows.retain(|w| w.level != 1);
        batch.records.iter_mut().filter(|r| r.level == 1).for_each(|r| r.outcome = Outcome::Failed as i32);
    }
    let (dir, _) = written(&data);
    let summary: serde_json::Value = serde_json::from_str(&read(&dir, "summary.json")).unwrap();
    let level = |i: usize| &summary["levels"][i];
    assert!(level(0)["p95_e2el_ms"].as_f64().unwrap() > 1.0);
    assert_eq!(level(0)["p95_e2el_ms_ci"].as_array().unwrap().len(), 2);
    for key in
        ["mean_ttft_ms", "std_e2el_ms", "median_itl_ms", "p95_e2el_ms", "p99_tpot_ms", "p99_e2el_ms_ci"]
    {
        assert!(level(1)[key].is_null() && level(1).get(key).is_some(), "{key}");
    }
    assert_eq!(level(1)["error_rate"].as_f64(), Some(1.0));
    let count = |key: &str| level(1)[key].as_u64().unwrap();
    assert_eq!(
        count("released"),
        count("completed") + count("failed") + count("incomplete") + count("unreported")
    );
    assert_eq!(level(0)["throughput_window"], "duration");
    assert_eq!(summary["percentile_precision"], "3 significant digits");
    assert!(summary["knee"]["words"].as_str().unwrap().contains("not judged: 2"));
    let rows = csv(&read(&dir, "levels.csv"));
    assert_eq!(column(&rows, "p95_e2el_ms")[1], "");
    let cell = column(&rows, "p95_e2el_ms_ci_hi")[0].parse::<f64>().unwrap();
    assert_eq!(Some(cell), level(0)["p95_e2el_ms_ci"][1].as_f64());
}

/// A level of an open loop has no concurrency, and every key of a closed one's all the same.
#[test]
fn an_open_loop_is_told_by_its_rate_and_has_no_concurrency() {
    let mut data = sample();
    let closed = written(&data).1;
    data.levels
        .iter_mut()
        .zip([0.5, 2.0, f64::INFINITY])
        .for_each(|(log, rate)| log.load = Load::Rate(Rate(rate)));
    let (dir, merged) = written(&data);
    let summary: serde_json::Value = serde_json::from_str(&read(&dir, "summary.json")).unwrap();
    let levels = summary["levels"].as_array().unwrap();
    assert_eq!(levels[1]["request_rate"].as_f64(), Some(2.0));
    assert_eq!(levels[2]["request_rate"], "inf");
    assert!(levels.iter().all(|l| l["concurrency"].is_null() && l["held_back_requests"] == 0));
    assert!(levels[0]["request_rate_offered"].as_f64().unwrap() > 0.0);
    let keys =
        |merged: &Merged| crate::report::summary::level(&merged.levels[0], 0).into_iter().map(|(key, _)| key);
    assert!(keys(&merged).eq(keys(&closed)));
    let rows = csv(&read(&dir, "requests.csv"));
    assert!(column(&rows, "concurrency").iter().all(String::is_empty));
    assert_eq!(column(&rows, "request_rate")[0], "0.5");
    assert_eq!((column(&rows, "attempt")[0].as_str(), column(&rows, "held_ms")[0].as_str()), ("0", ""));
    assert!(read(&dir, "histograms.hlog").contains("Tag=r0.5-ttft"));
}

#[test]
fn other_hdrhistogram_tools_read_the_log() {
    let (dir, merged) = written(&sample());
    let log = read(&dir, "histograms.hlog");
    let mut seen = 0;
    for entry in IntervalLogIterator::new(log.as_bytes()) {
        let entry = entry.unwrap();
        let LogEntry::Interval(interval) = entry else {
            continue;
        };
        let (tag, level) = (interval.tag().unwrap(), &merged.levels[seen / 4]);
        let (name, metric) = level.latencies.named()[seen % 4];
        assert_eq!(tag.as_str(), format!("c{}-{name}", level.load));
        let bytes = base64(interval.encoded_histogram());
        let read: hdrhistogram::Histogram<u64> =
            Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
        assert_eq!(&read, metric.histogram.hdr());
        seen += 1;
    }
    assert_eq!(seen, 12);
    assert!(log.starts_with("#[Histogram log format version 1.3]\n"));
    // 2026-01-02T03:04:05Z.
    assert!(log.contains("#[StartTime: 1767323045.000 (seconds since epoch)]\n"));
}

fn base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut held, mut out) = (0u32, 0, Vec::new());
    for c in text.bytes().filter(|c| *c != b'=') {
        bits = bits << 6 | ALPHABET.iter().position(|a| *a == c).unwrap() as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    out
}

#[test]
fn the_environment_says_what_nobody_told() {
    let mut data = sample();
    data.header.plan.metadata = vec![("server".to_owned(), "vLLM".to_owned())];
    let preflight = v1::PreflightDone { ok: true, server_header: "uvicorn".to_owned(), ..Default::default() };
    data.nodes.get_mut(&2).unwrap().preflight = Some(preflight);
    let (dir, _) = written(&data);
    let text = read(&dir, "environment.json");
    let environment: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(environment["server"]["header"], "uvicorn");
    assert_eq!(environment["probes"][0]["gpus"][0]["simulated"], true);
    let missing = environment["missing"].to_string();
    assert!(
        missing.contains("--metadata server_version=") && !missing.contains("--metadata server="),
        "{missing}"
    );
    assert!(!missing.contains("--metadata gpu="), "the probe told");
    let (dir, _) = written(&testrun::run(1, 1, &[1]));
    assert!(read(&dir, "environment.json").contains("--metadata gpu="));
}

#[test]
fn no_secret_reaches_a_file() {
    let mut data = sample();
    let secret = |name: &str| (name.to_owned(), "hunter2".to_owned());
    data.header.plan.headers = ["Authorization", "x-api-key", "Cookie"].map(secret).to_vec();
    data.nodes.get_mut(&1).unwrap().hello.token = "hunter2".to_owned();
    let (dir, _) = written(&data);
    for name in FILES {
        assert!(!read(&dir, name).contains("hunter2"), "{name}");
    }
    assert!(read(&dir, "environment.json").contains("(redacted)"));
}

#[test]
fn a_directory_that_cannot_be_written_is_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("gone");
    let error = write_all(&missing, &sample()).unwrap_err().to_string();
    assert!(error.starts_with("failed to write ") && error.contains("requests.csv"), "{error}");
    // In the way of a later file's partial: works for root too, which no mode bits stop.
    write_all(dir.path(), &sample()).unwrap();
    fs::create_dir(dir.path().join("histograms.hlog.partial")).unwrap();
    let error = write_all(dir.path(), &testrun::run(22, 1, &[1])).unwrap_err();
    assert!(error.path.ends_with("histograms.hlog"));
    assert!(!dir.path().join("summary.json").exists(), "nothing vouches for a mixture");
}

#[test]
fn a_file_cut_short_has_not_its_own_name() {
    let dir = tempfile::tempdir().unwrap();
    let full = |out: &mut BufWriter<File>| {
        out.write_all(b"half")?;
        Err(io::Error::from(io::ErrorKind::StorageFull))
    };
    assert!(write(dir.path(), "requests.csv", full).is_err());
    assert!(!dir.path().join("requests.csv").exists());
}
