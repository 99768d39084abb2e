//! Datasets and tokenizers as a person gives them: what is wrong is one line with the file and the line in it, before
//! any load; what is right reaches the server and the run's files.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::mpsc::{Receiver, Sender, channel};

use support::next_body;

const ANSWER: &str = r#"{"choices":[{"message":{"content":"as it said"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#;

fn tailcliff(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailcliff"));
    command.args(args).current_dir(dir).env_remove("OPENAI_API_KEY").env_remove("COLUMNS");
    command.output().unwrap()
}

/// A run that must be refused before anything is sent: nobody listens at that port.
fn refusal(dir: &Path, args: &[&str]) -> String {
    let output = tailcliff(dir, &[&["run", "--url", "127.0.0.1:9", "--model", "m"], args].concat());
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
    assert!(!text.contains("panicked") && text.lines().count() == 1, "{args:?}: {text}");
    assert!(!dir.join("runs").exists());
    text
}

/// A server that answers everything alike, and what it was asked.
fn server() -> (String, Receiver<serde_json::Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, heard) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let tell = tell.clone();
            std::thread::spawn(move || serve(stream, &tell));
        }
    });
    (address, heard)
}

fn serve(mut stream: TcpStream, tell: &Sender<serde_json::Value>) {
    let mut bytes = Vec::new();
    while let Some(body) = next_body(&mut stream, &mut bytes) {
        // The list of models has no body.
        if let Ok(body) = serde_json::from_slice(&body) {
            let _nobody = tell.send(body);
        }
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            ANSWER.len()
        );
        if stream.write_all(format!("{head}{ANSWER}").as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn what_is_wrong_with_a_dataset_is_one_line_and_exit_2() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write("broken.jsonl", b"{\"prompt\":\"a\"}\r\n{\"prompt\": oops}\r\n");
    write("latin1.jsonl", b"{\"prompt\":\"a\"}\n\n{\"prompt\":\"caf\xe9\"}\n");
    write("empty.jsonl", b"");
    write("torn.json", b"[{\"conversations\":[]},\n{\"conv");
    let file = |name, path| vec!["--dataset-name", name, "--dataset-path", path];
    for (args, says) in [
        (file("jsonl", "broken.jsonl"), "broken.jsonl line 2: not JSON"),
        (file("jsonl", "latin1.jsonl"), "latin1.jsonl line 3: not JSON"),
        (file("jsonl", "empty.jsonl"), "empty.jsonl holds no entry"),
        (file("sharegpt", "torn.json"), "torn.json line 2: not JSON"),
        (file("mooncake", "broken.jsonl"), "broken.jsonl line 1: it has no input_length"),
        (file("openai-batch", "broken.jsonl"), "broken.jsonl line 1: it has no custom_id"),
        (file("jsonl", "gone.jsonl"), "gone.jsonl"),
        (vec!["--dataset-name", "jsonl"], "--dataset-path"),
        (vec!["--dataset-path", "broken.jsonl"], "--dataset-name"),
        ([file("jsonl", "broken.jsonl"), vec!["--input-len", "9"]].concat(), "--input-len"),
        ([file("jsonl", "broken.jsonl"), vec!["--multi-turn"]].concat(), "--multi-turn"),
        ([file("openai-batch", "broken.jsonl"), vec!["--stop", "x"]].concat(), "--extra-body"),
        (vec!["--dataset-errors", "skip"], "--dataset-errors"),
        (vec!["--random-range-ratio", "1"], "--random-range-ratio"),
        (vec!["--num-turns", "3", "--endpoint-type", "completions"], "--endpoint-type chat"),
        (vec!["--prompt-label", "two\nlines"], "--prompt-label"),
        (vec!["--top-p", "1.5"], "--top-p"),
    ] {
        let line = refusal(dir.path(), &args);
        assert!(line.contains(says), "{args:?}: {line}");
    }
}

#[test]
fn a_tokenizer_that_does_not_load_is_one_line_and_exit_2() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), "{\"version\":\"1.0\"}").unwrap();
    std::fs::create_dir(dir.path().join("none")).unwrap();
    for (path, says) in [
        ("tokenizer.json", "failed to read the tokenizer"),
        (".", "failed to read the tokenizer"),
        ("none", "holds no tokenizer.json"),
        ("meta-llama/Llama-3.1-8B", "hf download meta-llama/Llama-3.1-8B tokenizer.json"),
        ("/nowhere/at/all.json", "is not there"),
    ] {
        let line = refusal(dir.path(), &["--tokenizer", path]);
        assert!(line.contains("--tokenizer") && line.contains(says), "{path}: {line}");
    }
}

