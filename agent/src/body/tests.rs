//! Bodies as a server reads them.

use std::collections::HashSet;

use serde_json::{Value, json};
use tailcliff_proto::v1::turn::Content;

use super::*;

fn target(endpoint: v1::EndpointType, streaming: bool, extra: &str) -> Target {
    Target::parse(&v1::Target {
        base_url: "http://h:1".to_owned(),
        endpoint_type: endpoint as i32,
        model: "mo\"del".to_owned(),
        streaming,
        extra_body_json: extra.to_owned(),
        ..Default::default()
    })
    .unwrap()
}

fn workload(words: u32) -> v1::Workload {
    v1::Workload { input_words: words, max_tokens: 24, seed: 7, ..Default::default() }
}

fn chat(workload: &v1::Workload, extra: &str) -> Value {
    let bodies = Bodies::new(&target(v1::EndpointType::Chat, true, extra), workload, None).unwrap();
    serde_json::from_slice(&bodies.body(1, 2, 3)).unwrap()
}

fn prompt(body: &Value) -> String {
    body["messages"][0]["content"].as_str().unwrap().to_owned()
}

#[test]
fn a_length_in_characters_is_exact_and_recorded() {
    let target = target(v1::EndpointType::Chat, true, "");
    let asked = |chars| v1::Workload { input_chars: chars, ..workload(0) };
    for chars in [1, 200, 2_000] {
        let bodies = Bodies::new(&target, &asked(chars), None).unwrap();
        let prepared = bodies.prepare(3, 1, 4);
        let body: Value = serde_json::from_slice(&prepared.body).unwrap();
        assert_eq!(prompt(&body).chars().count(), chars as usize);
        assert_eq!(marked(&prepared).input_len, Some(chars));
        assert!(bodies.typical_bytes() >= u64::from(chars));
    }
    let error = |workload: &v1::Workload| Bodies::new(&target, workload, None).unwrap_err().to_string();
    let varying = v1::Synthetic { range_ratio: 0.5, ..Default::default() };
    assert!(error(&v1::Workload { synthetic: Some(varying), ..asked(200) }).contains("characters"));
    assert!(error(&asked(u32::MAX)).contains("more than"));
}

#[test]
fn a_chat_body_has_what_was_asked_for() {
    let body = chat(&workload(20), "");
    assert_eq!(prompt(&body).split(' ').count(), 20);
    let mut rest = body.as_object().unwrap().clone();
    rest.remove("messages");
    let expected = json!({"model": "mo\"del", "max_tokens": 24, "stream": true,
        "stream_options": {"include_usage": true}});
    assert_eq!(Value::Object(rest), expected);
    let asked = v1::Workload { temperature: Some(0.5), ignore_eos: true, ..workload(1) };
    let body = chat(&asked, "");
    assert_eq!((&body["temperature"], &body["ignore_eos"]), (&json!(0.5), &json!(true)));
}

#[test]
fn a_completions_body_has_a_prompt() {
    let target = target(v1::EndpointType::Completions, false, "");
    let body = Bodies::new(&target, &workload(5), None).unwrap().body(0, 0, 0);
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["prompt"].as_str().unwrap().split(' ').count(), 5);
    assert_eq!((&body["stream"], body.get("stream_options")), (&json!(false), None));
}

#[test]
fn a_fixed_prompt_is_sent_as_given() {
    let text = "Say \"é\"\nand\tstop \u{1}";
    let asked = v1::Workload { prompt: text.to_owned(), ..workload(0) };
    assert_eq!(prompt(&chat(&asked, "")), text);
}

