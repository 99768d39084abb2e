//! A span of a request's truth.

use super::Parent;
use super::message::{KeyValue, Span, Status, Value};
use crate::clock::Wall;
use crate::truth::TruthRecord;

/// `SPAN_KIND_SERVER`.
const SERVER: i32 = 2;
/// Whether the parent is remote is known, and it is.
const REMOTE_KNOWN: u32 = 0x100;
const REMOTE: u32 = 0x200;

/// What vLLM says of a request that its engine finished; `None` of one that it did not.
pub(crate) fn span(
    record: &TruthRecord,
    parent: Option<Parent>,
    wall: &Wall,
    rng: &mut fastrand::Rng,
) -> Option<Span> {
    let ended_ns = record.span_ended_ns?;
    let attributes = attributes(record)?;
    let trace_id = parent.map_or_else(|| rng.u128(1..), |parent| parent.trace_id);
    let flags = if parent.is_some() { REMOTE_KNOWN | REMOTE } else { REMOTE_KNOWN };
    Some(Span {
        trace_id: trace_id.to_be_bytes().to_vec(),
        span_id: rng.u64(1..).to_be_bytes().to_vec(),
        parent_span_id: parent.map_or_else(Vec::new, |parent| parent.span_id.to_be_bytes().to_vec()),
        name: "llm_request".to_owned(),
        kind: SERVER,
        start_time_unix_nano: wall.unix_ns(record.arrived_ns),
        end_time_unix_nano: wall.unix_ns(ended_ns),
        attributes,
        status: Some(Status {}),
        flags,
    })
}

/// In vLLM's order.
fn attributes(record: &TruthRecord) -> Option<Vec<KeyValue>> {
    let times = record.engine_times()?;
    let seconds = |ns: i64| Value::Double(ns as f64 / 1e9);
    let count = |n: u64| Value::Int(i64::try_from(n).unwrap_or(i64::MAX));
    let named = [
        ("gen_ai.latency.time_to_first_token", seconds(times.ttft_ns)),
        ("gen_ai.latency.e2e", seconds(times.e2e_ns)),
        ("gen_ai.latency.time_in_queue", seconds(times.queue_ns)),
        ("gen_ai.usage.prompt_tokens", count(record.prompt_tokens)),
        ("gen_ai.usage.completion_tokens", count(record.output_tokens)),
        ("gen_ai.latency.time_in_model_prefill", seconds(times.prefill_ns)),
        ("gen_ai.latency.time_in_model_decode", seconds(times.decode_ns)),
        ("gen_ai.latency.time_in_model_inference", seconds(times.prefill_ns + times.decode_ns)),
        ("gen_ai.request.id", Value::String(request_id(record))),
        ("gen_ai.request.top_p", Value::Double(1.0)),
        ("gen_ai.request.max_tokens", count(record.max_tokens)),
        ("gen_ai.request.temperature", Value::Double(1.0)),
        ("gen_ai.request.n", Value::Int(1)),
    ];
    Some(named.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect())
}

fn request_id(record: &TruthRecord) -> String {
    let id = record.reply_id();
    if record.chat { format!("chatcmpl-{id}") } else { format!("cmpl-{id}-0") }
}

impl Span {
    /// Takes away all that could tell whose it is.
    pub(crate) fn strip_ids(&mut self) {
        self.trace_id.clear();
        self.span_id.clear();
        self.parent_span_id.clear();
        self.attributes.retain(|attribute| attribute.key != "gen_ai.request.id");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// From a real server; see the README beside it.
    const RECORDED: &str = include_str!("../../tests/fixtures/vllm-0.32-llm-request-span.json");

    pub(crate) fn finished() -> TruthRecord {
        let mut record = TruthRecord::new(0, 0, 1_000);
        record.request_id = Some("load-20".into());
        record.chat = true;
        record.enqueued_ns = Some(2_000);
        record.dequeued_ns = Some(5_000);
        record.first_token_ns = Some(9_000);
        record.first_out_ns = Some(9_500);
        record.last_token_ns = Some(20_000);
        record.last_out_ns = Some(21_000);
        record.span_ended_ns = Some(21_050);
        (record.prompt_tokens, record.output_tokens, record.max_tokens) = (18, 32, 32);
        record
    }

    fn wall() -> Wall {
        let pair = crate::clock::Pair { raw_ns: 0, unix_ns: 1_795_336_038_000_000_000 };
        Wall { from: pair, to: pair }
    }

    #[test]
    fn it_has_the_recorded_name_keys_and_types() {
        let recorded: serde_json::Value = serde_json::from_str(RECORDED).unwrap();
        let theirs: BTreeMap<String, String> = recorded["attributes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|a| {
                (
                    a["key"].as_str().unwrap().to_owned(),
                    a["value"].as_object().unwrap().keys().next().unwrap().clone(),
                )
            })
            .collect();
        let parent = Parent::parse("00-000000000000000000000000000003ed-0000000000000052-01");
        let span = span(&finished(), parent, &wall(), &mut fastrand::Rng::with_seed(1)).unwrap();
        let kind = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|v| v.value.as_ref()) {
            Some(Value::String(_)) => "stringValue",
            Some(Value::Int(_)) => "intValue",
            Some(Value::Double(_)) => "doubleValue",
            None => "none",
        };
        let ours: BTreeMap<String, String> =
            span.attributes.iter().map(|a| (a.key.clone(), kind(a).to_owned())).collect();
        assert_eq!(ours, theirs);
        assert_eq!((span.name.as_str(), recorded["name"].as_str()), ("llm_request", Some("llm_request")));
        assert_eq!(
            (u64::from(span.flags), recorded["kind"].as_str()),
            (recorded["flags"].as_u64().unwrap(), Some("SPAN_KIND_SERVER"))
        );
        assert_eq!((span.trace_id.len(), span.parent_span_id), (16, 0x52u64.to_be_bytes().to_vec()));
    }

    #[test]
    fn its_times_are_those_of_the_record_on_the_wall() {
        let span = span(&finished(), None, &wall(), &mut fastrand::Rng::with_seed(1)).unwrap();
        let start = span.start_time_unix_nano;
        assert_eq!((start, span.end_time_unix_nano - start), (1_795_336_038_000_001_000, 20_050));
        let value = |key: &str| {
            let found = span.attributes.iter().find(|a| a.key.ends_with(key)).unwrap();
            found.value.as_ref().unwrap().value.clone().unwrap()
        };
        let ns = |key: &str| match value(key) {
            Value::Double(s) => (s * 1e9).round() as i64,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            [ns("time_in_queue"), ns("prefill"), ns("decode"), ns("inference")],
            [3_000, 4_000, 11_000, 15_000]
        );
        assert_eq!([ns("time_to_first_token"), ns("e2e")], [8_500, 20_000]);
        assert_eq!(value("request.id"), Value::String("chatcmpl-load-20".into()));
        assert_eq!(request_id(&TruthRecord { chat: false, ..finished() }), "cmpl-load-20-0");
        assert_eq!((span.flags, span.parent_span_id.len()), (0x100, 0));
        assert!(span.trace_id != vec![0; 16] && span.span_id.len() == 8);
    }

    #[test]
    fn one_that_the_engine_did_not_finish_has_none() {
        let cut = TruthRecord { last_out_ns: None, span_ended_ns: None, ..finished() };
        assert!(span(&cut, None, &wall(), &mut fastrand::Rng::with_seed(1)).is_none());
    }
}
