//! What was read of GPUs as lines of text, so that a recording made on a card can be kept, looked at and played again:
//!
//! ```text
//! # anything: the card, its driver, the day, how it was made
//! g,GPU,TIME,READ,power_instant_mw,power_average_mw,energy_mj,gpu_util_pct,mem_util_pct,sm_clock_mhz,mem_clock_mhz,throttle,temperature_c,mem_used_bytes
//! s,GPU,SIGNAL,BOUND,TIME,VALUE,TIME,VALUE,…
//! m,GPU,TIME,LENGTH,sm_active_pct,sm_occupancy_pct,tensor_active_pct,dram_active_pct,pcie_tx,pcie_rx,nvlink_tx,nvlink_rx
//! ```
//!
//! `g` is a reading, `s` what the driver stamped itself (SIGNAL is its number in the protocol), `m` a GPM sample. Times are
//! µs: a TIME counts from the TIME before it in lines of this letter (in `s`, in this line too; the first from 0), READ
//! and LENGTH are spans. A value of `g` that is empty is as it was before, `-` is absent; of `m` empty is absent.

use std::collections::BTreeMap;
use std::io::{self, Write};

use tailcliff_proto::v1;

const US: i64 = 1_000;
/// Values of a reading.
const VALUES: usize = 10;
/// Readings in one batch when they are played again.
const BATCH: usize = 50;

/// Why a trace cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to read line {line} of the trace: {text:?} is none of its lines")]
pub struct BadTrace {
    /// Counted from 1.
    pub line: usize,
    /// Its beginning.
    pub text: String,
}

/// Where times and repeated values stand.
#[derive(Debug, Default)]
struct Place {
    zero_ns: Option<i64>,
    /// By letter, µs.
    at_us: BTreeMap<char, i64>,
    values: BTreeMap<u32, [Option<u64>; VALUES]>,
}

/// Writes a trace.
#[derive(Debug)]
pub struct TraceWriter<W> {
    out: W,
    place: Place,
}

impl<W: Write> TraceWriter<W> {
    /// Begins one with a comment that says of what it is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(mut out: W, about: &str) -> io::Result<Self> {
        for line in about.lines() {
            writeln!(out, "# {line}")?;
        }
        Ok(Self { out, place: Place::default() })
    }

    /// Adds what a batch holds of GPUs.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, batch: &v1::Batch) -> io::Result<()> {
        for sample in &batch.gpu_samples {
            let line = self.reading(sample);
            writeln!(self.out, "{}", line.trim_end_matches(','))?;
        }
        for samples in &batch.driver_samples {
            let bound = samples.bound_ns / US;
            write!(self.out, "s,{},{},{bound}", samples.gpu, samples.signal)?;
            for (at, value) in samples.raw_ns.iter().zip(&samples.values) {
                write!(self.out, ",{},{}", self.place.since('s', *at), short(*value))?;
            }
            writeln!(self.out)?;
        }
        for sample in &batch.gpm_samples {
            let length = sample.to_raw_ns.saturating_sub(sample.from_raw_ns) / US;
            write!(self.out, "m,{},{},{length}", sample.gpu, self.place.since('m', sample.from_raw_ns))?;
            for value in gpm(&mut sample.clone()) {
                write!(self.out, ",{}", value.map_or(String::new(), |v| short(f64::from(v))))?;
            }
            writeln!(self.out)?;
        }
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end(mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn reading(&mut self, sample: &v1::GpuSample) -> String {
        let since = self.place.since('g', sample.raw_ns);
        let mut line = format!("g,{},{since},{}", sample.gpu, sample.read_ns / US);
        let before = self.place.values.entry(sample.gpu).or_default();
        for (before, value) in before.iter_mut().zip(values(sample)) {
            line.push(',');
            if *before != value {
                line += &value.map_or("-".to_owned(), |v| v.to_string());
                *before = value;
            }
        }
        line
    }
}

