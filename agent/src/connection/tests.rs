//! What the stamps are worth, measured: how far from a server's write the read's stamp is, and how far one taken when
//! the frame is handled. The rest of this module is tested through `client`.

use tailcliff_proto::v1;

use super::*;
use crate::testserver::{STREAM_HEAD, Server, chunk};

const STREAMS: usize = 64;
const TOKENS: usize = 200;

/// Serves streams whose tokens are the times of their own writing, from a thread of its own.
fn serve() -> v1::Target {
    let (port, target) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::start(|mut conn| async move {
                conn.ask().await;
                conn.say(STREAM_HEAD).await;
                for _ in 0..TOKENS {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    conn.say(chunk(&HostClock.now().to_string())).await;
                }
                conn.say("0\r\n\r\n").await;
            })
            .await;
            port.send(server.target()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    target.recv().unwrap()
}

/// (read stamp, handling stamp) of each token, in ns after its writing.
async fn lags(target: Arc<Target>) -> Vec<(i64, i64)> {
    let mut connection = Connection::open(&target).await.unwrap();
    let mut request = Request::new(Full::new(Bytes::from_static(b"{}")));
    *request.headers_mut() = target.headers().clone();
    let mut body = connection.send(request).await.unwrap().into_body();
    let mut lags = Vec::new();
    while let Some(frame) = connection.frame(&mut body).await {
        let (read_at, handled_at) = (connection.read_at(), HostClock.now());
        let text = frame.unwrap().into_data().unwrap();
        let written: i64 = std::str::from_utf8(&text).unwrap().parse().unwrap();
        assert!(written <= read_at && read_at <= handled_at, "{written} {read_at} {handled_at}");
        lags.push((read_at - written, handled_at - written));
    }
    lags
}

#[tokio::test]
async fn a_stamp_lies_between_the_write_and_the_handling() {
    let target = Arc::new(Target::parse(&serve()).unwrap());
    let streams: Vec<_> = (0..STREAMS).map(|_| tokio::spawn(lags(Arc::clone(&target)))).collect();
    let mut all = Vec::new();
    for stream in streams {
        let lags = stream.await.unwrap();
        assert_eq!(lags.len(), TOKENS);
        all.extend(lags);
    }
    let spread = |mut lags: Vec<i64>| {
        lags.sort_unstable();
        [50, 99].map(|p| lags[lags.len() * p / 100] / 1000)
    };
    let read = spread(all.iter().map(|l| l.0).collect());
    let handled = spread(all.iter().map(|l| l.1).collect());
    println!("µs after the write, p50 and p99: read {read:?}, handled {handled:?}");
}
