//! The command as a person types it: every kind of bad input is one clear line and an exit code of its own, and leaves
//! nothing behind that looks like a run.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::mpsc::{Receiver, Sender, channel};

const KEY: &str = "sk-do-not-print-me";

fn tailcliff(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailcliff"));
    command.args(args).current_dir(dir).env("OPENAI_API_KEY", KEY).env_remove("COLUMNS");
    command.output().unwrap()
}

/// Exit code and the last line of standard error.
fn refusal(dir: &Path, args: &[&str]) -> (i32, String) {
    let output = tailcliff(dir, args);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!text.contains(KEY) && !text.contains("panicked"), "{text}");
    let line = text.lines().last().unwrap_or_default().to_owned();
    (output.status.code().unwrap(), line)
}

fn left_behind(dir: &Path) -> Vec<String> {
    let runs = std::fs::read_dir(dir.join("runs")).into_iter().flatten();
    runs.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// A server that gives one canned answer to everything.
fn canned(status: &'static str, body: &'static str) -> String {
    canned_heard(status, body).0
}

/// The same, with what it was sent.
fn canned_heard(status: &'static str, body: &'static str) -> (String, Receiver<String>) {
    server(move |_| (status, body))
}

/// A server that answers each request by what it says: status and body.
fn server(
    reply: impl Fn(&str) -> (&'static str, &'static str) + Copy + Send + 'static,
) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, heard) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let tell = tell.clone();
            std::thread::spawn(move || answer(stream, reply, &tell));
        }
    });
    (address, heard)
}

