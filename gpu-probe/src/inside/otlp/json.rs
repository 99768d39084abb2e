//! Reads an export in JSON: ids in hexadecimal, as OTLP has them, or in base64, as protobuf's own JSON has them (which is
//! what Python's `MessageToJson` writes); whole numbers as numbers or strings.
//! <https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use super::span::{Found, Seen, Service, Value};

/// Objects and lists in an export at most; a list of values will do for an object. Each may ask for up to two hundred bytes of
/// memory in the types below, where it takes two in the text; a real span has some thirty in two kilobytes.
const MOST_OBJECTS: usize = 150_000;

const ANY_PADDING: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why an export cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum JsonError {
    /// It is not what OTLP has.
    #[error("no OTLP in JSON")]
    Malformed(#[source] serde_json::Error),
    /// It would take too much memory.
    #[error("more than {MOST_OBJECTS} objects and lists in one export")]
    TooMany,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Export<'a> {
    #[serde(borrow, default, alias = "resource_spans")]
    resource_spans: Option<Vec<ResourceSpans<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    #[serde(borrow, default)]
    resource: Option<Resource<'a>>,
    #[serde(borrow, default, alias = "scope_spans")]
    scope_spans: Option<Vec<ScopeSpans<'a>>>,
}

#[derive(Deserialize)]
struct Resource<'a> {
    #[serde(borrow, default)]
    attributes: Option<Vec<KeyValue<'a>>>,
}

#[derive(Deserialize)]
struct ScopeSpans<'a> {
    #[serde(borrow, default)]
    spans: Option<Vec<Span<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Span<'a> {
    #[serde(borrow, default, alias = "trace_id")]
    trace_id: Text<'a>,
    #[serde(borrow, default, alias = "span_id")]
    span_id: Text<'a>,
    #[serde(borrow, default, alias = "parent_span_id")]
    parent_span_id: Text<'a>,
    #[serde(borrow, default)]
    name: Text<'a>,
    #[serde(default, alias = "start_time_unix_nano")]
    start_time_unix_nano: Number,
    #[serde(default, alias = "end_time_unix_nano")]
    end_time_unix_nano: Number,
    #[serde(borrow, default)]
    attributes: Option<Vec<KeyValue<'a>>>,
}

#[derive(Deserialize)]
struct KeyValue<'a> {
    #[serde(borrow, default)]
    key: Text<'a>,
    #[serde(borrow, default)]
    value: Option<AnyValue<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyValue<'a> {
    #[serde(borrow, default, alias = "string_value")]
    string_value: Option<Text<'a>>,
    #[serde(default, alias = "int_value")]
    int_value: Number,
    #[serde(default, alias = "double_value")]
    double_value: Number,
}

impl AnyValue<'_> {
    fn value(&self) -> Option<Value<'_>> {
        let text = self.string_value.as_ref().map(|text| Value::Text(&text.0));
        let number = match (self.int_value, self.double_value) {
            (Number::Nothing, Number::Nothing) => None,
            (Number::Nothing, number) | (number, _) => Some(match number {
                Number::Whole(whole) => Value::Int(i64::try_from(whole).unwrap_or(i64::MAX)),
                Number::Below(whole) => Value::Int(whole),
                Number::Double(double) => Value::Double(double),
                Number::Nothing => Value::Double(f64::NAN),
            }),
        };
        text.or(number)
    }
}

/// Text, borrowed where it has no escapes; null is none.
#[derive(Default)]
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(of: D) -> Result<Self, D::Error> {
        struct Seek;
        impl<'de> Visitor<'de> for Seek {
            type Value = Text<'de>;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("text")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            fn visit_unit<E: Error>(self) -> Result<Text<'de>, E> {
                Ok(Text::default())
            }
        }
        of.deserialize_any(Seek)
    }
}

/// A number, as such or in quotes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Number {
    #[default]
    Nothing,
    Whole(u64),
    Below(i64),
    Double(f64),
}

