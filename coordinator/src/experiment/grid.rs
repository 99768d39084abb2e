//! Latency over the length of the prompt and of the answer.

use crate::levels::Level;
use crate::plan::Plan;

use super::baseline::figures;
use super::figures::Figures;

/// A grid, prompt by prompt.
#[derive(Clone, Debug, Default)]
pub struct Grid {
    /// Lengths of prompts in characters, ascending.
    pub prompt_chars: Vec<u32>,
    /// max_tokens, ascending.
    pub max_tokens: Vec<u32>,
    /// Every cell that was planned, driven or not.
    pub cells: Vec<GridCell>,
}

/// One cell. Times in ns.
#[derive(Clone, Debug, Default)]
pub struct GridCell {
    /// Characters asked for.
    pub prompt_chars: u32,
    /// Tokens asked for.
    pub max_tokens: u32,
    /// Its level; `None` when the run ended before it.
    pub level: Option<u32>,
    /// Why it does not count, if so.
    pub voided: Option<String>,
    /// Whole answers.
    pub completed: u64,
    /// Everything else that was released.
    pub not_completed: u64,
    /// Shortest and longest prompt that agents say they sent, characters.
    pub sent_chars: Option<(u32, u32)>,
    /// Intended send → end.
    pub e2e_ns: Option<Figures>,
    /// Intended send → first token.
    pub ttft_ns: Option<Figures>,
    /// Tokens of the answers.
    pub output_tokens: Option<Figures>,
}

impl GridCell {
    /// A percentile of E2E, ns; `None` where there is none, or it does not count.
    pub fn percentile_ns(&self, percent: f64) -> Option<f64> {
        self.e2e_ns.as_ref().filter(|_| self.voided.is_none()).map(|e2e| e2e.at(percent))
    }
}

impl Grid {
    pub(super) fn of<'a>(plan: &Plan, levels: impl Iterator<Item = &'a Level>) -> Self {
        let levels: Vec<&Level> = levels.collect();
        let axis = |value: fn(&GridCell) -> u32, cells: &[GridCell]| {
            let mut all: Vec<u32> = cells.iter().map(value).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        let cell = |(rung, cell): (usize, &crate::plan::Cell)| {
            let level = levels.iter().find(|level| level.drive.rung as usize == rung);
            let asked = (cell.prompt_chars.unwrap_or(0), cell.output_len.unwrap_or(0));
            level.map_or_else(|| undriven(asked), |level| driven(asked, level))
        };
        let cells: Vec<GridCell> = plan.cells.iter().enumerate().map(cell).collect();
        Self {
            prompt_chars: axis(|cell| cell.prompt_chars, &cells),
            max_tokens: axis(|cell| cell.max_tokens, &cells),
            cells,
        }
    }

    /// The cell of two lengths.
    pub fn cell(&self, prompt_chars: u32, max_tokens: u32) -> Option<&GridCell> {
        self.cells.iter().find(|cell| (cell.prompt_chars, cell.max_tokens) == (prompt_chars, max_tokens))
    }
}

fn undriven((prompt_chars, max_tokens): (u32, u32)) -> GridCell {
    GridCell { prompt_chars, max_tokens, ..GridCell::default() }
}

fn driven(asked: (u32, u32), level: &Level) -> GridCell {
    let lengths = || level.singles.iter().filter_map(|single| single.input_len);
    let completed = level.singles.iter().filter(|single| single.completed);
    GridCell {
        level: Some(level.drive.level),
        voided: level.voided.clone(),
        completed: level.measured.completed,
        not_completed: level.measured.released() - level.measured.completed,
        sent_chars: lengths().min().zip(lengths().max()),
        e2e_ns: figures(level, |single| single.e2e_ns),
        ttft_ns: figures(level, |single| single.ttft_ns),
        output_tokens: Figures::of(completed.filter_map(|single| Some(single.output_tokens? as f64))),
        ..undriven(asked)
    }
}