fn answer(
    mut stream: TcpStream,
    reply: impl Fn(&str) -> (&'static str, &'static str),
    tell: &Sender<String>,
) {
    let mut request = [0; 65_536];
    while let Ok(n @ 1..) = stream.read(&mut request) {
        let text = String::from_utf8_lossy(&request[..n]).into_owned();
        let (status, body) = reply(&text);
        // Most tests do not listen.
        let _nobody = tell.send(text);
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all(format!("{head}{body}").as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn wrong_flags_are_one_line_and_exit_2() {
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken.yaml");
    std::fs::write(&broken, "conurrency: [1, 2]\n").unwrap();
    let broken = broken.to_str().unwrap();
    for (args, says) in [
        (vec!["run", "--url", "h:1", "--model", "m", "--concurrency", "0,1"], "start at 1"),
        (vec!["run", "--url", "h:1", "--model", "m", "--concurrency", "4,2"], "try 2,4"),
        (
            vec!["run", "--url", "h:1", "--model", "m", "--request-rate", "2", "--concurrency", "2"],
            "--max-concurrency bounds",
        ),
        (
            vec![
                "run",
                "--url",
                "h:1",
                "--model",
                "m",
                "--request-rate",
                "2",
                "--ramp",
                "2s",
                "--warmup",
                "1s",
            ],
            "--ramp",
        ),
        (vec!["run", "--url", "h:1"], "--model"),
        (vec!["run", "--model", "m"], "--url"),
        (vec!["run", "--url", "h:1", "--model", "m", "--input-len", "0"], "--input-len"),
        (vec!["run", "--url", "h:1", "--model", "m", "--temperature", "nan"], "--temperature"),
        (vec!["coordinate", "--url", "h:1", "--model", "m", "--listen", "foo"], "an address of this host"),
        (vec!["run", "--plan", broken], "conurrency"),
        (vec!["run", "--plan", "not-there.yaml"], "not-there.yaml"),
        (vec!["coordinate", "--url", "h:1", "--model", "m", "--agents", "0"], "at least 1"),
    ] {
        let (code, line) = refusal(dir.path(), &args);
        assert_eq!(code, 2, "{args:?}: {line}");
        assert!(line.contains(says), "{args:?}: {line}");
    }
    for args in [
        vec!["run", "--concurrency", "one"],
        vec!["run", "--request-rate", "0"],
        vec!["run", "--duration", "soon"],
        vec!["fly"],
        vec![],
    ] {
        assert_eq!(tailcliff(dir.path(), &args).status.code(), Some(2), "{args:?}");
    }
    assert!(left_behind(dir.path()).is_empty());
}

#[test]
fn hosts_over_ssh_and_addresses_that_make_no_sense_exit_2() {
    let dir = tempfile::tempdir().unwrap();
    for (flags, says) in [
        (&["--ssh", "h1,h2", "--agents", "1"][..], "bad --agents"),
        (&["--ssh-probe", "h1", "--probes", "0"], "bad --probes"),
        (&["--ssh-dial", "h:7100"], "--ssh <HOST,…>"),
        (&["--ssh-command", "ssh -4"], "--ssh <HOST,…>"),
        (&["--ssh-node-arg=--shards"], "--ssh <HOST,…>"),
    ] {
        let args = [&["coordinate", "--url", "h:1", "--model", "m"], flags].concat();
        let output = tailcliff(dir.path(), &args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && text.contains(says), "{flags:?}: {text}");
    }
    let (code, line) = refusal(dir.path(), &["fetch", "--coordinator", "127.0.0.1"]);
    assert!(code == 2 && line.contains("HOST:PORT"), "{line}");
}

/// Its `ssh` is `false`, which ends as one that cannot connect does; the wait is long enough to tell the two apart.
#[test]
fn hosts_that_all_fail_are_named_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = ["--listen", "127.0.0.1:0", "--ssh", "h1,h2", "--ssh-dial", "h:1", "--ssh-command", "false"];
    let args = [&["coordinate", "--url", "h:1", "--model", "m", "--wait", "20s"][..], &fleet].concat();
    let (code, line) = refusal(dir.path(), &args);
    assert_eq!(code, 4, "{line}");
    assert!(["h1 with exit", "h2 with exit"].iter().all(|host| line.contains(host)), "{line}");
    assert!(!line.contains("start them"), "{line}");
    assert_eq!(left_behind(dir.path()), [""; 0]);
}

#[test]
fn a_target_that_cannot_be_used_exits_3_and_leaves_no_run() {
    let dir = tempfile::tempdir().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let no_model =
        canned("404 Not Found", r#"{"error":{"message":"The model `m` does not exist.","code":404}}"#);
    let no_key = canned("401 Unauthorized", r#"{"error":{"message":"Invalid API key sk-do-not-print-me"}}"#);
    let not_json = canned("200 OK", "<html>it works</html>");
    for (url, says) in [(&closed, "refused"), (&no_model, "m"), (&no_key, "OPENAI_API_KEY"), (&not_json, "")]
    {
        let (code, line) = refusal(dir.path(), &["run", "--url", url, "--model", "m", "--num-prompts", "16"]);
        assert_eq!(code, 3, "{line}");
        assert!(line.to_lowercase().contains(&says.to_lowercase()) && line.len() > 20, "{says}: {line}");
        assert!(left_behind(dir.path()).is_empty());
    }
}

#[test]
fn a_level_at_which_nothing_completed_exits_8_with_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let (url, _) = server(|request| match request.contains("Reply with only") {
        true => ("200 OK", r#"{"choices":[{"message":{"content":"OK"},"finish_reason":"stop"}]}"#),
        false => ("400 Bad Request", r#"{"error":{"message":"the prompt is too long"}}"#),
    });
    let args = ["run", "--url", &url, "--model", "m", "--concurrency", "2", "--num-prompts", "4"];
    let (code, line) = refusal(dir.path(), &[&args[..], &["--no-streaming", "--output-dir", "out"]].concat());
    assert_eq!(code, 8, "{line}");
    assert!(line.contains("no request completed at concurrency 2"), "{line}");
    let summary = std::fs::read_to_string(dir.path().join("out/summary.json")).unwrap();
    assert!(summary.contains("the prompt is too long") && !summary.contains("-0.0"), "{summary}");
}

#[test]
fn an_agent_that_never_comes_exits_4() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["coordinate", "--listen", "127.0.0.1:0", "--url", "h:1", "--model", "m", "--wait", "300ms"];
    let (code, line) = refusal(dir.path(), &args);
    assert_eq!(code, 4, "{line}");
    assert!(line.contains("0 of 1 agents") && line.contains("--wait"), "{line}");
    assert!(left_behind(dir.path()).is_empty());
}

#[test]
fn an_output_directory_that_cannot_be_written_exits_5() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    std::fs::create_dir(dir.path().join("used")).unwrap();
    std::fs::write(dir.path().join("used/journal.tcj"), "").unwrap();
    // The last is there, and no file can be made in it, not even by root.
    for (out, says) in
        [("file/run", "file/run"), ("used", "already holds a run"), ("/proc/self", "/proc/self")]
    {
        let (code, line) = refusal(dir.path(), &["run", "--url", "h:1", "--model", "m", "--output-dir", out]);
        assert_eq!(code, 5, "{line}");
        assert!(line.contains(says) && line.contains("--output-dir"), "{line}");
    }
    let (code, line) = refusal(dir.path(), &["merge", "nothing-here"]);
    assert_eq!(code, 5, "{line}");
    assert!(line.contains("nothing-here") && line.contains("the directory of a run"), "{line}");
}

#[test]
fn a_port_in_use_exits_6() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, line) =
        refusal(dir.path(), &["coordinate", "--listen", &address, "--url", "h:1", "--model", "m"]);
    assert_eq!(code, 6, "{line}");
    assert!(line.contains(&address) && line.contains("--listen"), "{line}");
    assert!(left_behind(dir.path()).is_empty());
}

#[test]
fn a_key_reaches_the_server_and_no_file_or_line() {
    let dir = tempfile::tempdir().unwrap();
    let answer = r#"{"choices":[{"message":{"content":"OK"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#;
    let (url, heard) = canned_heard("200 OK", answer);
    let args =
        ["run", "--url", &url, "--model", "m", "--concurrency", "2", "--num-prompts", "8", "--no-streaming"];
    let secret = [
        "--header",
        "X-Api-Key: sk-do-not-print-me-either",
        "--endpoint",
        "/v1/chat/completions?api-key=sk-do-not-print-me-too",
        "--extra-body",
        r#"{"api_key":"sk-do-not-print-me-neither"}"#,
        "--output-dir",
        "out",
    ];
    let output = tailcliff(dir.path(), &[&args[..], &secret[..]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let asked: Vec<String> = heard.try_iter().collect();
    for part in [
        "authorization: Bearer sk-do-not-print-me\r",
        "x-api-key: sk-do-not-print-me-either",
        "?api-key=sk-do-not-print-me-too",
        r#""api_key":"sk-do-not-print-me-neither""#,
    ] {
        let with = asked.iter().filter(|request| request.contains(part)).count();
        assert!(with >= 8, "{part} in {with} of {} requests", asked.len());
    }
    let mut seen = vec![output.stdout, output.stderr];
    for entry in std::fs::read_dir(dir.path().join("out")).unwrap() {
        seen.push(std::fs::read(entry.unwrap().path()).unwrap());
    }
    let beside = if cfg!(feature = "parquet") { tailcliff::export::PARQUET_FILES.len() } else { 0 };
    assert_eq!(seen.len(), 2 + tailcliff::outputs::FILES.len() + beside + 1, "the outputs and the journal");
    let holds = |bytes: &[u8]| bytes.windows(KEY.len()).any(|w| w == KEY.as_bytes());
    assert!(!seen.iter().any(|bytes| holds(bytes)));
    assert!(seen.iter().any(|bytes| bytes.windows(10).any(|w| w == b"(redacted)")));
    merging_again_gives_the_same_bytes(dir.path());
}

fn merging_again_gives_the_same_bytes(dir: &Path) {
    let files = || -> BTreeMap<OsString, Vec<u8>> {
        let entries = std::fs::read_dir(dir.join("out")).unwrap().map(Result::unwrap);
        entries.map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap())).collect()
    };
    let of_the_run = files();
    std::fs::remove_file(dir.join("out/summary.json")).unwrap();
    std::fs::write(dir.join("out/levels.csv"), "damaged").unwrap();
    assert!(tailcliff(dir, &["merge", "out"]).status.success());
    for (name, bytes) in files() {
        assert!(of_the_run[&name] == bytes, "{} differs", name.display());
    }
    assert_eq!(files().len(), of_the_run.len());
}
