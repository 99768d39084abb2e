//! Preflight against servers that are not what was asked for.

use std::sync::Mutex;

use super::*;
use crate::testdata;
use crate::testserver::{Server, reply, stream};

const LIST: &str = "{\"data\":[{\"id\":\"m\"},{\"id\":\"n:latest\"}]}";

/// A server that answers the list of models and the request with these, then closes or goes on.
async fn server(models: String, answer: String, close: bool) -> Server {
    Server::start(move |mut conn| {
        let (models, answer) = (models.clone(), answer.clone());
        async move {
            while let Some(asked) = conn.ask().await {
                let listing = asked.head.starts_with("GET /v1/models ");
                conn.say(if listing { &models } else { &answer }).await;
                if close {
                    break;
                }
            }
        }
    })
    .await
}

fn list() -> String {
    reply("200 OK", "application/json", LIST)
}

fn workload() -> v1::Workload {
    v1::Workload { input_words: 10, max_tokens: 100, ..Default::default() }
}

async fn try_out(target: &v1::Target) -> v1::PreflightDone {
    let limits = Limits {
        request: Duration::from_secs(30),
        loading: Duration::from_millis(500),
        pause: Duration::from_millis(20),
    };
    let done = within(target, &workload(), None, limits).await;
    assert!(!format!("{done:?}").contains("sk-test-secret"), "{done:?}");
    assert_eq!(done.ok, done.error.is_empty(), "{done:?}");
    assert_eq!(done.error.lines().count(), usize::from(!done.ok), "{}", done.error);
    done
}

/// What preflight says when the request is answered so.
async fn answered(answer: String) -> (String, String) {
    let server = server(list(), answer, false).await;
    let done = try_out(&server.target()).await;
    (done.error_kind, done.error)
}

#[tokio::test]
async fn a_good_server_is_ok() {
    let server = server(list(), stream(&[" O", "K\n"]), false).await;
    let done = try_out(&server.target()).await;
    assert!(done.ok && !done.closes_after_reply, "{done:?}");
    assert_eq!((done.answer.as_str(), done.server_header.as_str()), ("OK", "hand"));
    assert_eq!(done.models, ["m", "n:latest"]);
    assert!(done.latency_ns > 0);
    for model in ["n", ""] {
        let done = try_out(&v1::Target { model: model.to_owned(), ..server.target() }).await;
        assert!(done.ok, "{model:?}: {done:?}");
    }
}

#[tokio::test]
async fn the_question_is_short_whatever_the_load_is() {
    let bodies: Arc<Mutex<Vec<Value>>> = Arc::default();
    let to = Arc::clone(&bodies);
    let server = Server::start(move |mut conn| {
        let to = Arc::clone(&to);
        async move {
            while let Some(asked) = conn.ask().await {
                if asked.head.starts_with("GET") {
                    assert!(asked.head.to_ascii_lowercase().contains("authorization: bearer sk-test-secret"));
                    conn.say(list()).await;
                } else {
                    to.lock().unwrap().push(serde_json::from_slice(&asked.body).unwrap());
                    conn.say(stream(&["OK"])).await;
                }
            }
        }
    })
    .await;
    let extra_body_json = "{\"min_tokens\": 64, \"max_tokens\": 99, \"top_k\": 3}".to_owned();
    assert!(try_out(&v1::Target { extra_body_json, ..server.target() }).await.ok);
    let body = &bodies.lock().unwrap()[0];
    assert_eq!((&body["max_tokens"], &body["top_k"], body.get("min_tokens")), (&4.into(), &3.into(), None));
    assert_eq!(body["messages"][0]["content"], "Reply with only: OK");
}

#[tokio::test]
async fn a_connection_that_is_closed_unannounced_is_noticed() {
    let quiet = server(list(), stream(&["OK"]), true).await;
    let done = try_out(&quiet.target()).await;
    assert!(done.ok && done.closes_after_reply, "{done:?}");
    let announced = stream(&["OK"]).replace("server: hand", "connection: close");
    let announced = server(list(), announced, true).await;
    let done = try_out(&announced.target()).await;
    assert!(done.ok && !done.closes_after_reply, "{done:?}");
}

#[tokio::test]
async fn a_server_without_a_list_is_asked_all_the_same() {
    for models in [
        reply("404 Not Found", "text/plain", ""),
        reply("200 OK", "application/json", "{\"data\":[]}"),
        reply("200 OK", "application/json", "nonsense"),
        reply("302 Found", "text/plain", "").replace("content-type", "location: /elsewhere\r\nx"),
        reply("200 OK", "application/json", &format!("{{\"x\":\"{}\"}}", "y".repeat(crate::reply::MAX_LIST))),
    ] {
        let server = server(models, stream(&["OK"]), false).await;
        let done = try_out(&server.target()).await;
        assert!(done.ok && done.models.is_empty(), "{done:?}");
        // A redirect is not followed.
        assert_eq!(server.requests(), 2);
    }
}

