//! The sensors of a card found through the real nvml-wrapper and the C ABI, in real time, as a run would find them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::kill;
use nix::unistd::Pid;
use tailcliff_gpu_probe::config::Config;
use tailcliff_gpu_probe::record::Recording;
use tailcliff_gpu_probe::sensor::table::{self, SensorsArgs, SensorsError};
use tailcliff_gpu_probe::sensor::{Watch, trace};
use tailcliff_proto::v1::{SensorReport, Signal};
use tokio_util::sync::CancellationToken;

const WATCHED: Duration = Duration::from_secs(15);

/// An H100, simulated, under pulses of random lengths.
fn script() -> String {
    let mut random = fastrand::Rng::with_seed(7);
    let mut text = "sensor power_instant period=100ms window=25ms phase=13ms
sensor power_average period=100ms window=1s phase=13ms
sensor energy period=100ms phase=37ms
sensor util period=200ms
sensor power_samples period=20ms
"
    .to_owned();
    for _ in 0..60 {
        let (off, on) = (random.u32(60..500), random.u32(60..500));
        let watts = random.choice([300, 500, 700]).unwrap();
        writeln!(text, "phase {off}ms power_w=120 util=0\nphase {on}ms power_w={watts} util=100").unwrap();
    }
    text
}

/// A copy of the stand-in with a script of its own.
fn library(dir: &Path) -> PathBuf {
    let copy = dir.join(nvml_sim::LIBRARY);
    std::fs::copy(nvml_sim::library_path().unwrap(), &copy).unwrap();
    std::fs::write(dir.join(format!("{}.script", nvml_sim::LIBRARY)), script()).unwrap();
    copy
}

fn near(found: Option<i64>, truth_ms: f64) -> bool {
    found.is_some_and(|ns| (ns as f64 / 1e6 / truth_ms - 1.0).abs() <= 0.1)
}

#[test]
fn an_h100s_sensors_are_found_while_it_is_sampled_and_again_from_the_recording() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { nvml_path: Some(library(dir.path())), ..Config::new("") };
    let recording = Recording::start(&config).unwrap();
    std::thread::sleep(WATCHED);
    let recorded = recording.stop();
    let reports = recorded.batches.iter().flat_map(|batch| &batch.sensors);
    let said: BTreeMap<Signal, SensorReport> = reports.map(|r| (r.signal(), r.clone())).collect();
    for (signal, period, window) in [
        (Signal::PowerInstant, 100.0, None),
        (Signal::PowerAverage, 100.0, Some(1_000.0)),
        (Signal::Energy, 100.0, None),
        (Signal::GpuUtil, 200.0, None),
    ] {
        let report = &said[&signal];
        assert!(near(report.period_ns, period), "{report:?}");
        assert!(window.is_none_or(|ms| near(report.window_ns, ms)), "{report:?}");
    }
    // A busy machine polls late, and then less can be told of so short a window; what is told must hold. The figures are
    // tested in virtual time.
    let instant = &said[&Signal::PowerInstant];
    let bar = instant.window_bar_ns.unwrap_or_default().max(2_500_000);
    let told = |ns: i64| (ns - 25_000_000).abs() <= bar;
    assert!(instant.window_ns.map_or(instant.note.contains(" ms at most"), told), "{instant:?}");

    // What was written of it tells the same.
    let mut text = Vec::new();
    let mut writer = trace::TraceWriter::new(&mut text, "simulated").unwrap();
    recorded.batches.iter().for_each(|batch| writer.add(batch).unwrap());
    writer.end().unwrap();
    let mut watch = Watch::default();
    trace::read(std::str::from_utf8(&text).unwrap()).unwrap().iter().for_each(|batch| watch.see(batch));
    let again = watch.reports(true).into_iter().rfind(|r| r.signal() == Signal::PowerAverage).unwrap();
    assert!(near(again.window_ns, 1_000.0) && near(again.period_ns, 100.0), "{again:?}");

    let mut table = Vec::new();
    table::print(&recorded, WATCHED.as_secs(), &mut table).unwrap();
    let table = String::from_utf8(table).unwrap();
    assert_eq!(table.matches("\ninstant power ").count(), 1, "{table}");
    assert!(table.contains("SIMULATED") && table.contains("plain power is an average over"), "{table}");
}

fn sensors(library: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailcliff-gpu-probe"));
    command.arg("sensors").arg("--nvml-path").arg(library).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn without_a_driver_the_command_says_what_was_tried_at_once_and_keeps_an_older_recording() {
    let dir = tempfile::tempdir().unwrap();
    let record = dir.path().join("card.trace");
    std::fs::write(&record, "older").unwrap();
    let args = SensorsArgs {
        seconds: 3_000,
        interval: Duration::from_millis(10),
        nvml_path: Some("/nowhere/libnvidia-ml.so".into()),
        record: Some(record.clone()),
    };
    let error = table::run(&args, &mut Vec::new(), &CancellationToken::new(), |_| {}).unwrap_err();
    assert!(matches!(error, SensorsError::Absent(_)));
    assert!(error.to_string().contains("/nowhere/libnvidia-ml.so"), "{error}");
    assert_eq!(std::fs::read_to_string(record).unwrap(), "older");
}

#[test]
fn an_interrupted_command_prints_and_keeps_what_it_saw() {
    let dir = tempfile::tempdir().unwrap();
    let record = dir.path().join("card.trace");
    let mut command = sensors(&library(dir.path()));
    let mut child = command.args(["--seconds", "600", "--record"]).arg(&record).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("watching for 600 s"), "{said}");
    std::thread::sleep(Duration::from_secs(2));
    kill(Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(table.contains("\ninstant power ") && !table.contains("for 600 s"), "{table}");
    let kept = std::fs::read_to_string(record).unwrap();
    assert!(kept.lines().filter(|line| line.starts_with("g,")).count() > 20, "{kept}");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let library = library(dir.path());
    let mut print = Command::new(env!("CARGO_BIN_EXE_tailcliff-gpu-probe"));
    print.args(["--print-seconds", "2", "--nvml-path"]).arg(&library);
    let mut table = sensors(&library);
    table.args(["--seconds", "1"]);
    for mut command in [print, table] {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !said.contains("failed"), "{said}");
    }
}
