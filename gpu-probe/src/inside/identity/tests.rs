//! What servers tell of themselves, as they were recorded or as their sources have it, and what must not leave this host.

use serde_json::Value;
use tailcliff_proto::v1::ServerFacts;

use super::*;
use crate::inside::test_server::{Found, Reply, TestServer, ok};

const VLLM: &str = include_str!("../../../testdata/metrics/vllm-0.32-metrics.txt");
const LLAMA: &str = include_str!("../../../testdata/metrics/llama-cpp-metrics.txt");

fn asked(server: &TestServer, of: Option<Server>) -> ServerFacts {
    let endpoint = Endpoint::new(&server.metrics(), PATIENCE).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(ask(Some(&endpoint), None, of)).0
}

fn other<'a>(facts: &'a ServerFacts, name: &str) -> Option<&'a str> {
    facts.others.iter().find(|fact| fact.name == name).map(|fact| fact.value.as_str())
}

fn source<'a>(facts: &'a ServerFacts, what: &str) -> Option<&'a str> {
    facts.sources.iter().find_map(|source| source.strip_prefix(what)?.strip_prefix(": "))
}

fn missing() -> Reply {
    Reply::Says(404, String::new())
}

#[test]
fn vllm_is_known_by_what_it_tells() {
    let server = TestServer::new(|path| match path {
        "/metrics" => ok(VLLM),
        "/version" => ok(r#"{"version":"0.32.0"}"#),
        "/v1/models" => ok(r#"{"object":"list","data":[{"id":"tiny32","object":"model","owned_by":"vllm",
            "root":"/models/tiny","max_model_len":2048,"permission":[{"id":"modelperm-1"}]}]}"#),
        _ => missing(),
    });
    let facts = asked(&server, None);
    assert_eq!((facts.stack.as_str(), facts.version.as_str()), ("vllm", "0.32.0"));
    assert_eq!((&facts.models[..], facts.max_model_len), (&["tiny32".to_owned()][..], Some(2048)));
    assert_eq!((facts.kv_tokens, facts.prefix_caching), (Some(8192 * 128), Some(true)));
    assert_eq!((facts.spec_decoding.as_str(), facts.max_batch), ("off", None));
    assert_eq!((other(&facts, "block_size"), other(&facts, "num_gpu_blocks")), (Some("128"), Some("8192")));
    assert_eq!(other(&facts, "gpu_memory_utilization"), Some("0.92"));
    assert_eq!((source(&facts, "version"), other(&facts, "sliding_window")), (Some("/version"), None));
    assert!(source(&facts, "max_batch").is_some_and(|why| why.starts_with("unknown")), "{:?}", facts.sources);
    assert!(source(&facts, "command").is_some_and(|why| why.contains("--server-p")), "{:?}", facts.sources);
    // Others' paths are left alone.
    assert_eq!(["/props", "/get_server_info", "/server_info"].map(|path| server.asked(path)), [0; 3]);
}

#[test]
fn llama_cpp_is_known_by_what_it_tells() {
    // Recorded, but for what was left out of it.
    let props = r#"{"default_generation_settings":{"params":{"seed":1,"speculative.types":"none"},"n_ctx":1024},
        "total_slots":4,"model_alias":"gemma3-270m","model_ftype":"Q4_K - Medium","model_path":"/m/gemma.gguf",
        "endpoint_slots":true,"endpoint_metrics":true,"chat_template":"{%- x -%}","build_info":"b0-unknown"}"#;
    let models = r#"{"models":[],"object":"list","data":[{"id":"gemma3-270m","owned_by":"llamacpp","meta":{"n_ctx":1024,
        "n_ctx_train":32768,"n_params":268098176,"size":246587904,"ftype":"Q4_K - Medium"}}]}"#;
    let server = TestServer::new(move |path| match path {
        "/metrics" => ok(LLAMA),
        "/props" => ok(props),
        "/v1/models" => ok(models),
        _ => missing(),
    });
    let facts = asked(&server, None);
    assert_eq!((facts.stack.as_str(), facts.version.as_str()), ("llama.cpp", "b0-unknown"));
    assert_eq!((facts.max_batch, facts.max_model_len, facts.kv_tokens), (Some(4), Some(1024), None));
    assert_eq!((facts.spec_decoding.as_str(), other(&facts, "n_params")), ("off", Some("268098176")));
    assert_eq!((source(&facts, "max_batch"), other(&facts, "chat_template")), (Some("/props"), None));
}

