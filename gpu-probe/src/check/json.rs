//! The check as a script reads it: one object, keys end in their units, null is what was not told.

use serde_json::{Value, json};

use super::card::throttle_words;
use super::copy::{COPIES, Copied, GROUPS, WARM_UPS};
use super::reading::{Power, Reading};
use super::{Checked, Report};

/// The whole of it.
pub(crate) fn report(report: &Report) -> Value {
    json!({
        "tailcliff_version": env!("CARGO_PKG_VERSION"),
        "nvml_absent_reason": Some(&report.nvml_absent).filter(|why| !why.is_empty()),
        "simulated": report.is_simulated(),
        "interrupted": report.interrupted,
        "gpus": report.gpus.iter().map(gpu).collect::<Vec<_>>(),
        "watch": report.readings.iter().map(reading).collect::<Vec<_>>(),
    })
}

fn gpu(checked: &Checked) -> Value {
    let card = &checked.card;
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let processes = card.processes.as_ref().map(|all| {
        let one = |(pid, bytes): (&u32, &Option<u64>)| json!({ "pid": pid, "memory_bytes": bytes });
        all.iter().map(one).collect::<Vec<_>>()
    });
    json!({
        "index": card.index,
        "name": text(&card.name),
        "uuid": text(&card.uuid),
        "simulated": card.simulated,
        "trouble": text(&card.trouble),
        "driver": text(&card.driver),
        "cuda_driver_version": card.cuda,
        "compute_capability": card.compute_capability,
        "pci_bus_id": card.pci_bus_id,
        "memory_total_bytes": card.memory_total_bytes,
        "memory_used_bytes": card.memory_used_bytes,
        "memory_free_bytes": card.memory_free_bytes,
        "memory_bus_bits": card.memory_bus_bits,
        "pcie_generation": card.pcie_gen,
        "pcie_generation_max": card.pcie_gen_max,
        "pcie_lanes": card.pcie_width,
        "pcie_lanes_max": card.pcie_width_max,
        "nvlinks_up": card.nvlinks,
        "power_mw": card.power_mw,
        "power_kind": card.power_kind.map(Power::word),
        "power_limit_mw": card.power_limit_mw,
        "power_limit_default_mw": card.power_limit_default_mw,
        "power_limit_min_mw": card.power_limit_min_mw,
        "power_limit_max_mw": card.power_limit_max_mw,
        "sm_clock_mhz": card.sm_clock_mhz,
        "sm_clock_max_mhz": card.sm_clock_max_mhz,
        "mem_clock_mhz": card.mem_clock_mhz,
        "mem_clock_max_mhz": card.mem_clock_max_mhz,
        "throttle_bits": card.throttle_bits,
        "throttle": card.throttle_bits.map(throttle_words),
        "temperature_c": card.temperature_c,
        "mig_enabled": card.mig,
        "ecc_enabled": card.ecc,
        "persistence_enabled": card.persistence,
        "processes": processes,
        "copy_test": copied(checked),
    })
}

fn copied(checked: &Checked) -> Value {
    let bandwidth = match &checked.copied {
        Copied::Measured(bandwidth) => bandwidth,
        Copied::Skipped(why) => return json!({ "outcome": "skipped", "reason": why }),
        Copied::Failed(why) => return json!({ "outcome": "failed", "reason": why }),
    };
    let gb_s = |rate: f64| (rate / 1e6).round() / 1e3;
    let spec = checked.card.specified;
    json!({
        "outcome": "measured",
        "copied_gb_s": gb_s(bandwidth.copied()),
        "moved_gb_s": gb_s(bandwidth.moved()),
        "spread_pct": (bandwidth.spread_pct() * 100.0).round() / 100.0,
        "groups_copied_gb_s": bandwidth.groups.iter().map(|&rate| gb_s(rate)).collect::<Vec<_>>(),
        "copy_bytes": bandwidth.bytes,
        "warm_up_copies": WARM_UPS,
        "timed_copies": GROUPS * COPIES,
        "specified_gb_s": spec.map(|spec| spec.gb_s),
        "specified_source": spec.map(|spec| spec.source),
        "moved_of_specified_pct": spec.map(|spec| (bandwidth.moved() / spec.gb_s / 1e6).round() / 10.0),
        "notes": bandwidth.notes,
    })
}

fn reading(reading: &Reading) -> Value {
    json!({
        "t_s": (reading.t_s * 1e6).round() / 1e6,
        "gpu": reading.gpu,
        "memory_used_bytes": reading.memory_used_bytes,
        "memory_total_bytes": reading.memory_total_bytes,
        "gpu_util_pct": reading.gpu_util_pct,
        "mem_util_pct": reading.mem_util_pct,
        "power_mw": reading.power_mw,
        "power_kind": reading.power_kind.map(Power::word),
        "temperature_c": reading.temperature_c,
    })
}
