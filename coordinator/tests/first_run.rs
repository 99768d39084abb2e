//! What a newcomer types first: help, a plan, a first request, calculators, completions. Every class of a server that
//! cannot be used is told with what to try, and exits as README says.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const KEY: &str = "sk-do-not-print-me";

fn tailcliff(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailcliff"));
    command.args(args).env("OPENAI_API_KEY", KEY).env("COLUMNS", "80").output().unwrap()
}

fn said(args: &[&str]) -> String {
    let output = tailcliff(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(args: &[&str]) -> (i32, String) {
    let output = tailcliff(args);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!text.contains(KEY) && !text.contains("panicked"), "{text}");
    (output.status.code().unwrap(), text)
}

/// A server that gives the same two answers to everything: to its list of models, and to the rest.
fn server(models: &'static str, status: &'static str, answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut asked = vec![0; 1 << 16];
                while let Ok(n @ 1..) = stream.read(&mut asked) {
                    let is_list = asked[..n].starts_with(b"GET ");
                    let (status, body) = if is_list { ("200 OK", models) } else { (status, answer) };
                    let kind = "content-type: application/json";
                    let length = body.len();
                    if write!(stream, "HTTP/1.1 {status}\r\n{kind}\r\ncontent-length: {length}\r\n\r\n{body}")
                        .is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    address
}

const ONE: &str = r#"{"data":[{"id":"only"}]}"#;
const OK: &str = r#"{"choices":[{"message":{"content":"OK"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#;

#[test]
fn a_server_that_can_be_used_is_told_with_its_answer_and_latency() {
    let url = server(ONE, "200 OK", OK);
    let text = said(&["preflight", "--url", &url, "--no-streaming"]);
    assert!(text.starts_with("ok: ") && text.contains("\"OK\" in ") && text.contains("(only)"), "{text}");
    let json = said(&["preflight", "--url", &url, "--no-streaming", "--model", "only", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["ok"], &json["answer"], &json["model"]), (&true.into(), &"OK".into(), &"only".into()));
    assert!(json["latency_ms"].as_f64().unwrap() > 0.0 && json["error"].is_null(), "{json}");
}

#[test]
fn each_reason_that_a_server_cannot_be_used_says_what_to_try() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().map(|at| (silent, at.to_string())).unwrap();
    let no_key =
        server(r#"{"data":[]}"#, "401 Unauthorized", r#"{"error":{"message":"bad key sk-do-not-print-me"}}"#);
    let other = server(ONE, "200 OK", OK);
    let broken = server(r#"{"data":[]}"#, "500 Internal Server Error", "boom");
    let no_api = server("<html>", "200 OK", "<html>it works</html>");
    let tls = format!("https://{no_api}");
    for (url, timeout, says) in [
        (&closed, "5s", "is the server running"),
        (&"nobody.invalid:80".to_owned(), "5s", "check the host's name"),
        (&silent.1, "300ms", "preflight --timeout 60s"),
        (&no_key, "5s", "OPENAI_API_KEY"),
        (&other, "5s", "the server has no model \"m\": check --model; it has only"),
        (&broken, "5s", "see the server's log"),
        (&no_api, "5s", "OpenAI-compatible"),
        (&tls, "5s", "is it http:// after all?"),
    ] {
        let (code, text) =
            refused(&["preflight", "--url", url, "--model", "m", "--timeout", timeout, "--no-streaming"]);
        assert!(code == 3 && text.contains(says), "{url}: {code}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn a_server_of_many_models_is_not_guessed_at() {
    let url = server(r#"{"data":[{"id":"a"},{"id":"b\u001b[2J"}]}"#, "200 OK", OK);
    let (code, text) = refused(&["preflight", "--url", &url, "--no-streaming"]);
    assert!(code == 2 && text.contains("--model") && text.contains("a, b [2J"), "{code}: {text}");
    let (code, text) = refused(&["preflight"]);
    assert!(code == 2 && text.contains("--url"), "{text}");
}

#[test]
fn a_plan_that_is_printed_is_the_plan_that_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let plans = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/plans");
    let mut sweeps: Vec<Vec<String>> = std::fs::read_dir(plans)
        .unwrap()
        .map(|entry| vec!["--plan".to_owned(), entry.unwrap().path().to_str().unwrap().to_owned()])
        .collect();
    let typed = "--url h:1 --model m --request-rate 0.5,inf --num-prompts 7 --ramp 1500ms --stop a --stop b --metadata k=v --top-k -1 --seed 9";
    sweeps.push(typed.split(' ').map(str::to_owned).collect());
    assert!(sweeps.len() > 3);
    for sweep in sweeps {
        let flags: Vec<&str> = sweep.iter().map(String::as_str).collect();
        let yaml = said(&[&["plan"], &flags[..]].concat());
        let file = dir.path().join("plan.yaml");
        std::fs::write(&file, &yaml).unwrap();
        let again = said(&["plan", "--plan", file.to_str().unwrap()]);
        assert_eq!(yaml, again);
        let explained = |args: &[&str]| said(&[&["plan", "--explain", "--json"], args].concat());
        assert_eq!(explained(&flags), explained(&["--plan", file.to_str().unwrap()]), "{yaml}");
        let config = |args: &[&str]| {
            let cli = tailcliff::help::command()
                .try_get_matches_from([&["tailcliff", "plan"], args].concat())
                .unwrap();
            let cli = <tailcliff::args::Cli as clap::FromArgMatches>::from_arg_matches(&cli).unwrap();
            let tailcliff::args::Command::Plan(args) = cli.command else { panic!("no plan") };
            tailcliff::config::Config::from_args(args.sweep, None).unwrap().plan
        };
        assert_eq!(config(&flags), config(&["--plan", file.to_str().unwrap()]), "{yaml}");
    }
}

#[test]
fn a_plan_with_a_secret_is_not_printed_and_an_impossible_one_neither() {
    let to = ["plan", "--url", "h:1", "--model", "m"];
    let (code, text) = refused(&[&to[..], &["--header", "X-Api-Key: sk-do-not-print-me"]].concat());
    assert!(code == 2 && text.contains("--header") && text.contains("secret"), "{text}");
    let (code, text) = refused(&[&to[..], &["--concurrency", "4,2"]].concat());
    assert!(code == 2 && text.contains("try 2,4"), "{text}");
    let (code, text) = refused(&["plan", "--url", "h:1"]);
    assert!(code == 2 && text.contains("tailcliff preflight"), "{text}");
}

#[test]
fn calculators_print_the_documents_examples() {
    let text = said(&["kv", "--layers", "80", "--hidden", "8192", "--seq-len", "8192", "--bytes", "2"]);
    assert!(
        text.contains("8192 tokens: 20.0 GiB per user") && text.contains("20 users: 400.0 GiB"),
        "{text}"
    );
    assert!(text.contains("line of 80.0 GiB: the weights alone do not fit"), "{text}");
    assert!(text.contains("line of 141.0 GiB: not even one user fits"), "{text}");
    let text = said(&["weights"]);
    assert!(text.contains("130.4") && text.contains("65.2") && text.contains("not measured"), "{text}");
    let text = said(&["cost"]);
    assert!(text.contains("$2,400") && text.contains("$1,250") && text.contains("not measured"), "{text}");
    let json = said(&["kv", "--kv-heads", "8", "--head-dim", "128", "--line", "141", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (json["gib_per_user"].as_f64(), json["lines"][0]["first_user_over"].as_u64()),
        (Some(2.5), Some(5))
    );
}

#[test]
fn calculators_take_what_a_run_measured_and_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let level = |concurrency: u32| {
        serde_json::json!({
            "concurrency": concurrency, "completed": 50, "total_input_tokens": 50_000, "total_output_tokens": 1_200,
            "certificate": { "verdict": "ok" }, "voided": null, "outside": { "without_tokens": 0 }, "output_throughput": 100.0,
        })
    };
    let summary = serde_json::json!({
        "run": { "name": "a-run", "load": { "loop": "closed" } }, "levels": [level(4), level(8)], "knee": { "concurrency": 4 },
    });
    std::fs::write(dir.path().join("summary.json"), summary.to_string()).unwrap();
    let run = dir.path().to_str().unwrap();
    let text = said(&["cost", "--price", "20000", "--run", run, "--gpu-price-per-hour", "3.60"]);
    assert!(
        text.contains("$5,000") && text.contains("measured, load at the knee, concurrency 4 (knee)"),
        "{text}"
    );
    // $3.60 an hour is 0.1 cent a second, for 100 tokens: $10 a million.
    assert!(text.contains("$10.0000") && text.contains("$0.9000"), "{text}");
    let text = said(&["kv", "--run", run, "--layers", "64", "--hidden", "4096", "--bytes", "1"]);
    // 1,024 tokens each, 2 × 64 × 4096 bytes a token: 0.5 GiB a user.
    assert!(text.contains("1024 tokens: 512.0 MiB per user") && text.contains("over a-run"), "{text}");
    assert!(
        text.contains("2.00") && text.contains("4.00") && text.contains("concurrency 4 (knee)"),
        "{text}"
    );
    let (code, text) = refused(&["cost", "--price", "1", "--run", "nothing-here"]);
    assert!(code == 5 && text.contains("tailcliff merge"), "{code}: {text}");
    let (code, text) = refused(&["kv", "--config", run]);
    assert!(code == 5 && text.contains("config.json"), "{code}: {text}");
}

/// bash reads what is written for it; zsh and fish do where they are installed.
#[test]
fn shells_read_their_completions() {
    for (shell, check) in [("bash", &["-n"][..]), ("zsh", &["-n"]), ("fish", &["--no-execute"])] {
        let script = said(&["completions", shell]);
        for word in ["preflight", "concurrency", "gpu-price-per-hour"] {
            assert!(script.contains(word), "{word} for {shell}");
        }
        let started = Command::new(shell).args(check).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let Ok(mut child) = started else {
            assert_ne!(shell, "bash", "bash is needed for this test");
            continue;
        };
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // And it completes.
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("tailcliff.bash");
    std::fs::write(&script, said(&["completions", "bash"])).unwrap();
    let ask = "source \"$0\"; COMP_WORDS=(tailcliff pre); COMP_CWORD=1; _tailcliff tailcliff pre tailcliff; \
               echo \"${COMPREPLY[@]}\"";
    let output = Command::new("bash").args(["--norc", "-c", ask]).arg(&script).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "preflight",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn help_fits_a_screen_as_printed() {
    for args in [&["--help"][..], &["-h"], &["help"], &["run", "-h"]] {
        let text = said(args);
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(text.lines().count() <= 24 && widest <= 80, "{args:?}: {widest} wide:\n{text}");
    }
    assert_eq!(refused(&[]).0, 2);
    let (code, text) = refused(&["rnu"]);
    assert!(code == 2 && text.contains("'run'"), "{text}");
}

#[test]
fn an_inside_view_that_cannot_be_had_is_refused_before_anything_is_begun() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().map(|at| (taken, at.to_string())).unwrap();
    // Nobody's server and nobody's directory: it goes no further.
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let to = ["--url", "127.0.0.1:1", "--model", "m", "--output-dir", run.to_str().unwrap()];
    for (flags, code, says) in [
        (["--server-metrics", "ftp://x"], 2, "http://127.0.0.1:8000/metrics"),
        (["--server-metrics", "http://me:hush@h/metrics"], 2, "user and password"),
        (["--server-metrics-interval", "10ms"], 2, "100ms"),
        (["--otlp-listen", "nonsense"], 2, "HOST:PORT"),
        (["--otlp-listen", "192.0.2.1:4317"], 2, "an address of this host"),
        (["--otlp-listen", &taken.1], 6, "another port"),
    ] {
        for command in ["run", "coordinate"] {
            let (exit, text) = refused(&[&[command][..], &to, &flags].concat());
            assert_eq!(exit, code, "{command} {flags:?}: {text}");
            assert!(text.contains(says), "{command} {flags:?}: {text}");
        }
    }
    assert!(!run.exists());
}
