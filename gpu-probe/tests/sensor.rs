//! What is found of sensors whose truth is known: simulated cards, in virtual time.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and print what it found")]

use std::collections::BTreeMap;
use std::fmt::Write;

use nvml_sim::script::Script;
use tailcliff_gpu_probe::sensor::{Watch, trace};
use tailcliff_proto::v1::{self, SensorReport, Signal};

const MS: i64 = 1_000_000;

/// An H100, simulated: what was seen on one, and what arXiv 2312.02741 has of its instant power.
const H100: &str = "sensor power_instant period=100ms window=25ms phase=13ms
sensor power_average period=100ms window=1s phase=13ms
sensor energy period=100ms phase=37ms
sensor util period=200ms phase=71ms
";

/// Idle and busy in turn, for random times.
fn pulses(seed: u64, seconds: u32) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut text = String::new();
    let mut left = i64::from(seconds) * 1_000;
    while left > 0 {
        let (off, on) = ([50, 100, 200, 500, 724, 1500], [50, 100, 200, 500, 1500]);
        let (off, on) = (random.choice(off).unwrap(), random.choice(on).unwrap());
        let (off, on) = (off + random.i64(0..40), on + random.i64(0..40));
        let watts = random.choice([300, 500, 700]).unwrap();
        writeln!(text, "phase {off}ms power_w=120 util=0\nphase {on}ms power_w={watts} util=100").unwrap();
        left -= off + on;
    }
    text + "once\n"
}

/// How a card is read.
#[derive(Clone, Copy)]
struct Reading {
    poll_ms: f64,
    /// Share of the interval that a reading may come late.
    jitter: f64,
    energy_every: u32,
    buffer_ms: Option<i64>,
    seconds: u32,
}

const USUAL: Reading =
    Reading { poll_ms: 10.0, jitter: 0.2, energy_every: 1, buffer_ms: Some(20), seconds: 40 };

/// Plays a card and gives the last that was said of each signal.
fn watched(card: &str, seed: u64, reading: Reading) -> BTreeMap<Signal, SensorReport> {
    let script: Script = card.parse().unwrap();
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut watch, mut batch, mut said) = (Watch::default(), v1::Batch::default(), BTreeMap::new());
    let (mut buffered, mut handed) = (0, 0);
    let polls = (f64::from(reading.seconds) * 1e3 / reading.poll_ms) as u32;
    for i in 0..polls {
        let late = reading.jitter * random.f64();
        let at = ((f64::from(i) + late) * reading.poll_ms * 1e6) as i64;
        batch.gpu_samples.push(v1::GpuSample {
            raw_ns: at,
            power_instant_mw: Some(script.shown_instant_mw(0, at)),
            power_average_mw: Some(script.shown_average_mw(0, at)),
            energy_mj: (i % reading.energy_every == 0).then(|| script.shown_energy_mj(0, at)),
            gpu_util_pct: Some(script.shown_util(0, at).util),
            read_ns: 20_000,
            ..Default::default()
        });
        if at - handed < 500 * MS {
            continue;
        }
        handed = at;
        if let Some(every) = reading.buffer_ms.map(|ms| ms * MS) {
            let ends: Vec<i64> = (buffered / every + 1..=at / every).map(|n| n * every).collect();
            let joule = |at: i64| script.energy_mj(0, at) as f64 / 1e3;
            let values =
                ends.iter().map(|end| (joule(*end) - joule(end - every)) / (every as f64 / 1e9)).collect();
            buffered = at / every * every;
            batch.driver_samples.push(v1::DriverSamples {
                gpu: 0,
                signal: Signal::PowerSamples as i32,
                raw_ns: ends,
                values,
                bound_ns: 10_000,
            });
        }
        watch.add_to(&mut batch, false);
        let batch = std::mem::take(&mut batch);
        said.extend(batch.sensors.into_iter().map(|report| (report.signal(), report)));
    }
    said.extend(watch.reports(true).into_iter().map(|report| (report.signal(), report)));
    said
}

fn near(found: Option<i64>, truth_ms: f64, share: f64) -> bool {
    found.is_some_and(|ns| (ns as f64 / MS as f64 / truth_ms - 1.0).abs() <= share)
}

/// What is claimed holds: a bar is one of 95 %, so that of many some are missed, by little.
fn holds(report: &SensorReport, truth_ms: f64) -> bool {
    let Some(window) = report.window_ns else { return true };
    let off = (window as f64 / MS as f64 - truth_ms).abs();
    off <= 1.5 * report.window_bar_ns.unwrap() as f64 / MS as f64
}

