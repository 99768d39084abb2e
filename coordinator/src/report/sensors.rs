//! What each card's sensors can show, as the probe found it in this very run, and what the probe itself took. A reading is no
//! better than its sensor: whoever reads a trace of power has to know this first.

use serde_json::{Value, json};
use tailcliff_proto::v1::{self, Signal};

use crate::merge::nodes::NodeSummary;
use crate::stored::Node;

use super::text::{json_ms, number};

/// The name of a signal, as the wire has it.
fn name(signal: i32) -> String {
    let named = Signal::try_from(signal).unwrap_or_default().as_str_name();
    named.trim_start_matches("SIGNAL_").to_ascii_lowercase()
}

/// `sensors` of a probe in `environment.json`, by GPU and signal; times in ms.
pub(super) fn sensors(node: &Node) -> Value {
    crate::stall::sensors(node).iter().map(sensor).collect()
}

fn sensor(r: &v1::SensorReport) -> Value {
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let ms = |ns: Option<i64>| json_ms(ns.map(|ns| ns as f64));
    json!({
        "gpu": r.gpu,
        "signal": name(r.signal),
        "refused": text(&r.refused),
        "poll_ms": ms(Some(r.poll_ns).filter(|ns| *ns > 0)),
        "read_ms": ms(Some(r.read_ns).filter(|ns| *ns > 0)),
        "period_ms": ms(r.period_ns),
        "period_p5_p95_ms": [ms(r.period_low_ns), ms(r.period_high_ns)],
        "window_ms": ms(r.window_ns),
        "window_bar_ms": ms(r.window_bar_ns),
        "delay_ms": ms(r.delay_ns),
        "updates": r.updates,
        "method": text(&r.method),
        "note": text(&r.note),
    })
}

/// `probe_cost` of a node in `summary.json`: CPU of the probe's own threads as a share of one core.
pub(super) fn cost(node: &NodeSummary) -> Value {
    let Some(cost) = node.probe_cost else { return Value::Null };
    let wall = cost.to_raw_ns.saturating_sub(cost.from_raw_ns).max(1) as f64;
    let share = |ns: i64| number(Some(ns as f64 / wall), 6);
    json!({
        "cpu_share_of_a_core": share(cost.cpu_ns),
        "fast_thread": share(cost.fast_cpu_ns),
        "ticks": cost.ticks,
        "missed_ticks": cost.missed,
        "slow_readings": cost.slow_ticks,
        "slow_readings_missed": cost.slow_missed,
    })
}

/// For the terminal: what must be known of power readings, once for each kind of card.
pub(super) fn lines(nodes: &[NodeSummary]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (card, note) in nodes.iter().flat_map(|node| &node.sensor_notes) {
        let line = format!("sensors of {card}: {note}");
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

/// (card, note) of each power signal of a probe that has something to say.
pub(crate) fn notes(node: &Node) -> Vec<(String, String)> {
    let power = [Signal::PowerAverage, Signal::PowerInstant].map(|signal| signal as i32);
    let own = crate::stall::sensors(node).into_iter().filter(|r| power.contains(&r.signal));
    let card = |gpu: u32| {
        let known = node.hello.gpus.iter().find(|facts| facts.index == gpu);
        known.map_or_else(|| format!("GPU {gpu}"), |facts| facts.name.clone())
    };
    own.filter(|r| !r.note.is_empty()).map(|r| (card(r.gpu), r.note)).collect()
}
