//! Spans and stamps of requests, against the truth log.

use model_sim::{Config, Params, SpanCounts, Timing, TruthRecord};

use crate::client::*;
use crate::receiver::{self, Got, Span, spans};

const PARENT: &str = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";

fn exporting(endpoint: &str, delay_ms: i64) -> Config {
    let mut config =
        Config { timing: Timing::Engine(Params { step_base_ns: 2 * MS, ..Params::default() }), ..quick() };
    config.inside.otlp = Some(endpoint.parse().unwrap());
    config.inside.otlp_delay_ns = delay_ms * MS;
    config
}

/// A streamed request with an id of its own.
fn ask(client: &mut Client, id: &str, headers: &str, more: &str) {
    client.send(post(CHAT, &chat(more), headers).replace("x-request-id: r1", &format!("x-request-id: {id}")));
    assert_eq!(client.answer().status, 200);
}

/// The span says of the request what the truth log does.
fn tells(span: &Span, record: &TruthRecord) {
    assert_eq!(span.name, "llm_request");
    let exact = |name: &str, ns: i64| {
        let said = span.latency(name);
        assert!((said - ns).abs() <= 1, "{name}: {said}, truly {ns} ns");
    };
    let (first, last) = (record.first_token_ns.unwrap(), record.last_token_ns.unwrap());
    exact("time_in_queue", record.dequeued_ns.unwrap() - record.enqueued_ns.unwrap());
    exact("time_in_model_prefill", first - record.dequeued_ns.unwrap());
    exact("time_in_model_decode", last - first);
    exact("time_in_model_inference", last - record.dequeued_ns.unwrap());
    exact("time_to_first_token", record.emissions[0] - record.arrived_ns);
    exact("e2e", record.last_out_ns.unwrap() - record.arrived_ns);
    let [start, end] = [span.start_time_unix_nano, span.end_time_unix_nano].map(u64::cast_signed);
    assert_eq!((Some(start), Some(end)), (record.arrived_unix_ns, record.span_ended_unix_ns));
    // Two clocks are read beside each other, as well as a busy machine lets one.
    let lasted = record.span_ended_ns.unwrap() - record.arrived_ns;
    assert!((end - start - lasted).abs() < 50_000, "{} ns by the wall, {lasted} ns in truth", end - start);
    assert!(
        record.span_ended_ns.unwrap() <= record.ended_ns
            && *record.emissions.last().unwrap() < record.last_out_ns.unwrap()
    );
}

fn by_id<'a>(spans: &'a [Span], id: &str) -> &'a Span {
    let name = format!("chatcmpl-{id}");
    spans.iter().find(|span| span.request_id() == Some(&name)).unwrap_or_else(|| panic!("no span of {id}"))
}