#[test]
fn an_h100s_periods_and_windows_are_found() {
    for seed in 0..3 {
        let jitter = [0.0, 0.3, 0.9][seed as usize % 3];
        let said = watched(&(pulses(seed, 40) + H100), seed, Reading { jitter, ..USUAL });
        for (signal, period, window) in [
            (Signal::PowerInstant, 100.0, Some(25.0)),
            (Signal::PowerAverage, 100.0, Some(1_000.0)),
            (Signal::Energy, 100.0, None),
            (Signal::GpuUtil, 200.0, Some(200.0)),
            (Signal::PowerSamples, 20.0, None),
        ] {
            let report = &said[&signal];
            assert!(near(report.period_ns, period, 0.05), "seed {seed}: {report:?}");
            assert!(window.is_none_or(|ms| near(report.window_ns, ms, 0.1)), "seed {seed}: {report:?}");
            assert!(report.delay_ns.is_none_or(|ns| ns.abs() < 12 * MS), "seed {seed}: {report:?}");
        }
        assert!(said[&Signal::PowerInstant].note.starts_with("instant power covers 2"), "{said:?}");
        assert!(said[&Signal::PowerAverage].note.contains("plain power is an average over 1.0"), "{said:?}");
    }
}

#[test]
fn without_the_drivers_buffer_the_energy_counter_tells_what_it_can() {
    for seed in 4..7 {
        let reading = Reading { buffer_ms: None, seconds: 60, ..USUAL };
        let said = watched(&(pulses(seed, 60) + H100), seed, reading);
        assert!(near(said[&Signal::PowerAverage].window_ns, 1_000.0, 0.1), "{said:?}");
        let instant = &said[&Signal::PowerInstant];
        assert!(near(instant.period_ns, 100.0, 0.05), "{said:?}");
        assert!(holds(instant, 25.0), "seed {seed}: {instant:?}");
        // A quarter of the counter's own steps: told loosely, or as a bound.
        assert!(
            instant.window_ns.is_some() || instant.note.contains(" ms at most"),
            "seed {seed}: {instant:?}"
        );
    }
}

#[test]
fn other_sensors_are_told_apart_and_no_more_is_claimed_than_holds() {
    let mut random = fastrand::Rng::with_seed(11);
    let (mut told, mut all) = (0, 0);
    for seed in 0..12 {
        let period = [20, 50, 100, 200][seed as usize % 4];
        let window = (period * [10, 25, 50, 100][random.usize(0..4)] / 100).max(2);
        let poll_ms = if period < 100 { 4.0 } else { 10.0 };
        let phase = random.i64(0..period);
        let card = pulses(seed, 40)
            + &format!("sensor power_instant period={period}ms window={window}ms phase={phase}ms\n")
            + "sensor power_average period=100ms window=500ms\n";
        let reading = Reading { poll_ms, jitter: random.f64(), energy_every: 10, ..USUAL };
        let said = watched(&card, seed, reading);
        let instant = &said[&Signal::PowerInstant];
        assert!(near(instant.period_ns, period as f64, 0.1), "{period}/{window}: {instant:?}");
        assert!(holds(instant, window as f64), "{period}/{window}: {instant:?}");
        assert!(near(said[&Signal::PowerAverage].window_ns, 500.0, 0.1), "{said:?}");
        if window >= 20 {
            all += 1;
            told += u32::from(near(instant.window_ns, window as f64, 0.1));
        }
    }
    assert!(told * 10 >= all * 9, "{told} of {all} windows of 20 ms and more were found");
}

#[test]
fn where_power_never_moves_no_window_is_told_and_the_note_says_why() {
    let said = watched(&("phase 1s power_w=120 util=0\nonce\n".to_owned() + H100), 1, USUAL);
    for signal in [Signal::PowerInstant, Signal::PowerAverage, Signal::GpuUtil] {
        let report = &said[&signal];
        assert_eq!((report.window_ns, report.window_bar_ns, report.delay_ns), (None, None, None));
        assert!(report.note.contains("power did not move enough"), "{report:?}");
        assert_eq!((report.updates, report.period_ns), (0, None));
    }
    assert!(near(said[&Signal::Energy].period_ns, 100.0, 0.05), "{said:?}");
}

