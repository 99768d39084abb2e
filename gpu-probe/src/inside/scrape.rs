//! Scrapes the server's metrics while there is a run, on absolute deadlines: one that was missed is left out, not made up for.
//! An endpoint that is slow or gone is told in the sample of the moment, and a person is told when that changes.

mod prometheus;
mod reading;
mod slots;
mod vocabulary;

use std::time::Duration;

use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::endpoint::{Endpoint, Failure};
use super::{Inside, Sink};
pub(super) use prometheus::lines;
use reading::Reading;
use slots::Slots;
pub(super) use vocabulary::stack;

/// More often is not scraped.
const FASTEST: Duration = Duration::from_millis(100);
/// An answer is waited for so long at least, and at most.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// How often is looked again for metrics that were never there.
const SELDOM: Duration = Duration::from_secs(10);
/// Times that a person is told of one endpoint's coming and going.
const MOST_NEWS: u32 = 20;

/// Until `shutdown`, while there is a run to scrape for. `again` is told when an endpoint that had failed answers.
pub(super) async fn run(inside: &Inside, again: &Notify, sink: Sink, shutdown: CancellationToken) {
    let Some(url) = &inside.metrics else { return };
    let every = inside.every.max(FASTEST);
    let endpoint = match Endpoint::new(url, (2 * every).clamp(PATIENCE.0, PATIENCE.1)) {
        Ok(endpoint) => endpoint,
        Err(why) => return sink.tell(why),
    };
    let mut scraper = Scraper { endpoint, named: &inside.named, again, sink, state: State::default() };
    let mut beat = tokio::time::interval(every);
    beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let scrape = async {
        loop {
            beat.tick().await;
            scraper.turn().await;
        }
    };
    tokio::select! {
        () = scrape => {}
        () = shutdown.cancelled() => {}
    }
}

struct Scraper<'a> {
    endpoint: Endpoint,
    named: &'a [String],
    again: &'a Notify,
    sink: Sink,
    state: State,
}

/// What is known of the endpoint.
#[derive(Debug, Default)]
struct State {
    /// It answered once.
    was_there: bool,
    /// The last scrape failed.
    is_gone: bool,
    /// It has none: not before this moment is it asked again.
    not_before: Option<Instant>,
    /// It is llama.cpp, whose slots are asked for.
    has_slots: bool,
    /// It does not tell of its slots.
    slots_are_off: bool,
    news: u32,
    /// A person was told of names that are not there.
    told_names: bool,
}

impl Scraper<'_> {
    /// One deadline.
    async fn turn(&mut self) {
        let is_early = self.state.not_before.is_some_and(|moment| Instant::now() < moment);
        if self.sink.is_on() && !is_early {
            let sample = self.scrape().await;
            self.sink.push(v1::Batch { server_samples: vec![sample], ..Default::default() });
        }
    }

    async fn scrape(&mut self) -> v1::ServerSample {
        let asked_ns = HostClock.now();
        let (answer, slots) = tokio::join!(self.endpoint.metrics(), self.slots());
        let took_ns = HostClock.now() - asked_ns;
        let mut sample = match answer.and_then(|answer| understood(&answer.text(), self.named)) {
            Ok(reading) => self.there(reading),
            Err(failure) => self.gone(failure),
        };
        if let Some(slots) = self.heard(slots).filter(|_| sample.failed.is_empty()) {
            sample.running = sample.running.or(Some(slots.busy));
            sample.kv_usage = sample.kv_usage.or(slots.kv_usage);
        }
        (sample.raw_ns, sample.took_ns) = (asked_ns, took_ns);
        sample.endpoint.clone_from(&self.endpoint.shown);
        sample
    }

    async fn slots(&self) -> Option<Result<Option<Slots>, Failure>> {
        if !self.state.has_slots || self.state.slots_are_off {
            return None;
        }
        Some(slots::ask(&self.endpoint).await)
    }

    fn heard(&mut self, slots: Option<Result<Option<Slots>, Failure>>) -> Option<Slots> {
        match slots? {
            Ok(slots) => slots,
            Err(failure) => {
                self.state.slots_are_off |= failure.status.is_some_and(is_none);
                None
            }
        }
    }

    fn there(&mut self, reading: Reading) -> v1::ServerSample {
        self.state.was_there = true;
        self.state.not_before = None;
        self.state.has_slots = reading.stack == "llama.cpp";
        if std::mem::take(&mut self.state.is_gone) {
            // Another server may have taken its place.
            self.state.slots_are_off = false;
            self.again.notify_one();
            self.news(|shown| format!("metrics of {shown} are told again"));
        }
        if !std::mem::replace(&mut self.state.told_names, true) {
            self.tell_names(&reading);
        }
        reading.sample
    }

    fn gone(&mut self, failure: Failure) -> v1::ServerSample {
        if !self.state.was_there && failure.status.is_some_and(is_none) {
            self.state.not_before = Some(Instant::now() + SELDOM);
        }
        if !std::mem::replace(&mut self.state.is_gone, true) {
            let what = if self.state.was_there { "are not told any more" } else { "are not told" };
            let hint = "--server-metrics URL names others, and none asks for none";
            let words = &failure.words;
            self.news(|shown| format!("metrics of {shown} {what}: {words}; {hint}"));
        }
        v1::ServerSample { failed: failure.words, ..Default::default() }
    }

    fn news(&mut self, words: impl Fn(&str) -> String) {
        self.state.news += 1;
        let mut text = words(&self.endpoint.shown);
        if self.state.news == MOST_NEWS {
            text.push_str(" (it comes and goes: of this no more is told)");
        }
        if self.state.news <= MOST_NEWS {
            self.sink.tell(text);
        }
    }

    fn tell_names(&self, reading: &Reading) {
        let shown = &self.endpoint.shown;
        for name in reading.absent.iter().take(4) {
            self.sink.tell(format!(
                "{shown} has no metric {name}: a histogram's parts are named by NAME_sum, NAME_count and NAME_bucket"
            ));
        }
        for name in reading.crowded.iter().take(4) {
            self.sink.tell(format!("{shown} has more series of {name} than are kept: the rest is left out"));
        }
        if reading.stack.is_empty() && reading.sample.named.is_empty() {
            let text = "tells no metric that is known: --server-metric NAME keeps one by its name";
            self.sink.tell(format!("{shown} {text}"));
        }
    }
}

fn understood(text: &str, named: &[String]) -> Result<Reading, Failure> {
    let reading = reading::read(text, named);
    // A web page has a line or two that might be a sample.
    if reading.good == 0 && !text.trim_start().starts_with('#') || reading.bad > reading.good {
        let words = "its answer is no metrics in Prometheus' text format".to_owned();
        return Err(Failure { status: None, words });
    }
    Ok(reading)
}

/// It is there, and has none or gives none.
fn is_none(status: u16) -> bool {
    matches!(status, 401 | 403 | 404 | 405 | 501)
}

#[cfg(test)]
#[path = "scrape/tests.rs"]
mod tests;
