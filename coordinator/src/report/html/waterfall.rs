//! Requests shown one by one: of each level the slowest, some of the failed, and some at random (by a hash, so that the
//! same journal shows the same ones). Where the server told of one, its parts stand beside the client's stamps.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tailcliff_proto::v1::{Outcome, Phase, RequestRecord};

use crate::inside::Joined;
use crate::merge::record::{self, Try, one_try};
use crate::report::text::{json_ms, json_us, number};
use crate::report::waterfall::impossible_parts;
use crate::stored::Incarnation;

use super::life::Life;
use super::series::Axis;

/// Requests of a run at most.
const MOST: usize = 200;
/// Requests of a level at most, of each of the three kinds.
const OF_A_KIND: usize = 14;
/// Longest text of an error that is shown, characters.
const ERROR: usize = 200;

/// Requests chosen so far.
#[derive(Debug)]
pub(super) struct Waterfall {
    each: usize,
    levels: BTreeMap<u32, [Chosen; 3]>,
    /// What the server told of the chosen; null of those of which nothing came.
    joined: BTreeMap<Try, Value>,
}

/// Those with the largest keys.
#[derive(Debug, Default)]
struct Chosen {
    all: BTreeMap<(u64, u64), (Try, Value)>,
}

impl Chosen {
    /// Makes the request's description only when it is to be kept.
    fn offer(&mut self, key: (u64, u64), most: usize, describe: impl FnOnce() -> (Try, Value)) {
        if self.all.len() >= most && self.all.keys().next().is_none_or(|least| *least >= key) {
            return;
        }
        self.all.insert(key, describe());
        if self.all.len() > most {
            self.all.pop_first();
        }
    }
}

impl Waterfall {
    pub(super) fn new(levels: usize) -> Self {
        let each = (MOST / 3 / levels.max(1)).clamp(1, OF_A_KIND);
        Self { each, levels: BTreeMap::new(), joined: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, of: Incarnation, life: &Life, record: &RequestRecord, agent: &str) {
        let each = self.each;
        let [slowest, failed, some] = self.levels.entry(record.level).or_default();
        let number = (u64::from(record.stream) << 40) ^ record.request;
        // A warm-up's requests stand only for want of others.
        let measured = u64::from(record.phase == Phase::Measured as i32) << 63;
        let lot =
            mixed(mixed(number) ^ agent.len() as u64 ^ record.intended_raw_ns.unsigned_abs()) >> 1 | measured;
        let describe = |why: &'static str| move || (one_try(of, record), one(life, record, agent, why));
        let length = life.done_ns.saturating_sub(life.intended_ns).max(0).unsigned_abs() | measured;
        match record::outcome(record) {
            Outcome::Completed => {
                slowest.offer((length, lot), each, describe("slowest"));
                some.offer((lot, number), each, describe("at random"));
            }
            _ => failed.offer((lot, number), each, describe("not completed")),
        }
    }

    /// All were offered.
    pub(super) fn close(&mut self) {
        let chosen = self.levels.values().flatten().flat_map(|chosen| chosen.all.values());
        self.joined = chosen.map(|(key, _)| (*key, Value::Null)).collect();
    }

    /// What the server told of a request, if that is one of the chosen.
    pub(super) fn join(&mut self, of: &Joined<'_>) {
        if let Some(place) = self.joined.get_mut(&one_try(of.of, of.record)) {
            *place = inside(of);
        }
    }

    /// By level, in the order of time; one that is both slow and drawn is there once.
    pub(super) fn json(&self, axis: Axis) -> Value {
        let mut rows = Vec::new();
        for chosen in self.levels.values() {
            let mut level: Vec<&(Try, Value)> = Vec::new();
            for row in chosen.iter().flat_map(|chosen| chosen.all.values()) {
                if !level.iter().any(|other| other.0 == row.0) {
                    level.push(row);
                }
            }
            rows.extend(level);
        }
        rows.truncate(MOST);
        rows.into_iter().map(|(key, row)| told(row, self.joined.get(key), axis)).collect()
    }
}

/// Its stamps, ns on the coordinator's clock.
fn one(life: &Life, record: &RequestRecord, agent: &str, why: &str) -> Value {
    let at = |raw: Option<i64>| raw.map(|raw| life.at(raw));
    let error: String =
        format!("{} {}", record.error_kind, record.error_detail).chars().take(ERROR).collect();
    json!({
        "key": [agent, record.stream, record.request, record.attempt],
        "why": why,
        "level": record.level,
        "request_id": record.request_id,
        "outcome": super::super::requests::outcome_name(record::outcome(record)),
        "error": error.trim(),
        "output_tokens": record.output_tokens,
        "unc_us": number(Some(life.bound_ns as f64 / 1e3), 1),
        "stamps_ns": [
            Some(life.intended_ns),
            at(record.issued_raw_ns),
            at(record.connected_raw_ns),
            at(record.sent_raw_ns),
            at(record.headers_raw_ns),
            at(record.first_chunk_raw_ns),
            at(record.first_token_raw_ns),
            at(record.last_token_raw_ns),
            Some(life.done_ns),
        ],
    })
}

/// What the server told, its parts in their order.
fn inside(of: &Joined<'_>) -> Value {
    let ms = |ns: &Option<i64>| json_ms(ns.map(|ns| ns as f64));
    json!({
        "source": of.source.as_str(),
        "server": of.server,
        "bound_us": json_us(of.bound_ns),
        "impossible": impossible_parts(of.impossible),
        "parts_ms": of.parts.iter().map(ms).collect::<Vec<_>>(),
    })
}

/// The same with seconds of the run, and ms since the intended send.
fn told(row: &Value, inside: Option<&Value>, axis: Axis) -> Value {
    let stamps: Vec<Option<i64>> =
        row["stamps_ns"].as_array().into_iter().flatten().map(Value::as_i64).collect();
    let intended = stamps.first().copied().flatten().unwrap_or_default();
    let ms = |ns: &Option<i64>| number(ns.map(|ns| ns.saturating_sub(intended) as f64 / 1e6), 4);
    let mut row = row.clone();
    if let Some(row) = row.as_object_mut() {
        row.remove("stamps_ns");
        row.insert("t_s".to_owned(), number(Some(axis.run_s(intended)), 6));
        row.insert("stamps_ms".to_owned(), stamps.iter().map(ms).collect());
        row.insert("inside".to_owned(), inside.cloned().unwrap_or_default());
    }
    row
}

/// A hash that is the same everywhere (splitmix64's last steps).
fn mixed(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
