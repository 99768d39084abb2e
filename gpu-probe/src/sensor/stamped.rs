//! What is not found by its changes: entries of the driver's buffers, which it stamps, and pairs of performance counters,
//! which we do.

use std::collections::VecDeque;

use tailcliff_proto::v1;

use super::changes::{Recent, Update, period};
use super::gpu::with_period;

/// Entries kept of a driver's buffer: minutes of one each 20 ms.
const MOST_SAMPLES: usize = 16_384;

/// What the driver stamped.
#[derive(Debug, Default)]
pub(super) struct Stamped {
    pub(super) samples: VecDeque<(i64, f64)>,
    seen: u64,
    first_ns: Option<i64>,
    handed: Recent,
    handed_ns: Option<i64>,
}

/// Averages between two readings of ours.
#[derive(Debug, Default)]
pub(super) struct Gpm {
    pub(super) seen: u64,
    first_ns: Option<i64>,
    last_ns: Option<i64>,
    lengths: Recent,
}

impl Stamped {
    pub(super) fn see(&mut self, samples: &v1::DriverSamples) {
        for (&at, &value) in samples.raw_ns.iter().zip(&samples.values) {
            let newest = self.samples.back().map_or(i64::MIN, |(newest, _)| *newest);
            if at <= newest || !value.is_finite() {
                continue;
            }
            self.first_ns.get_or_insert(at);
            self.seen += 1;
            if self.samples.len() == MOST_SAMPLES {
                self.samples.pop_front();
            }
            self.samples.push_back((at, value));
        }
        let Some(&at) = samples.raw_ns.last() else { return };
        if let Some(before) = self.handed_ns.replace(at) {
            self.handed.push(at.saturating_sub(before));
        }
    }

    /// Each entry is an update at its stamp.
    pub(super) fn updates(&self) -> Vec<Update> {
        self.samples.iter().map(|&(at, value)| Update { after_ns: at, by_ns: at, value }).collect()
    }

    pub(super) fn report(&self) -> v1::SensorReport {
        let skip = self.samples.len().saturating_sub(512);
        let recent: Vec<Update> = self.updates().split_off(skip);
        v1::SensorReport {
            poll_ns: self.handed.median(),
            updates: self.seen,
            method: "driver_stamps".to_owned(),
            from_raw_ns: self.first_ns.unwrap_or(0),
            to_raw_ns: self.samples.back().map_or(0, |(at, _)| *at),
            ..with_period(period(&recent))
        }
    }
}

impl Gpm {
    pub(super) fn see(&mut self, sample: &v1::GpmSample) {
        self.seen += 1;
        self.first_ns.get_or_insert(sample.from_raw_ns);
        self.last_ns = Some(sample.to_raw_ns);
        self.lengths.push(sample.to_raw_ns.saturating_sub(sample.from_raw_ns));
    }

    pub(super) fn report(&self) -> Option<v1::SensorReport> {
        let length = self.lengths.median();
        Some(v1::SensorReport {
            poll_ns: length,
            period_ns: Some(length),
            window_ns: Some(length),
            updates: self.seen,
            method: "pairs".to_owned(),
            from_raw_ns: self.first_ns?,
            to_raw_ns: self.last_ns?,
            ..Default::default()
        })
    }
}