impl Number {
    /// As ns since the epoch; 0, as in protobuf, when there is none.
    fn unix_ns(self) -> u64 {
        match self {
            Self::Whole(ns) => ns,
            // Beyond 2^53 it is not exact, but it is all that was sent.
            Self::Double(ns) if ns > 0.0 => ns as u64,
            _ => 0,
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(of: D) -> Result<Self, D::Error> {
        struct Seek;
        impl Visitor<'_> for Seek {
            type Value = Number;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("a number, as such or in quotes")
            }

            fn visit_u64<E: Error>(self, whole: u64) -> Result<Number, E> {
                Ok(Number::Whole(whole))
            }

            fn visit_i64<E: Error>(self, whole: i64) -> Result<Number, E> {
                Ok(Number::Below(whole))
            }

            fn visit_f64<E: Error>(self, double: f64) -> Result<Number, E> {
                Ok(Number::Double(double))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Number, E> {
                let whole = text.parse().map(Number::Whole);
                let below = || text.parse().map(Number::Below);
                // "NaN" and "Infinity" are numbers here, and no times later.
                let double = || text.parse().map(Number::Double).map_err(E::custom);
                whole.or_else(|_| below()).or_else(|_| double())
            }

            fn visit_unit<E: Error>(self) -> Result<Number, E> {
                Ok(Number::Nothing)
            }
        }
        of.deserialize_any(Seek)
    }
}

/// An `ExportTraceServiceRequest`.
pub(super) fn export(text: &[u8], found: &mut Found) -> Result<(), JsonError> {
    if text.iter().filter(|byte| matches!(byte, b'{' | b'[')).count() > MOST_OBJECTS {
        return Err(JsonError::TooMany);
    }
    let export: Export<'_> = serde_json::from_slice(text).map_err(JsonError::Malformed)?;
    for of_resource in export.resource_spans.iter().flatten() {
        let from = found.spans.len();
        for span in of_resource.scope_spans.iter().flatten().flat_map(|scope| scope.spans.iter().flatten()) {
            take(span, found);
        }
        let mut service = Service::default();
        for pair in of_resource.resource.iter().flat_map(|resource| resource.attributes.iter().flatten()) {
            pair.take(|key, value| service.attribute(key, value));
        }
        found.of_service(from, service);
    }
    Ok(())
}

fn take(span: &Span<'_>, found: &mut Found) {
    let (mut trace_id, mut span_id, mut parent) = ([0; 16], [0; 8], [0; 8]);
    let mut seen = Seen {
        trace_id: id(&span.trace_id.0, &mut trace_id),
        span_id: id(&span.span_id.0, &mut span_id),
        parent_span_id: id(&span.parent_span_id.0, &mut parent),
        name: &span.name.0,
        start_unix_ns: span.start_time_unix_nano.unix_ns(),
        end_unix_ns: span.end_time_unix_nano.unix_ns(),
        ..Default::default()
    };
    for pair in span.attributes.iter().flatten() {
        pair.take(|key, value| seen.attribute(key, value));
    }
    found.take(&seen);
}

impl KeyValue<'_> {
    fn take<'s>(&'s self, with: impl FnOnce(&'s str, Value<'s>)) {
        if let Some(value) = self.value.as_ref().and_then(AnyValue::value) {
            with(&self.key.0, value);
        }
    }
}

/// The bytes of an id; their number tells how it is written. Empty where it is none.
fn id<'to>(text: &str, to: &'to mut [u8]) -> &'to [u8] {
    let read = if text.len() == 2 * to.len() {
        hex(text, to)
    } else {
        ANY_PADDING.decode_slice(text, to).is_ok_and(|len| len == to.len())
    };
    if read { to } else { &[] }
}