#[test]
fn whatever_a_broken_driver_says_is_survived() {
    let mut random = fastrand::Rng::with_seed(17);
    let odd = [0.0, -1.0, 1e300, -1e300, f64::NAN, f64::INFINITY, 1e-300, 100.0];
    let mut watch = Watch::default();
    for round in 0..200_i64 {
        let (mut batch, wild) = (v1::Batch::default(), round % 3 == 0);
        for i in 0..100 {
            let at = if wild && i % 7 == 0 { random.i64(..) } else { (round * 100 + i) * 10 * MS };
            batch.gpu_samples.push(v1::GpuSample {
                raw_ns: at,
                gpu: if wild { random.u32(..) } else { 0 },
                power_instant_mw: Some(random.u32(..)),
                power_average_mw: random.bool().then(|| random.u32(..)),
                energy_mj: Some(random.u64(..)),
                gpu_util_pct: Some(random.u32(0..200)),
                read_ns: random.i64(..),
                ..Default::default()
            });
            let stamps = || (0..5).map(|k| at.saturating_add(k * 2 * MS));
            batch.driver_samples.push(v1::DriverSamples {
                gpu: 0,
                signal: random.i32(-3..20),
                raw_ns: stamps().collect(),
                values: (0..random.usize(0..7)).map(|_| *random.choice(&odd).unwrap()).collect(),
                bound_ns: random.i64(..),
            });
            batch.gpm_samples.push(v1::GpmSample {
                from_raw_ns: random.i64(..),
                to_raw_ns: random.i64(..),
                ..Default::default()
            });
        }
        watch.add_to(&mut batch, false);
    }
    let said = watch.reports(true);
    assert!(said.iter().all(|report| report.gpu == 0 || report.window_ns.is_none()));
    let gpus: std::collections::BTreeSet<u32> = said.iter().map(|report| report.gpu).collect();
    assert!(gpus.len() <= 64, "{} GPUs were believed in", gpus.len());
}

/// Every recording beside this: a new one is a fixture by lying there. What is asked of one is what every H100 must show;
/// others need only be told something true of any card.
#[test]
fn real_cards_replayed() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let traces: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "trace")).collect();
    assert!(!traces.is_empty());
    for path in traces {
        let text = std::fs::read_to_string(&path).unwrap();
        let (mut watch, mut said) = (Watch::default(), BTreeMap::new());
        for mut batch in trace::read(&text).unwrap() {
            watch.add_to(&mut batch, false);
            said.extend(batch.sensors.into_iter().map(|report| (report.signal(), report)));
        }
        said.extend(watch.reports(true).into_iter().map(|report| (report.signal(), report)));
        if text.lines().next().is_some_and(|line| line.contains("H100")) {
            is_an_h100(&said);
        }
        assert!(said.values().all(|report| report.window_ns.is_none_or(|ns| ns > 0)), "{said:?}");
    }
}

fn is_an_h100(said: &BTreeMap<Signal, SensorReport>) {
    for (signal, period, window) in [
        (Signal::PowerInstant, 100.0, None),
        (Signal::PowerAverage, 100.0, Some(1_000.0)),
        (Signal::Energy, 100.0, None),
        (Signal::GpuUtil, 200.0, None),
        (Signal::PowerSamples, 20.0, None),
        (Signal::GpuUtilSamples, 200.0, Some(200.0)),
    ] {
        let report = &said[&signal];
        let ms = |ns: Option<i64>| ns.map(|ns| ns as f64 / 1e6);
        let seen = (ms(report.period_ns), ms(report.window_ns), ms(report.window_bar_ns));
        println!("real H100, {signal:?}: period, window, its bar in ms: {seen:.1?}");
        assert!(near(report.period_ns, period, 0.06), "{report:?}");
        assert!(window.is_none_or(|ms| near(report.window_ns, ms, 0.06)), "{report:?}");
    }
    // Its stamps are not the driver's.
    let gpm = &said[&Signal::Gpm];
    assert_eq!(gpm.method, "pairs");
    assert!(!gpm.note.contains("nearly every reading"), "{gpm:?}");
    // It covers a part of each period only. How small a part is told where power was polled fast enough; it is never less
    // than an entry of the driver's buffer is known to hold.
    let instant = &said[&Signal::PowerInstant];
    match instant.window_ns {
        Some(ns) => {
            let bar = instant.window_bar_ns.unwrap();
            assert!(ns + bar >= 20 * MS && ns - bar <= 40 * MS, "{instant:?}");
        }
        None => assert!(instant.note.contains(" ms at most"), "{instant:?}"),
    }
}