#[tokio::test]
async fn a_wrong_model_is_told_with_the_right_ones() {
    let server = server(list(), stream(&["OK"]), false).await;
    let done = try_out(&v1::Target { model: "x".to_owned(), ..server.target() }).await;
    assert_eq!(done.error_kind, "not_found");
    assert_eq!(done.error, "the server has no model \"x\": check --model; it has m, n:latest");
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_long_list_is_searched_whole_and_told_in_part() {
    let models: Vec<_> = (0..1000).map(|i| serde_json::json!({"id": format!("model-{i}")})).collect();
    let models = reply("200 OK", "application/json", &serde_json::json!({"data": models}).to_string());
    let server = server(models, stream(&["OK"]), false).await;
    let done = try_out(&v1::Target { model: "model-999".to_owned(), ..server.target() }).await;
    assert!(done.ok && done.models.len() == MAX_MODELS, "{done:?}");
    let done = try_out(&server.target()).await;
    assert!(
        done.error.ends_with("model-7 and 992 more") && done.models.len() == MAX_MODELS,
        "{}",
        done.error
    );
}

#[tokio::test]
async fn each_refusal_has_its_kind_and_a_hint() {
    let json = |status, message: &str| {
        reply(status, "application/json", &format!("{{\"error\":{{\"message\":\"{message}\"}}}}"))
    };
    for (answer, kind, parts) in [
        (
            json("401 Unauthorized", "bad sk-test-secret"),
            "unauthorized",
            ["HTTP 401: bad ***", "OPENAI_API_KEY"],
        ),
        (json("403 Forbidden", "no"), "unauthorized", ["HTTP 403: no", "OPENAI_API_KEY"]),
        (json("404 Not Found", "no"), "not_found", ["HTTP 404: no", "--model"]),
        (testdata::whole("vllm-0.32-error-404").to_owned(), "not_found", ["The model `nope`", "--url"]),
        (testdata::whole("vllm-0.32-error-400").to_owned(), "rejected", ["max_tokens=5000", "--extra-body"]),
        (json("307 Temporary Redirect", ""), "rejected", ["HTTP 307", "final --url"]),
        (json("500 Oops", "oom"), "server_error", ["HTTP 500: oom", "log"]),
        (json("503 Busy", "queue full"), "server_error", ["HTTP 503: queue full", "log"]),
        (json("200 OK", "oom"), "server_error", ["oom", "log"]),
        (reply("200 OK", "text/html", "<html>"), "bad_reply", ["text/html", "OpenAI-compatible"]),
        ("nonsense\r\n\r\n".to_owned(), "bad_reply", ["reply", "OpenAI-compatible"]),
    ] {
        let (got, error) = answered(answer).await;
        assert_eq!(got, kind, "{error}");
        assert!(parts.iter().all(|p| error.contains(p)), "{parts:?}: {error}");
    }
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = server(list(), String::new(), true).await;
    let done = try_out(&v1::Target { base_url: format!("http://127.0.0.1:{port}"), ..server.target() }).await;
    assert_eq!(done.error_kind, "unreachable");
    assert!(
        done.error.contains(&format!("127.0.0.1:{port}")) && done.error.contains("running"),
        "{}",
        done.error
    );
}

#[tokio::test]
async fn a_server_that_never_answers_is_a_timeout() {
    let server = Server::start(|mut conn| async move {
        if conn.ask().await.is_some_and(|asked| asked.head.starts_with("GET")) {
            conn.say(list()).await;
        }
        conn.until_gone().await;
    })
    .await;
    let limits = Limits { request: Duration::from_millis(400), ..LIMITS };
    let done = within(&server.target(), &workload(), None, limits).await;
    assert_eq!(done.error_kind, "timeout", "{done:?}");
}

#[tokio::test]
async fn a_loading_server_is_waited_for() {
    let loading = "{\"error\":{\"message\":\"Loading model\",\"code\":503}}";
    let unready = Arc::new(Mutex::new(0));
    let server = Server::start(move |mut conn| {
        let unready = Arc::clone(&unready);
        async move {
            while let Some(asked) = conn.ask().await {
                let mut said = unready.lock().unwrap().to_owned();
                // First the list is not ready, then the list is and the model is not.
                let listing = asked.head.starts_with("GET");
                let answer = match (said, listing) {
                    (0..2, true) | (2..4, false) => reply("503 Unavailable", "application/json", loading),
                    (_, true) => list(),
                    (_, false) => stream(&["OK"]),
                };
                said += usize::from(answer.contains("503"));
                *unready.lock().unwrap() = said;
                conn.say(answer).await;
            }
        }
    })
    .await;
    let patient = Limits { loading: Duration::from_secs(60), pause: Duration::from_millis(5), ..LIMITS };
    let done = within(&server.target(), &workload(), None, patient).await;
    assert!(done.ok, "{done:?}");
    // 2 lists unready, 2 lists and answers unready, then both.
    assert_eq!(server.requests(), 8);
}

#[tokio::test]
async fn a_server_that_loads_for_ever_is_given_up() {
    let server = Server::always(reply("503 Unavailable", "application/json", "{}"), false).await;
    let done = try_out(&server.target()).await;
    assert_eq!(done.error_kind, "server_error");
    assert!(done.error.contains("503"), "{}", done.error);
}

#[tokio::test]
async fn a_bad_target_or_workload_is_refused_before_any_request() {
    let server = server(list(), stream(&["OK"]), false).await;
    let done = try_out(&v1::Target { base_url: "ftp://h:1".to_owned(), ..server.target() }).await;
    assert!(done.error_kind == "rejected" && done.error.contains("does not start with http"), "{done:?}");
    let done = within(&server.target(), &v1::Workload::default(), None, LIMITS).await;
    assert!(done.error_kind == "rejected" && done.error.contains("neither a prompt"), "{done:?}");
    assert_eq!(server.requests(), 0);
}
