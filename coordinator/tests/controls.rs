//! Deliberate faults of the client, from the flag to the run's files.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use support::next_body;

const EVENTS: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"ab\"},\"finish_reason\":null}]}\n\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"cd\"},\"finish_reason\":\"stop\"}]}\n\n\
    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";

/// A server that answers each request at once, with two tokens.
fn server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    while next_body(&mut stream, &mut bytes).is_some() {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: ";
        std::thread::sleep(std::time::Duration::from_millis(5));
        if stream.write_all(format!("{head}{}\r\n\r\n{EVENTS}", EVENTS.len()).as_bytes()).is_err() {
            return;
        }
    }
}

/// Rows of a CSV file by column name; no cell here holds a comma.
fn rows(path: &Path) -> Vec<std::collections::HashMap<String, String>> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    let names: Vec<_> = lines.next().unwrap().split(',').map(str::to_owned).collect();
    lines.map(|line| names.iter().cloned().zip(line.split(',').map(str::to_owned)).collect()).collect()
}

#[test]
fn a_fake_stall_is_in_the_files_and_in_no_figure() {
    let dir = tempfile::tempdir().unwrap();
    let url = server();
    let args = "run --model m --concurrency 2 --duration 3s --control-pause 300ms --control-every 10 \
        --control-block 200ms --output-dir out --shards 1";
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailcliff"));
    command.args(args.split_whitespace()).args(["--url", &url]);
    let output = command.current_dir(dir.path()).env_remove("OPENAI_API_KEY").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let out = dir.path().join("out");
    let requests = rows(&out.join("requests.csv"));
    let number = |row: &std::collections::HashMap<String, String>, name: &str| row[name].parse::<f64>().ok();
    let paused: Vec<_> = requests.iter().filter(|row| !row["control_pause_ms"].is_empty()).collect();
    assert!(paused.len() >= 5 && paused.len() * 4 < requests.len(), "{} of {}", paused.len(), requests.len());
    for row in &paused {
        let pause = number(row, "control_pause_ms").unwrap();
        assert!(pause >= 299.0 || row["outcome"] != "completed", "{row:?}");
        assert!(row["outcome"] != "completed" || number(row, "ttft_ms").unwrap() >= pause, "{row:?}");
    }
    assert!(requests.iter().all(|row| row["shard"] == "0"));
    let summary: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("summary.json")).unwrap()).unwrap();
    let controls = &summary["run"]["controls"];
    assert_eq!(
        (&controls["pause_ms"], &controls["pause_one_in"], &controls["block_ms"]),
        (&300.0.into(), &10.into(), &200.0.into())
    );
    let level = &summary["levels"][0];
    let measured = paused.iter().filter(|row| row["phase"] == "measured").count();
    assert_eq!(level["control_requests"], measured);
    assert!(level["median_ttft_ms"].as_f64().unwrap() < 150.0, "{level}");
    assert!(level["mean_ttft_ms"].as_f64().unwrap() < 150.0, "{level}");
    let notes = level["certificate"]["notes"].to_string();
    assert!(!notes.contains("percentiles speak of"), "{notes}");
    let warnings = summary["warnings"].to_string();
    assert!(warnings.contains("one request in 10 is paused on purpose, for 300"), "{warnings}");
    assert!(warnings.contains("one event loop of each agent stands still on purpose, for 200"), "{warnings}");
}
