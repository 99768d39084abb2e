//! The fast thread's deadlines, and what the probe takes.

use std::time::Duration;

use tailcliff_gpu_probe::config::Config;
use tailcliff_gpu_probe::record::Recording;

use crate::recorded::record;

#[test]
fn slow_calls_do_not_hold_up_the_fast_thread() {
    let slow = "takes energy_field 20ms\ntakes gpm_sample 20ms\ntakes gpm_metrics 20ms\n\
        takes power_samples 20ms\ntakes util_samples 20ms\ntakes mem_util_samples 20ms\ntakes memory 20ms\n\
        takes temperature 20ms";
    let scene = record(&format!("{slow}\nonce\nphase 1s power_w=200 util=70"), 3_000, |_| {});
    let cost = scene.cost();
    let fast: Vec<i64> =
        scene.samples().filter(|s| s.power_instant_mw.is_some()).map(|s| s.read_ns).collect();
    // Each tick is there or counted, of 300 less what a busy machine takes at the ends of the recording.
    assert!(cost.ticks + cost.missed >= 200, "{cost:?}");
    assert!(fast.len() as u64 + 20 >= cost.ticks, "{} of {cost:?}", fast.len());
    // With one slow call in it a tick would leave out the next two.
    assert!(fast.len() as u64 * 5 >= 2 * (cost.ticks + cost.missed), "{} of {cost:?}", fast.len());
    assert!(fast.iter().filter(|ns| **ns < 20_000_000).count() * 10 >= fast.len() * 8);
    let energies: Vec<i64> = scene.samples().filter(|s| s.energy_mj.is_some()).map(|s| s.read_ns).collect();
    assert!(!energies.is_empty() && energies.iter().all(|ns| *ns >= 20_000_000), "{energies:?}");
    // The rate follows the cost, and that is said.
    assert!(energies.len() <= 30, "{}", energies.len());
    let told = |what: &str| scene.recorded.troubles.iter().filter(|line| line.contains(what)).count();
    assert_eq!(told("reading the energy counter takes"), 1, "{:?}", scene.recorded.troubles);
    assert!(cost.slow_ticks > 0 && cost.slow_missed > 0, "{cost:?}");
}

#[test]
fn a_driver_that_does_not_come_back_does_not_keep_what_was_read() {
    let dir = tempfile::tempdir().unwrap();
    let script = "takes memory 8s after 300ms\nonce\nphase 1s power_w=200\n";
    let mut config = Config::new("");
    config.nvml_path = Some(crate::library::library(dir.path(), script));
    let recording = Recording::start(&config).unwrap();
    std::thread::sleep(Duration::from_millis(600));
    let recorded = recording.stop();
    let samples = recorded.batches.iter().map(|batch| batch.gpu_samples.len()).sum::<usize>();
    assert!(samples > 10, "{samples}");
    assert!(recorded.troubles.iter().any(|line| line.contains("left behind")), "{:?}", recorded.troubles);
}

#[test]
fn eight_cards_cost_is_told() {
    let scene = record("gpus 8\nonce\nphase 1s power_w=200 util=70", 3_300, |_| {});
    let cost = scene.cost();
    assert!(cost.cpu_ns > 0 && cost.fast_cpu_ns > 0 && cost.fast_cpu_ns < cost.cpu_ns, "{cost:?}");
    assert!(cost.ticks >= 100, "{cost:?}");
    let share = |ns: i64| 100.0 * ns as f64 / 3.3e9;
    println!(
        "simulated, 8 GPUs at 10 ms, unoptimised: {:.2} % of a core, {:.2} % in the fast thread: {cost:?}\n{:?}",
        share(cost.cpu_ns),
        share(cost.fast_cpu_ns),
        scene.recorded.troubles
    );
}
