//! Writes one reply, streamed or whole, with whatever faults it was given, and keeps its truth.

use std::io;

use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::api::{self, ApiError, Ask, Frames};
use crate::clock::{self, Pair};
use crate::engine::Emission;
use crate::fault::{AtToken, Fault, Faults};
use crate::http::{STREAM_HEAD, response};
use crate::metrics::Metrics;
use crate::timer::Timer;
use crate::tokens::Source;
use crate::truth::{Outcome, TruthRecord};

/// What becomes of the connection after a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    KeepAlive,
    Close,
    /// Close with a TCP reset.
    Reset,
}

/// A reply under way.
pub(crate) struct Reply<'a, W> {
    pub(crate) out: &'a mut W,
    pub(crate) timer: &'a Timer,
    pub(crate) ask: &'a Ask,
    pub(crate) faults: &'a Faults,
    pub(crate) frames: Frames,
    /// `length`, or `stop` where an end-of-sequence token cut the reply short.
    pub(crate) finish: &'static str,
    pub(crate) record: &'a mut TruthRecord,
    pub(crate) metrics: &'a Metrics,
    /// Time of the front end between a token of the engine and its emission, ns.
    pub(crate) front_end_ns: i64,
}

/// The clock of one reply: pauses push all that follows back.
#[derive(Default)]
struct Delay {
    shift_ns: i64,
    before_ns: Option<i64>,
}

impl Delay {
    /// When the token must be written.
    fn due(&mut self, token: &Emission, pause_ns: Option<i64>) -> i64 {
        if let Some(pause) = pause_ns {
            let gap = self.before_ns.map_or(0, |before| token.at - before);
            self.shift_ns += (pause - gap).max(0);
        }
        self.before_ns = Some(token.at);
        token.at + self.shift_ns
    }
}

/// Tokens gathered for the next chunk.
#[derive(Default)]
struct Pending {
    text: String,
    tokens: u64,
    cut: bool,
}

