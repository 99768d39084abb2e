//! The error bar of a share of requests. Wilson's interval, in which requests that are like their neighbours count for less:
//! the spread between the window's blocks says by how much (the design effect of cluster sampling).

use crate::blocks::Block;

use super::Kept;

/// 97.5 % point of the standard normal.
const Z: f64 = 1.959_963_985;

/// 95 % interval; `None` when none was judged.
pub fn interval(kept: &Kept, blocks: &[Block]) -> Option<(f64, f64)> {
    let share = kept.share()?;
    let n = kept.judged() as f64 / design_effect(blocks);
    let z2 = Z * Z;
    let centre = (share + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z / (1.0 + z2 / n) * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    // Rounding must not take an end past the share itself.
    Some(((centre - half).clamp(0.0, share), (centre + half).clamp(share, 1.0)))
}

/// How many times the variance of the share is that of independent requests; at least 1, which it also is where all blocks
/// agree.
fn design_effect(blocks: &[Block]) -> f64 {
    let of = |b: &Block| (b.good as f64, (b.good + b.bad) as f64);
    let all: Vec<(f64, f64)> = blocks.iter().map(of).filter(|(_, n)| *n > 0.0).collect();
    let (good, n) = all.iter().fold((0.0, 0.0), |(g, n), (good, of)| (g + good, n + of));
    let k = all.len() as f64;
    let share = good / n;
    let independent = share * (1.0 - share) * n;
    if all.len() < 2 || independent <= 0.0 {
        return 1.0;
    }
    let squares: f64 = all.iter().map(|(good, n)| (good - share * n).powi(2)).sum();
    (k / (k - 1.0) * squares / independent).max(1.0)
}
