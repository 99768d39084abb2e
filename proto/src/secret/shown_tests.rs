//! What may be told of command lines, and what not. Every secret here is called hunter, or is a number that holds 123456.

use super::*;

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// Without a secret, and with all of `kept`.
fn assert_safe(shown: &str, kept: &[&str]) {
    assert!(!shown.contains("hunter") && !shown.contains("123456"), "{shown}");
    for word in kept {
        assert!(shown.contains(word), "{word}: {shown}");
    }
}

#[test]
fn a_command_line_is_shown_without_its_secrets() {
    let line = "vllm serve m --api-key hunter2 hunter3 --port 8000 --api-key=hunter4 --hf-token hunter5 \
                --max-num-batched-tokens 4096 --tokenizer /models/t --tokenizer-mode auto \
                --otlp http://me:hunter6@host:4317/x HF_TOKEN=hunter7 sk-hunter8hunter8hunter8 --password 123456 \
                --env=HF_TOKEN=hunter9 --otlp=https://h/x?api_key=hunter&b=1 --max-model-len 8k \
                --x=sk-hunter8hunter8hunter8 --y=1&http://me:hunter@auth.h:80/z --auth-tokens 123456";
    let kept = [
        "4096",
        "--tokenizer /models/t",
        "--tokenizer-mode auto",
        "--port 8000",
        "@host:4317/x",
        "--env=HF_TOKEN=(redacted) ",
        "?api_key=(redacted)&b=1 ",
        "--max-model-len 8k",
        "@auth.h:80/z",
    ];
    assert_safe(&redacted_words(&words(line)).join(" "), &kept);
}

#[test]
fn so_is_a_script() {
    let text =
        "pkill -x vllm; export VLLM_API_KEY='hunter 2'\nvllm serve m --api-key \"hunter 3\" --max-tokens 5 &";
    let shown = redacted_script(text);
    assert_safe(&shown, &[]);
    assert!(shown.starts_with("pkill -x vllm; export VLLM_API_KEY="), "{shown}");
    assert!(shown.ends_with("--max-tokens 5 &"), "{shown}");
    assert_eq!(redacted_script("a  b&&c"), "a  b&&c");
}

#[test]
fn quotes_hide_no_secret_from_this() {
    for (text, kept) in [
        (r#"ssh gpu "vllm serve m --api-key hunter2""#, &["ssh gpu \"vllm serve m --api-key "][..]),
        (
            r#"bash -c "HF_TOKEN=hunter2 vllm serve m --port 80""#,
            &["bash -c \"HF_TOKEN=(redacted) vllm", "80"],
        ),
        ("docker exec c sh -c 'vllm --api-key=hunter2 --port 80'", &["docker exec c sh -c '", "--port 80'"]),
        (
            r#"ssh gpu "bash -c \"vllm --api-key 'hunter hunter' --port 80\"""#,
            &["ssh gpu \"bash", "--port 80"],
        ),
        (r"ssh gpu vllm\ --api-key\ hunter2", &["ssh gpu"]),
        (r"ssh gpu --api-key hunter\ hunter", &["ssh gpu"]),
        ("vllm serve m \\\n  --api-key \\\n  hunter2 \\\n  --port 80", &["--port 80"]),
        ("# don't\nvllm --api-key 'hunter hunter' --port 80", &["\nvllm --api-key", "--port 80"]),
        ("CMD='vllm --api-key hunter2'; $CMD", &["CMD=vllm --api-key", "; $CMD"]),
        (r#"docker run -e "HF_TOKEN=hunter hunter" i"#, &["HF_TOKEN=(redacted)", " i"]),
        ("docker run --env=HF_TOKEN=hunter2 -eHF_TOKEN=hunter2 i", &["-eHF_TOKEN=(redacted) i"]),
        ("x=${HF_TOKEN:-hunter2} vllm", &[" vllm"]),
        ("vllm --password 123456 --max-num-seqs 16; echo ok", &["--max-num-seqs 16; echo ok"]),
        ("PASSWORD=123456 MAX_TOKENS=5 vllm", &["MAX_TOKENS=5 vllm"]),
        ("sshpass -p hunter2 ssh h; sshpass -phunter2 ssh h", &["; sshpass -p(redacted) ssh h"]),
        ("curl -u me:hunter2 h; docker run --user 10:10 i", &["-u me:", "--user 10:10 i"]),
        ("vllm --enable-auth --api-key -hunter2 --port 80", &["--port 80"]),
        ("vllm --api-key hunter2;echo ok", &["vllm --api-key"]),
    ] {
        assert_safe(&redacted_script(text), kept);
    }
}

#[test]
fn headers_and_objects_hold_secrets_too() {
    for (text, kept) in [
        (r#"curl -H "Authorization: Bearer hunter2" h"#, &["-H \"Authorization: (redacted)\" h"][..]),
        (r#"curl -H "X-Mine: Bearer hunter2" h"#, &["X-Mine: "]),
        ("curl -H 'Cookie: a=b; c=hunter2' --header='Cookie: a; hunter2' h", &["Cookie: (redacted)", " h"]),
        ("curl -H X-Api-Key:hunter2 -H 'X-Team: blue' h", &["X-Api-Key:", "'X-Team: blue' h"]),
        (r#"x --c '{"max_tokens":5,"api_key":"hunter2"}' y"#, &["\"max_tokens\":5", " y"]),
        (r#"x --c '{"num_tokens": 5, "api_key" : "hunter2"}' y"#, &["5, "]),
        (
            r#"python -c "import os; os.environ['HF_TOKEN'] = 'hunter2'; f(api_key='hunter2')""#,
            &["import os"],
        ),
        ("curl 'https://h/x?api_key=hunter2&v=1' h", &["https://h/x?api_key=(redacted)&v=1", " h"]),
    ] {
        assert_safe(&redacted_script(text), kept);
    }
}

#[test]
fn a_command_line_within_one_word_is_looked_into() {
    for text in ["vllm serve m --api-key hunter2 --port 80", "vllm HF_TOKEN=hunter;hunter --port 80"] {
        let all = ["sh", "-c", text].map(str::to_owned);
        assert_safe(&redacted_words(&all).join(" "), &["sh -c vllm", "--port 80"]);
        assert_safe(&redacted_words(&all[2..]).join(" "), &["vllm", "--port 80"]);
    }
}

#[test]
fn what_holds_no_secret_is_shown_as_it_is() {
    for text in [
        "if [ -f 'p' ]; then kill $(cat 'p'); fi; A=b 's' --listen 127.0.0.1:80 >/dev/null 2>&1 & echo $! > 'p'",
        r#"bash -c "a \"b c\" && d" --x='{"num_speculative_tokens":5,"model":"m"}'"#,
        "docker restart vllm -v /models:/models --url https://auth.h:443/x",
    ] {
        assert_eq!(redacted_script(text), text);
    }
}

#[test]
fn text_of_any_kind_ends() {
    let nested = (0..12).fold("x --api-key hunter2".to_owned(), |text, _| {
        format!("sh -c \"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
    });
    for text in
        [nested, "\\".repeat(5), "\"'".repeat(5000), "?key=hunter&".repeat(5000), "é=:ü://@".repeat(99)]
    {
        assert_safe(&redacted_script(&text), &[]);
        assert_safe(&redacted_words(&[text]).concat(), &[]);
    }
}
