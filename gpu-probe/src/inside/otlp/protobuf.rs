//! Walks an export in protobuf and keeps what is wanted. By hand, since generated types would take memory for whatever a
//! message says there is: of two bytes a span of two hundred, so that 4 MiB could ask for half a gigabyte. This way an export
//! takes what is kept of it, and a span's other attributes cost a look at their key.
//! Wire format: <https://protobuf.dev/programming-guides/encoding/>.

use super::span::{Found, Seen, Service, Value};

/// It is no message of this kind, or not all of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no OTLP in protobuf")]
pub(super) struct Malformed;

/// An `ExportTraceServiceRequest`.
pub(super) fn export(message: &[u8], found: &mut Found) -> Result<(), Malformed> {
    each_field(message, |field| match field {
        (1, Field::Bytes(of_resource)) => resource_spans(of_resource, found),
        other => unknown(other, &[1]),
    })
}

fn resource_spans(message: &[u8], found: &mut Found) -> Result<(), Malformed> {
    let from = found.spans.len();
    let mut service = Service::default();
    each_field(message, |field| match field {
        (1, Field::Bytes(resource)) => each_attribute(resource, 1, |key, value| {
            service.attribute(key, value);
        }),
        (2, Field::Bytes(of_scope)) => each_field(of_scope, |field| match field {
            (2, Field::Bytes(span)) => {
                found.take(&seen(span)?);
                Ok(())
            }
            other => unknown(other, &[2]),
        }),
        other => unknown(other, &[1, 2]),
    })?;
    found.of_service(from, service);
    Ok(())
}

fn seen(span: &[u8]) -> Result<Seen<'_>, Malformed> {
    let mut seen = Seen::default();
    each_field(span, |field| {
        match field {
            (1, Field::Bytes(id)) => seen.trace_id = id,
            (2, Field::Bytes(id)) => seen.span_id = id,
            (4, Field::Bytes(id)) => seen.parent_span_id = id,
            (5, Field::Bytes(name)) => seen.name = text(name)?,
            (7, Field::Fixed64(at)) => seen.start_unix_ns = at,
            (8, Field::Fixed64(at)) => seen.end_unix_ns = at,
            (9, Field::Bytes(pair)) => {
                if let (key, Some(value)) = attribute(pair)? {
                    seen.attribute(key, value);
                }
            }
            other => return unknown(other, &[1, 2, 4, 5, 7, 8, 9]),
        }
        Ok(())
    })?;
    Ok(seen)
}

/// Each attribute in field `number` of a message.
fn each_attribute<'a>(
    message: &'a [u8],
    number: u32,
    mut take: impl FnMut(&'a str, Value<'a>),
) -> Result<(), Malformed> {
    each_field(message, |field| match field {
        (of, Field::Bytes(pair)) if of == number => {
            if let (key, Some(value)) = attribute(pair)? {
                take(key, value);
            }
            Ok(())
        }
        other => unknown(other, &[number]),
    })
}

fn attribute(pair: &[u8]) -> Result<(&str, Option<Value<'_>>), Malformed> {
    let (mut key, mut value) = ("", None);
    each_field(pair, |field| {
        match field {
            (1, Field::Bytes(name)) => key = text(name)?,
            (2, Field::Bytes(any)) => each_field(any, |field| {
                match field {
                    (1, Field::Bytes(of)) => value = Some(Value::Text(text(of)?)),
                    (3, Field::Varint(of)) => value = Some(Value::Int(of as i64)),
                    (4, Field::Fixed64(of)) => value = Some(Value::Double(f64::from_bits(of))),
                    other => return unknown(other, &[1, 3, 4]),
                }
                Ok(())
            })?,
            other => return unknown(other, &[1, 2]),
        }
        Ok(())
    })?;
    Ok((key, value))
}

/// One that is known and not of its type is an error; any other may be whatever it likes.
fn unknown((number, _): (u32, Field<'_>), known: &[u32]) -> Result<(), Malformed> {
    if known.contains(&number) { Err(Malformed) } else { Ok(()) }
}

fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed)
}

#[derive(Clone, Copy, Debug)]
enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

