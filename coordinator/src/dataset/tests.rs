//! Small files of each format, good and bad, and what is said of them.

use tailcliff_proto::v1::turn::Content;

use super::*;

fn reading(format: Format) -> Reading<'static> {
    Reading {
        format,
        chat: true,
        endpoint: "/v1/chat/completions",
        multi_turn: false,
        output_len: None,
        default_output_len: 128,
        limit: usize::MAX,
        most_bytes: MAX_CORPUS_BYTES,
        skip_broken: false,
        counter: None,
        extra_body: None,
    }
}

fn read_bytes(bytes: &[u8], reading: &Reading<'_>) -> Result<Dataset, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    std::fs::write(&path, bytes).unwrap();
    let in_dir = format!("{}/", dir.path().display());
    read(&path, reading).map_err(|e| e.to_string().replace(&in_dir, ""))
}

fn entries(text: &str, reading: &Reading<'_>) -> Vec<v1::Entry> {
    read_bytes(text.as_bytes(), reading).unwrap().entries
}

/// What each line is refused with, when it stands between two good ones.
fn refusals(format: Format, good: &str, cases: &[(&str, &str)]) {
    for (bad, says) in cases {
        let file = format!("{good}\r\n{bad}\n\n{good}\n");
        let error = read_bytes(file.as_bytes(), &reading(format)).unwrap_err();
        assert!(error.starts_with("data line 2: ") && error.contains(says), "{bad}: {error}");
        assert!(error.contains("--dataset-errors skip") && !error.contains('\n'), "{error}");
        let skipping = Reading { skip_broken: true, ..reading(format) };
        let dataset = read_bytes(file.as_bytes(), &skipping).unwrap();
        assert_eq!((dataset.entries.len(), dataset.broken, dataset.unfit), (2, 1, 0), "{bad}");
        assert!(dataset.examples[0].starts_with("line 2: ") && dataset.examples[0].contains(says));
    }
}

fn user(turn: &v1::Turn) -> &str {
    match &turn.content {
        Some(Content::User(text)) => text,
        other => panic!("{other:?} is no prompt"),
    }
}

