//! One answer of an endpoint, as a sample: figures by the vocabulary, histograms merged, series that were asked for by name.

use std::collections::BTreeMap;

use tailcliff_proto::v1;

use super::prometheus::{Line, lines};
use super::vocabulary::{Figure, Meaning, Ranks, TABLE, row, stack};

/// Series of one name that are kept, …
const MOST_SERIES: usize = 64;
/// … if they are not longer than this, bytes, …
const LONGEST_SERIES: usize = 1024;
/// … and so many in all.
const MOST_NAMED: usize = 512;
/// Bounds of one histogram; of more the first are kept: what lies at or below them stays true.
const MOST_BOUNDS: usize = 64;

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) sample: v1::ServerSample,
    /// Lines that are samples, and lines that are nothing.
    pub(super) good: usize,
    pub(super) bad: usize,
    /// Of the server that it is, if it is a known one.
    pub(super) stack: &'static str,
    /// Names that were asked for and are not there, or have more series than are kept.
    pub(super) absent: Vec<String>,
    pub(super) crowded: Vec<String>,
}

#[derive(Debug, Default)]
struct Histogram {
    /// By the bits of an upper bound, which order as the bounds do where they are not negative: how many lie at or below it,
    /// and how many series say so.
    bounds: BTreeMap<u64, (f64, u32)>,
    infinite: Option<f64>,
    sum: Option<f64>,
    count: Option<f64>,
}

/// Reads a text; `named` are metrics to be kept beside those that are known.
pub(super) fn read(text: &str, named: &[String]) -> Reading {
    let mut reading = Reading::default();
    let mut values: Vec<Option<f64>> = vec![None; TABLE.len()];
    let mut histograms: BTreeMap<usize, Histogram> = BTreeMap::new();
    let mut seen: BTreeMap<&str, usize> = named.iter().map(|name| (name.as_str(), 0)).collect();
    let ranks = Ranks::of(text);
    for line in lines(text) {
        let Some(line) = line else {
            reading.bad += 1;
            continue;
        };
        reading.good += 1;
        if reading.stack.is_empty() {
            reading.stack = stack(line.name);
        }
        let meaning = row(line.name).map(|row| (row, TABLE[row].2));
        if let Some(seen) = seen.get_mut(line.name) {
            *seen += 1;
            reading.keep(&line, *seen);
        } else if matches!(meaning, Some((_, Meaning::Kept))) && !ranks.tells_again(&line) {
            reading.keep(&line, 1);
        }
        match meaning {
            Some((row, Meaning::Tells(figures))) if !ranks.tells_again(&line) => {
                values[row] = joined(figures, values[row], line.value);
            }
            None if !ranks.tells_again(&line) => part(&line, &mut histograms),
            _ => {}
        }
    }
    reading.sample.histograms = merged(histograms);
    fill(&mut reading.sample, &values);
    let of =
        |is: fn(usize) -> bool| seen.iter().filter(move |(_, n)| is(**n)).map(|(name, _)| (*name).to_owned());
    (reading.absent, reading.crowded) = (of(|n| n == 0).collect(), of(|n| n > MOST_SERIES).collect());
    reading
}

impl Reading {
    fn keep(&mut self, line: &Line<'_>, nth: usize) {
        let named = &mut self.sample.named;
        let has_room = nth <= MOST_SERIES && named.len() < MOST_NAMED && line.series.len() <= LONGEST_SERIES;
        // What is no number is absent.
        if has_room && line.value.is_finite() {
            named.push(v1::NamedValue { name: line.series.to_owned(), value: line.value });
        }
    }
}

/// With a further series of the same name.
fn joined(figures: &[Figure], before: Option<f64>, value: f64) -> Option<f64> {
    if !value.is_finite() || value < 0.0 {
        return before;
    }
    Some(match before {
        None => value,
        Some(before) if figures == [Figure::KvUsage] => before.max(value),
        Some(before) => before + value,
    })
}

