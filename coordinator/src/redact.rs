//! What of a command line and a plan may be stored: everything but the values whose names say that they are secret.

use serde_json::Value;
use tailcliff_proto::secret::is_secret;

/// Stands for a secret.
pub(crate) const REDACTED: &str = "(redacted)";

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

/// A command line as it may be stored.
pub(crate) fn redacted_command(words: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut before = String::new();
    let mut one = |word: String| {
        let split = word.split_once('=').filter(|(flag, _)| flag.starts_with("--"));
        let (flag, value) = split.map_or((before.as_str(), word.as_str()), |(flag, value)| (flag, value));
        let kept = match flag {
            "--header" => header(value),
            "--endpoint" => redacted_query(value),
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
    fn a_path_without_a_query_is_itself() {
        assert_eq!(redacted_query("/v1/chat/completions"), "/v1/chat/completions");
    }
}
