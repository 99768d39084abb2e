//! The check as a person reads it: a word, then its value, each on a line that fits a terminal.

use super::Checked;
use super::card::{Card, throttle_words};
use super::copy::{COPIES, Copied, GROUPS, WARM_UPS};
use super::reading::Reading;

const UNTOLD: &str = "not told";

/// A card and its test.
pub(crate) fn card(checked: &Checked) -> Vec<String> {
    let card = &checked.card;
    let mark = if card.simulated && !card.name.contains("SIMULATED") { " (SIMULATED)" } else { "" };
    let mut lines = vec![format!("GPU {}: {}{mark}", card.index, named(card))];
    let mut line = |word: &str, value: String| lines.push(format!("  {word:<13}{value}"));
    if !card.trouble.is_empty() {
        line("trouble", card.trouble.clone());
        return lines;
    }
    line("uuid", card.uuid.clone());
    line("driver", format!("{}, CUDA {}", card.driver, told(card.cuda.as_deref())));
    line("compute", format!("capability {}", told(card.compute_capability.as_deref())));
    line("memory", memory(card));
    line("PCIe", link(card));
    line(
        "NVLink",
        card.nvlinks.map_or_else(
            || UNTOLD.to_owned(),
            |n| if n == 1 { "1 link up".to_owned() } else { format!("{n} links up") },
        ),
    );
    line("power", power(card));
    line("clocks", clocks(card));
    line("held down by", card.throttle_bits.map_or_else(|| UNTOLD.to_owned(), throttle_words));
    line("temperature", card.temperature_c.map_or_else(|| UNTOLD.to_owned(), |c| format!("{c} °C")));
    line(
        "modes",
        format!("MIG {}, ECC {}, persistence {}", on(card.mig), on(card.ecc), on(card.persistence)),
    );
    line("processes", processes(card));
    copied(checked).into_iter().zip(["copy test", "", "", "", ""]).for_each(|(text, word)| line(word, text));
    lines
}

fn named(card: &Card) -> &str {
    if card.name.is_empty() { "no name" } else { &card.name }
}

fn told(text: Option<&str>) -> &str {
    text.unwrap_or(UNTOLD)
}

fn on(mode: Option<bool>) -> &'static str {
    mode.map_or(UNTOLD, |on| if on { "on" } else { "off" })
}

fn number<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "?".to_owned(), |v| v.to_string())
}

pub(crate) fn gib(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "?".to_owned(), |bytes| format!("{:.1}", bytes as f64 / f64::from(1 << 30)))
}

pub(crate) fn watts(mw: Option<u32>) -> String {
    mw.map_or_else(|| "?".to_owned(), |mw| format!("{:.0}", f64::from(mw) / 1e3))
}

fn memory(card: &Card) -> String {
    if card.memory_total_bytes.is_none() {
        return UNTOLD.to_owned();
    }
    let (total, used, free) = (card.memory_total_bytes, card.memory_used_bytes, card.memory_free_bytes);
    format!("{} GiB: {} used, {} free", gib(total), gib(used), gib(free))
}

fn link(card: &Card) -> String {
    if card.pcie_gen.is_none() && card.pcie_width.is_none() {
        return UNTOLD.to_owned();
    }
    let now = format!("generation {} ×{}", number(card.pcie_gen), number(card.pcie_width));
    let best = format!("of {} ×{} at most", number(card.pcie_gen_max), number(card.pcie_width_max));
    let is_narrow = matches!((card.pcie_width, card.pcie_width_max), (Some(now), Some(most)) if now < most);
    // A slower generation is how an idle link saves power; a narrow link stays so.
    if is_narrow { format!("{now} {best}: NARROWED") } else { format!("{now} {best}") }
}

fn power(card: &Card) -> String {
    let Some(kind) = card.power_kind else { return UNTOLD.to_owned() };
    let range = format!("{} to {}", watts(card.power_limit_min_mw), watts(card.power_limit_max_mw));
    let limits = format!(
        "limit {} W (default {}, range {range})",
        watts(card.power_limit_mw),
        watts(card.power_limit_default_mw)
    );
    format!("{} W ({}); {limits}", watts(card.power_mw), kind.word())
}

fn clocks(card: &Card) -> String {
    if card.sm_clock_mhz.is_none() && card.mem_clock_mhz.is_none() {
        return UNTOLD.to_owned();
    }
    let of = |now: Option<u32>, most: Option<u32>| format!("{} of {} MHz", number(now), number(most));
    format!(
        "SM {}, memory {}",
        of(card.sm_clock_mhz, card.sm_clock_max_mhz),
        of(card.mem_clock_mhz, card.mem_clock_max_mhz)
    )
}

fn processes(card: &Card) -> String {
    let Some(all) = &card.processes else { return UNTOLD.to_owned() };
    if all.is_empty() {
        return "none that the driver shows here".to_owned();
    }
    let one = |(pid, bytes): (&u32, &Option<u64>)| match bytes {
        Some(bytes) => format!("{pid} ({} MiB)", bytes >> 20),
        None => pid.to_string(),
    };
    all.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn copied(checked: &Checked) -> Vec<String> {
    let bandwidth = match &checked.copied {
        Copied::Measured(bandwidth) => bandwidth,
        Copied::Skipped(why) => return vec![format!("skipped: {why}")],
        Copied::Failed(why) => return vec![format!("FAILED: {why}")],
    };
    let gb_s = |rate: f64| format!("{:.0} GB/s", rate / 1e9);
    let moved = bandwidth.moved();
    let mut lines = vec![
        format!("{} copied = {} moved (read + write)", gb_s(bandwidth.copied()), gb_s(moved)),
        match checked.card.specified {
            Some(spec) => {
                format!("{:.1} % of {:.0} GB/s ({})", moved / spec.gb_s / 1e7, spec.gb_s, spec.source)
            }
            None => "what the card is specified with is not known".to_owned(),
        },
        format!(
            "median of {GROUPS} × {COPIES} copies of {} MiB after {WARM_UPS}; slowest to fastest {:.1} %",
            bandwidth.bytes >> 20,
            bandwidth.spread_pct()
        ),
    ];
    lines.extend(bandwidth.notes.iter().cloned());
    if checked.card.processes.as_ref().is_some_and(|all| !all.is_empty()) {
        lines.push("others are on this GPU: what they did meanwhile is missing in it".to_owned());
    }
    lines
}

/// Columns of [`row`].
pub(crate) fn heading() -> String {
    format!(
        "{:>7} {:>3} {:>13} {:>5} {:>5} {:>6} {:>4}",
        "t s", "GPU", "VRAM GiB", "GPU %", "mem %", "W", "°C"
    )
}

/// A reading as a line of columns.
pub(crate) fn row(reading: &Reading) -> String {
    let vram = format!("{}/{}", gib(reading.memory_used_bytes), gib(reading.memory_total_bytes));
    format!(
        "{:>7.2} {:>3} {vram:>13} {:>5} {:>5} {:>6} {:>4}",
        reading.t_s,
        reading.gpu,
        number(reading.gpu_util_pct),
        number(reading.mem_util_pct),
        watts(reading.power_mw),
        number(reading.temperature_c)
    )
}

/// At most so many columns of a line.
pub(crate) fn cut(line: &str, columns: usize) -> String {
    line.chars().take(columns).collect()
}
