//! The scrapes of all probes, by endpoint: two looks at them, one to tell which of them are a series and one to take those in.

use tailcliff_proto::v1::{self, NodeKind};

use crate::clock::Aligned;
use crate::merge::tally::of_kind;
use crate::merge::timeline::Timeline;
use crate::stored::{Incarnation, RunData};

use super::order::rising;
use super::scraped::{OfLevel, Span};
use super::series::{Counting, moment};

/// Endpoints of one probe that are looked at.
const ENDPOINTS_MAX: usize = 64;

/// An endpoint as one probe scrapes it.
pub(super) struct Stream {
    of: Incarnation,
    pub(super) probe: String,
    pub(super) endpoint: String,
    /// Equal for what is the same endpoint, whoever asks it.
    pub(super) identity: (Option<usize>, String),
    counting: Counting,
    /// The moments of all its scrapes as they were told, and whether each is of the series that they are.
    moments: Vec<i64>,
    is_kept: Vec<bool>,
    next: usize,
    pub(super) levels: Vec<OfLevel>,
}

/// All series, and what is of none.
#[derive(Default)]
pub(super) struct Streams {
    pub(super) all: Vec<Stream>,
    /// Scrapes of endpoints that found no room.
    over: u64,
    /// Scrapes without a place on the timeline.
    unplaced: u64,
}

impl Stream {
    fn new(
        of: Incarnation,
        probe: &str,
        sample: &v1::ServerSample,
        timeline: &Timeline,
        levels: usize,
    ) -> Self {
        Self {
            of,
            probe: probe.to_owned(),
            endpoint: sample.endpoint.clone(),
            identity: identity(timeline.domain(of), &sample.endpoint),
            counting: Counting::default(),
            moments: Vec::new(),
            is_kept: Vec::new(),
            next: 0,
            levels: (0..levels).map(|_| OfLevel::default()).collect(),
        }
    }

    /// Takes in the next scrape, if it is of the series.
    fn take(&mut self, sample: &v1::ServerSample, at: Aligned, spans: &[Option<Span>]) {
        let is_kept = self.is_kept.get(self.next).copied().unwrap_or_default();
        self.next += 1;
        if !is_kept {
            return;
        }
        let moment = moment(at, sample.took_ns);
        let totals = sample.failed.is_empty().then(|| self.counting.next(sample, moment));
        for (level, span) in self.levels.iter_mut().zip(spans) {
            let Some(span) = span else { continue };
            level.take(*span, middle(moment), sample, totals.as_ref());
        }
    }

    /// The usual time from scrape to scrape: the median, which no single stamp moves.
    pub(super) fn usual_ns(&self) -> i64 {
        let kept = self.moments.iter().zip(&self.is_kept).filter(|(_, kept)| **kept).map(|(at, _)| *at);
        let mut apart: Vec<i64> = kept.clone().skip(1).zip(kept).map(|(b, a)| b.saturating_sub(a)).collect();
        apart.sort_unstable();
        apart.get(apart.len() / 2).copied().unwrap_or_default()
    }

    /// Scrapes whose stamps do not follow those before them.
    pub(super) fn astray(&self) -> usize {
        self.is_kept.iter().filter(|kept| !**kept).count()
    }
}

impl Streams {
    pub(super) fn read(data: &RunData, timeline: &Timeline, spans: &[Option<Span>]) -> Self {
        let mut streams = Self::default();
        each(data, timeline, |of, probe, sample, at| {
            let Some(at) = at else {
                streams.unplaced += 1;
                return;
            };
            let at = middle(moment(at, sample.took_ns));
            if let Some(stream) = streams.find(of, &sample.endpoint) {
                stream.moments.push(at);
            } else if streams.all.iter().filter(|s| s.of == of).count() < ENDPOINTS_MAX {
                let mut new = Stream::new(of, probe, sample, timeline, spans.len());
                new.moments.push(at);
                streams.all.push(new);
            } else {
                streams.over += 1;
            }
        });
        streams.all.iter_mut().for_each(|stream| stream.is_kept = rising(&stream.moments));
        each(data, timeline, |of, _, sample, at| {
            let stream = at.zip(streams.find(of, &sample.endpoint));
            stream.into_iter().for_each(|(at, stream)| stream.take(sample, at, spans));
        });
        streams
    }

    fn find(&mut self, of: Incarnation, endpoint: &str) -> Option<&mut Stream> {
        self.all.iter_mut().find(|stream| stream.of == of && stream.endpoint == endpoint)
    }

    /// What is in no figure, in words.
    pub(super) fn left_out(&self) -> Vec<String> {
        let over = format!("{} scrapes of endpoints beyond {ENDPOINTS_MAX} a probe were left out", self.over);
        let unplaced =
            format!("{} scrapes of the run have no place on the timeline, and are left out", self.unplaced);
        let all = [(self.over, over), (self.unplaced, unplaced)];
        all.into_iter().filter(|(n, _)| *n > 0).map(|(_, words)| words).collect()
    }
}

/// Every scrape of every probe, with its place.
fn each(
    data: &RunData,
    timeline: &Timeline,
    mut take: impl FnMut(Incarnation, &str, &v1::ServerSample, Option<Aligned>),
) {
    for (of, node) in of_kind(data, NodeKind::GpuProbe) {
        for batch in node.each_batch_with_server() {
            for sample in &batch.server_samples {
                let at = timeline.place(of, sample.raw_ns).filter(|at| is_near(*at));
                take(of, &node.hello.name, sample, at);
            }
        }
    }
}

fn middle(moment: (i64, i64)) -> i64 {
    moment.0 + (moment.1 - moment.0) / 2
}

/// A stamp that can be reckoned with.
fn is_near(at: Aligned) -> bool {
    const FAR: i64 = 1 << 59;
    (-FAR..=FAR).contains(&at.ns) && (0..=FAR).contains(&at.bound_ns)
}

/// What leads to this very host is another endpoint on every host.
fn identity(domain: Option<usize>, endpoint: &str) -> (Option<usize>, String) {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    let loopback = ["localhost", "127.0.0.1", "[::1]"].iter().find_map(|host| rest.strip_prefix(host));
    match loopback.filter(|rest| rest.is_empty() || rest.starts_with([':', '/'])) {
        Some(rest) => (domain, rest.to_owned()),
        None => (None, rest.to_owned()),
    }
}