fn each_field<'a>(
    mut message: &'a [u8],
    mut take: impl FnMut((u32, Field<'a>)) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let number = u32::try_from(key >> 3).ok().filter(|&number| number != 0).ok_or(Malformed)?;
        let field = match key & 7 {
            0 => Field::Varint(varint(&mut message)?),
            1 => {
                let bytes = bytes(&mut message, 8)?.try_into().map_err(|_| Malformed)?;
                Field::Fixed64(u64::from_le_bytes(bytes))
            }
            2 => {
                let len = varint(&mut message)?;
                Field::Bytes(bytes(&mut message, len)?)
            }
            5 => bytes(&mut message, 4).map(|_| Field::Fixed32)?,
            // Groups are of a protobuf before OTLP.
            _ => return Err(Malformed),
        };
        take((number, field))?;
    }
    Ok(())
}

fn bytes<'a>(message: &mut &'a [u8], len: u64) -> Result<&'a [u8], Malformed> {
    let len = usize::try_from(len).map_err(|_| Malformed)?;
    let (these, rest) = message.split_at_checked(len).ok_or(Malformed)?;
    *message = rest;
    Ok(these)
}

fn varint(message: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0;
    for place in 0..10 {
        let (&byte, rest) = message.split_first().ok_or(Malformed)?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            // The tenth byte holds the 64th bit and no more.
            return if place == 9 && byte > 1 { Err(Malformed) } else { Ok(value) };
        }
    }
    Err(Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;
    use tailcliff_proto::{otlp, v1};

    use super::super::span::Came;
    use super::*;

    fn found(bytes: &[u8]) -> Result<Found, Malformed> {
        let mut found = Found::new(Came::default(), 1_000);
        export(bytes, &mut found).map(|()| found)
    }

    fn any_value() -> impl Strategy<Value = otlp::AnyValue> {
        use otlp::any_value::Value;
        let value = prop_oneof![
            "[ -~]{0,12}|[0-9]{1,3}\\.[0-9]{1,3}|.{0,3}".prop_map(Value::StringValue),
            any::<bool>().prop_map(Value::BoolValue),
            any::<i64>().prop_map(Value::IntValue),
            (0i64..100_000).prop_map(Value::IntValue),
            any::<f64>().prop_map(Value::DoubleValue),
            (0.0..10.0).prop_map(Value::DoubleValue),
        ];
        proptest::option::of(value).prop_map(|value| otlp::AnyValue { value })
    }

    fn attributes() -> impl Strategy<Value = Vec<otlp::KeyValue>> {
        let keys = proptest::sample::select(vec![
            "gen_ai.request.id",
            "rid",
            "request_id",
            "gen_ai.latency.time_in_queue",
            "gen_ai.latency.e2e",
            "gen_ai.usage.completion_tokens",
            "service.name",
            "service.instance.id",
            "other",
        ]);
        let one = (keys, proptest::option::of(any_value()));
        proptest::collection::vec(
            one.prop_map(|(key, value)| otlp::KeyValue { key: key.to_owned(), value }),
            0..6,
        )
    }

    fn id(len: usize) -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), len),
            Just(vec![0; len]),
            proptest::collection::vec(any::<u8>(), 0..20)
        ]
    }

    fn span() -> impl Strategy<Value = otlp::Span> {
        let ids = (id(16), id(8), id(8));
        (ids, ".{0,80}", any::<u64>(), any::<u64>(), attributes()).prop_map(
            |((trace_id, span_id, parent_span_id), name, start, end, attributes)| otlp::Span {
                trace_id,
                span_id,
                parent_span_id,
                name,
                start_time_unix_nano: start,
                end_time_unix_nano: end,
                attributes,
            },
        )
    }

    fn request() -> impl Strategy<Value = otlp::ExportTraceServiceRequest> {
        let scopes = proptest::collection::vec(proptest::collection::vec(span(), 0..4), 0..3);
        let of_resource = (proptest::option::of(attributes()), scopes).prop_map(|(attributes, scopes)| {
            let scope_spans = scopes.into_iter().map(|spans| otlp::ScopeSpans { spans }).collect();
            let resource = attributes.map(|attributes| otlp::Resource { attributes });
            otlp::ResourceSpans { resource, scope_spans }
        });
        proptest::collection::vec(of_resource, 0..3)
            .prop_map(|resource_spans| otlp::ExportTraceServiceRequest { resource_spans })
    }

    fn value(of: &otlp::KeyValue) -> Option<Value<'_>> {
        use otlp::any_value::Value as Any;
        match of.value.as_ref()?.value.as_ref()? {
            Any::StringValue(text) => Some(Value::Text(text)),
            Any::IntValue(int) => Some(Value::Int(*int)),
            Any::DoubleValue(double) => Some(Value::Double(*double)),
            Any::BoolValue(_) => None,
        }
    }

    /// The same from the generated types.
    fn expected(request: &otlp::ExportTraceServiceRequest) -> Vec<v1::ServerSpan> {
        let mut found = Found::new(Came::default(), 1_000);
        for of_resource in &request.resource_spans {
            let from = found.spans.len();
            for span in of_resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
                let mut seen = Seen {
                    trace_id: &span.trace_id,
                    span_id: &span.span_id,
                    parent_span_id: &span.parent_span_id,
                    name: &span.name,
                    start_unix_ns: span.start_time_unix_nano,
                    end_unix_ns: span.end_time_unix_nano,
                    ..Default::default()
                };
                for pair in &span.attributes {
                    value(pair).into_iter().for_each(|value| seen.attribute(&pair.key, value));
                }
                found.take(&seen);
            }
            let mut service = Service::default();
            for pair in of_resource.resource.iter().flat_map(|resource| &resource.attributes) {
                value(pair).into_iter().for_each(|value| service.attribute(&pair.key, value));
            }
            found.of_service(from, service);
        }
        found.spans
    }

    proptest! {
        #[test]
        fn the_walk_finds_what_the_generated_types_hold(request in request()) {
            let found = found(&request.encode_to_vec()).unwrap();
            let all: usize = request.resource_spans.iter().flat_map(|of| &of.scope_spans).map(|of| of.spans.len()).sum();
            prop_assert_eq!(found.received, all as u64);
            prop_assert_eq!(found.spans, expected(&request));
        }

        #[test]
        fn what_is_cut_short_is_taken_where_the_generated_types_take_it(request in request(), at in any::<prop::sample::Index>()) {
            let bytes = request.encode_to_vec();
            let cut = &bytes[..at.index(bytes.len() + 1)];
            let theirs = otlp::ExportTraceServiceRequest::decode(cut);
            prop_assert_eq!(found(cut).is_ok(), theirs.is_ok());
        }

        #[test]
        fn bytes_of_any_kind_harm_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _refused = found(&bytes);
        }

        #[test]
        fn exports_with_changed_bytes_harm_nothing(
            request in request(),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut bytes = request.encode_to_vec();
            for (at, byte) in changes.iter().filter(|_| !request.resource_spans.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            let _refused = found(&bytes);
        }
    }

    #[test]
    fn spans_of_two_bytes_take_no_memory() {
        // A million empty spans, in 2 MB.
        let mut spans = [0x12, 0x00].repeat(1 << 20);
        let wrap = |tag: u8, inner: Vec<u8>| {
            let mut message = vec![tag];
            prost::encode_length_delimiter(inner.len(), &mut message).unwrap();
            message.extend(inner);
            message
        };
        spans = wrap(0x0a, wrap(0x12, spans));
        let found = found(&spans).unwrap();
        assert_eq!((found.received, found.without_ids), (1 << 20, 1 << 20));
        assert_eq!(found.spans.capacity(), 0);
    }

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let span = otlp::Span { trace_id: vec![1; 16], ..Default::default() };
        let scope = otlp::ScopeSpans { spans: vec![span; 5] };
        let of = otlp::ResourceSpans { scope_spans: vec![scope], ..Default::default() };
        let bytes = otlp::ExportTraceServiceRequest { resource_spans: vec![of] }.encode_to_vec();
        let mut found = Found::new(Came::default(), 3);
        export(&bytes, &mut found).unwrap();
        assert_eq!((found.received, found.spans.len(), found.over_rate, found.left_out()), (5, 3, 2, 2));
    }
}