fn one_span_a_request(endpoint: &str, got: &std::sync::mpsc::Receiver<Got>) {
    let wall = || model_sim::clock::unix_ns().cast_unsigned();
    let began = wall();
    let server = Server::start(exporting(endpoint, 50));
    let mut client = server.connect();
    ask(&mut client, "a", PARENT, "");
    ask(&mut client, "b", "", "");
    ask(&mut client, "c", "traceparent: nonsense\r\n", "");
    ask(&mut client, "d", &PARENT.replace("-01\r", "-00\r"), "");
    client.post("/v1/completions", r#"{"prompt":"a b","max_tokens":3,"stream":true}"#);
    client.post(CHAT, &chat(r#","sim_fault":{"kind":"drop","token":2}"#));
    let truth = server.stop();
    let expected = SpanCounts { made: 4, exported: 4, unsampled: 1, ..SpanCounts::default() };
    assert_eq!(truth.spans, expected);
    let spans = spans(got);
    assert_eq!(spans.len(), 4, "none of the one that is not sampled, none of the dropped one");
    for (id, record) in ["a", "b", "c"].into_iter().zip(&truth.records) {
        tells(by_id(&spans, id), record);
    }
    let child = by_id(&spans, "a");
    assert_eq!(child.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
    assert_eq!(child.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    for root in ["b", "c"].map(|id| by_id(&spans, id)) {
        assert!((root.trace_id.len(), root.span_id.len(), root.parent_span_id.len()) == (16, 8, 0));
        assert_ne!(root.trace_id, child.trace_id);
    }
    assert!(spans.iter().any(|span| span.request_id() == Some("cmpl-r1-0")));
    let within = |span: &Span| began <= span.start_time_unix_nano && span.end_time_unix_nano <= wall();
    assert!(spans.iter().all(within), "on the wall clock");
}

#[test]
fn a_request_has_one_span_over_grpc() {
    let (address, got) = receiver::grpc();
    one_span_a_request(&format!("grpc://{address}"), &got);
}

#[test]
fn a_request_has_one_span_over_http() {
    let (address, got) = receiver::http("127.0.0.1:0");
    one_span_a_request(&format!("http://{address}/v1/traces"), &got);
}

#[test]
fn spans_wait_for_their_batch_and_leave_at_the_end() {
    let (address, got) = receiver::grpc();
    let server = Server::start(exporting(&format!("grpc://{address}"), 3_600_000));
    ask(&mut server.connect(), "a", "", "");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(got.try_recv().is_err(), "the hour is not over");
    assert_eq!(server.stop().spans.exported, 1);
    assert_eq!(spans(&got).len(), 1);
}

#[test]
fn an_endpoint_that_is_not_there_is_tried_again_and_what_remains_is_counted() {
    let place = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = place.local_addr().unwrap();
    drop(place);
    for endpoint in [format!("grpc://{address}"), format!("http://{address}/v1/traces")] {
        let server = Server::start(exporting(&endpoint, 10));
        ask(&mut server.connect(), "a", "", "");
        let counts = server.stop().spans;
        assert_eq!((counts.made, counts.exported, counts.dropped), (1, 0, 1), "{counts}");
        assert!(counts.retries >= 1, "{counts}");
    }
}

#[test]
fn an_endpoint_that_comes_later_gets_what_waits() {
    let place = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = place.local_addr().unwrap();
    drop(place);
    let server = Server::start(exporting(&format!("http://{address}/v1/traces"), 10));
    ask(&mut server.connect(), "a", "", "");
    std::thread::sleep(std::time::Duration::from_millis(200));
    let (_, got) = receiver::http(&address.to_string());
    assert!(
        matches!(got.recv_timeout(std::time::Duration::from_secs(20)), Ok(Got::Spans(spans)) if spans.len() == 1)
    );
    let counts = server.stop().spans;
    assert!(counts.exported == 1 && counts.retries >= 1 && counts.dropped == 0, "{counts}");
}

#[test]
fn spans_go_wrong_as_they_are_told_to() {
    let (address, got) = receiver::http("127.0.0.1:0");
    let mut config = exporting(&format!("http://{address}/v1/traces"), 3_600_000);
    config.inside.span_faults =
        ["lost:every=3", "no_ids:every=4", "garbage:every=5"].map(|fault| fault.parse().unwrap()).to_vec();
    let server = Server::start(config);
    let mut client = server.connect();
    (1..=10).for_each(|i| ask(&mut client, &format!("q{i}"), PARENT, ""));
    let counts = server.stop().spans;
    let expected =
        SpanCounts { made: 10, exported: 7, lost: 3, without_ids: 2, garbage: 2, ..SpanCounts::default() };
    assert_eq!(counts, expected);
    let all: Vec<Got> = got.try_iter().collect();
    assert_eq!(all.iter().filter(|got| matches!(got, Got::Garbage)).count(), 2);
    let spans: Vec<&Span> =
        all.iter().flat_map(|got| if let Got::Spans(s) = got { s.as_slice() } else { &[] }).collect();
    let nameless =
        spans.iter().filter(|s| s.trace_id.is_empty() && s.span_id.is_empty() && s.request_id().is_none());
    assert_eq!((spans.len(), nameless.count()), (7, 2));
    assert!(!spans.iter().any(|span| span.request_id() == Some("chatcmpl-q6")), "it is lost");
}

#[test]
fn the_front_end_takes_its_time_before_the_queue_and_after_the_engine() {
    let (address, got) = receiver::grpc();
    let mut config = exporting(&format!("grpc://{address}"), 10);
    config.inside.front_end_ns = (30 * MS, 50 * MS);
    let server = Server::start(config);
    ask(&mut server.connect(), "a", "", "");
    let truth = server.stop();
    let (record, spans) = (&truth.records[0], spans(&got));
    let span = by_id(&spans, "a");
    tells(span, record);
    assert_eq!(record.enqueued_ns.unwrap() - record.arrived_ns, 30 * MS);
    assert!(record.emissions[0] - record.first_token_ns.unwrap() >= 50 * MS);
    let inside =
        ["time_in_queue", "time_in_model_inference"].map(|name| span.latency(name)).iter().sum::<i64>();
    assert!(span.latency("e2e") - inside >= 80 * MS, "the front end is what is left over");
    assert_eq!(
        record.last_token_ns.unwrap() - record.first_token_ns.unwrap(),
        span.latency("time_in_model_decode")
    );
    assert!(
        span.latency("time_in_model_decode") < 50 * MS,
        "five steps of 2 ms: it is not on the engine's way"
    );
}

#[test]
fn stamps_are_lines_of_json_on_the_wall_clock() {
    let path = std::env::temp_dir().join(format!("model-sim-stamps-{}.jsonl", std::process::id()));
    let mut config = exporting("grpc://127.0.0.1:1", 10);
    config.inside.otlp = None;
    config.inside.stamps_log = Some(path.clone());
    let server = Server::start(config);
    let mut client = server.connect();
    ask(&mut client, "a\\\"b", "", "");
    ask(&mut client, "c", "", r#","sim_fault":{"kind":"stream_error","token":2}"#);
    let truth = server.stop();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 1, "nothing of what the engine did not finish");
    let (line, record) = (&lines[0], &truth.records[0]);
    assert_eq!(line["request_id"].as_str(), record.request_id.as_deref());
    let at = |key: &str| line[key].as_f64().unwrap();
    let now = model_sim::clock::unix_ns() as f64 / 1e9;
    assert!((now - 60.0..=now).contains(&at("enqueue")), "{line}");
    // A float of today's seconds is good to a quarter of a microsecond, the two clocks to what a busy machine lets them.
    let near = |s: f64, ns: i64| assert!((s - ns as f64 / 1e9).abs() < 5e-5, "{s} s, truly {ns} ns: {line}");
    near(at("dequeue") - at("enqueue"), record.dequeued_ns.unwrap() - record.enqueued_ns.unwrap());
    near(at("first_token") - at("infer_start"), record.first_token_ns.unwrap() - record.dequeued_ns.unwrap());
    near(
        at("last_token") - at("first_token"),
        record.last_token_ns.unwrap() - record.first_token_ns.unwrap(),
    );
}
