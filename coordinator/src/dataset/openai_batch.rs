//! The input of OpenAI's batch service: `custom_id`, `method`, `url`, `body`. A body is sent as it is, but for the model,
//! `stream` and `stream_options`, which are the run's, and what the user's extra body overrides.

use serde_json::{Map, Value};
use tailcliff_proto::v1::{self, turn::Content};

use super::{Flaw, Reading, broken, jsonl, label, name, object, positive, short, text, turn};

/// Of the run, whatever a body says.
const OURS: [&str; 3] = ["model", "stream", "stream_options"];

pub(super) fn entry(json: &[u8], reading: &Reading<'_>) -> Result<v1::Entry, Flaw> {
    let line = object(json)?;
    let custom_id = text(&line, "custom_id")?.ok_or_else(|| broken("it has no custom_id"))?;
    match text(&line, "method")? {
        Some("POST") => {}
        Some(other) => return Err(broken(format!("its method is {other:?}, not POST"))),
        None => return Err(broken("it has no method")),
    }
    let url = text(&line, "url")?.ok_or_else(|| broken("it has no url"))?;
    if !is_this_endpoint(reading.endpoint, url) {
        let endpoint = reading.endpoint;
        return Err(broken(format!(
            "its url is {url:?}, the run's endpoint {endpoint:?}: give --endpoint-type or --endpoint"
        )));
    }
    let body = match line.get("body") {
        Some(Value::Object(body)) => body,
        Some(other) => return Err(broken(format!("its body is {}, not an object", short(other)))),
        None => return Err(broken("it has no body")),
    };
    let length = prompt_length(body, reading)?;
    let asked = positive(body, &["max_completion_tokens", "max_tokens"])?;
    let mut sent = body.clone();
    let overridden = |key: &String| {
        OURS.contains(&key.as_str()) || reading.extra_body.is_some_and(|extra| extra.contains_key(key))
    };
    sent.retain(|key, _| !overridden(key));
    if sent.is_empty() {
        return Err(broken("its body asks for nothing"));
    }
    let turn = turn(Content::BodyJson(Value::Object(sent).to_string()), asked.unwrap_or(0), length);
    Ok(v1::Entry { turns: vec![turn], label: label(&line)?, session: name(custom_id), at_ns: None })
}

/// The run's path may have more before the usual one, where a proxy stands in between, and a query behind it.
fn is_this_endpoint(endpoint: &str, url: &str) -> bool {
    let path = endpoint.split('?').next().unwrap_or_default();
    url.starts_with('/') && path.ends_with(url.trim_end_matches('/'))
}

fn prompt_length(body: &Map<String, Value>, reading: &Reading<'_>) -> Result<u32, Flaw> {
    match (reading.chat, body.get("messages"), body.get("prompt")) {
        (true, Some(list), _) => jsonl::length(list, reading),
        (true, None, _) => Err(broken("its body has no messages")),
        (false, _, Some(Value::String(prompt))) => reading.length(prompt),
        (false, _, Some(_)) => Ok(0),
        (false, _, None) => Err(broken("its body has no prompt")),
    }
}
