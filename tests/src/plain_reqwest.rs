//! Plain reqwest as a load client, as one would write it without a second thought: one client with its pool, a task for
//! each stream, all on one thread, chunks from `Response::chunk`. They are read with tailcliff's own parsers, so that the
//! difference is reqwest's: what tailcliff would have added had it been built so.

use std::io;
use std::net::SocketAddr;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Response};
use tailcliff_agent::{delta, sse};
use tokio::task::JoinSet;

use crate::floor::{Load, Record, now};

/// Drives the load to its end. `sent_ns` of a record is stamped before the call of `send`: later ones reqwest does not
/// let one see.
///
/// # Errors
/// When a request fails.
pub fn run(address: SocketAddr, load: &Load) -> io::Result<Vec<Record>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let start = now();
        let client = Client::builder().no_proxy().build().map_err(io::Error::other)?;
        let url = format!("http://{address}/v1/chat/completions");
        let mut streams = JoinSet::new();
        for number in 0..load.connections {
            let stream = Stream { client: client.clone(), url: url.clone(), load: load.clone(), number };
            streams.spawn(stream.run(start));
        }
        let mut all = Vec::new();
        while let Some(ended) = streams.join_next().await {
            all.extend(ended??);
        }
        Ok(all)
    })
}

struct Stream {
    client: Client,
    url: String,
    load: Load,
    number: usize,
}

impl Stream {
    async fn run(self, start: i64) -> io::Result<Vec<Record>> {
        let (mut records, mut free) = (Vec::new(), start);
        for request in 0..self.load.requests_each {
            records.push(self.request(request, free).await?);
            free = now();
        }
        Ok(records)
    }

    async fn request(&self, request: usize, intended_ns: i64) -> io::Result<Record> {
        let mut post = self.client.post(&self.url).header(CONTENT_TYPE, "application/json");
        let request_id = self.load.request_id(self.number, request);
        if let Some(id) = &request_id {
            post = post.header("x-request-id", id);
        }
        let post = post.body(self.load.body(self.number, request));
        let request_id = request_id.unwrap_or_default();
        let mut record = Record { request_id, request, intended_ns, sent_ns: now(), ..Record::default() };
        let reply = post.send().await.and_then(Response::error_for_status).map_err(io::Error::other)?;
        read(reply, &mut record).await?;
        Ok(record)
    }
}

async fn read(mut reply: Response, record: &mut Record) -> io::Result<()> {
    let mut parser = sse::Parser::new();
    while let Some(chunk) = reply.chunk().await.map_err(io::Error::other)? {
        let at = now();
        let mut odd = None;
        let fed = parser.feed(&chunk, |payload| match delta::parse(payload) {
            Ok(delta) if delta.done => record.done_ns = at,
            Ok(delta) if delta.chars() > 0 => record.arrivals_ns.push(at),
            Ok(_) => {}
            Err(error) => odd = Some(error),
        });
        fed.map_err(io::Error::other)?;
        odd.map_or(Ok(()), |error| Err(io::Error::other(error)))?;
    }
    Ok(())
}
