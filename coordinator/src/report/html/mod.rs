//! `report.html`: one file that shows a run to people, without a network. Everything that grows with the number of
//! requests is brought down to a bounded number of points here, in one pass over the records; the page only draws.

mod curves;
mod gpus;
mod heat;
mod life;
mod page;
mod series;
mod servers;
mod waterfall;

#[cfg(test)]
mod tests;

use std::io::{self, Write};

use serde_json::{Value, json};
use tailcliff_proto::v1::NodeKind;

use crate::inside::{Joined, Part, each_joined};
use crate::merge::{Merged, tally};
use crate::stall::Stall;
use crate::stored::RunData;

use self::gpus::Gpus;
use self::heat::Heat;
use self::life::Life;
use self::series::{Axis, Series};
use self::servers::Servers;
use self::waterfall::Waterfall;
use super::text::{json_ms, json_us, number};
use super::{environment, summary};

/// Stalls drawn at most, the longest.
const STALLS: usize = 200;

/// Writes the page.
///
/// # Errors
/// What `out` says.
pub fn write(out: &mut impl Write, data: &RunData, merged: &Merged) -> io::Result<()> {
    page::write(out, &merged.header.name, &report_data(data, merged))
}

/// What the page draws: the summary as `summary.json` has it, the environment, and series over time.
pub fn report_data(data: &RunData, merged: &Merged) -> Value {
    told(data, merged, |take| {
        each_joined(data, merged, |joined| {
            take(joined);
            Ok(())
        })
    })
}

/// `each` hands over every request whose server side is known. Why it could not, if so, is among the run's troubles, which
/// whoever writes the page asks for.
fn told(
    data: &RunData,
    merged: &Merged,
    each: impl FnOnce(&mut dyn FnMut(&Joined<'_>)) -> io::Result<()>,
) -> Value {
    let axis = Axis::of(data);
    let mut drawn = Drawn::of(data, merged, axis);
    drawn.waterfall.close();
    let _in_the_run = each(&mut |joined| drawn.waterfall.join(joined));
    json!({
        "summary": summary::summary(merged),
        "environment": environment::environment(data),
        "simulated": simulated(data),
        "parts": Part::ALL.map(|part| json!({ "part": part.as_str(), "words": part.words() })),
        "curves": merged.levels.iter().map(|level| curves::level(level, merged.levels.len())).collect::<Vec<_>>(),
        "timeline": {
            "start_s": number(Some(axis.start_s()), 9),
            "bin_s": number(Some(axis.width_s()), 9),
            "bins": axis.bins,
            "outside": drawn.series.outside,
            "unaligned": drawn.unaligned,
            "series": drawn.series.json(),
            "gpus": drawn.gpus.json(data),
            "hosts": drawn.gpus.hosts_json(data),
            "servers": drawn.servers.json(data),
            "levels": merged.levels.iter().map(|level| window(level, axis)).collect::<Vec<_>>(),
        },
        "heat": drawn.heat.json(axis),
        "waterfall": drawn.waterfall.json(axis),
        "stalls": stalls(merged, data, axis),
    })
}

/// Who says that it is a simulation: a probe of its GPU, or whoever told the run.
fn simulated(data: &RunData) -> Value {
    let gpus = data.nodes.values().any(|node| node.hello.gpus.iter().any(|gpu| gpu.simulated));
    let told = data.header.plan.metadata.iter().find(|(_, value)| value.to_lowercase().contains("simulat"));
    let gpus = gpus.then(|| "the GPU is simulated".to_owned());
    let told = told.map(|(key, value)| format!("{key}: {value}"));
    gpus.into_iter().chain(told).map(Value::String).collect()
}

/// What one pass over the records and samples came to.
struct Drawn {
    series: Series,
    heat: Heat,
    waterfall: Waterfall,
    gpus: Gpus,
    servers: Servers,
    unaligned: u64,
}

impl Drawn {
    fn of(data: &RunData, merged: &Merged, axis: Axis) -> Self {
        let mut drawn = Self {
            series: Series::new(axis),
            heat: Heat::new(axis),
            waterfall: Waterfall::new(merged.levels.len()),
            gpus: Gpus::new(axis),
            servers: Servers::new(axis),
            unaligned: 0,
        };
        for (of, node) in tally::agents(data) {
            for batch in node.each_batch() {
                for record in &batch.records {
                    let Some(life) = Life::of(of, record, &merged.timeline) else {
                        drawn.unaligned += 1;
                        continue;
                    };
                    drawn.series.add(&life, record);
                    drawn.heat.add(&life, record);
                    drawn.waterfall.add(of, &life, record, &node.hello.name);
                }
            }
        }
        for (of, node) in tally::of_kind(data, NodeKind::GpuProbe) {
            drawn.gpus.read(of, node, &merged.timeline);
            drawn.servers.read(of, node, &merged.timeline);
        }
        drawn
    }
}

/// Where a level's window lies, s of the run.
fn window(level: &crate::levels::Level, axis: Axis) -> Value {
    let window = level.throughput.map(|t| t.window);
    json!({
        "level": level.drive.level,
        "start_s": number(Some(axis.run_s(level.start_ref_ns)), 6),
        "window_s": window.map(|w| json!([number(Some(axis.run_s(w.start_ns)), 6), number(Some(axis.run_s(w.end_ns)), 6)])),
    })
}

fn stalls(merged: &Merged, data: &RunData, axis: Axis) -> Value {
    let mut longest: Vec<&Stall> = merged.stalls.all.iter().collect();
    longest.sort_by_key(|stall| std::cmp::Reverse(stall.gap.length_ns()));
    longest.truncate(STALLS);
    longest.sort_by_key(|stall| stall.gap.from_ns);
    longest.into_iter().map(|stall| one_stall(stall, data, axis)).collect()
}

fn one_stall(stall: &Stall, data: &RunData, axis: Axis) -> Value {
    let Stall { gap, judgement, energy, .. } = stall;
    json!({
        "t_s": number(Some(axis.run_s(gap.from_ns)), 6),
        "gap_ms": json_ms(Some(gap.length_ns() as f64)),
        "unc_us": json_us(Some(gap.bound_ns)),
        "kind": gap.kind.as_str(),
        "verdict": judgement.verdict.words(),
        "confidence": number(Some(judgement.confidence), 3),
        "why": judgement.why,
        "energy_j": number(energy.map(|e| e.joules), 3),
        "level": gap.level,
        "stream": gap.stream,
        "request_id": gap.request_id,
        "agent": data.nodes.get(&gap.of).map(|node| &node.hello.name),
    })
}
