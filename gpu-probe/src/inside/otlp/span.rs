//! What is kept of a span, whichever way it was encoded: who it belongs to, its times, and what the server measured.

use tailcliff_proto::v1;

/// Ids, names and services are cut at so many bytes.
const MOST_TEXT: usize = 128;
/// A time in a request of more seconds is no time: eleven days.
const MOST_S: f64 = 1e6;
/// The same for tokens.
const MOST_TOKENS: f64 = 1e12;

/// What an attribute holds, as far as any that is wanted does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Text(&'a str),
    Int(i64),
    Double(f64),
}

impl Value<'_> {
    fn number(self) -> Option<f64> {
        match self {
            Self::Text(text) => text.trim().parse().ok(),
            Self::Int(int) => Some(int as f64),
            Self::Double(double) => Some(double),
        }
    }

    /// Seconds as ns; absent when it is no length of time.
    fn seconds(self) -> Option<i64> {
        let seconds = self.number().filter(|seconds| (0.0..=MOST_S).contains(seconds))?;
        Some((seconds * 1e9).round() as i64)
    }

    fn count(self) -> Option<u64> {
        let count = self.number().filter(|count| (0.0..=MOST_TOKENS).contains(count))?;
        Some(count as u64)
    }
}

/// A span as it is read; nothing of it is copied before it is kept.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen<'a> {
    pub(super) trace_id: &'a [u8],
    pub(super) span_id: &'a [u8],
    pub(super) parent_span_id: &'a [u8],
    pub(super) name: &'a str,
    pub(super) start_unix_ns: u64,
    pub(super) end_unix_ns: u64,
    /// With the rank of the attribute that gave it.
    pub(super) request_id: (u8, &'a str),
    pub(super) queue_ns: Option<i64>,
    pub(super) prefill_ns: Option<i64>,
    pub(super) decode_ns: Option<i64>,
    pub(super) ttft_ns: Option<i64>,
    pub(super) e2e_ns: Option<i64>,
    pub(super) prompt_tokens: Option<u64>,
    pub(super) output_tokens: Option<u64>,
}

impl<'a> Seen<'a> {
    /// Takes in an attribute if it is one of those that are wanted: OpenTelemetry's and vLLM's names, and SGLang's `rid`.
    pub(super) fn attribute(&mut self, key: &str, value: Value<'a>) {
        match key {
            "gen_ai.request.id" => self.requested(3, value),
            "rid" => self.requested(2, value),
            "request_id" => self.requested(1, value),
            "gen_ai.latency.time_in_queue" => self.queue_ns = value.seconds(),
            "gen_ai.latency.time_in_model_prefill" => self.prefill_ns = value.seconds(),
            "gen_ai.latency.time_in_model_decode" => self.decode_ns = value.seconds(),
            "gen_ai.latency.time_to_first_token" => self.ttft_ns = value.seconds(),
            "gen_ai.latency.e2e" => self.e2e_ns = value.seconds(),
            "gen_ai.usage.prompt_tokens" | "gen_ai.usage.input_tokens" => self.prompt_tokens = value.count(),
            "gen_ai.usage.completion_tokens" | "gen_ai.usage.output_tokens" => {
                self.output_tokens = value.count();
            }
            _ => {}
        }
    }

    fn requested(&mut self, rank: u8, value: Value<'a>) {
        if let Value::Text(id) = value
            && !id.is_empty()
            && rank >= self.request_id.0
        {
            self.request_id = (rank, id);
        }
    }

    /// Whom it belongs to cannot be told.
    fn is_nameless(&self) -> bool {
        self.request_id.1.is_empty() && id(self.trace_id, 16).is_empty()
    }

    fn kept(&self, came: Came) -> v1::ServerSpan {
        v1::ServerSpan {
            trace_id: id(self.trace_id, 16).to_vec(),
            span_id: id(self.span_id, 8).to_vec(),
            parent_span_id: id(self.parent_span_id, 8).to_vec(),
            name: cut(self.name).to_owned(),
            request_id: cut(self.request_id.1).to_owned(),
            start_unix_ns: self.start_unix_ns,
            end_unix_ns: self.end_unix_ns,
            queue_ns: self.queue_ns,
            prefill_ns: self.prefill_ns,
            decode_ns: self.decode_ns,
            ttft_ns: self.ttft_ns,
            e2e_ns: self.e2e_ns,
            prompt_tokens: self.prompt_tokens,
            output_tokens: self.output_tokens,
            service: String::new(),
            received_raw_ns: came.raw_ns,
            from_elsewhere: came.from_elsewhere,
        }
    }
}

