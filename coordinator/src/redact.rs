//! What of a command line and a plan may be stored: everything but the values whose names say that they are secret.

use serde_json::Value;
use tailcliff_proto::secret::is_secret;

pub(crate) use tailcliff_proto::secret::REDACTED;

/// A header as it may be stored.
pub(crate) fn redacted((name, value): (String, String)) -> (String, String) {
    let value = if is_secret(&name) { REDACTED.to_owned() } else { value };
    (name, value)
}

/// A path as it may be stored: secret parameters of its query left out.
pub(crate) fn redacted_query(path: &str) -> String {
    let Some((path, query)) = path.split_once('?') else { return path.to_owned() };
    let parameter = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}={REDACTED}"),
        _ => pair.to_owned(),
    };
    format!("{path}?{}", query.split('&').map(parameter).collect::<Vec<_>>().join("&"))
}

/// Names of the parameters that are left out of such a path.
pub(crate) fn secret_parameters(path: &str) -> Vec<String> {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    let names = query.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, _)| name);
    names.filter(|name| is_secret(name)).map(str::to_owned).collect()
}

/// Names of the strings that are left out of such JSON.
pub(crate) fn secret_fields(value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, value)| match value {
                Value::String(_) if is_secret(name) => vec![name.clone()],
                value => secret_fields(value),
            })
            .collect(),
        Value::Array(all) => all.iter().flat_map(secret_fields).collect(),
        _ => Vec::new(),
    }
}

/// JSON as it may be stored: secret strings left out, at any depth. A number is no secret: `max_tokens` stays.
pub(crate) fn redacted_json(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let field = |(name, value): (String, Value)| match value {
                Value::String(_) if is_secret(&name) => (name, Value::String(REDACTED.to_owned())),
                value => (name, redacted_json(value)),
            };
            Value::Object(fields.into_iter().map(field).collect())
        }
        Value::Array(all) => Value::Array(all.into_iter().map(redacted_json).collect()),
        value => value,
    }
}

/// A fact as it may be stored (`--metadata`): a secret is known by the fact's name, or by a flag of a server in its value.
pub(crate) fn redacted_fact((key, value): (String, String)) -> (String, String) {
    let value = if hides(&key, &value) { REDACTED.to_owned() } else { redacted_words(&value) };
    (key, value)
}

/// A value of this name is a secret. Tokenizers and numbers of tokens are none, and make up half of a server's flags.
fn hides(name: &str, value: &str) -> bool {
    let name = name.to_ascii_lowercase().replace("tokeniz", "");
    let is_count = name.contains("tokens") && value.parse::<f64>().is_ok();
    is_secret(&name) && !is_count
}

/// A text such as `vllm serve m --api-key sk-1` without what follows names of secrets, by `=`, by `: ` or as the next word.
fn redacted_words(text: &str) -> String {
    let (mut out, mut before, mut quote) = (String::new(), String::new(), None);
    for piece in text.split_inclusive(char::is_whitespace) {
        let word = piece.trim_end();
        let space = &piece[word.len()..];
        let is_flag = before.starts_with('-') && !word.starts_with("--") || before.ends_with(':');
        let kept = if let Some(open) = quote {
            // Of a secret of several words.
            quote = quote.filter(|_| !word.ends_with(open));
            String::new()
        } else if word.is_empty() {
            out.push_str(space);
            continue;
        } else if let Some((name, value)) = word.split_once('=').filter(|(name, value)| hides(name, value)) {
            quote = opened(value);
            format!("{name}={REDACTED}")
        } else if is_flag && hides(&before, word) {
            quote = opened(word);
            REDACTED.to_owned()
        } else {
            word.to_owned()
        };
        // The scheme of an authorization is not yet its secret.
        if !["bearer", "basic"].contains(&word.to_ascii_lowercase().as_str()) {
            before = word.trim_start_matches(['"', '\'', '(', '[']).to_owned();
        }
        out = out + &kept + space;
    }
    out
}

/// The quote that a value opens and does not close.
fn opened(value: &str) -> Option<char> {
    let quote = value.chars().next().filter(|c| ['"', '\''].contains(c))?;
    (value.len() == 1 || !value.ends_with(quote)).then_some(quote)
}

/// The same, as it was typed.
pub(crate) fn redacted_fact_text(text: &str) -> String {
    let Some((key, value)) = text.split_once('=') else { return redacted_words(text) };
    let (key, value) = redacted_fact((key.to_owned(), value.to_owned()));
    format!("{key}={value}")
}