#[test]
fn the_extra_body_wins() {
    let body = chat(&workload(3), r#"{"max_tokens": 1, "top_k": 5}"#);
    assert_eq!((&body["max_tokens"], &body["top_k"]), (&json!(1), &json!(5)));
    assert_eq!(prompt(&body).split(' ').count(), 3);
    let own = chat(&workload(0), r#"{"messages": [{"role": "system", "content": "x"}]}"#);
    assert_eq!(own["messages"], json!([{"role": "system", "content": "x"}]));
}

#[test]
fn every_prompt_differs_and_follows_from_the_seed() {
    let target = target(v1::EndpointType::Chat, true, "");
    let bodies = Bodies::new(&target, &workload(8), None).unwrap();
    let mut seen = HashSet::new();
    let mut first_words = HashSet::new();
    for (level, stream, request) in (0..40_000).map(|i| (i % 4, i / 4 % 10, u64::from(i / 40))) {
        let body = bodies.body(level, stream, request);
        let text = prompt(&serde_json::from_slice(&body).unwrap());
        first_words.insert(text.split(' ').next().unwrap().to_owned());
        assert!(seen.insert(body), "{level} {stream} {request} repeats");
    }
    assert_eq!(first_words.len(), 256);
    assert_eq!(bodies.body(3, 2, 1), Bodies::new(&target, &workload(8), None).unwrap().body(3, 2, 1));
    let reseeded = Bodies::new(&target, &v1::Workload { seed: 8, ..workload(8) }, None).unwrap();
    assert_ne!(bodies.body(3, 2, 1), reseeded.body(3, 2, 1));
}

#[test]
fn long_prompts_do_not_repeat_within() {
    let text = prompt(&chat(&workload(4096), ""));
    let words: Vec<&str> = text.split(' ').collect();
    let blocks: HashSet<&[&str]> = words.chunks(8).collect();
    assert_eq!((words.len(), blocks.len()), (4096, 512));
}

#[test]
fn mistaken_workloads_are_refused() {
    let error = |w: &v1::Workload| {
        Bodies::new(&target(v1::EndpointType::Chat, true, ""), w, None).unwrap_err().to_string()
    };
    assert!(error(&workload(0)).contains("neither a prompt nor input words"));
    assert!(error(&workload(u32::MAX)).contains("more than"));
    let nan = v1::Workload { temperature: Some(f64::NAN), ..workload(1) };
    assert!(error(&nan).contains("temperature"));
}

fn user(text: &str, answer: &str) -> v1::Turn {
    let content = Some(Content::User(text.to_owned()));
    v1::Turn { content, answer: answer.to_owned(), max_tokens: 9, input_len: 2, delay_ns: 5 }
}

fn single(text: &str) -> v1::Entry {
    v1::Entry { turns: vec![user(text, "")], ..Default::default() }
}

fn drawing(streams: u32) -> v1::Workload {
    let pick = v1::Pick { corpus_id: 1, streams, ..Default::default() };
    v1::Workload { pick: Some(pick), label: "normal".to_owned(), ..workload(0) }
}

fn of_entries(entries: Vec<v1::Entry>, streams: u32) -> Arc<Bodies> {
    let target = target(v1::EndpointType::Chat, true, "");
    Arc::new(Bodies::new(&target, &drawing(streams), Some(Corpus::of_entries(entries))).unwrap())
}

fn read(prepared: &Prepared) -> Value {
    serde_json::from_slice(&prepared.body).unwrap()
}

fn marked(prepared: &Prepared) -> v1::RequestRecord {
    let mut record = v1::RequestRecord::default();
    prepared.about.mark(&mut record);
    record
}

#[test]
fn sampling_is_sent_as_given_and_only_when_given() {
    let sampling = v1::Sampling {
        top_p: Some(0.5),
        top_k: Some(-1),
        repetition_penalty: Some(1.5),
        stop: vec!["\n".to_owned()],
        ..Default::default()
    };
    let body = chat(&v1::Workload { sampling: Some(sampling), ..workload(2) }, "");
    let sent = [&body["top_p"], &body["top_k"], &body["repetition_penalty"], &body["stop"]];
    assert_eq!(sent, [&json!(0.5), &json!(-1), &json!(1.5), &json!(["\n"])]);
    assert!(body.get("min_p").is_none() && body.get("presence_penalty").is_none());
}

#[test]
fn lengths_vary_within_the_ratio_and_the_record_says_what_was_asked() {
    let synthetic = v1::Synthetic { range_ratio: 0.25, ..Default::default() };
    let asked = v1::Workload { synthetic: Some(synthetic), max_tokens: 40, ..workload(20) };
    let bodies = Bodies::new(&target(v1::EndpointType::Chat, true, ""), &asked, None).unwrap();
    let (mut inputs, mut outputs) = (HashSet::new(), HashSet::new());
    for request in 0..2_000 {
        let prepared = bodies.prepare(0, 0, request);
        let (body, record) = (read(&prepared), marked(&prepared));
        let words = prompt(&body).split(' ').count() as u32;
        assert_eq!(
            (record.input_len, record.asked_tokens),
            (Some(words), body["max_tokens"].as_u64().map(|n| n as u32))
        );
        inputs.insert(words);
        outputs.insert(record.asked_tokens.unwrap());
    }
    assert_eq!(inputs, (15..=25).collect());
    assert_eq!(outputs, (30..=50).collect());
}

#[test]
fn groups_share_their_beginning_and_nothing_else() {
    let synthetic = v1::Synthetic { prefix_words: 30, prefixes: 3, ..Default::default() };
    let asked = v1::Workload { synthetic: Some(synthetic), ..workload(10) };
    let bodies = Bodies::new(&target(v1::EndpointType::Chat, true, ""), &asked, None).unwrap();
    let (mut begun, mut rest) = (HashSet::new(), HashSet::new());
    for (stream, request) in (0..300).map(|i| (i % 7, u64::from(i / 7))) {
        let prepared = bodies.prepare(1, stream, request);
        let text = prompt(&read(&prepared));
        let words: Vec<&str> = text.split(' ').collect();
        assert_eq!((words.len(), marked(&prepared).input_len), (40, Some(40)));
        begun.insert(words[..30].join(" "));
        assert!(rest.insert(words[30..].join(" ")));
    }
    assert_eq!(begun.len(), 3);
}

fn bodies_of_one_turn() -> Arc<Bodies> {
    of_entries(vec![single("x")], 1)
}

#[test]
fn a_session_carries_what_was_said_and_the_next_begins_anew() {
    let synthetic = v1::Synthetic { turns: 3, turn_delay_ns: 77, ..Default::default() };
    let asked = v1::Workload { synthetic: Some(synthetic), max_tokens: 6, ..workload(10) };
    let bodies = Arc::new(Bodies::new(&target(v1::EndpointType::Chat, true, ""), &asked, None).unwrap());
    let mut script = bodies.script(0, 4);
    let turns = [
        script.next(None),
        script.next(Some("as the \"server\" said")),
        script.next(None),
        script.next(None),
    ];
    let messages = turns.each_ref().map(|t| read(t)["messages"].as_array().unwrap().clone());
    assert_eq!(messages.each_ref().map(Vec::len), [1, 3, 5, 1]);
    assert_eq!(messages[1][..1], messages[0][..]);
    assert_eq!(messages[1][1], json!({"role": "assistant", "content": "as the \"server\" said"}));
    assert_eq!(messages[2][..3], messages[1][..]);
    let own = messages[2][3]["content"].as_str().unwrap();
    assert_eq!(own.split(' ').count(), 6, "without an answer, words of the length that was asked for");
    assert_ne!(messages[3][0], messages[0][0]);
    assert_eq!(turns.each_ref().map(|t| t.delay_ns), [0, 77, 77, 0]);
    assert_eq!(turns.each_ref().map(|t| marked(t).turn), [Some(0), Some(1), Some(2), Some(0)]);
    assert_eq!(turns.each_ref().map(|t| marked(t).session), ["4-0", "4-0", "4-0", "4-1"]);
    let mut again = bodies.script(0, 4);
    assert!(!again.is_mid_session());
    assert_eq!(again.next(None).body, turns[0].body);
    assert!(again.is_mid_session());
    let mut single = bodies_of_one_turn().script(0, 0);
    single.next(None);
    assert!(!single.is_mid_session());
    let plain = target(v1::EndpointType::Completions, true, "");
    assert!(matches!(Bodies::new(&plain, &asked, None), Err(BodyError::Conversation)));
}

#[test]
fn entries_are_sent_each_once_over_all_streams() {
    let texts: Vec<String> = (0..24).map(|i| format!("text {i} \"é\"")).collect();
    let bodies = of_entries(texts.iter().map(|t| single(t)).collect(), 4);
    let mut seen = HashSet::new();
    for stream in 0..4 {
        let mut script = bodies.script(0, stream);
        for _ in 0..6 {
            let prepared = script.next(Some("ignored"));
            let record = marked(&prepared);
            let text = prompt(&read(&prepared));
            assert_eq!(text, texts[record.entry.unwrap() as usize]);
            assert_eq!((record.label.as_str(), record.turn, record.asked_tokens), ("normal", None, Some(9)));
            assert!(seen.insert(text), "again before all were sent");
        }
    }
}

#[test]
fn requests_of_no_stream_go_through_the_dataset_by_their_number() {
    let entries: Vec<_> = (0..10).map(|i| single(&format!("text {i}"))).collect();
    let pick = v1::Pick { corpus_id: 1, streams: 1, sequential: true, first: 0 };
    let asked = v1::Workload { pick: Some(pick), ..workload(0) };
    let target = target(v1::EndpointType::Chat, true, "");
    let bodies = Bodies::new(&target, &asked, Some(Corpus::of_entries(entries))).unwrap();
    let sent: Vec<_> = (0..12).map(|n| marked(&bodies.prepare(0, 0, n)).entry.unwrap()).collect();
    assert_eq!(sent, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]);
    let words = Bodies::new(&target, &workload(8), None).unwrap();
    assert_ne!(words.prepare(0, 0, 1).body, words.prepare(0, 0, 2).body);
}

#[test]
fn a_conversation_of_the_dataset_has_its_own_answers_unless_the_server_gave_one() {
    let entry = v1::Entry {
        turns: vec![user("one", "own one"), user("two", "own two"), user("three", "")],
        label: "refusal".to_owned(),
        session: "s-1".to_owned(),
        at_ns: None,
    };
    let bodies = of_entries(vec![entry], 1);
    let mut script = bodies.script(0, 0);
    let turns = [script.next(None), script.next(None), script.next(Some("real"))];
    let said = |prepared: &Prepared| -> Vec<String> {
        let body = read(prepared);
        body["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["content"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(said(&turns[1]), ["one", "own one", "two"]);
    assert_eq!(said(&turns[2]), ["one", "own one", "two", "real", "three"]);
    let record = marked(&turns[2]);
    assert_eq!((record.label.as_str(), record.session.as_str(), record.turn), ("refusal", "s-1", Some(2)));
}

#[test]
fn whole_bodies_and_messages_are_sent_as_they_are() {
    let content = |content: Content| v1::Entry {
        turns: vec![v1::Turn { content: Some(content), max_tokens: 3, ..Default::default() }],
        ..Default::default()
    };
    let whole = content(Content::BodyJson(
        r#"{"messages":[{"role":"user","content":"x"}],"max_tokens":3}"#.to_owned(),
    ));
    let body = read(&of_entries(vec![whole], 1).prepare(0, 0, 0));
    let expected = json!({"model": "mo\"del", "stream": true, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "x"}], "max_tokens": 3});
    assert_eq!(body, expected);
    let list = r#"[{"role":"system","content":"be brief"},{"role":"user","content":"x"}]"#;
    let body = read(&of_entries(vec![content(Content::MessagesJson(list.to_owned()))], 1).prepare(0, 0, 0));
    assert_eq!((body["messages"].to_string(), &body["max_tokens"]), (list.to_owned(), &json!(3)));
}

#[test]
fn equal_ids_make_equal_blocks_at_equal_places() {
    let blocks = |ids: &[u64], words| v1::Entry {
        turns: vec![v1::Turn {
            content: Some(Content::Blocks(v1::Blocks { ids: ids.to_vec(), block_words: 8, words })),
            max_tokens: 1,
            ..Default::default()
        }],
        ..Default::default()
    };
    let entries = vec![blocks(&[5, 6, 7], 20), blocks(&[5, 6, 8], 24), blocks(&[6], 30), blocks(&[6], 30)];
    let bodies = of_entries(entries, 1);
    let mut texts = vec![String::new(); 4];
    for request in 0..4 {
        let prepared = bodies.prepare(0, 0, request);
        texts[marked(&prepared).entry.unwrap() as usize] = prompt(&read(&prepared));
    }
    let words: Vec<Vec<&str>> = texts.iter().map(|t| t.split(' ').collect()).collect();
    assert_eq!(words.iter().map(Vec::len).collect::<Vec<_>>(), [20, 24, 30, 30]);
    assert_eq!(words[0][..16], words[1][..16]);
    assert_ne!(words[0][16..20], words[1][16..20]);
    assert_eq!(words[0][8..16], words[2][..8]);
    assert_eq!(words[2][..8], words[3][..8]);
    assert_ne!(words[2][8..], words[3][8..], "what no id covers is unlike every other");
}

#[test]
fn a_corpus_that_is_not_here_or_does_not_fit_is_refused() {
    let chat = target(v1::EndpointType::Chat, true, "");
    let other = v1::Workload { pick: Some(v1::Pick { corpus_id: 2, ..Default::default() }), ..workload(5) };
    for corpus in [None, Some(Corpus::of_entries(vec![single("x")]))] {
        assert!(matches!(Bodies::new(&chat, &other, corpus), Err(BodyError::NoCorpus)));
    }
    let plain = target(v1::EndpointType::Completions, true, "");
    let talk = v1::Entry { turns: vec![user("a", "b"), user("c", "")], ..Default::default() };
    let refused = Bodies::new(&plain, &drawing(1), Some(Corpus::of_entries(vec![talk])));
    assert!(matches!(refused, Err(BodyError::Conversation)));
    let body =
        Bodies::new(&plain, &drawing(1), Some(Corpus::of_entries(vec![single("one prompt")]))).unwrap();
    let body: Value = serde_json::from_slice(&body.body(0, 0, 0)).unwrap();
    assert_eq!(body["prompt"], json!("one prompt"));
    // A corpus of a tokenizer alone leaves the prompts as they were.
    let words = v1::Workload { pick: drawing(1).pick, ..workload(5) };
    let body = Bodies::new(&chat, &words, Some(Corpus::of_entries(Vec::new()))).unwrap().body(0, 0, 0);
    assert_eq!(prompt(&serde_json::from_slice(&body).unwrap()).split(' ').count(), 5);
}

#[test]
fn absurd_synthetic_asks_are_refused() {
    let error = |synthetic: v1::Synthetic| {
        let asked = v1::Workload { synthetic: Some(synthetic), ..workload(9) };
        Bodies::new(&target(v1::EndpointType::Chat, true, ""), &asked, None).unwrap_err().to_string()
    };
    assert!(error(v1::Synthetic { range_ratio: f64::NAN, ..Default::default() }).contains("ratio"));
    assert!(error(v1::Synthetic { turns: u32::MAX, ..Default::default() }).contains("turns"));
    assert!(error(v1::Synthetic { prefix_words: u32::MAX, ..Default::default() }).contains("more than"));
    assert!(error(v1::Synthetic { words: vec!["a\"b".to_owned()], ..Default::default() }).contains("plain"));
}