impl<W: AsyncWrite + Unpin> Reply<'_, W> {
    /// Writes the reply. An error means that the client is gone.
    pub(crate) async fn write(mut self, source: Source) -> io::Result<After> {
        if self.ask.stream { self.stream(source).await } else { self.whole(source).await }
    }

    async fn stream(&mut self, mut source: Source) -> io::Result<After> {
        if !self.faults.has(&Fault::LateHeaders) {
            self.head().await?;
        }
        let (mut delay, mut pending) = (Delay::default(), Pending::default());
        while let Some(token) = source.next().await {
            match self.wait(&mut delay, &token).await {
                Some(AtToken::Drop { reset }) => return Ok(self.dropped(reset)),
                Some(AtToken::Error) => return self.stream_error().await,
                Some(AtToken::Truncate) => pending.cut = true,
                Some(AtToken::Stall) | None => {}
            }
            if token.token_index == 0 {
                self.open().await?;
            }
            pending.text.push_str(api::token_text(token.token_index));
            pending.tokens += 1;
            if self.chunk_is_full(&token, &pending) {
                self.chunk(&token, std::mem::take(&mut pending)).await?;
            }
        }
        self.end().await
    }

    /// Waits until the token is due, for ever if it never comes, and says what else is wrong with it.
    async fn wait(&mut self, delay: &mut Delay, token: &Emission) -> Option<AtToken> {
        let since_before = delay.before_ns.map(|before| token.at - before);
        let due = delay.due(token, self.faults.pause_ns(token.token_index)) + self.front_end_ns;
        self.timer.sleep_until(due).await;
        if token.token_index == 0 {
            self.record.dequeued_ns = Some(token.admitted_at);
            self.record.first_token_ns = Some(token.at);
        }
        if token.last {
            self.record.last_token_ns = Some(token.at);
        }
        self.metrics.token(since_before, self.record.prompt_tokens);
        let fault = self.faults.at(token.token_index);
        if fault == Some(AtToken::Stall) {
            std::future::pending().await
        }
        fault
    }

    async fn head(&mut self) -> io::Result<()> {
        self.record.status = Some(200);
        self.out.write_all(STREAM_HEAD.as_bytes()).await
    }

    /// What comes with the first token, before it.
    async fn open(&mut self) -> io::Result<()> {
        if self.record.status.is_none() {
            self.head().await?;
        }
        match self.frames.opening() {
            Some(event) => self.out.write_all(framed(&event).as_bytes()).await,
            None => Ok(()),
        }
    }

    fn chunk_is_full(&self, token: &Emission, pending: &Pending) -> bool {
        let reasoning_ends = token.token_index + 1 == self.faults.reasoning_tokens();
        token.last || reasoning_ends || pending.tokens >= self.faults.tokens_per_chunk()
    }

    async fn chunk(&mut self, token: &Emission, pending: Pending) -> io::Result<()> {
        let reasoning = token.token_index < self.faults.reasoning_tokens();
        let done = self.record.output_tokens + pending.tokens;
        let finish = token.last.then_some(self.finish);
        let mut event = self.frames.content(&pending.text, reasoning, done, finish);
        if pending.cut {
            halve(&mut event);
            event.push_str("\n\n");
            self.record.outcome = Outcome::Truncated;
        }
        let bytes = framed(&event);
        // Stamped with the bytes ready, so that nothing but the write lies between the stamp and the client.
        let now = clock::raw_ns();
        self.record.emissions.push(now);
        self.out.write_all(bytes.as_bytes()).await?;
        self.record.output_tokens = done;
        self.first_out(now);
        if token.last {
            self.last_out();
        }
        Ok(())
    }

    /// Notes when the first token left.
    fn first_out(&mut self, at_ns: i64) {
        if self.record.first_out_ns.is_none() {
            self.record.first_out_ns = Some(at_ns);
            self.metrics.first_out(at_ns - self.record.arrived_ns);
        }
    }

    /// The last token has left, and with it the request's span ends.
    fn last_out(&mut self) {
        self.record.last_out_ns = Some(clock::raw_ns());
        let ended = Pair::read();
        self.record.span_ended_ns = Some(ended.raw_ns);
        self.record.span_ended_unix_ns = Some(ended.unix_ns);
    }

    async fn end(&mut self) -> io::Result<After> {
        let mut bytes =
            self.frames.closing(self.record.output_tokens).as_deref().map(framed).unwrap_or_default();
        let done = !self.faults.has(&Fault::NoDone);
        if done {
            bytes.push_str(&framed(&api::event("[DONE]")));
        }
        bytes.push_str(LAST_CHUNK);
        self.out.write_all(bytes.as_bytes()).await?;
        if self.record.outcome != Outcome::Truncated {
            self.record.outcome = if done { Outcome::Completed } else { Outcome::NoDone };
        }
        Ok(if self.faults.has(&Fault::Close) { After::Close } else { After::KeepAlive })
    }

    async fn stream_error(&mut self) -> io::Result<After> {
        if self.record.status.is_none() {
            self.head().await?;
        }
        let error = ApiError::of_status(500, "the engine failed, as it was asked to").body();
        let bytes = framed(&api::event(&error)) + &framed(&api::event("[DONE]")) + LAST_CHUNK;
        self.out.write_all(bytes.as_bytes()).await?;
        self.record.outcome = Outcome::StreamError;
        Ok(After::KeepAlive)
    }

    fn dropped(&mut self, reset: bool) -> After {
        self.record.outcome = Outcome::Dropped;
        if reset { After::Reset } else { After::Close }
    }

    async fn whole(&mut self, mut source: Source) -> io::Result<After> {
        let (mut delay, mut cut) = (Delay::default(), false);
        let (mut text, mut reasoning, mut tokens) = (String::new(), String::new(), 0);
        while let Some(token) = source.next().await {
            match self.wait(&mut delay, &token).await {
                Some(AtToken::Drop { reset }) => return Ok(self.dropped(reset)),
                Some(AtToken::Error) => return self.whole_error().await,
                Some(AtToken::Truncate) => cut = true,
                Some(AtToken::Stall) | None => {}
            }
            self.first_out(clock::raw_ns());
            let thinking = token.token_index < self.faults.reasoning_tokens();
            let part = if thinking { &mut reasoning } else { &mut text };
            part.push_str(api::token_text(token.token_index));
            tokens += 1;
        }
        let mut body = self.frames.whole(&text, &reasoning, tokens, self.finish);
        if cut {
            halve(&mut body);
        }
        self.record.emissions.push(clock::raw_ns());
        self.out.write_all(response(200, &body, false).as_bytes()).await?;
        self.last_out();
        self.record.status = Some(200);
        self.record.output_tokens = tokens;
        self.record.outcome = if cut { Outcome::Truncated } else { Outcome::Completed };
        Ok(After::KeepAlive)
    }

    async fn whole_error(&mut self) -> io::Result<After> {
        let error = ApiError::of_status(500, "the engine failed, as it was asked to");
        self.out.write_all(response(500, &error.body(), false).as_bytes()).await?;
        self.record.status = Some(500);
        self.record.outcome = Outcome::Rejected;
        Ok(After::KeepAlive)
    }
}

const LAST_CHUNK: &str = "0\r\n\r\n";

/// One HTTP chunk.
fn framed(event: &str) -> String {
    format!("{:x}\r\n{event}\r\n", event.len())
}

/// Cuts a text in its middle, before the character that lies there: a model's name need not be ASCII.
fn halve(text: &mut String) {
    let middle = text.len() / 2;
    let cut = (0..=middle).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    text.truncate(cut);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        let halves = ["", "é", "aé", "éé", "ab€", "abcd"].map(|text| {
            let mut text = text.to_owned();
            halve(&mut text);
            text
        });
        assert_eq!(halves, ["", "", "a", "é", "ab", "ab"]);
    }
}