#[test]
fn sglangs_keys_stay_where_they_are() {
    let info = r#"{"version":"0.5.4","model_path":"m","api_key":"hunter1","admin_api_key":"hunter2","host":"h",
        "max_running_requests":256,"max_total_num_tokens":161721,"context_length":8192,"disable_radix_cache":false,
        "speculative_algorithm":"EAGLE","tp_size":2,"dtype":"auto","dist_init_addr":"hunter3",
        "quantization":"sk-hunterhunterhunter","internal_states":[{"last_gen_throughput":1.0,"api_key":"hunter4"}]}"#;
    let server = TestServer::new(move |path| match path {
        "/metrics" => ok("sglang:num_running_reqs 1\n"),
        "/get_server_info" => ok(info),
        _ => missing(),
    });
    let facts = asked(&server, None);
    assert_eq!((facts.stack.as_str(), facts.version.as_str()), ("sglang", "0.5.4"));
    assert_eq!(
        (facts.max_batch, facts.kv_tokens, facts.max_model_len),
        (Some(256), Some(161_721), Some(8192))
    );
    assert_eq!((facts.spec_decoding.as_str(), facts.prefix_caching), ("EAGLE", Some(true)));
    assert_eq!((other(&facts, "tp_size"), other(&facts, "dtype")), (Some("2"), Some("auto")));
    assert!(!format!("{facts:?}").contains("hunter"), "{facts:?}");
}

