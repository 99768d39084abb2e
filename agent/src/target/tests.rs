//! Heads of requests, and what makes a target.

use super::*;

fn wire(url: &str) -> v1::Target {
    v1::Target {
        base_url: url.to_owned(),
        endpoint_type: v1::EndpointType::Chat as i32,
        model: "m".to_owned(),
        streaming: true,
        api_key: "sk-very-secret".to_owned(),
        ..Default::default()
    }
}

fn header(name: &str, value: &str) -> v1::Header {
    v1::Header { name: name.to_owned(), value: value.to_owned() }
}

fn error(wire: &v1::Target) -> String {
    Target::parse(wire).unwrap_err().to_string()
}

#[test]
fn parts_of_the_url() {
    let parts = |url: &str| {
        let t = Target::parse(&wire(url)).unwrap();
        (t.host().to_owned(), t.port(), t.authority(), t.path().to_string(), t.models_path().to_string())
    };
    let own = |a: &str, b, c: &str, d: &str, e: &str| (a.into(), b, c.into(), d.into(), e.into());
    let chat = "/v1/chat/completions";
    let plain = own("gpu1", 8000, "gpu1:8000", chat, "/v1/models");
    for url in ["http://gpu1:8000", "http://gpu1:8000/", "http://gpu1:8000/v1", " http://gpu1:8000/v1/"] {
        assert_eq!(parts(url), plain, "{url}");
    }
    assert_eq!(parts("http://[::1]:9"), own("::1", 9, "[::1]:9", chat, "/v1/models"));
    let under = own("h", 80, "h:80", "/llm/v1/chat/completions", "/llm/v1/models");
    assert_eq!(parts("http://h/llm/v1"), under);
    assert_eq!(parts("http://[::1]").1, 80);
}

#[test]
fn the_path_is_the_users_or_the_endpoints() {
    let mut w = wire("http://h:1/v1");
    w.endpoint_type = v1::EndpointType::Completions as i32;
    assert_eq!(Target::parse(&w).unwrap().path().as_str(), "/v1/completions");
    w.path = "/generate?x=1".to_owned();
    assert_eq!(Target::parse(&w).unwrap().path().as_str(), "/generate?x=1");
    w.path = "generate".to_owned();
    assert!(error(&w).contains("\"generate\""));
}

#[test]
fn bad_urls_are_refused_with_what_is_wrong() {
    for (url, part) in [
        ("h:8000", "does not start with http://"),
        ("ftp://h", "does not start with http://"),
        ("http://", "not a URL"),
        ("", "not a URL"),
        ("http://h:99999", "port"),
        ("http://h:0", "port"),
        ("http://h:", "port"),
        ("http://h/?q", "query"),
    ] {
        assert!(error(&wire(url)).contains(part), "{url}: {}", error(&wire(url)));
    }
    let with_user = error(&wire("http://me:hunter2@h:1"));
    assert!(with_user.contains("belong in a header") && !with_user.contains("hunter2"), "{with_user}");
    assert!(!error(&wire("https://me:hunter2@h:1")).contains("hunter2"));
}

#[test]
fn headers_are_ours_unless_given() {
    let mut w = wire("http://h:1");
    let t = Target::parse(&w).unwrap();
    assert_eq!(t.headers()[AUTHORIZATION], "Bearer sk-very-secret");
    assert_eq!(t.headers()[HOST], "h:1");
    assert_eq!(t.headers()[ACCEPT], "text/event-stream");
    assert!(t.headers()[USER_AGENT].to_str().unwrap().starts_with("tailcliff/"));
    w.headers = vec![header("Authorization", "Basic Zm9v"), header("X-Team", "blue")];
    let t = Target::parse(&w).unwrap();
    assert_eq!(
        (&t.headers()[AUTHORIZATION], &t.headers()["x-team"]),
        (&"Basic Zm9v".parse().unwrap(), &"blue".parse().unwrap())
    );
}

