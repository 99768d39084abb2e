//! Memory of a model's weights: parameters × bytes / 1024³.

use super::GIB;

/// Precisions and bytes of one parameter.
pub const PRECISIONS: [(&str, f64); 5] =
    [("FP32", 4.0), ("FP16 / BF16", 2.0), ("FP8", 1.0), ("INT8", 1.0), ("INT4 / FP4", 0.5)];

/// GiB of so many parameters, without what quantisation adds (scales, zero points).
pub fn gib(params: f64, bytes_per_param: f64) -> f64 {
    params * bytes_per_param / GIB
}

/// A number of parameters as people write it: `70B`, `8.03b`, `350M`, `1.5T` or plain.
///
/// # Errors
/// What to try, when it is none.
pub fn parse_params(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let (number, scale) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1e3),
        Some((at, 'm' | 'M')) => (&text[..at], 1e6),
        Some((at, 'b' | 'B' | 'g' | 'G')) => (&text[..at], 1e9),
        Some((at, 't' | 'T')) => (&text[..at], 1e12),
        _ => (text, 1.0),
    };
    let params = number.trim().parse::<f64>().map(|n| n * scale);
    match params {
        Ok(params) if (1.0..=1e16).contains(&params) => Ok(params),
        _ => Err(format!("{text:?} is not a number of parameters: try 70B, 350M or 8030261248")),
    }
}
