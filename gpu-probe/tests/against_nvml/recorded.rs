//! What a recording of scripted cards holds, beside the script's own truth.

use std::time::Duration;

use nvml_sim::script::Script;
use tailcliff_gpu_probe::config::Config;
use tailcliff_gpu_probe::record::{Recorded, Recording};
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1::{self, Signal};

use crate::library::library_then;

/// A script that began when its recording did.
pub(crate) struct Scene {
    pub(crate) recorded: Recorded,
    pub(crate) script: Script,
    pub(crate) origin: i64,
}

/// Records scripted cards for some time.
pub(crate) fn record(script: &str, ms: u64, tune: impl FnOnce(&mut Config)) -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let mut origin = 0;
    let mut config = Config::new("");
    config.nvml_path = Some(library_then(dir.path(), || {
        origin = HostClock.now();
        format!("{script}\norigin_raw_ns {origin}\n")
    }));
    tune(&mut config);
    let recording = Recording::start(&config).unwrap();
    std::thread::sleep(Duration::from_millis(ms));
    Scene { recorded: recording.stop(), script: script.parse().unwrap(), origin }
}

impl Scene {
    pub(crate) fn samples(&self) -> impl Iterator<Item = &v1::GpuSample> {
        self.recorded.batches.iter().flat_map(|batch| &batch.gpu_samples)
    }

    pub(crate) fn stamped(&self, signal: Signal) -> impl Iterator<Item = &v1::DriverSamples> {
        let all = self.recorded.batches.iter().flat_map(|batch| &batch.driver_samples);
        all.filter(move |of| of.signal == signal as i32)
    }

    pub(crate) fn gpm(&self) -> impl Iterator<Item = &v1::GpmSample> {
        self.recorded.batches.iter().flat_map(|batch| &batch.gpm_samples)
    }

    pub(crate) fn events(&self) -> Vec<(&str, u32, u64)> {
        let all = self.recorded.batches.iter().flat_map(|batch| &batch.gpu_events);
        all.map(|event| (event.kind.as_str(), event.gpu, event.code)).collect()
    }

    pub(crate) fn refused(&self) -> Vec<(u32, Signal, &str)> {
        let all = self.recorded.batches.iter().flat_map(|batch| &batch.sensors);
        let refused = all.filter(|report| !report.refused.is_empty());
        refused.map(|r| (r.gpu, Signal::try_from(r.signal).unwrap(), r.refused.as_str())).collect()
    }

    pub(crate) fn cost(&self) -> v1::ProbeCost {
        let mut all = v1::ProbeCost::default();
        for cost in self.recorded.batches.iter().flat_map(|batch| &batch.probe_costs) {
            all.add(cost);
        }
        all
    }
}

const SQUARE: &str = "phase 300ms power_w=100 util=0 mem_util=0\nphase 300ms power_w=400 util=90 mem_util=50";

#[test]
fn energy_is_a_sample_of_its_own_and_true_within_its_own_call() {
    let scene = record(SQUARE, 1_000, |_| {});
    let energies: Vec<_> = scene.samples().filter(|s| s.energy_mj.is_some()).collect();
    assert!(energies.len() >= 5, "{}", energies.len());
    for sample in &energies {
        let truth = |raw: i64| scene.script.energy_mj(0, raw - scene.origin);
        let within = truth(sample.raw_ns)..=truth(sample.raw_ns + sample.read_ns);
        assert!(within.contains(&sample.energy_mj.unwrap()), "{sample:?}: {within:?}");
        let rest = v1::GpuSample {
            raw_ns: sample.raw_ns,
            read_ns: sample.read_ns,
            energy_mj: sample.energy_mj,
            ..Default::default()
        };
        assert_eq!(**sample, rest);
    }
}