#[test]
fn entries_reach_the_server_each_once_and_the_files_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let lines: String = (0..12)
        .map(|i| format!("{{\"prompt\":\"prompt {i}\",\"output_len\":{},\"label\":\"refusal\"}}\n", i + 1))
        .collect();
    std::fs::write(dir.path().join("d.jsonl"), lines + "oops\n").unwrap();
    let (url, heard) = server();
    let args = [
        "run",
        "--url",
        &url,
        "--model",
        "m",
        "--no-streaming",
        "--concurrency",
        "1,3",
        "--num-prompts",
        "6",
    ];
    let dataset = ["--dataset-name", "jsonl", "--dataset-path", "d.jsonl", "--dataset-errors", "skip"];
    let more = ["--top-k", "-1", "--stop", "END", "--output-dir", "out"];
    let output = tailcliff(dir.path(), &[&args[..], &dataset, &more].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("dataset d.jsonl: 12 entries") && said.contains("1 broken (line 13: not JSON"),
        "{said}"
    );
    let mut asked: Vec<(String, u64)> = heard
        .try_iter()
        .filter(|body| body["max_tokens"] != 4 || body["messages"][0]["content"] == "prompt 3")
        .map(|body| {
            assert_eq!(
                (&body["top_k"], &body["stop"]),
                (&serde_json::json!(-1), &serde_json::json!(["END"]))
            );
            (
                body["messages"][0]["content"].as_str().unwrap().to_owned(),
                body["max_tokens"].as_u64().unwrap(),
            )
        })
        .collect();
    asked.sort_by_key(|(_, tokens)| *tokens);
    let wanted: Vec<_> = (0..12).map(|i| (format!("prompt {i}"), i + 1)).collect();
    assert_eq!(asked, wanted, "two levels of six begin apart, so that twelve entries are sent once each");
    let read = |name: &str| std::fs::read_to_string(dir.path().join("out").join(name)).unwrap();
    let environment: serde_json::Value = serde_json::from_str(&read("environment.json")).unwrap();
    let file = &environment["dataset"]["file"];
    assert_eq!((&file["entries"], &file["broken_lines"]), (&12.into(), &1.into()));
    assert_eq!((&environment["input_len_unit"], &file["name"]), (&"words".into(), &"d.jsonl".into()));
    let summary: serde_json::Value = serde_json::from_str(&read("summary.json")).unwrap();
    assert_eq!(summary["run"]["dataset_skipped_lines"], 1);
    assert!(summary["warnings"].to_string().contains("broken lines of d.jsonl left out: 1"));
    assert!(!environment["missing"].to_string().contains("prompt_label"), "each entry has a label");
    let requests = read("requests.csv");
    assert!(
        requests
            .lines()
            .next()
            .unwrap()
            .ends_with(",label,entry,session,turn,asked_tokens,input_len,shard,control_pause_ms,server_prefill_ms,server_decode_ms,cached_tokens")
    );
    assert_eq!(requests.lines().filter(|row| row.contains(",refusal,")).count(), 12);
}

/// Knows the words of synthetic prompts by their letters alone, but for those that begin with one of these letters.
#[cfg(feature = "tokenizer")]
fn tokenizer() -> (serde_json::Value, impl Fn(&str) -> usize) {
    use tailcliff_proto::words::Alphabet;
    let alphabet = Alphabet::default();
    let known: Vec<String> =
        alphabet.words().filter(|w| w.starts_with(['b', 'c', 'd'])).map(str::to_owned).collect();
    let letters = ('a'..='z').flat_map(|c| [c.to_string(), format!("##{c}")]);
    let vocab: serde_json::Map<_, _> = letters
        .chain(known.clone())
        .chain(["[UNK]".to_owned()])
        .zip(0..)
        .map(|(w, id)| (w, id.into()))
        .collect();
    let file = serde_json::json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab}});
    // Counted here by another way than the tokenizer's own.
    let count = move |text: &str| {
        text.split(' ').map(|w| if known.iter().any(|k| k == w) { 1 } else { w.len() }).sum()
    };
    (file, count)
}

#[cfg(feature = "tokenizer")]
#[test]
fn with_a_tokenizer_synthetic_prompts_have_exactly_the_tokens_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (file, count) = tokenizer();
    std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
    let (url, heard) = server();
    let args =
        ["run", "--url", &url, "--model", "m", "--no-streaming", "--concurrency", "2", "--num-prompts", "20"];
    let asked = ["--input-len", "37", "--shared-prefix-len", "11", "--tokenizer", ".", "--output-dir", "out"];
    let output = tailcliff(dir.path(), &[&args[..], &asked].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let prompts: Vec<String> = heard
        .try_iter()
        .map(|body| body["messages"][0]["content"].as_str().unwrap().to_owned())
        .filter(|text| text != "Reply with only: OK")
        .collect();
    assert_eq!(prompts.len(), 20);
    assert!(prompts.iter().all(|text| count(text) == 48), "{prompts:?}");
    let environment = std::fs::read_to_string(dir.path().join("out/environment.json")).unwrap();
    let environment: serde_json::Value = serde_json::from_str(&environment).unwrap();
    assert_eq!(environment["input_len_unit"], "tokens");
}