#[test]
fn jsonl_prompts_and_messages() {
    let file = "\u{feff}{\"prompt\":\"say \\\"é\\\" now\",\"output_len\":7,\"label\":\"refusal\"}\r\n\
                {\"messages\":[{\"role\":\"system\",\"content\":\"a b\"},{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"c\"}]}],\"max_tokens\":3,\"session_id\":\"s\"}\n\
                {\"prompt\":\"plain\",\"whatever\":[1]}";
    let all = entries(file, &reading(Format::Jsonl));
    let first = &all[0].turns[0];
    assert_eq!((user(first), first.max_tokens, first.input_len), ("say \"é\" now", 7, 3));
    assert_eq!((all[0].label.as_str(), all[1].session.as_str()), ("refusal", "s"));
    let second = &all[1].turns[0];
    assert_eq!((second.max_tokens, second.input_len), (3, 3));
    let Some(Content::MessagesJson(json)) = &second.content else { panic!("no messages") };
    assert!(json.starts_with(r#"[{"role":"system","content":"a b"},"#), "{json}");
    assert_eq!(all[2].turns[0].max_tokens, 128);
    let asked = Reading { output_len: Some(9), ..reading(Format::Jsonl) };
    assert!(entries(file, &asked).iter().all(|entry| entry.turns[0].max_tokens == 9));
}

#[test]
fn broken_jsonl_lines_are_named() {
    let long = format!("{{\"prompt\":\"{}\"}}", "x".repeat(9 << 20));
    let cases = [
        ("{\"prompt\":", "not JSON: EOF while parsing a value at column 10"),
        ("[1]", "[1] is no JSON object"),
        ("{}", "neither prompt nor messages"),
        ("{\"prompt\":\"\"}", "its prompt is empty"),
        ("{\"prompt\":7}", "prompt is 7, not a text"),
        ("{\"prompt\":\"a\",\"messages\":[]}", "both prompt and messages"),
        ("{\"prompt\":\"a\",\"output_len\":0}", "output_len is 0"),
        ("{\"prompt\":\"a\",\"output_len\":\"7\"}", "not a number of 1 or more"),
        ("{\"prompt\":\"a\",\"label\":\"a\\nb\"}", "its label is no short word"),
        ("{\"messages\":[]}", "not a list of messages"),
        ("{\"messages\":[{\"content\":\"x\"}]}", "it has no role"),
        (long.as_str(), "more than the 8 MiB of a message"),
    ];
    refusals(Format::Jsonl, r#"{"prompt":"good"}"#, &cases);
    let completions = Reading { chat: false, ..reading(Format::Jsonl) };
    let error = read_bytes(br#"{"messages":[{"role":"user","content":"x"}]}"#, &completions).unwrap_err();
    assert!(error.contains("--endpoint-type chat"), "{error}");
}

#[test]
fn text_that_is_no_utf8_is_a_broken_line() {
    let file = b"{\"prompt\":\"a\"}\n{\"prompt\":\"\xff\xfe\"}\n";
    let error = read_bytes(file, &reading(Format::Jsonl)).unwrap_err();
    assert!(error.starts_with("data line 2: not JSON: invalid unicode"), "{error}");
    let skipping = Reading { skip_broken: true, ..reading(Format::Jsonl) };
    assert_eq!(read_bytes(file, &skipping).unwrap().broken, 1);
}

#[test]
fn files_with_nothing_to_send_are_refused() {
    for format in [Format::Jsonl, Format::ShareGpt, Format::OpenAiBatch, Format::Mooncake] {
        for empty in [&b""[..], b"\n\r\n", b"\xef\xbb\xbf"] {
            let error = read_bytes(empty, &reading(format)).unwrap_err();
            assert_eq!(error, "data holds no entry that can be sent");
        }
    }
    let skipping = Reading { skip_broken: true, ..reading(Format::Jsonl) };
    let error = read_bytes(b"oops\n", &skipping).unwrap_err();
    assert!(error.contains("1 lines were left out, line 1: not JSON"), "{error}");
    let missing = read(Path::new("/nowhere/data"), &skipping).unwrap_err().to_string();
    assert!(missing.contains("failed to read /nowhere/data"), "{missing}");
    assert!(read(Path::new("/"), &skipping).unwrap_err().to_string().contains("directory"));
}

#[test]
fn a_limit_ends_the_reading_before_what_is_broken() {
    let limited = Reading { limit: 2, ..reading(Format::Jsonl) };
    assert_eq!(entries("{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\noops", &limited).len(), 2);
}

const CONVERSATIONS: &str = r#"[
 {"id": "a1", "conversations": [
   {"from": "human", "value": "one two three"}, {"from": "gpt", "value": "four five"},
   {"from": "human", "value": "six"}, {"from": "gpt", "value": "seven eight nine ten"},
   {"from": "human", "value": "never answered"}]},
 {"id": "a2", "conversations": [{"from": "human", "value": "alone"}]},
 {"id": "a3", "conversations": [{"from": "system", "value": "s"}, {"from": "gpt", "value": "g"},
   {"from": "user", "value": "u"}, {"from": "assistant", "value": "v w"}]},
 {"id": "a4", "conversations": []}
]"#;

#[test]
fn sharegpt_gives_first_prompts_with_the_length_of_their_answers() {
    let dataset = read_bytes(CONVERSATIONS.as_bytes(), &reading(Format::ShareGpt)).unwrap();
    let told: Vec<_> = dataset
        .entries
        .iter()
        .map(|e| (e.session.as_str(), user(&e.turns[0]), e.turns[0].max_tokens))
        .collect();
    assert_eq!(told, [("a1", "one two three", 2), ("a3", "u", 2)]);
    assert!(dataset.entries.iter().all(|e| e.turns.len() == 1 && e.turns[0].answer.is_empty()));
    assert_eq!((dataset.broken, dataset.unfit), (0, 2), "conversations without a pair never stop a run");
    assert!(dataset.examples[0].starts_with("line 6: no prompt"), "{:?}", dataset.examples);
}

#[test]
fn sharegpt_gives_whole_conversations_by_flag() {
    let whole = Reading { multi_turn: true, ..reading(Format::ShareGpt) };
    let all = entries(CONVERSATIONS, &whole);
    let turns: Vec<_> = all[0].turns.iter().map(|t| (user(t), t.answer.as_str(), t.max_tokens)).collect();
    assert_eq!(turns, [("one two three", "four five", 2), ("six", "seven eight nine ten", 4)]);
    assert_eq!(all[1].turns.len(), 1);
    let lines = r#"{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}"#;
    assert_eq!(entries(&format!("{lines}\n{lines}\n"), &whole).len(), 2, "lines instead of an array");
}

#[test]
fn broken_conversations_are_named_and_a_torn_array_ends_it() {
    let good = r#"{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}"#;
    for (bad, says) in [
        ("{}", "no conversations"),
        (r#"{"conversations": 7}"#, "conversations is 7, not a list"),
        (r#"{"conversations": [7]}"#, "7 is no line of a conversation"),
        (r#"{"conversations": [{"from": "human"}]}"#, "no line of a conversation"),
        ("null", "null is no JSON object"),
    ] {
        let file = format!("[{good},\n{bad},\n{good}]");
        let error = read_bytes(file.as_bytes(), &reading(Format::ShareGpt)).unwrap_err();
        assert!(error.starts_with("data line 2: ") && error.contains(says), "{error}");
        let skipping = Reading { skip_broken: true, ..reading(Format::ShareGpt) };
        let dataset = read_bytes(file.as_bytes(), &skipping).unwrap();
        assert_eq!((dataset.entries.len(), dataset.broken), (2, 1));
    }
    let skipping = Reading { skip_broken: true, ..reading(Format::ShareGpt) };
    for torn in [format!("[{good},\n{{\"conv"), format!("[{good},\n")] {
        let error = read_bytes(torn.as_bytes(), &skipping).unwrap_err();
        assert!(error.starts_with("data line 2: ") && error.contains("cannot be told apart"), "{error}");
    }
}

const BATCH: &str = r#"{"custom_id":"r-1","method":"POST","url":"/v1/chat/completions","body":{"model":"other","stream":false,"messages":[{"role":"user","content":"a b c"}],"max_tokens":5,"seed":3}}"#;

#[test]
fn a_batch_body_is_kept_but_for_what_is_the_runs() {
    let extra = serde_json::from_str(r#"{"seed": 4}"#).unwrap();
    let reading = Reading {
        extra_body: Some(&extra),
        endpoint: "/proxy/v1/chat/completions?x=1",
        ..reading(Format::OpenAiBatch)
    };
    let all = entries(BATCH, &reading);
    let turn = &all[0].turns[0];
    let body = r#"{"messages":[{"role":"user","content":"a b c"}],"max_tokens":5}"#;
    assert_eq!(turn.content, Some(Content::BodyJson(body.to_owned())));
    assert_eq!((turn.max_tokens, turn.input_len, all[0].session.as_str()), (5, 3, "r-1"));
}

#[test]
fn broken_batch_lines_are_named() {
    let of = |from: &str, to: &str| BATCH.replace(from, to);
    let cases = [
        (of("\"custom_id\":\"r-1\",", ""), "no custom_id"),
        (of("POST", "GET"), "its method is \"GET\""),
        (of("/v1/chat/completions", "/v1/embeddings"), "its url is \"/v1/embeddings\""),
        (of("\"messages\"", "\"prompts\""), "no messages"),
        (of("\"max_tokens\":5", "\"max_tokens\":-5"), "max_tokens is -5"),
        (r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions"}"#.to_owned(), "no body"),
        (
            r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":[]}"#.to_owned(),
            "not an object",
        ),
    ];
    let cases: Vec<(&str, &str)> = cases.iter().map(|(bad, says)| (bad.as_str(), *says)).collect();
    refusals(Format::OpenAiBatch, BATCH, &cases);
}

#[test]
fn a_trace_goes_by_its_times_from_its_first() {
    let file = r#"{"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [7, 8]}
{"timestamp": 1000.5, "input_length": 512, "output_length": 6, "hash_ids": [7]}
{"timestamp": 2000, "input_length": 10, "output_length": 7, "session_id": "s"}
{"session_id": "s", "delay": 250, "input_length": 20, "output_length": 8, "hash_ids": [-1]}"#;
    let all = entries(file, &reading(Format::Mooncake));
    let at: Vec<_> = all.iter().map(|e| e.at_ns.unwrap()).collect();
    assert_eq!(at, [0, 999_500_000, 1_999_500_000]);
    let blocks =
        |ids: &[u64], words| Some(Content::Blocks(v1::Blocks { ids: ids.to_vec(), block_words: 512, words }));
    assert_eq!(all[0].turns[0].content, blocks(&[7], 512));
    assert_eq!(all[2].turns[0].content, blocks(&[7, 8], 600));
    assert_eq!((all[2].turns[0].max_tokens, all[2].turns[0].input_len), (5, 600));
    assert_eq!(all[1].turns.len(), 2, "a line with a delay continues its session");
    assert_eq!((all[1].turns[1].delay_ns, all[1].turns[1].max_tokens), (250_000_000, 8));
    assert_eq!(all[1].turns[1].content, blocks(&[u64::MAX], 20));
}

#[test]
fn broken_trace_lines_are_named() {
    let good = r#"{"timestamp":0,"input_length":5,"output_length":5,"hash_ids":[1]}"#;
    let cases = [
        (r#"{"input_length":5,"output_length":5}"#, "no timestamp"),
        (r#"{"timestamp":-1,"input_length":5,"output_length":5}"#, "timestamp is -1"),
        (r#"{"timestamp":1e300,"input_length":5,"output_length":5}"#, "not milliseconds of a week"),
        (r#"{"timestamp":0,"output_length":5}"#, "no input_length"),
        (r#"{"timestamp":0,"input_length":9000000,"output_length":5}"#, "beyond every model's"),
        (r#"{"timestamp":0,"input_length":5}"#, "no output_length"),
        (r#"{"timestamp":0,"input_length":5,"output_length":5,"hash_ids":[1,2]}"#, "2 hash_ids for 1 blocks"),
        (
            r#"{"timestamp":0,"input_length":5,"output_length":5,"hash_ids":["a"]}"#,
            "not a list of whole numbers",
        ),
    ];
    refusals(Format::Mooncake, good, &cases);
}

#[test]
fn too_much_says_how_much_would_fit() {
    let line = format!("{{\"prompt\":\"{}\"}}\n", "x".repeat(7_000));
    let small = Reading { most_bytes: 256_000, ..reading(Format::Jsonl) };
    let error = read_bytes(line.repeat(40).as_bytes(), &small).unwrap_err();
    assert!(error.contains("try --dataset-limit 36"), "{error}");
    assert_eq!(entries(&line.repeat(36), &small).len(), 36);
}