#[test]
fn an_endpoint_that_asks_for_a_key_is_named() {
    let server = TestServer::new(|path| match path {
        "/metrics" => ok(VLLM),
        "/version" => ok("<html>"),
        _ => Reply::Says(401, r#"{"error":"Unauthorized"}"#.to_owned()),
    });
    let facts = asked(&server, None);
    assert_eq!(source(&facts, "/v1/models"), Some("unknown: HTTP 401 (asks for a key)"));
    assert_eq!(source(&facts, "/version"), Some("unknown: its answer is no JSON"));
    assert_eq!((facts.stack.as_str(), facts.models.len()), ("vllm", 0));
}

#[test]
fn a_server_that_writes_anothers_metrics_is_not_taken_for_it() {
    let server = TestServer::new(|path| match path {
        "/metrics" => ok(VLLM),
        "/version" => ok(r#"{"version":"model-sim 0.1.0"}"#),
        "/v1/models" => ok(r#"{"data":[{"id":"m","owned_by":"model-sim"}]}"#),
        _ => missing(),
    });
    let facts = asked(&server, None);
    assert_eq!((facts.stack.as_str(), facts.version.as_str()), ("model-sim", "model-sim 0.1.0"));
    assert_eq!((facts.kv_tokens, facts.spec_decoding.as_str()), (Some(8192 * 128), ""));
}

fn of_command(words: &str) -> ServerFacts {
    let mut facts = Facts::default();
    let command: Vec<String> = words.split(' ').map(str::to_owned).collect();
    facts.process(7, &command);
    flags::tell(&command, &mut facts);
    facts.done()
}

#[test]
fn launch_flags_are_read() {
    let facts = of_command(
        "/v/bin/python /v/bin/vllm serve m --max-num-seqs 64 --max_model_len=4096 --no-enable-prefix-caching \
         --speculative-config {\"method\":\"ngram\",\"num_speculative_tokens\":4} --api-key hunter2 --dtype bfloat16",
    );
    assert_eq!((facts.stack.as_str(), facts.max_batch, facts.max_model_len), ("vllm", Some(64), Some(4096)));
    assert_eq!((facts.prefix_caching, facts.spec_decoding.as_str()), (Some(false), "ngram"));
    assert_eq!((facts.pid, other(&facts, "dtype")), (Some(7), Some("bfloat16")));
    assert_eq!(source(&facts, "max_batch"), Some("--max-num-seqs of its command line"));
    let shown = format!("{facts:?}");
    assert!(!shown.contains("hunter") && facts.command.contains(&"--max-num-seqs".to_owned()), "{shown}");

    let facts = of_command("python -m sglang.launch_server --max-running-requests 32 --disable-radix-cache");
    assert_eq!(
        (facts.stack.as_str(), facts.max_batch, facts.prefix_caching),
        ("sglang", Some(32), Some(false))
    );
    let facts = of_command("/opt/llama-server -m x.gguf -np 4 -c 8192 -md d.gguf");
    assert_eq!((facts.stack.as_str(), facts.max_batch, facts.kv_tokens), ("llama.cpp", Some(4), Some(8192)));
    assert_eq!(facts.spec_decoding, "draft_model");
    // The model's own length, which nobody has told.
    assert_eq!(of_command("llama-server -m x.gguf -c 0").kv_tokens, None);
    let facts = of_command("/opt/vllm-env/bin/python server.py -c x -np");
    assert_eq!((facts.stack.as_str(), facts.max_batch, facts.kv_tokens), ("", None, None));
}

#[test]
fn facts_are_bounded_whatever_is_said() {
    let long = "x".repeat(4_000_000);
    let models: Vec<String> = (0..2000).map(|i| format!("{{\"id\":\"{i}{}\"}}", &long[..2000])).collect();
    let models = format!("{{\"data\":[{}]}}", models.join(","));
    let server = TestServer::new(move |path| match path {
        "/metrics" => ok(&format!("vllm:cache_config_info{{block_size=\"{}\"}} 1\n", &long[..9000])),
        "/v1/models" => ok(&models),
        "/version" => ok(&format!("{{\"version\":\"{long}\"}}")),
        _ => ok("[[[[]]]]"),
    });
    let facts = asked(&server, None);
    assert!(!facts.models.is_empty() && !facts.version.is_empty());
    let command = format!("vllm {}", "--x ".repeat(20_000) + &"y".repeat(100_000));
    for facts in [facts, of_command(&command)] {
        let bytes = prost_len(&facts);
        assert!(bytes < 64 << 10, "{bytes}");
    }
}

/// What it takes on the wire, roughly: all its strings.
fn prost_len(facts: &ServerFacts) -> usize {
    let others = facts.others.iter().map(|of| of.name.len() + of.value.len() + of.source.len() + 8);
    let lists = [&facts.models, &facts.command, &facts.sources];
    let words = lists.into_iter().flatten().map(|word| word.len() + 4);
    facts.version.len() + facts.stack.len() + others.sum::<usize>() + words.sum::<usize>()
}

#[test]
fn a_process_of_this_host_is_found_and_one_that_is_not_is_named() {
    let server = TestServer::new(|_| missing());
    let facts = asked(&server, Some(Server::Pid(std::process::id())));
    assert_eq!((facts.pid, facts.command.is_empty()), (Some(std::process::id()), false));
    let facts = asked(&server, Some(Server::Port(server.address.port())));
    assert_eq!(facts.pid, Some(std::process::id()));
    let facts = asked(&server, Some(Server::Pid(u32::MAX >> 2)));
    assert!(facts.pid.is_none() && source(&facts, "command").is_some_and(|why| why.contains("not there")));
}

/// Facts that were sent, until there are so many.
async fn sent(found: &mut Found, all: &mut Vec<ServerFacts>, until: usize) {
    let wait = async {
        while all.len() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
            all.extend(found.batches().into_iter().flat_map(|batch| batch.server_facts));
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), wait).await.is_ok(), "{all:?}");
}

#[test]
fn facts_are_sent_once_and_again_when_they_have_changed() {
    let of = |version: &'static str| {
        move |path: &str| match path {
            "/metrics" => ok(VLLM),
            "/version" => ok(&serde_json::json!({ "version": version }).to_string()),
            _ => missing(),
        }
    };
    let server = TestServer::new(of("1"));
    let inside = Inside { metrics: Some(server.metrics()), ..Inside::default() };
    let ((sink, mut found), again, shutdown) = (Found::new(), Notify::new(), CancellationToken::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let script = async {
        let mut all = Vec::new();
        sent(&mut found, &mut all, 1).await;
        // The same is not said twice, nor is a server that is gone without facts.
        let looks = |n: usize| {
            let (server, again) = (&server, &again);
            async move {
                while server.asked("/metrics") < n {
                    again.notify_one();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        };
        looks(3).await;
        server.answers(|_| Reply::Hangs);
        looks(6).await;
        server.answers(of("2"));
        looks(7).await;
        sent(&mut found, &mut all, 2).await;
        shutdown.cancel();
        all
    };
    let all = runtime
        .block_on(async { tokio::join!(look(&inside, &again, None, sink, shutdown.clone()), script).1 });
    let versions: Vec<&str> = all.iter().map(|facts| facts.version.as_str()).collect();
    assert_eq!(versions, ["1", "2"]);
    assert!(all[0].raw_ns > 0 && all[1].raw_ns > all[0].raw_ns);
}

#[test]
fn facts_that_find_no_room_are_tried_again_and_their_loss_is_told() {
    let server = TestServer::new(|path| if path == "/metrics" { ok(VLLM) } else { missing() });
    let inside = Inside { metrics: Some(server.metrics()), ..Inside::default() };
    let ((sink, mut found), again, shutdown) = (Found::within(0), Notify::new(), CancellationToken::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let script = async {
        let twice = async {
            while server.asked("/v1/models") < 2 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let sooner = tokio::time::timeout(AGAIN / 2, twice).await;
        shutdown.cancel();
        sooner
    };
    let both = async { tokio::join!(look(&inside, &again, None, sink, shutdown.clone()), script).1 };
    assert!(runtime.block_on(both).is_ok(), "sooner than what is known is looked at again");
    let told = found.told();
    assert!(told.len() == 1 && told[0].contains("found no room"), "{told:?}");
}

#[test]
fn hostile_json_is_no_fact() {
    let all = [
        "null",
        "[]",
        "1",
        "{\"data\":{}}",
        "{\"data\":[1,null]}",
        "{\"total_slots\":-1}",
        "{\"total_slots\":1e99}",
    ];
    for json in all.map(|text| serde_json::from_str::<Value>(text).unwrap()) {
        let mut facts = Facts::default();
        for (_, read) in told::PATHS.into_iter().chain([told::MODELS]) {
            read(&json, &mut facts);
        }
        let facts = facts.done();
        assert!(facts.stack.is_empty() && facts.max_batch.is_none() && facts.others.is_empty(), "{json}");
    }
}
