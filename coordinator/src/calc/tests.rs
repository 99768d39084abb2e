//! The calculators against the documents' examples, known models, and what nobody should hand them.

use proptest::prelude::*;
use serde_json::json;

use super::kv::{Crossing, KvShape, crossing};
use super::*;

#[test]
fn the_documents_examples_come_out_exactly() {
    let shape = KvShape::classic(80, 8_192, 2.0);
    assert_eq!((shape.gib_per_user(8_192.0), shape.gib(20.0, 8_192.0)), (20.0, 400.0));
    let of_weights = |bytes| format!("{:.1}", weights::gib(70e9, bytes));
    assert_eq!((of_weights(2.0), of_weights(1.0)), ("130.4".to_owned(), "65.2".to_owned()));
    let per_user = |price_usd, users| cost::Card { price_usd, users }.usd_per_user();
    assert_eq!((per_user(12_000.0, 5.0), per_user(25_000.0, 20.0)), (Some(2_400.0), Some(1_250.0)));
    // 130 GiB of weights are over 80 GiB alone, and with one user's 20 GiB over 141.
    assert_eq!(
        (crossing(80.0, 130.0, 20.0), crossing(141.0, 130.0, 20.0)),
        (Crossing::Weights, Crossing::User(1))
    );
}

#[test]
fn exactly_at_a_line_is_not_over_it() {
    assert_eq!(crossing(80.0, 20.0, 20.0), Crossing::User(4));
    assert_eq!(
        (crossing(80.0, 80.0, 1.0), crossing(80.0, 80.1, 0.0)),
        (Crossing::User(1), Crossing::Weights)
    );
    assert_eq!((crossing(80.0, 0.0, 0.0), Crossing::Never.user()), (Crossing::Never, None));
    assert_eq!(Crossing::User(5).words(), "4 users fit, user 5 is the first over it");
}

#[test]
fn figures_are_written_for_people() {
    assert_eq!([0.0, 20.0, 0.5, 0.000_305].map(gib_words), ["0.0 GiB", "20.0 GiB", "512.0 MiB", "319.8 KiB"]);
    assert_eq!([2_400.0, 999.6, 1.5, 0.0].map(usd_words), ["$2,400", "$1,000", "$1.50", "$0.00"]);
    assert_eq!(["1", "123", "1234", "1234567"].map(grouped), ["1", "123", "1,234", "1,234,567"]);
}

#[test]
fn parameters_read_as_people_write_them() {
    for (text, params) in [("70B", 70e9), ("8.5b", 8.5e9), ("350M", 350e6), ("1.5T", 1.5e12), (" 12 ", 12.0)]
    {
        assert_eq!(weights::parse_params(text), Ok(params), "{text}");
    }
    for wrong in ["", "B", "lots", "-1B", "nan", "inf", "1e300B", "0"] {
        assert!(weights::parse_params(wrong).is_err(), "{wrong}");
    }
}