#[test]
fn each_post_names_its_trace_once() {
    let head = |w: &v1::Target| {
        let mut head = Vec::new();
        Target::parse(w).unwrap().write_head(&mut head, "8c-0-1-2", 3);
        String::from_utf8(head).unwrap()
    };
    let mut w = wire("http://h:1");
    let own = TraceContext::of("8c-0-1-2").traceparent();
    let end = format!(
        "\r\nx-request-id: 8c-0-1-2\r\ntraceparent: {}\r\ncontent-length: 3\r\n\r\n",
        std::str::from_utf8(&own).unwrap()
    );
    assert!(head(&w).ends_with(&end), "{}", head(&w));
    w.headers = vec![header("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")];
    let named: Vec<_> =
        head(&w).lines().filter(|line| line.starts_with("traceparent:")).map(str::to_owned).collect();
    assert_eq!(named, ["traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]);
    assert!(head(&w).contains("x-request-id: 8c-0-1-2\r\ncontent-length"));
    w.headers = vec![header("X-Request-Id", "mine")];
    assert!(error(&w).contains("tailcliff sets it itself"), "{}", error(&w));
}

#[test]
#[ignore = "prints costs"]
fn cost_of_a_head() {
    const TIMES: u32 = 200_000;
    let mut head = Vec::new();
    for traces in [false, true] {
        let target = Target { traces, ..Target::parse(&wire("http://127.0.0.1:8000")).unwrap() };
        let begun = tailcliff_proto::clock::HostClock.now();
        for _ in 0..TIMES {
            head.clear();
            target.write_head(std::hint::black_box(&mut head), "8c3f2a1b99e0d771-12-511-100", 2000);
        }
        let ns = (tailcliff_proto::clock::HostClock.now() - begun) / i64::from(TIMES);
        eprintln!("traceparent {traces}: {ns} ns and {} bytes a head", head.len());
    }
}

#[test]
fn bad_headers_are_refused_without_their_values() {
    for (name, value) in [("a b", "hush"), ("x", "hush\n"), ("Content-Length", "3"), ("connection", "close")]
    {
        let mut w = wire("http://h:1");
        w.headers = vec![header(name, &format!("{value}\u{1}"))];
        assert!(!error(&w).contains("hush"), "{name}");
    }
    let mut w = wire("http://h:1");
    w.api_key = "sk\nsecret".to_owned();
    assert!(error(&w).contains("API key") && !error(&w).contains("secret"));
}

#[test]
fn nothing_printed_holds_a_secret() {
    let mut w = wire("http://h:1");
    w.headers = vec![header("X-Api-Key", "header-hush"), header("Authorization", "Bearer bearer-hush")];
    w.extra_body_json = "{\"api_key\":\"body-hush\"}".to_owned();
    w.path = "/v1/x?key=query-hush".to_owned();
    let t = Target::parse(&w).unwrap();
    let shown = format!("{t:?} {:?}", t.headers());
    assert!(!shown.contains("hush") && !shown.contains("sk-very"), "{shown}");
    let said = t
        .redact("no: sk-very-secret, header-hush,\nBearer bearer-hush or bearer-hush, query-hush, body-hush");
    assert_eq!(said, "no: ***, ***, *** or ***, ***, ***");
    assert_eq!(t.redact(&"é".repeat(1000)).chars().count(), 300);
    // Cut after redaction, never before: half a key is a leak too.
    let long = format!("{}sk-very-secret", "x".repeat(295));
    assert!(!t.redact(&long).contains("sk-"));
}

#[test]
fn extra_body_must_be_an_object() {
    let mut w = wire("http://h:1");
    for (json, part) in [
        ("{\"k\": hush}", "not JSON at line 1"),
        ("[1]", "not a JSON object"),
        ("{\"stream\":true}", "streaming flag"),
    ] {
        w.extra_body_json = json.to_owned();
        assert!(error(&w).contains(part) && !error(&w).contains("hush"), "{json}: {}", error(&w));
    }
}

#[test]
fn timeouts_that_are_not_given_are_filled_in() {
    let mut w = wire("http://h:1");
    let t = Target::parse(&w).unwrap();
    assert_eq!(
        (t.connect_timeout(), t.request_timeout()),
        (DEFAULT_CONNECT_TIMEOUT, DEFAULT_REQUEST_TIMEOUT)
    );
    (w.connect_timeout_ns, w.request_timeout_ns) = (1, -5);
    let t = Target::parse(&w).unwrap();
    assert_eq!(
        (t.connect_timeout(), t.request_timeout()),
        (Duration::from_nanos(1), DEFAULT_REQUEST_TIMEOUT)
    );
}