/// An id of the length that it has to have, and not the one that stands for none.
fn id(bytes: &[u8], len: usize) -> &[u8] {
    if bytes.len() == len && bytes.iter().any(|&byte| byte != 0) { bytes } else { &[] }
}

/// The beginning of a text that is too long.
pub(in crate::inside) fn cut(text: &str) -> &str {
    let mut end = text.len().min(MOST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Names of a resource.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Service<'a> {
    name: &'a str,
    instance: &'a str,
}

impl<'a> Service<'a> {
    pub(super) fn attribute(&mut self, key: &str, value: Value<'a>) {
        match (key, value) {
            ("service.name", Value::Text(name)) => self.name = name,
            ("service.instance.id", Value::Text(instance)) => self.instance = instance,
            _ => {}
        }
    }

    fn words(self) -> String {
        let both = [cut(self.name), cut(self.instance)];
        both.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

/// When and from where an export came.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Came {
    pub(super) raw_ns: i64,
    pub(super) from_elsewhere: bool,
}

/// The spans of one export, no more than there is room for.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) spans: Vec<v1::ServerSpan>,
    pub(super) received: u64,
    pub(super) without_ids: u64,
    pub(super) over_rate: u64,
    room: usize,
    came: Came,
}

impl Found {
    pub(super) fn new(came: Came, room: usize) -> Self {
        Self { came, room, ..Self::default() }
    }

    pub(super) fn take(&mut self, seen: &Seen<'_>) {
        self.received += 1;
        if seen.is_nameless() {
            self.without_ids += 1;
        } else if self.spans.len() >= self.room {
            self.over_rate += 1;
        } else {
            self.spans.push(seen.kept(self.came));
        }
    }

    /// Those from number `from` on are of this service: a resource may be told behind its spans.
    pub(super) fn of_service(&mut self, from: usize, service: Service<'_>) {
        let words = service.words();
        self.spans.iter_mut().skip(from).for_each(|span| span.service.clone_from(&words));
    }

    pub(super) fn left_out(&self) -> u64 {
        self.without_ids + self.over_rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_time_or_number_is_absent() {
        assert_eq!(Value::Double(0.25).seconds(), Some(250_000_000));
        assert_eq!(Value::Int(2).seconds(), Some(2_000_000_000));
        assert_eq!(Value::Text(" 1.5").seconds(), Some(1_500_000_000));
        assert_eq!(Value::Double(0.0).seconds(), Some(0));
        for bad in [f64::NAN, -0.001, f64::INFINITY, f64::NEG_INFINITY, 1e7] {
            assert_eq!(Value::Double(bad).seconds(), None, "{bad}");
        }
        assert_eq!((Value::Text("soon").seconds(), Value::Text("nan").seconds()), (None, None));
        assert_eq!((Value::Int(17).count(), Value::Text("16").count()), (Some(17), Some(16)));
        assert_eq!((Value::Int(-1).count(), Value::Double(f64::NAN).count()), (None, None));
        assert_eq!(Value::Int(i64::MAX).count(), None);
    }

    #[test]
    fn the_request_id_is_the_best_there_is_in_any_order() {
        let ids = [("request_id", "c"), ("gen_ai.request.id", "a"), ("rid", "b"), ("gen_ai.request.id", "")];
        let mut seen = Seen::default();
        ids.iter().for_each(|(key, id)| seen.attribute(key, Value::Text(id)));
        assert_eq!(seen.request_id.1, "a");
        seen.attribute("rid", Value::Int(3));
        assert_eq!(seen.request_id.1, "a");
        let mut of_sglang = Seen::default();
        of_sglang.attribute("rid", Value::Text("b"));
        assert!(!of_sglang.is_nameless());
    }

    #[test]
    fn ids_have_their_length_and_long_text_is_cut_between_characters() {
        assert_eq!(id(&[0; 16], 16), &[] as &[u8]);
        assert_eq!(id(&[1; 15], 16), &[] as &[u8]);
        assert_eq!(id(&[0, 0, 0, 0, 0, 0, 0, 1], 8).len(), 8);
        assert_eq!(cut(&"x".repeat(300)).len(), 128);
        // 127 bytes and a character of two, which would be cut in two.
        assert_eq!(cut(&format!("{}é", "x".repeat(127))).len(), 127);
        let mut service = Service::default();
        assert_eq!(service.words(), "");
        service.attribute("service.instance.id", Value::Text("7"));
        assert_eq!(service.words(), "7");
        service.attribute("service.name", Value::Text("vllm"));
        assert_eq!(service.words(), "vllm 7");
    }
}