proptest! {
    #[test]
    fn the_first_user_over_a_line_is_over_it_and_the_one_before_is_not(
        line in 0.0f64..1e4, weights in 0.0f64..1e4, per_user in 1e-6f64..1e3,
    ) {
        let total = |user: u64| weights + user as f64 * per_user;
        match crossing(line, weights, per_user) {
            Crossing::Weights => prop_assert!(weights > line),
            Crossing::User(user) => {
                prop_assert!(user >= 1 && total(user) > line);
                prop_assert!(total(user - 1) <= line);
            }
            Crossing::Never => prop_assert!(false, "some user is over {line}"),
        }
    }

    #[test]
    fn a_cache_grows_with_each_of_its_factors_and_is_the_integer_product(
        layers in 1u64..200, heads in 1u64..128, dim in 1u64..256, tokens in 1u64..200_000, users in 1u64..1_000,
    ) {
        let exact = 2 * u128::from(layers) * u128::from(heads * dim) * u128::from(tokens) * u128::from(users) * 2;
        let gib = KvShape::grouped(layers, heads, dim, 2.0).gib(users as f64, tokens as f64);
        prop_assert!((gib * GIB / exact as f64 - 1.0).abs() < 1e-12);
        prop_assert_eq!(KvShape::grouped(layers, heads, dim, 2.0), KvShape::classic(layers, heads * dim, 2.0));
    }

    #[test]
    fn no_size_overflows(layers in 0u64.., hidden in 0u64.., window in 0u64.., tokens in 0.0f64..1e12, users in 0.0f64..1e12) {
        let shape = KvShape { windowed: Some((layers, window)), ..KvShape::classic(layers, hidden, 16.0) };
        prop_assert!(shape.gib(users, tokens).is_finite());
    }

    #[test]
    fn no_config_breaks_the_reader(text in "\\PC*", key in 0usize..8, value in any::<i64>(), float in any::<f64>()) {
        let _words = model::parse(&text);
        let keys = ["num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "sliding_window", "vocab_size", "kv_lora_rank"];
        for value in [json!(value), json!(float), json!(text), json!([value]), json!({ "a": value })] {
            let mut config = llama();
            config[keys[key]] = value;
            if let Ok(model) = model::parse(&config.to_string()) {
                prop_assert!(model.kv.gib(1e12, 1e12).is_finite());
                prop_assert!(model.params.is_none_or(|params| params.is_finite() && params > 0.0));
            }
        }
    }
}

/// Llama 3.1 8B.
fn llama() -> serde_json::Value {
    json!({
        "model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
        "intermediate_size": 14336, "vocab_size": 128256, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "max_position_embeddings": 131072,
    })
}

fn parse(config: &serde_json::Value) -> model::Model {
    model::parse(&config.to_string()).unwrap()
}

#[test]
fn known_models_have_the_parameters_that_they_are_known_for() {
    let with = |change: serde_json::Value| {
        let mut config = llama();
        config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        parse(&config).params
    };
    assert_eq!(parse(&llama()).params, Some(8_030_261_248.0));
    let big = json!({ "num_hidden_layers": 80, "hidden_size": 8192, "num_attention_heads": 64, "intermediate_size": 28672 });
    assert_eq!(with(big), Some(70_553_706_496.0));
    let mixtral = json!({ "model_type": "mixtral", "num_local_experts": 8, "vocab_size": 32000 });
    assert_eq!(with(mixtral), Some(46_702_792_704.0));
    let qwen2 = json!({
        "model_type": "qwen2", "num_hidden_layers": 28, "hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4,
        "intermediate_size": 18944, "vocab_size": 152064,
    });
    assert_eq!(with(qwen2), Some(7_615_616_512.0));
    let qwen3 = json!({
        "model_type": "qwen3", "num_hidden_layers": 36, "intermediate_size": 12288, "vocab_size": 151936, "head_dim": 128,
    });
    assert_eq!(with(qwen3), Some(8_190_735_360.0));
    assert_eq!(with(json!({ "model_type": "something_else" })), None);
}

#[test]
fn what_a_cache_keeps_is_read_from_heads_latents_and_windows() {
    let model = parse(&llama());
    assert_eq!((model.kv.clone(), model.max_tokens), (KvShape::grouped(32, 8, 128, 2.0), Some(131_072)));
    assert_eq!(model.kv.gib_per_user(8_192.0), 1.0);
    // DeepSeek V3: one latent of 512 + 64 values a token and layer, 61 layers, 70,272 bytes.
    let latent = json!({
        "num_hidden_layers": 61, "hidden_size": 7168, "num_attention_heads": 128, "num_key_value_heads": 128, "kv_lora_rank": 512,
        "qk_rope_head_dim": 64, "torch_dtype": "bfloat16", "num_nextn_predict_layers": 1,
    });
    let latent = parse(&latent);
    assert_eq!((latent.kv.gib_per_user(1.0) * GIB, latent.params), (70_272.0, None));
    assert!(latent.notes[0].contains("speculative"), "{:?}", latent.notes);
    // A language model within a multimodal one, with windows of 100 tokens in two of three layers.
    let nested = json!({
        "model_type": "outer", "torch_dtype": "bfloat16",
        "text_config": {
            "num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 4, "sliding_window": 100, "head_dim": 32,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
        "vision_config": { "num_hidden_layers": 99, "hidden_size": 1, "num_attention_heads": 1 },
    });
    let nested = parse(&nested).kv;
    assert_eq!((nested.layers, nested.windowed, nested.values_per_token), (1, Some((2, 100)), 256));
    assert_eq!(nested.gib_per_user(1_000.0) * GIB, (1_000.0 + 200.0) * 256.0 * 2.0);
}

#[test]
fn a_hostile_config_is_told_what_is_wrong() {
    let without = |key: &str| {
        let mut config = llama();
        config.as_object_mut().unwrap().remove(key);
        config
    };
    let with = |key: &str, value: serde_json::Value| {
        let mut config = llama();
        config[key] = value;
        config.to_string()
    };
    for (text, says) in [
        (String::new(), "not JSON at line 1"),
        ("[1]".to_owned(), "no object"),
        ("{}".to_owned(), "num_hidden_layers"),
        (without("hidden_size").to_string(), "--hidden"),
        (with("num_hidden_layers", json!(-3)), "num_hidden_layers is -3"),
        (with("num_hidden_layers", json!(1e300)), "no whole number"),
        (with("num_key_value_heads", json!(64)), "more than its 32 heads"),
        (with("hidden_size", json!(3)), "head_dim"),
        (with("layer_types", json!(["full_attention"])), "tells the type of 1"),
        (format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)), "not JSON"),
    ] {
        let told = model::parse(&text).unwrap_err();
        assert!(told.contains(says) && told.len() < 300, "{says}: {told}");
    }
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_owned(), dir.path().join("nothing"), "/dev/zero".into()] {
        let told = model::read(&path).unwrap_err().to_string();
        assert!(told.contains("failed to read"), "{told}");
    }
}

