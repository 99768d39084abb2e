//! Through the real nvml-wrapper and the C ABI, against the stand-in library played from scripts.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use library::library;
use tailcliff_gpu_probe::nvml::NvmlSource;

mod bad_cards;
mod identity;
mod library;
mod recorded;
mod threads;

#[test]
fn what_the_script_says_is_what_is_sampled() {
    let dir = tempfile::tempdir().unwrap();
    let script = "gpus 2\nstep_w 5\nonce\nphase 1s power_w=300 util=97 mem_util=60 sm_mhz=1980 mem_mhz=2619 used_mib=4096 temp_c=61 throttle=4\n";
    let mut source = NvmlSource::open(Some(&library(dir.path(), script))).unwrap();
    let facts = source.facts();
    assert_eq!(facts.len(), 2);
    assert!(facts.iter().all(|gpu| gpu.simulated && gpu.notes.is_empty()), "{facts:?}");
    let samples = source.sample();
    assert_eq!(samples.len(), 2);
    for (i, sample) in samples.iter().enumerate() {
        assert_eq!(sample.gpu, i as u32);
        assert_eq!(sample.power_instant_mw, Some(300_000 + 5_000 * i as u32));
        assert!(sample.power_average_mw.is_some() && sample.energy_mj.is_some());
        assert_eq!((sample.gpu_util_pct, sample.mem_util_pct), (Some(97), Some(60)));
        assert_eq!((sample.sm_clock_mhz, sample.mem_clock_mhz), (Some(1980), Some(2619)));
        assert_eq!((sample.mem_used_bytes, sample.temperature_c), (Some(4096 << 20), Some(61)));
        assert_eq!(sample.throttle_reasons, Some(4));
        assert!(sample.raw_ns > 0 && sample.read_ns > 0);
    }
}

#[test]
fn what_a_card_does_not_support_is_absent_and_noted_never_zero() {
    let dir = tempfile::tempdir().unwrap();
    let script = "unsupported power_instant utilization\nonce\nphase 1s power_w=200\n";
    let mut source = NvmlSource::open(Some(&library(dir.path(), script))).unwrap();
    let notes = source.facts()[0].notes.join("\n");
    assert!(notes.contains("instant power") && notes.contains("utilisation"), "{notes}");
    let sample = source.sample().remove(0);
    assert_eq!((sample.power_instant_mw, sample.gpu_util_pct, sample.mem_util_pct), (None, None, None));
    assert_eq!(sample.power_average_mw.map(|mw| mw > 0), Some(true));
}

#[test]
fn no_library_and_no_driver_say_what_was_tried() {
    let absent = NvmlSource::open(Some(Path::new("/nowhere/libnvidia-ml.so"))).unwrap_err().to_string();
    assert!(absent.contains("/nowhere/libnvidia-ml.so"), "{absent}");
    let dir = tempfile::tempdir().unwrap();
    let unloaded =
        NvmlSource::open(Some(&library(dir.path(), "init_error 9\nphase 1s power_w=1\n"))).unwrap_err();
    assert!(unloaded.to_string().contains("driver"), "{unloaded}");
}
