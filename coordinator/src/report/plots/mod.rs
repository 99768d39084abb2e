//! Pictures of experiments as SVG, drawn by hand: light and dark as the reader's system is, with a title and a
//! description for those who hear them. Each is whole in itself and loads nothing.

mod baseline;
mod canvas;
mod grid;
mod overload;

use crate::experiment::Experiment;
use crate::merge::Merged;

/// Names and contents of the pictures of a run; none of a sweep, whose report draws it.
pub fn of(merged: &Merged) -> Vec<(&'static str, String)> {
    let simulated = merged.nodes.iter().any(|node| node.simulated_gpu);
    let plan = &merged.header.plan;
    let mark = if simulated { "; GPU SIMULATED" } else { "" };
    let run = format!("{}, {}{mark}", plan.model, merged.header.name);
    match &merged.experiment {
        Experiment::Baseline(Some(found)) => vec![("baseline.svg", baseline::draw(found, &run))],
        Experiment::Grid(found) => vec![("grid.svg", grid::draw(found, &run))],
        Experiment::Overload(found) => vec![("overload.svg", overload::draw(found, &run))],
        Experiment::Sweep | Experiment::Baseline(None) => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
