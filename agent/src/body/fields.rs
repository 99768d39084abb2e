//! What every body of a level has beside its prompt, encoded once.

use serde_json::{Map, Value, json};
use tailcliff_proto::v1;

use super::BodyError;
use crate::target::{Endpoint, Target};

/// Keys by which servers take the longest answer.
const LENGTHS: [&str; 2] = ["max_tokens", "max_completion_tokens"];

/// The fields that do not change from request to request.
#[derive(Debug)]
pub(super) struct Fields {
    endpoint: Endpoint,
    /// `{"model":…,…`, not closed.
    all: Vec<u8>,
    /// The same without sampling: for bodies that bring their own.
    bare: Vec<u8>,
    /// The extra body brings the prompt.
    own_prompt: bool,
    /// The extra body says how long an answer may be; as a number, when it is one.
    own_length: Option<Option<u32>>,
}

impl Fields {
    pub(super) fn new(target: &Target, workload: &v1::Workload) -> Result<Fields, BodyError> {
        let mut bare = of_target(target);
        let mut all = bare.clone();
        of_workload(workload, &mut all)?;
        for fields in [&mut bare, &mut all] {
            fields.extend(target.extra_body().iter().map(|(k, v)| (k.clone(), v.clone())));
        }
        let endpoint = target.endpoint();
        Ok(Fields {
            endpoint,
            own_prompt: all.contains_key(prompt_key(endpoint)),
            own_length: own_length(target.extra_body()),
            all: open(&all)?,
            bare: open(&bare)?,
        })
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    pub(super) fn has_own_prompt(&self) -> bool {
        self.own_prompt
    }

    pub(super) fn bytes(&self) -> u64 {
        self.all.len() as u64 + 64
    }

    /// The longest answer that a body with this length asks for.
    pub(super) fn asked_tokens(&self, max_tokens: u32) -> Option<u32> {
        self.own_length.unwrap_or(Some(max_tokens).filter(|n| *n > 0))
    }

    /// Begins a body, up to where its prompt goes.
    pub(super) fn begin(&self, max_tokens: u32, capacity: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.all.len() + 64 + capacity);
        out.extend_from_slice(&self.all);
        if max_tokens > 0 && self.own_length.is_none() {
            out.extend_from_slice(b",\"max_tokens\":");
            out.extend_from_slice(max_tokens.to_string().as_bytes());
        }
        out
    }

    /// A body of the given JSON object, with the target's own fields before it.
    pub(super) fn around(&self, object: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bare.len() + object.len() + 1);
        out.extend_from_slice(&self.bare);
        out.push(b',');
        out.extend_from_slice(object.strip_prefix('{').unwrap_or(object).as_bytes());
        out
    }
}

fn own_length(extra: &Map<String, Value>) -> Option<Option<u32>> {
    let given = LENGTHS.iter().find_map(|key| extra.get(*key))?;
    Some(given.as_u64().and_then(|n| u32::try_from(n).ok()))
}

/// Where the prompt goes.
pub(super) fn prompt_key(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Chat => "messages",
        Endpoint::Completions => "prompt",
    }
}

/// An object that more fields can be written into. It has one already: `stream` is always there.
fn open(fields: &Map<String, Value>) -> Result<Vec<u8>, BodyError> {
    let mut text = serde_json::to_vec(fields)?;
    text.pop();
    Ok(text)
}

fn of_target(target: &Target) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut put = |key: &str, value: Value| fields.insert(key.to_owned(), value);
    if !target.model().is_empty() {
        put("model", json!(target.model()));
    }
    put("stream", json!(target.streaming()));
    if target.streaming() {
        put("stream_options", json!({"include_usage": true}));
    }
    fields
}

fn of_workload(workload: &v1::Workload, fields: &mut Map<String, Value>) -> Result<(), BodyError> {
    let sampling = workload.sampling.clone().unwrap_or_default();
    let numbers = [
        ("temperature", workload.temperature),
        ("top_p", sampling.top_p),
        ("min_p", sampling.min_p),
        ("frequency_penalty", sampling.frequency_penalty),
        ("presence_penalty", sampling.presence_penalty),
        ("repetition_penalty", sampling.repetition_penalty),
    ];
    for (key, value) in numbers {
        let Some(value) = value else { continue };
        let number = serde_json::Number::from_f64(value).ok_or(BodyError::NotANumber(key))?;
        fields.insert(key.to_owned(), Value::Number(number));
    }
    if let Some(top_k) = sampling.top_k {
        fields.insert("top_k".to_owned(), json!(top_k));
    }
    if !sampling.stop.is_empty() {
        fields.insert("stop".to_owned(), json!(sampling.stop));
    }
    if workload.ignore_eos {
        fields.insert("ignore_eos".to_owned(), json!(true));
    }
    Ok(())
}