/// True when it was that and no more.
fn hex(text: &str, to: &mut [u8]) -> bool {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let pairs = text.as_bytes().chunks_exact(2);
    pairs.zip(to).all(|(pair, byte)| match (digit(pair[0]), digit(pair[1])) {
        (Some(high), Some(low)) => {
            *byte = high << 4 | low;
            true
        }
        _ => false,
    })
}
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::span::Came;
    use super::*;

    const RECORDED: &str = include_str!("../../../tests/fixtures/vllm-0.32-otlp-spans.jsonl");

    fn found(text: &str) -> Result<Found, JsonError> {
        let mut found = Found::new(Came::default(), 1_000);
        export(text.as_bytes(), &mut found).map(|()| found)
    }

    #[test]
    fn what_vllm_exported_is_read_whole() {
        let exports: Vec<Found> = RECORDED.lines().map(|line| found(line).unwrap()).collect();
        let names = RECORDED.matches("\"spanId\"").count() as u64;
        assert_eq!(exports.iter().map(|found| found.received).sum::<u64>(), names);
        assert_eq!(exports.iter().map(Found::left_out).sum::<u64>(), 0);
        let spans: Vec<_> = exports.into_iter().flat_map(|found| found.spans).collect();
        assert!(spans.iter().all(|span| span.service.starts_with("vllm ") && span.service.len() > 30));
        assert!(spans.iter().any(|span| span.name == "Load weights"), "those of its start are kept");
        let requests: Vec<_> = spans.iter().filter(|span| span.name == "llm_request").collect();
        assert_eq!(requests.len(), 31);
        assert!(requests.iter().any(|span| span.request_id == "cmpl-8f8b2abb4957f982-0"));
        assert!(requests.iter().all(|span| span.trace_id.len() == 16 && span.span_id.len() == 8));
        for span in requests.iter().filter(|span| span.request_id.contains("-req-")) {
            // Sent as 0x3e8 + the number of the request.
            let number: u8 = span.request_id.strip_prefix("chatcmpl-req-").unwrap().parse().unwrap();
            assert_eq!(span.trace_id[..14], [0; 14]);
            assert_eq!(u16::from_be_bytes([span.trace_id[14], span.trace_id[15]]), 1_000 + u16::from(number));
            assert_eq!((span.span_id.len(), span.parent_span_id.len()), (8, 8));
            assert_eq!((span.prompt_tokens, span.output_tokens), (Some(17), Some(16)));
            let whole = (span.end_unix_ns - span.start_unix_ns) as i64;
            let parts = span.queue_ns.unwrap() + span.prefill_ns.unwrap() + span.decode_ns.unwrap();
            assert!(parts > 0 && parts < span.e2e_ns.unwrap() && span.e2e_ns.unwrap() < whole);
            assert!(span.ttft_ns.unwrap() > span.queue_ns.unwrap() + span.prefill_ns.unwrap());
        }
    }

    #[test]
    fn ids_are_hexadecimal_or_base64_and_numbers_plain_or_quoted() {
        let span = |trace: &str, of: &str| {
            let text = format!(
                r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{"traceId":"{trace}","spanId":"{of}",
                "startTimeUnixNano":1795336038889845248,"endTimeUnixNano":"1795336039122636522","attributes":[
                {{"key":"gen_ai.latency.e2e","value":{{"doubleValue":"0.5"}}}},
                {{"key":"gen_ai.latency.time_in_queue","value":{{"doubleValue":"NaN"}}}},
                {{"key":"gen_ai.latency.time_in_model_prefill","value":{{"intValue":-1}}}},
                {{"key":"list","value":{{"arrayValue":{{"values":[{{"intValue":1}}]}}}}}},
                {{"key":"nothing"}},
                {{"key":"gen_ai.usage.prompt_tokens","value":{{"intValue":17}}}}]}}]}}],
                "resource":{{"attributes":[{{"key":"service.name","value":{{"stringValue":"a\nb"}}}}]}}}}]}}"#
            );
            found(&text).unwrap().spans.remove(0)
        };
        let hex = span("0af7651916cd43dd8448eb211c80319C", "b7ad6b7169203331");
        let base64 = span("CvdlGRbNQ92ESOshHIAxnA==", "t61rcWkgMzE=");
        assert_eq!(hex, base64);
        assert_eq!(hex, span("CvdlGRbNQ92ESOshHIAxnA", "t61rcWkgMzE"));
        assert_eq!(hex.trace_id[..3], [0x0a, 0xf7, 0x65]);
        assert_eq!(hex.span_id[7], 0x31);
        assert_eq!(hex.start_unix_ns, 1_795_336_038_889_845_248);
        assert_eq!(hex.end_unix_ns, 1_795_336_039_122_636_522);
        assert_eq!((hex.e2e_ns, hex.queue_ns, hex.prefill_ns), (Some(500_000_000), None, None));
        assert_eq!((hex.prompt_tokens, hex.service.as_str()), (Some(17), "a\nb"));
    }

    #[test]
    fn ids_that_are_none_are_absent() {
        let mut to = [0; 8];
        for text in
            ["", "0", "b7ad6b716920333", "b7ad6b716920333g", "t61rcWkgMz", "!!!!!!!!!!!=", "é7ad6b716920333"]
        {
            assert_eq!(id(text, &mut to), &[] as &[u8], "{text:?}");
        }
    }

    #[test]
    fn what_is_no_otlp_or_too_much_is_refused() {
        for bad in ["", "[]x", "{\"resourceSpans\":3}", "{\"resourceSpans\":[{\"scopeSpans\":[7]}]}", "nul"] {
            assert!(matches!(found(bad), Err(JsonError::Malformed(_))), "{bad}");
        }
        assert!(found("{}").unwrap().spans.is_empty());
        assert!(found("{\"resourceSpans\":null}").unwrap().spans.is_empty());
        let many = format!("{{\"resourceSpans\":[{}{{}}]}}", "{},".repeat(MOST_OBJECTS));
        assert!(matches!(found(&many), Err(JsonError::TooMany)));
        let lists = format!(
            r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{}[]]}}]}}]}}"#,
            "[],".repeat(MOST_OBJECTS)
        );
        assert!(matches!(found(&lists), Err(JsonError::TooMany)));
        let deep = format!("{{\"x\":{}", "[".repeat(MOST_OBJECTS / 2));
        assert!(matches!(found(&deep), Err(JsonError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn cut_and_changed_exports_harm_nothing(
            line in 0usize..7,
            end in any::<prop::sample::Index>(),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let whole = RECORDED.lines().nth(line).unwrap().as_bytes();
            let mut bytes = whole.to_vec();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(end.index(bytes.len() + 1));
            let mut found = Found::new(Came::default(), 1_000);
            match export(&bytes, &mut found) {
                // Only what lacks its end has none.
                Ok(()) => prop_assert_eq!(bytes.len(), whole.len()),
                Err(_) => prop_assert!(bytes != whole && found.spans.is_empty()),
            }
            prop_assert!(export(whole, &mut found).is_ok() && !found.spans.is_empty());
        }
    }
}