/// Reads a trace; readings come in batches of half a second or so, with what else was between them.
///
/// # Errors
/// The first line that is none of a trace's.
pub fn read(text: &str) -> Result<Vec<v1::Batch>, BadTrace> {
    let (mut place, mut batches) = (Place::default(), vec![v1::Batch::default()]);
    for (i, line) in text.lines().enumerate() {
        let bad = || BadTrace { line: i + 1, text: line.chars().take(80).collect() };
        if batches.last().is_none_or(|batch| batch.gpu_samples.len() >= BATCH) {
            batches.push(v1::Batch::default());
        }
        let Some(batch) = batches.last_mut() else { return Err(bad()) };
        place.take(line, batch).ok_or_else(bad)?;
    }
    Ok(batches)
}

impl Place {
    /// µs since the time before it, and remembers it.
    fn since(&mut self, letter: char, raw_ns: i64) -> i64 {
        let zero = *self.zero_ns.get_or_insert(raw_ns);
        let at = raw_ns.saturating_sub(zero) / US;
        at - self.at_us.insert(letter, at).unwrap_or(0)
    }

    fn time(&mut self, letter: char, since: &str) -> Option<i64> {
        let at = self.at_us.entry(letter).or_default();
        *at = at.checked_add(since.parse().ok()?)?;
        at.checked_mul(US)
    }

    fn take(&mut self, line: &str, batch: &mut v1::Batch) -> Option<()> {
        if line.is_empty() || line.starts_with('#') {
            return Some(());
        }
        let cells: Vec<&str> = line.split(',').collect();
        match cells[..] {
            ["g", gpu, since, took, ref values @ ..] => {
                let raw_ns = self.time('g', since)?;
                batch.gpu_samples.push(self.read_values(gpu.parse().ok()?, raw_ns, took, values)?);
            }
            ["s", gpu, signal, bound, ref pairs @ ..] => {
                let (gpu, signal) = (gpu.parse().ok()?, signal.parse().ok()?);
                let bound_ns = bound.parse::<i64>().ok()?.checked_mul(US)?;
                let mut samples = v1::DriverSamples { gpu, signal, bound_ns, ..Default::default() };
                for pair in pairs.chunks(2) {
                    samples.raw_ns.push(self.time('s', pair[0])?);
                    samples.values.push(pair.get(1)?.parse().ok()?);
                }
                batch.driver_samples.push(samples);
            }
            ["m", gpu, since, length, ref values @ ..] => {
                let from_raw_ns = self.time('m', since)?;
                let to_raw_ns = from_raw_ns.checked_add(length.parse::<i64>().ok()?.checked_mul(US)?)?;
                let gpu = gpu.parse().ok()?;
                let mut sample = v1::GpmSample { gpu, from_raw_ns, to_raw_ns, ..Default::default() };
                for (value, text) in gpm(&mut sample).into_iter().zip(values) {
                    *value = if text.is_empty() { None } else { Some(text.parse().ok()?) };
                }
                batch.gpm_samples.push(sample);
            }
            _ => return None,
        }
        Some(())
    }

    fn read_values(&mut self, gpu: u32, raw_ns: i64, took: &str, cells: &[&str]) -> Option<v1::GpuSample> {
        let values = self.values.entry(gpu).or_default();
        for (value, cell) in values.iter_mut().zip(cells) {
            match *cell {
                "" => {}
                "-" => *value = None,
                number => *value = Some(number.parse().ok()?),
            }
        }
        let [instant, average, energy, util, mem_util, sm, mem, throttle, temperature, used] = *values;
        let short = |value: Option<u64>| value.and_then(|v| u32::try_from(v).ok());
        Some(v1::GpuSample {
            raw_ns,
            gpu,
            read_ns: took.parse::<i64>().ok()?.checked_mul(US)?,
            power_instant_mw: short(instant),
            power_average_mw: short(average),
            energy_mj: energy,
            gpu_util_pct: short(util),
            mem_util_pct: short(mem_util),
            sm_clock_mhz: short(sm),
            mem_clock_mhz: short(mem),
            throttle_reasons: throttle,
            temperature_c: short(temperature),
            mem_used_bytes: used,
            ..Default::default()
        })
    }
}