fn summary() -> serde_json::Value {
    let level = |concurrency: u32, verdict: &str, completed: u32| {
        json!({
            "concurrency": concurrency, "completed": completed, "total_input_tokens": 100 * completed, "total_output_tokens": 28 * completed,
            "certificate": { "verdict": verdict }, "voided": null, "outside": { "without_tokens": 0 },
            "output_throughput": f64::from(concurrency) * 10.0, "little": { "l": f64::from(concurrency) - 0.5 },
        })
    };
    json!({
        "run": { "name": "r", "load": { "loop": "closed" } },
        "levels": [level(1, "ok", 50), level(2, "ok", 50), level(4, "thin", 5), level(8, "ok", 50), level(16, "client-bound", 50), level(32, "ok", 0)],
        "knee": { "concurrency": 2 },
        "calculators": { "measured": { "gpus": [{ "name": "SIMULATED", "memory_gib": 80.0, "simulated": true }] } },
    })
}

#[test]
fn a_run_tells_its_users_by_slo_then_knee_then_highest_level() {
    let mut run = summary();
    let measured = measured::of_summary(&run);
    assert_eq!(measured.levels.iter().map(|l| l.load).collect::<Vec<_>>(), [1.0, 2.0, 8.0]);
    assert_eq!((measured.tokens_per_request(), measured.gpus.len()), (Some(128.0), 1));
    let capacity = measured.capacity().unwrap();
    assert_eq!((capacity.users, capacity.key, capacity.output_tokens_per_s), (2.0, "knee", Some(20.0)));
    // Between two levels the users are known, and the tokens per second are not.
    run["slo"] = json!({ "at": 3 });
    let capacity = measured::of_summary(&run).capacity().unwrap();
    assert_eq!((capacity.users, capacity.key, capacity.output_tokens_per_s), (3.0, "slo.at", None));
    (run["slo"], run["knee"]["concurrency"]) = (json!(null), json!(null));
    let capacity = measured::of_summary(&run).capacity().unwrap();
    assert!(
        capacity.users == 8.0 && capacity.words.starts_with("no knee was found: at least"),
        "{}",
        capacity.words
    );
}

#[test]
fn what_a_server_did_not_bear_is_no_capacity() {
    let mut run = summary();
    run["knee"] = json!(null);
    run["levels"][3]["error_rate"] = json!(0.05);
    assert_eq!(
        measured::of_summary(&run).capacity().unwrap().users,
        8.0,
        "one in twenty is within the bound"
    );
    run["levels"][3]["error_rate"] = json!(0.6);
    assert_eq!(measured::of_summary(&run).capacity().unwrap().users, 2.0);
    for role in ["overload", "recovery"] {
        let mut run = summary();
        run["knee"] = json!(null);
        run["levels"][0]["role"] = json!("baseline");
        (run["levels"][1]["role"], run["levels"][3]["role"]) = (json!(role), json!(role));
        assert_eq!(measured::of_summary(&run).capacity().unwrap().users, 1.0, "{role}");
    }
}

#[test]
fn an_open_loops_users_are_those_measured_in_flight() {
    let mut run = summary();
    run["run"]["load"]["loop"] = json!("open");
    run["knee"] = json!({ "request_rate": 4.0 });
    for (level, rate) in run["levels"].as_array_mut().unwrap().iter_mut().zip([2.0, 4.0, 8.0]) {
        (level["concurrency"], level["request_rate"]) = (json!(null), json!(rate));
    }
    let capacity = measured::of_summary(&run).capacity().unwrap();
    assert_eq!((capacity.users, capacity.key), (1.5, "knee"));
    assert!(capacity.words.contains("4 req/s, with 1.5 in flight"), "{}", capacity.words);
}

#[test]
fn a_run_that_says_nothing_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let told = |text: &str| {
        std::fs::write(dir.path().join("summary.json"), text).unwrap();
        measured::read(dir.path()).unwrap_err().to_string()
    };
    for (text, says) in [
        ("", "not JSON"),
        ("{\"levels\"", "not JSON"),
        ("[]", "no levels"),
        ("{\"levels\": 3}", "no levels"),
        ("{\"levels\": []}", "void, thin, client-bound"),
        ("{\"levels\": [null, {\"completed\": \"x\", \"certificate\": 3}]}", "void, thin, client-bound"),
    ] {
        assert!(told(text).contains(says), "{text}: {}", told(text));
    }
    assert!(measured::read(&dir.path().join("gone")).unwrap_err().to_string().contains("tailcliff merge"));
}
