//! What a well-behaved client gets.

use model_sim::{Config, Outcome};
use serde_json::{Value, json};

use crate::client::*;

#[test]
fn a_chat_stream_has_the_recorded_shape() {
    let server = Server::start(quick());
    let answer = server.connect().post(CHAT, &chat(r#","stream_options":{"include_usage":true}"#));
    assert_eq!((answer.status, answer.cut), (200, false));
    assert_eq!(header(&answer.head, "content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(header(&answer.head, "transfer-encoding"), Some("chunked"));
    let events = answer.events();
    assert_eq!(events.len(), 1 + 5 + 1 + 1, "role, content, usage, [DONE]");
    let json: Vec<Value> = events[..7].iter().map(|e| serde_json::from_str(e).unwrap()).collect();
    assert_eq!(json[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert_eq!(json[1]["choices"][0]["delta"], json!({"content": " the"}));
    assert_eq!((&json[1]["id"], &json[1]["model"]), (&json!("chatcmpl-r1"), &json!("sim")));
    assert_eq!(json[4]["choices"][0]["finish_reason"], Value::Null);
    assert_eq!(json[5]["choices"][0]["finish_reason"], "length");
    assert_eq!(json[6]["choices"], json!([]));
    assert_eq!(json[6]["usage"], json!({"prompt_tokens": 3, "total_tokens": 8, "completion_tokens": 5}));
    assert_eq!(events[7], "[DONE]");
    let record = server.stop_one();
    assert_eq!(record.outcome, Outcome::Completed);
    assert_eq!((record.prompt_tokens, record.output_tokens, record.emissions.len()), (3, 5, 5));
    assert_eq!((record.request_id.as_deref(), record.status), (Some("r1"), Some(200)));
}

#[test]
fn a_completions_stream_counts_usage_as_it_goes() {
    let server = Server::start(quick());
    let body =
        r#"{"prompt":[7,8],"max_tokens":3,"stream":true,"stream_options":{"continuous_usage_stats":true}}"#;
    let answer = server.connect().post("/v1/completions", body);
    let events = answer.events();
    let done: Vec<Value> = events[..3].iter().map(|e| serde_json::from_str(e).unwrap()).collect();
    assert_eq!(done[0]["object"], "text_completion");
    assert_eq!(done[0]["choices"][0]["text"], " the");
    let counts: Vec<_> = done.iter().map(|e| e["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    assert_eq!(counts, [1, 2, 3]);
    assert_eq!(events[3..], ["[DONE]"], "no usage event unless asked for");
}

#[test]
fn both_endpoints_answer_whole() {
    let server = Server::start(quick());
    let mut client = server.connect();
    let body = r#"{"messages":[{"content":"a b"}],"max_tokens":2}"#;
    let chat = client.post(CHAT, body).json();
    assert_eq!(chat["object"], "chat.completion");
    assert_eq!(chat["choices"][0]["message"]["content"], " the load");
    assert_eq!(chat["usage"]["completion_tokens"], 2);
    let text = client.post("/v1/completions", r#"{"prompt":"a","max_tokens":1}"#).json();
    assert_eq!(text["choices"][0]["text"], " the");
    assert_eq!(text["choices"][0]["finish_reason"], "length");
    let truth = server.stop();
    assert_eq!(truth.records.iter().map(|r| r.emissions.len()).collect::<Vec<_>>(), [1, 1]);
    assert!(truth.records.iter().all(|r| r.connection == 0 && !r.stream), "one connection, kept alive");
}

#[test]
fn keeps_alive_pipelines_and_closes_when_asked() {
    let server = Server::start(quick());
    let mut client = server.connect();
    for _ in 0..3 {
        assert_eq!(client.post(CHAT, &chat("")).events().len(), 7);
    }
    client.send(post(CHAT, &chat(""), "") + &post(CHAT, &chat(""), "connection: close\r\n"));
    assert_eq!(client.answer().events().len(), 7);
    assert_eq!(client.answer().events().len(), 7);
    assert!(client.is_closed());
    assert_eq!(server.stop().records.len(), 5);
}

#[test]
fn health_and_models() {
    let server = Server::start(quick());
    let mut client = server.connect();
    assert_eq!(client.get("/health").status, 200);
    assert_eq!(client.get("/v1/models?x=1").json()["data"][0]["id"], "sim");
    assert_eq!(client.get("/nope").status, 404);
    assert_eq!(client.get(CHAT).status, 405);
    assert_eq!(client.post("/health", "").status, 405);
    assert_eq!(server.stop().total, 0, "only generation is logged");
}

#[test]
fn errors_are_worded_as_vllm_words_them() {
    let server = Server::start(Config { max_model_len: 100, ..quick() });
    let mut client = server.connect();
    let answer = client.post(CHAT, &chat("").replace("sim", "nope"));
    assert_eq!(answer.status, 404);
    let error = json!({"message": "The model `nope` does not exist.", "type": "NotFoundError", "param": "model", "code": 404});
    assert_eq!(answer.json()["error"], error);
    assert_eq!(client.post(CHAT, "{").json()["error"]["type"], "BadRequestError");
    let long = client.post("/v1/completions", r#"{"prompt":"a","max_tokens":5000}"#);
    assert_eq!((long.status, &long.json()["error"]["param"]), (400, &json!("max_tokens")));
    assert_eq!(client.post(CHAT, &chat("")).status, 200, "the connection outlives the errors");
    let outcomes: Vec<_> = server.stop().records.iter().map(|r| (r.outcome, r.status.unwrap())).collect();
    let (no, yes) = (Outcome::Rejected, Outcome::Completed);
    assert_eq!(outcomes, [(no, 404), (no, 400), (no, 400), (yes, 200)]);
}

#[test]
fn a_key_is_demanded_where_one_is_set() {
    let server = Server::start(Config { api_key: Some("s3cret".into()), ..quick() });
    let mut client = server.connect();
    assert_eq!(client.post(CHAT, &chat("")).status, 401);
    assert_eq!(client.get("/v1/models").status, 401);
    assert_eq!(client.get("/health").status, 200);
    client.send(post(CHAT, &chat(""), "authorization: Bearer wrong\r\n"));
    assert_eq!(client.answer().status, 401);
    client.send(post(CHAT, &chat(""), "Authorization: Bearer s3cret\r\n"));
    assert_eq!(client.answer().status, 200);
    assert!(!format!("{:?}", Config { api_key: Some("s3cret".into()), ..quick() }).contains("s3cret"));
}

#[test]
fn replies_end_early_by_the_seed_unless_told_not_to() {
    let lengths = |seed| {
        let server = Server::start(Config { eos_mean_tokens: Some(3), seed, ..quick() });
        let mut client = server.connect();
        let stopped: Vec<usize> = (0..12).map(|_| client.post(CHAT, &chat("")).content().0.len()).collect();
        let full = client.post(CHAT, &chat(r#","ignore_eos":true"#)).content().0.len();
        assert_eq!(full, 5);
        server.stop();
        stopped
    };
    let one = lengths(1);
    assert!(one.iter().all(|n| (1..=5).contains(n)) && one.iter().any(|n| *n < 5), "{one:?}");
    assert_eq!(one, lengths(1));
    assert_ne!(one, lengths(2));
}

#[test]
fn the_truth_log_is_a_file_of_json_lines() {
    let path = std::env::temp_dir().join(format!("model-sim-truth-{}.jsonl", std::process::id()));
    let server = Server::start(Config { truth_log: Some(path.clone()), ..quick() });
    let mut client = server.connect();
    (0..3).for_each(|_| drop(client.post(CHAT, &chat(""))));
    let truth = server.stop();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((lines.len(), truth.total, truth.lost), (3, 3, 0));
    assert_eq!(lines[0]["request_id"], "r1");
    assert_eq!(lines[0]["outcome"], "completed");
    assert_eq!(lines[2]["emissions"].as_array().unwrap().len(), 5);
}