fn values(sample: &v1::GpuSample) -> [Option<u64>; VALUES] {
    [
        sample.power_instant_mw.map(u64::from),
        sample.power_average_mw.map(u64::from),
        sample.energy_mj,
        sample.gpu_util_pct.map(u64::from),
        sample.mem_util_pct.map(u64::from),
        sample.sm_clock_mhz.map(u64::from),
        sample.mem_clock_mhz.map(u64::from),
        sample.throttle_reasons,
        sample.temperature_c.map(u64::from),
        sample.mem_used_bytes,
    ]
}

fn gpm(sample: &mut v1::GpmSample) -> [&mut Option<f32>; 8] {
    [
        &mut sample.sm_active_pct,
        &mut sample.sm_occupancy_pct,
        &mut sample.tensor_active_pct,
        &mut sample.dram_active_pct,
        &mut sample.pcie_tx_mib_s,
        &mut sample.pcie_rx_mib_s,
        &mut sample.nvlink_tx_mib_s,
        &mut sample.nvlink_rx_mib_s,
    ]
}

/// With two decimals at most.
fn short(value: f64) -> String {
    ((value * 100.0).round() / 100.0).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let sample = |ms: i64, instant, util| v1::GpuSample {
            raw_ns: (1_000 + ms) * 1_000_000,
            gpu: 1,
            read_ns: 12_000,
            power_instant_mw: instant,
            gpu_util_pct: util,
            energy_mj: Some(5),
            ..Default::default()
        };
        let batch = v1::Batch {
            gpu_samples: vec![
                sample(0, Some(7), Some(1)),
                sample(10, Some(7), None),
                sample(20, None, Some(1)),
            ],
            driver_samples: vec![v1::DriverSamples {
                gpu: 1,
                signal: v1::Signal::PowerSamples as i32,
                raw_ns: vec![980_000_000, 1_000_000_000],
                values: vec![100.25, 99.0],
                bound_ns: 5_000,
            }],
            gpm_samples: vec![v1::GpmSample {
                gpu: 1,
                from_raw_ns: 1_000_000_000,
                to_raw_ns: 1_100_000_000,
                dram_active_pct: Some(12.5),
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut text = Vec::new();
        let mut writer = TraceWriter::new(&mut text, "a card\nsimulated").unwrap();
        writer.add(&batch).unwrap();
        writer.end().unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("# a card\n# simulated\ng,1,0,12,7,,5,1\ng,1,10000,12,,,,-\n"), "{text}");
        let back = read(&text).unwrap();
        let moved = |ns: i64| ns + 1_000_000_000;
        let mut samples = back[0].gpu_samples.clone();
        samples.iter_mut().for_each(|s| s.raw_ns = moved(s.raw_ns));
        assert_eq!(samples, batch.gpu_samples);
        let stamped = &back[0].driver_samples[0];
        assert_eq!(
            stamped.raw_ns.iter().map(|ns| moved(*ns)).collect::<Vec<_>>(),
            batch.driver_samples[0].raw_ns
        );
        assert_eq!(stamped.values, batch.driver_samples[0].values);
        assert_eq!(back[0].gpm_samples[0].dram_active_pct, Some(12.5));
    }

    #[test]
    fn a_broken_line_is_named() {
        for bad in ["x,1", "g,0,a,1", "g,0", "s,0,11,1,5", "m,0,0,x", "g,0,1,9223372036854775807"] {
            assert_eq!(read(&format!("# fine\n{bad}\n")).unwrap_err().line, 2, "{bad}");
        }
    }
}
