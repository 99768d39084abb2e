//! The check as a person reads it: a word, then its value, each on a line that fits a terminal.

use super::Checked;
use super::card::{Card, throttle_words};
use super::copy::{COPIES, Copied, GROUPS, WARM_UPS};
use super::reading::Reading;

const UNTOLD: &str = "not told";
/// Columns of the word that begins a line.
const WORD: usize = 13;

/// A card and its test.
pub(crate) fn card(checked: &Checked) -> Vec<String> {
    let card = &checked.card;
    let mark = if card.simulated && !card.name.contains("SIMULATED") { " (SIMULATED)" } else { "" };
    let mut lines = vec![format!("GPU {}: {}{mark}", card.index, named(card))];
    let mut line = |word: &str, value: String| lines.push(format!("  {word:<WORD$}{value}"));
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

/// A line with its break; in a terminal that is too narrow, its words go on below each other, under the value.
pub(crate) fn wrapped(line: &str, columns: usize) -> String {
    let indent = WORD + 2;
    if line.chars().count() <= columns || columns < 2 * indent {
        return format!("{line}\n");
    }
    let (mut out, mut used) = (String::new(), 0);
    for word in line.split_inclusive(' ') {
        let length = word.trim_end().chars().count();
        // The blanks that set a value off from its word are words of their own here, and never begin a line.
        if used > indent && length > 0 && used + length > columns {
            out.truncate(out.trim_end().len());
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            used = indent;
        }
        out.push_str(word);
        used += word.chars().count();
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_gets_the_words_below_each_other() {
        let line = "  power        100 W (instant); limit 700 W (default 700)";
        assert_eq!(wrapped(line, 100), format!("{line}\n"));
        assert_eq!(wrapped(line, usize::MAX), format!("{line}\n"));
        let narrow = wrapped(line, 34);
        assert!(narrow.lines().all(|line| line.chars().count() <= 34), "{narrow}");
        assert_eq!(narrow.lines().nth(1), Some("               limit 700 W"));
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&narrow), words(line));
        assert_eq!(wrapped(line, 5), format!("{line}\n"), "too narrow for anything");
    }

    #[test]
    fn what_is_not_told_has_a_word_and_no_figure() {
        let card = Card { name: "X".to_owned(), ..Card::default() };
        let said = super::card(&Checked { card, copied: Copied::Skipped("why".to_owned()) }).join("\n");
        assert!(
            said.contains("skipped: why") && !said.contains(|c: char| c.is_ascii_digit() && c != '0'),
            "{said}"
        );
        assert_eq!(row(&Reading::default()).matches('?').count(), 6, "{}", row(&Reading::default()));
        assert_eq!(heading().chars().count(), row(&Reading::default()).chars().count());
    }
}
