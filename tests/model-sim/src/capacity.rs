//! What the parameters imply, by arithmetic alone: steady throughput at each concurrency, and where its knee is.

use crate::engine::Params;

/// Requests per second that `n` clients in closed loop get once the engine is in its steady state.
///
/// The batch is `b = min(n, max_num_seqs, how many requests' KV fits)`. Each request is in the batch for
/// `output_tokens` steps, and is prefilled in one of them, so a step carries `b / output_tokens` prefills on average:
/// `X = (b / output) / (base + per_seq · b + (b / output) · prefill)`. 0 when not even one request fits.
///
/// This is what clients get whose next request is in the queue at the instant that their last one ended, as in
/// [`crate::virtual_sweep`]. A real client takes its time to hear of the end and to send, and misses the step that
/// begins at that very instant: while nobody queues for a slot, its request waits up to one step more, and throughput
/// in real time lies below this by up to one step per request.
pub fn request_throughput(params: &Params, n: usize, prompt_tokens: u64, output_tokens: u64) -> f64 {
    let kv_fits = params.kv_tokens / (prompt_tokens + output_tokens).max(1);
    let batch = n.min(params.max_num_seqs).min(usize::try_from(kv_fits).unwrap_or(usize::MAX)) as f64;
    let finished_per_step = batch / output_tokens.max(1) as f64;
    let prefill_s = prompt_tokens as f64 / params.prefill_tokens_per_s;
    let decode_s = (params.step_base_ns as f64 + params.step_per_seq_ns as f64 * batch) / 1e9;
    finished_per_step / (decode_s + finished_per_step * prefill_s)
}

/// Index of the knee: the last level before the throughput gain falls below `gain_share` of the concurrency gain.
///
/// For neighbouring levels the gains are `X2/X1 − 1` and `C2/C1 − 1`. `None` when no gain falls below, or there are
/// fewer than two levels. `concurrency` must rise; `throughput` has the same length.
pub fn knee(concurrency: &[usize], throughput: &[f64], gain_share: f64) -> Option<usize> {
    let levels: Vec<(f64, f64)> =
        concurrency.iter().map(|&c| c as f64).zip(throughput.iter().copied()).collect();
    levels.windows(2).position(|w| (w[1].1 / w[0].1 - 1.0) < gain_share * (w[1].0 / w[0].0 - 1.0))
}

/// Index in `levels` of the knee that the parameters imply, without running anything; see [`knee`].
pub fn implied_knee(
    params: &Params,
    levels: &[usize],
    prompt_tokens: u64,
    output_tokens: u64,
    gain_share: f64,
) -> Option<usize> {
    let x: Vec<f64> =
        levels.iter().map(|&n| request_throughput(params, n, prompt_tokens, output_tokens)).collect();
    knee(levels, &x, gain_share)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVELS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

    fn params() -> Params {
        Params {
            prefill_tokens_per_s: 1e9,
            step_base_ns: 10_000_000,
            step_per_seq_ns: 0,
            max_num_seqs: 8,
            kv_tokens: 1_000_000,
            max_queue: None,
        }
    }

    #[test]
    fn slots_bound_an_engine_whose_steps_cost_the_same() {
        let x = |n| request_throughput(&params(), n, 1, 100);
        assert!((x(1) - 1.0).abs() < 1e-6, "100 steps of 10 ms");
        assert!((x(8) - 8.0).abs() < 1e-4);
        assert_eq!(x(8), x(64));
        assert_eq!(implied_knee(&params(), &LEVELS, 1, 100, 0.5), Some(3));
    }

    #[test]
    fn kv_bounds_before_slots() {
        let p = Params { kv_tokens: 410, ..params() };
        assert_eq!(implied_knee(&p, &LEVELS, 1, 100, 0.5), Some(2), "410 tokens hold 4 requests of 101");
    }

    #[test]
    fn a_cost_per_sequence_bends_the_curve_before_the_slots_do() {
        // Step = 10 + 2 b ms: going from 2 to 4 gains 4/18 ÷ (2/14) − 1 = 0.56, from 4 to 8 only 0.38.
        let p = Params { step_per_seq_ns: 2_000_000, max_num_seqs: 64, ..params() };
        assert_eq!(implied_knee(&p, &LEVELS, 1, 100, 0.5), Some(2));
    }

    #[test]
    fn none_when_throughput_keeps_up() {
        let p = Params { max_num_seqs: 64, ..params() };
        assert_eq!(implied_knee(&p, &LEVELS, 1, 100, 0.5), None);
        assert_eq!(knee(&[1], &[1.0], 0.5), None);
    }
}
