//! A deliberate pause: the reply waits in the socket, and nobody else does.

use super::tests::{attempt, ended};
use super::*;
use crate::testserver::{Server, stream};
use tailcliff_proto::v1::Outcome;

const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_NS: i64 = 250_000_000;

fn client(server: &Server) -> Client {
    Client::new(Arc::new(Target::parse(&server.target()).unwrap()), false)
}

fn paused() -> Attempt {
    Attempt { control_pause: Some(PAUSE), ..attempt() }
}

#[tokio::test]
async fn the_reply_is_first_looked_at_after_the_pause_and_others_go_on() {
    let server = Server::always(stream(&["a", "b", "c"]), false).await;
    let (mut one, mut other) = (client(&server), client(&server));
    let cancel = Cancel::new();
    // The kernel begins to stamp a moment after the first socket asked for it; this one goes on asking.
    let mut before = client(&server);
    assert_eq!(ended(&before.request(attempt(), &cancel).await).0, Outcome::Completed);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let others = async {
        let mut ends = Vec::new();
        for _ in 0..5 {
            ends.push(other.request(attempt(), &cancel).await);
        }
        ends
    };
    let (record, others) = tokio::join!(one.request(paused(), &cancel), others);
    assert_eq!(ended(&record), (Outcome::Completed, ""), "{record:?}");
    let from = record.control_pause_raw_ns.unwrap();
    assert!(record.is_control() && from >= record.sent_raw_ns.unwrap());
    // A millisecond is what the runtime's clock knows.
    assert!(record.control_pause_ns >= PAUSE_NS - 1_000_000, "{record:?}");
    let looked = record.headers_raw_ns.unwrap();
    assert!(looked >= from + record.control_pause_ns);
    // The kernel saw the reply come while nobody looked.
    let waited = record.socket_wait_max_ns.expect("the kernel stamps");
    assert!(looked - waited < from + record.control_pause_ns, "{waited}");
    assert!(waited > PAUSE_NS / 2, "{waited}");
    assert!(others.iter().all(|r| !r.is_control() && r.control_pause_ns == 0 && r.done_raw_ns < looked));
    let after = one.request(attempt(), &cancel).await;
    assert!(!after.is_control() && after.reused_connection, "the connection serves on");
}

#[tokio::test]
async fn a_pause_ends_with_the_level_and_one_never_sent_has_none() {
    let server = Server::always(stream(&["a"]), false).await;
    let cancel = Cancel::new();
    let stop = cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(PAUSE / 4).await;
        stop.cancel();
    });
    let long = Attempt { control_pause: Some(Duration::from_secs(60)), ..attempt() };
    let record = client(&server).request(long, &cancel).await;
    assert_eq!(ended(&record), (Outcome::Incomplete, "cancelled"));
    assert_eq!(record.control_pause_ns, record.done_raw_ns - record.control_pause_raw_ns.unwrap());
    assert!(record.control_pause_ns > 0 && record.headers_raw_ns.is_none());
    let refused = v1::Target { base_url: "http://127.0.0.1:1".to_owned(), ..server.target() };
    let mut nowhere = Client::new(Arc::new(Target::parse(&refused).unwrap()), false);
    let record = nowhere.request(paused(), &Cancel::new()).await;
    assert_eq!((record.outcome(), record.is_control()), (Outcome::Failed, false));
}