/// A command line as it may be stored.
pub(crate) fn redacted_command(words: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut before = String::new();
    let mut one = |word: String| {
        let split = word.split_once('=').filter(|(flag, _)| flag.starts_with("--"));
        let (flag, value) = split.map_or((before.as_str(), word.as_str()), |(flag, value)| (flag, value));
        let kept = match flag {
            "--header" => header(value),
            "--endpoint" | "--server-metrics" => redacted_query(value),
            "--metadata" => redacted_fact_text(value),
            "--extra-body" => serde_json::from_str(value)
                .map_or_else(|_| REDACTED.to_owned(), |json| redacted_json(json).to_string()),
            _ => value.to_owned(),
        };
        let kept = if split.is_some() { format!("{flag}={kept}") } else { kept };
        before = word;
        kept
    };
    words.into_iter().map(&mut one).collect()
}

fn header(text: &str) -> String {
    match text.split_once(':') {
        Some((name, _)) if is_secret(name) => format!("{name}: {REDACTED}"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_keeps_all_but_its_secrets() {
        let words = [
            "tailcliff",
            "run",
            "--header",
            "X-Api-Key: hunter2",
            "--header=Cookie: hunter2",
            "--header",
            "X-Team: blue",
            "--endpoint=/v1/x?api-key=hunter2&api-version=3",
            "--server-metrics=http://h:1/metrics?token=hunter2",
            "--extra-body",
            r#"{"max_tokens":5,"deep":[{"access_token":"hunter2"}]}"#,
            "--extra-body={hunter2",
            "--metadata",
            "server=vllm",
        ];
        let command = redacted_command(words.map(str::to_owned));
        assert_eq!(command.len(), words.len());
        let line = command.join(" ");
        assert!(!line.contains("hunter"), "{line}");
        let deep = r#""access_token":"(redacted)""#;
        for kept in ["blue", "api-version=3", "max_tokens\":5", "server=vllm", "X-Api-Key: (redacted)", deep]
        {
            assert!(line.contains(kept), "{kept} in {line}");
        }
    }

    #[test]
    fn a_fact_keeps_all_but_its_secrets() {
        let fact = |key: &str, value: &str| redacted_fact((key.to_owned(), value.to_owned())).1;
        for (key, value) in [
            ("api_key", "hunter2"),
            ("HF_TOKEN", "hunter2"),
            ("server_flags", "--port 8000 --api-key hunter2 --dtype fp8"),
            ("server_flags", "vllm serve m --port 8000 --api-key=hunter2 --dtype fp8"),
            ("server_flags", "--port 8000 --hf-token\thunter2 --dtype fp8"),
            ("server_flags", "--port 8000 --api-key  'hunter2 hunter3' --dtype fp8"),
            ("server_flags", "--port 8000 --db-password=\"hunter2 hunter3\" --dtype fp8"),
            ("server_flags", "VLLM_API_KEY=hunter2 --port 8000 --dtype fp8"),
            ("server_flags", "--port 8000 -H \"Authorization: Bearer hunter2\" --dtype fp8"),
            ("server_flags", "--client-secret hunter2"),
        ] {
            let kept = fact(key, value);
            assert!(!kept.contains("hunter") && kept.contains(REDACTED), "{key}={value}: {kept}");
            for part in ["--port 8000", "--dtype fp8"].into_iter().filter(|part| value.contains(part)) {
                assert!(kept.contains(part), "{part}: {kept}");
            }
            assert_eq!(fact(key, &kept), kept, "again");
        }
        let flags = "--max-num-batched-tokens 8192 --tokenizer org/m --max-tokens=5 --enable-auth --port 1  \t--tokenizer-mode auto";
        for (key, value) in
            [("server_flags", flags), ("tokenizer", "org/m"), ("max_tokens", "512"), ("server", "")]
        {
            assert_eq!(fact(key, value), value);
        }
        let words = [
            "tailcliff",
            "run",
            "--metadata",
            "api_key=hunter2",
            "--metadata=flags=--api-key hunter2",
            "--metadata",
            "hunter=1",
        ];
        let kept = redacted_command(words.map(str::to_owned));
        let of_flag = format!("--metadata=flags=--api-key {REDACTED}");
        assert_eq!(
            kept[3..],
            [format!("api_key={REDACTED}"), of_flag, "--metadata".to_owned(), "hunter=1".to_owned()]
        );
    }

    #[test]
    fn a_path_without_a_query_is_itself() {
        assert_eq!(redacted_query("/v1/chat/completions"), "/v1/chat/completions");
    }
}