#[test]
fn samples_of_both_threads_come_in_order_and_say_only_what_was_read() {
    let scene = record(SQUARE, 1_000, |_| {});
    let stamps: Vec<i64> = scene.samples().map(|s| s.raw_ns).collect();
    for batch in &scene.recorded.batches {
        assert!(batch.gpu_samples.is_sorted_by_key(|s| s.raw_ns));
    }
    assert!(stamps.len() > 30, "{}", stamps.len());
    for sample in scene.samples() {
        let (fast, levels) = (sample.power_instant_mw.is_some(), sample.mem_used_bytes.is_some());
        assert_eq!(
            [fast, levels, sample.energy_mj.is_some()].iter().filter(|is| **is).count(),
            1,
            "{sample:?}"
        );
        if fast {
            let truth = |at| scene.script.levels(0, at - scene.origin).power_w * 1_000;
            let shown = sample.power_instant_mw.unwrap();
            assert!(
                [truth(sample.raw_ns), truth(sample.raw_ns + sample.read_ns)].contains(&shown),
                "{sample:?}"
            );
        }
    }
    assert!(scene.samples().any(|s| s.temperature_c.is_some() && s.mem_clock_mhz.is_some()));
}

#[test]
fn the_drivers_own_samples_come_each_once_and_their_stamps_are_carried_over() {
    let scene = record(SQUARE, 1_500, |_| {});
    let mut last = 0;
    let mut count = 0;
    for of in scene.stamped(Signal::PowerSamples) {
        assert!(of.bound_ns < 5_000_000, "{}", of.bound_ns);
        for (&raw, &watts) in of.raw_ns.iter().zip(&of.values) {
            assert!(raw > last);
            (last, count) = (raw, count + 1);
            // The stand-in keeps one each 20 ms of its script's time.
            let at = raw - scene.origin;
            let end = (at + 10_000_000) / 20_000_000 * 20_000_000;
            assert!((at - end).abs() <= of.bound_ns, "{at}: {}", of.bound_ns);
            let mj = scene.script.energy_mj(0, end) - scene.script.energy_mj(0, end - 20_000_000);
            assert!((watts - mj as f64 / 20.0).abs() < 0.1, "{watts} W at {at}");
        }
    }
    assert!(count >= 50, "{count}");
    let utilisation: Vec<f64> =
        scene.stamped(Signal::GpuUtilSamples).flat_map(|of| of.values.clone()).collect();
    assert!(utilisation.len() >= 4 && utilisation.contains(&90.0), "{utilisation:?}");
    assert!(scene.stamped(Signal::MemUtilSamples).count() > 0);
}

#[test]
fn gpm_is_a_mean_between_two_moments_and_absent_where_the_card_has_it_not() {
    let script = "gpus 2\nonce\nphase 1s power_w=300 util=80 mem_util=40\ntransfer 0s 60s rx=1000 tx=20";
    let scene = record(script, 1_000, |_| {});
    let all: Vec<_> = scene.gpm().collect();
    assert!(all.len() >= 4 && all.iter().any(|s| s.gpu == 1), "{}", all.len());
    for sample in all {
        assert!(sample.to_raw_ns - sample.from_raw_ns >= 90_000_000, "{sample:?}");
        assert_eq!((sample.sm_active_pct, sample.dram_active_pct), (Some(80.0), Some(40.0)));
        assert_eq!((sample.sm_occupancy_pct, sample.tensor_active_pct), (Some(40.0), Some(48.0)));
        assert_eq!((sample.pcie_rx_mib_s, sample.pcie_tx_mib_s), (Some(1_000.0), Some(20.0)));
        assert_eq!((sample.nvlink_rx_mib_s, sample.nvlink_tx_mib_s), (None, None));
    }
}

#[test]
fn without_nvml_only_its_absence_is_recorded() {
    let mut config = Config::new("");
    config.nvml_path = Some("/nowhere/libnvidia-ml.so".into());
    let recorded = Recording::start(&config).unwrap().stop();
    assert!(recorded.absent.contains("/nowhere/libnvidia-ml.so"), "{}", recorded.absent);
    assert!(recorded.gpus.is_empty());
    assert!(recorded.batches.iter().all(|batch| batch.gpu_samples.is_empty()));
}