fn part(line: &Line<'_>, histograms: &mut BTreeMap<usize, Histogram>) {
    let Some((base, what)) = line.name.rsplit_once('_') else { return };
    let Some(row) = row(base).filter(|row| matches!(TABLE[*row].2, Meaning::Times(_))) else { return };
    if !line.value.is_finite() || line.value < 0.0 {
        return;
    }
    let histogram = histograms.entry(row).or_default();
    let add = |total: &mut Option<f64>| *total = Some(total.unwrap_or(0.0) + line.value);
    match what {
        "sum" => add(&mut histogram.sum),
        "count" => add(&mut histogram.count),
        "bucket" => {
            let bound = line.label("le").and_then(|le| le.parse::<f64>().ok());
            match bound.filter(|bound| *bound >= 0.0) {
                Some(f64::INFINITY) => add(&mut histogram.infinite),
                // +0.0 and -0.0 are one bound.
                Some(bound) => histogram.at(bound + 0.0, line.value),
                None => {}
            }
        }
        _ => {}
    }
}

impl Histogram {
    fn at(&mut self, bound: f64, value: f64) {
        // So that an endpoint with a bound for every request costs no more.
        if self.bounds.len() < 4 * MOST_BOUNDS || self.bounds.contains_key(&bound.to_bits()) {
            let (sum, series) = self.bounds.entry(bound.to_bits()).or_default();
            (*sum, *series) = (*sum + value, *series + 1);
        }
    }

    /// `None` when it is none: without a sum or count, or when it counts fewer below a higher bound.
    fn whole(self, of: v1::ServerLatency) -> Option<v1::ServerHistogram> {
        let (sum_s, count) = (self.sum?, self.count.or(self.infinite)?);
        let all = self.bounds.values().map(|(_, series)| *series).max().unwrap_or(0);
        // A bound that not every series has would count too few.
        let bounds = self.bounds.into_iter().filter(|(_, (_, series))| *series == all).take(MOST_BOUNDS);
        let (upper_s, cumulative): (Vec<f64>, Vec<f64>) =
            bounds.map(|(bits, (sum, _))| (f64::from_bits(bits), sum)).unzip();
        let ascends = cumulative.iter().chain([&count]).is_sorted();
        ascends.then_some(v1::ServerHistogram { of: of as i32, upper_s, cumulative, sum_s, count })
    }
}

/// One for each latency: of the first dialect that tells it.
fn merged(histograms: BTreeMap<usize, Histogram>) -> Vec<v1::ServerHistogram> {
    let mut all: Vec<v1::ServerHistogram> = Vec::new();
    for (row, histogram) in histograms {
        let Meaning::Times(of) = TABLE[row].2 else { continue };
        if all.iter().all(|known| known.of != of as i32) {
            all.extend(histogram.whole(of));
        }
    }
    all
}

fn fill(sample: &mut v1::ServerSample, values: &[Option<f64>]) {
    let figure = |figure| told(figure, values);
    sample.running = figure(Figure::Running);
    sample.waiting = figure(Figure::Waiting);
    sample.kv_usage = figure(Figure::KvUsage);
    sample.preemptions = figure(Figure::Preemptions);
    sample.cache_hits = figure(Figure::CacheHits);
    // A server that tells of no hits does not look for any, as far as can be told.
    sample.cache_queries = sample.cache_hits.and(figure(Figure::CacheQueries));
    sample.drafted = figure(Figure::Drafted);
    sample.accepted = figure(Figure::Accepted);
    sample.prompt_tokens = figure(Figure::PromptTokens);
    sample.output_tokens = figure(Figure::OutputTokens);
}

/// By the first dialect that tells it.
fn told(figure: Figure, values: &[Option<f64>]) -> Option<f64> {
    let rows = TABLE.iter().zip(values).filter_map(|((dialect, _, meaning), value)| match meaning {
        Meaning::Tells(figures) if figures.contains(&figure) => value.map(|value| (*dialect, value)),
        _ => None,
    });
    let mut of = None;
    rows.filter(|(dialect, _)| *of.get_or_insert(*dialect) == *dialect)
        .map(|(_, value)| value)
        .reduce(|a, b| a + b)
}

#[cfg(test)]
#[path = "reading_tests.rs"]
mod tests;
