//! `tailcliff-gpu-probe check` as its user runs it, on the stand-ins of NVML and CUDA.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A folder with a copy of the stand-in library, which plays the script.
struct Scene {
    dir: tempfile::TempDir,
    library: PathBuf,
}

fn scene(script: &str) -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let library = dir.path().join(nvml_sim::LIBRARY);
    fs::copy(nvml_sim::library_path().unwrap(), &library).unwrap();
    fs::write(dir.path().join(format!("{}.script", nvml_sim::LIBRARY)), script).unwrap();
    Scene { dir, library }
}

impl Scene {
    fn check(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailcliff-gpu-probe"));
        command.arg("check").arg("--nvml-path").arg(&self.library).arg("--cuda-path").arg(&self.library);
        command.args(["--watch-seconds", "0"]).args(flags);
        command
    }

    fn run(&self, flags: &[&str]) -> Output {
        self.check(flags).output().unwrap()
    }

    fn json(&self) -> (Value, Option<i32>) {
        let output = self.run(&["--json"]);
        (serde_json::from_slice(&output.stdout).unwrap(), output.status.code())
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const H100: &str = "name NVIDIA H100 80GB HBM3\n";

#[test]
fn a_card_is_told_in_words_and_its_bandwidth_is_what_the_script_says_without_the_warm_up() {
    let output = scene(&format!("{H100}cuda_gb_s 1340\n")).run(&[]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", text(&output.stderr));
    for words in [
        "GPU 0: SIMULATED NVIDIA H100 80GB HBM3\n",
        "CUDA 13.0",
        "79.0 free",
        "generation 5 ×16",
        "18 links up",
        "limit 700 W (default 700, range 200 to 700)",
        "idle",
        "MIG off, ECC on, persistence on",
        "1340 GB/s copied = 2680 GB/s moved",
        "80.0 % of 3350 GB/s (published by NVIDIA for the H100 SXM)",
        "8 × 10 copies of 1024 MiB after 5; slowest to fastest 0.0 %",
    ] {
        assert!(said.contains(words), "{words} in {said}");
    }
    assert!(said.lines().all(|line| line.chars().count() <= 100), "{said}");
}

#[test]
fn gpus_that_cuda_counts_otherwise_are_told_apart_and_a_hidden_one_is_skipped() {
    let (report, code) = scene("gpus 3\ncuda_hides 1\nprocess 2 4242 2048\n").json();
    let outcome = |i: usize| report["gpus"][i]["copy_test"]["outcome"].as_str().unwrap().to_owned();
    assert_eq!(
        ([0, 1, 2].map(outcome), code),
        (["measured", "skipped", "measured"].map(str::to_owned), Some(0))
    );
    assert!(report["gpus"][1]["copy_test"]["reason"].as_str().unwrap().contains("CUDA_VISIBLE_DEVICES"));
    assert_eq!(report["gpus"][2]["processes"][0]["pid"], 4242);
    assert_eq!(report["gpus"][0]["processes"].as_array().unwrap().len(), 0);
    assert_eq!(report["simulated"], true);
}

#[test]
fn a_gpu_that_is_nearly_full_gets_smaller_copies_or_none() {
    let test = |script: &str| {
        let (report, code) = scene(script).json();
        (report["gpus"][0]["copy_test"].clone(), code)
    };
    let (smaller, code) = test("cuda_free_mib 2100\n");
    assert_eq!((smaller["copy_bytes"].as_u64(), code), (Some(512 << 20), Some(0)));
    assert!(smaller["notes"][0].as_str().unwrap().contains("2100 MiB"), "{smaller}");
    let (none, code) = test("cuda_free_mib 900\n");
    assert_eq!((none["outcome"].as_str(), code), (Some("skipped"), Some(0)));
    assert!(none["reason"].as_str().unwrap().contains("900 MiB"), "{none}");
    // More is said to be free than is given.
    let (fallen, code) = test("cuda_room_mib 600\n");
    assert_eq!((fallen["copy_bytes"].as_u64(), code), (Some(256 << 20), Some(0)), "{fallen}");
    let (full, code) = test("cuda_error cuDevicePrimaryCtxRetain 2\n");
    assert_eq!((full["outcome"].as_str(), code), (Some("skipped"), Some(0)), "{full}");
}

/// What was taken is given back even then: the stand-in's last release would say otherwise.
#[test]
fn a_gpu_that_fails_is_a_failed_check_and_the_driver_is_quoted() {
    for call in ["cuMemcpyDtoDAsync_v2", "cuEventSynchronize", "cuMemsetD32_v2", "cuEventCreate"] {
        let (report, code) = scene(&format!("cuda_error {call} 214\n")).json();
        let test = &report["gpus"][0]["copy_test"];
        assert_eq!((test["outcome"].as_str(), code), (Some("failed"), Some(1)), "{test}");
        let reason = test["reason"].as_str().unwrap();
        assert!(reason.contains(call) && reason.contains("uncorrectable ECC error"), "{reason}");
    }
    let (report, code) = scene("cuda_error cuMemFree_v2 999\n").json();
    assert_eq!(code, Some(1), "memory that could not be given back: {report}");
}

#[test]
fn no_library_is_a_reason_and_not_a_crash() {
    let scene = scene(H100);
    let output = scene.run(&["--json", "--cuda-path", "/nowhere/libcuda.so.1"]);
    assert_eq!(output.status.code(), Some(2), "a flag given twice");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailcliff-gpu-probe"));
    command.args([
        "check",
        "--json",
        "--watch-seconds",
        "0",
        "--cuda-path",
        "/nowhere/libcuda.so.1",
        "--nvml-path",
    ]);
    let output = command.arg(&scene.library).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(report["gpus"][0]["copy_test"]["reason"].as_str().unwrap().contains("/nowhere/libcuda.so.1"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailcliff-gpu-probe"));
    let output = command.args(["check", "--json", "--nvml-path", "/nowhere/nvml.so"]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(report["nvml_absent_reason"].as_str().unwrap().contains("/nowhere/nvml.so"), "{report}");
    assert!(text(&output.stderr).contains("no NVML"));
    // Not a CUDA library at all.
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailcliff-gpu-probe"));
    command.args(["check", "--watch-seconds", "0", "--cuda-path", "libc.so.6", "--nvml-path"]);
    let said = text(&command.arg(&scene.library).output().unwrap().stdout);
    assert!(said.contains("skipped: no CUDA driver library: it has no cuGetErrorString"), "{said}");
}

#[test]
fn the_watch_is_shown_and_kept_as_rows_and_as_a_picture() {
    let scene = scene("gpus 2\nphase 200ms power_w=80 util=3\nphase 10s power_w=600 util=99\nonce\n");
    let kept = scene.dir.path().join("kept");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailcliff-gpu-probe"));
    command.arg("check").arg("--nvml-path").arg(&scene.library).args(["--no-copy", "--watch-seconds", "1"]);
    let output = command.args(["--watch-interval", "100ms", "--output-dir"]).arg(&kept).output().unwrap();
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("skipped: by --no-copy") && said.contains("VRAM GiB"), "{said}");
    assert!(!said.contains('\x1b'), "no control codes where there is no terminal");
    let csv = fs::read_to_string(kept.join("watch.csv")).unwrap();
    let rows: Vec<Vec<&str>> = csv.lines().skip(1).map(|line| line.split(',').collect()).collect();
    // Ten looks at each of two; a busy machine may miss some, and none is made up.
    assert!((8..=20).contains(&rows.len()), "{csv}");
    assert!(rows.iter().any(|row| row[1] == "1" && row[4] == "99" && row[6] == "600.000"), "{csv}");
    assert!(rows.iter().all(|row| row[7] == "instant"), "{csv}");
    let picture = fs::read_to_string(kept.join("watch.svg")).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("SIMULATED") && picture.contains("time (s)"));
    let report: Value = serde_json::from_str(&fs::read_to_string(kept.join("check.json")).unwrap()).unwrap();
    assert_eq!(report["watch"].as_array().unwrap().len(), rows.len());
}

#[test]
fn ctrl_c_keeps_what_there_is() {
    let scene = scene(H100);
    let kept = scene.dir.path().join("kept");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailcliff-gpu-probe"));
    command.arg("check").arg("--nvml-path").arg(&scene.library).args(["--no-copy", "--watch-seconds", "60"]);
    command.args(["--watch-interval", "50ms", "--output-dir"]).arg(&kept);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.find(|line| line.as_ref().unwrap().contains("VRAM GiB")).unwrap().unwrap();
    lines.next().unwrap().unwrap();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    lines.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(fs::read_to_string(kept.join("watch.csv")).unwrap().lines().count() > 1);
    assert!(fs::read_to_string(kept.join("check.json")).unwrap().contains("\"interrupted\": true"));
}

#[test]
fn a_reader_that_leaves_ends_the_watch_without_a_word() {
    let scene = scene(H100);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailcliff-gpu-probe"));
    command.arg("check").arg("--nvml-path").arg(&scene.library).args(["--no-copy", "--watch-seconds", "60"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("GPU 0"));
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

#[test]
fn what_cannot_be_kept_is_said_before_the_time_is_spent() {
    let scene = scene(H100);
    fs::write(scene.dir.path().join("file"), "").unwrap();
    let under_a_file = scene.dir.path().join("file/dir");
    let output = scene.run(&["--output-dir", under_a_file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--output-dir"), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr).matches("os error").count(), 1, "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "");
}

#[test]
fn flags_that_make_no_sense_are_refused() {
    for flags in [
        ["--watch-interval", "0ms"],
        ["--watch-interval", "11s"],
        ["--watch-seconds", "-1"],
        ["--colour", "x"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailcliff-gpu-probe"));
        let output = command.arg("check").args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
    }
}

#[test]
fn a_gpu_that_fell_off_the_bus_is_a_failed_check_and_the_other_is_still_tested() {
    let (report, code) = scene("gpus 2\nlost 0 0s\n").json();
    assert_eq!(code, Some(1));
    assert!(report["gpus"][0]["trouble"].as_str().unwrap().contains("fell off the bus"), "{report}");
    assert_eq!(report["gpus"][0]["copy_test"]["outcome"], "skipped");
    assert_eq!(report["gpus"][1]["copy_test"]["outcome"], "measured");
}
