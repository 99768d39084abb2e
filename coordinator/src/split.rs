//! Shares of a level: whole streams and requests, as even as they can be, the odd ones rotating from level to level so
//! that no agent always carries more.

/// Splits `total` over `parts`; sums to `total`, no two parts differ by more than one. `turn` says where the odd ones
/// begin.
pub fn shares(total: u64, parts: usize, turn: usize) -> Vec<u64> {
    let Some(each) = total.checked_div(parts as u64) else { return Vec::new() };
    let odd = (total % parts as u64) as usize;
    let extra = |part: usize| u64::from((part + parts - turn % parts) % parts < odd);
    (0..parts).map(|part| each + extra(part)).collect()
}

/// Splits `total` in the proportion of `weights` by largest remainder; sums to `total` when any weight is positive.
pub fn weighted(total: u64, weights: &[u64]) -> Vec<u64> {
    let sum: u128 = weights.iter().map(|&w| u128::from(w)).sum();
    if sum == 0 {
        return vec![0; weights.len()];
    }
    let product = |w: u64| u128::from(total) * u128::from(w);
    let mut parts: Vec<u64> = weights.iter().map(|&w| (product(w) / sum) as u64).collect();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by_key(|&i| std::cmp::Reverse(product(weights[i]) % sum));
    let left = total - parts.iter().sum::<u64>();
    for &i in by_remainder.iter().take(left as usize) {
        parts[i] += 1;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_sum_and_are_even(total in 0u64..100_000, parts in 1usize..200, turn in 0usize..1000) {
            let split = shares(total, parts, turn);
            prop_assert_eq!(split.iter().sum::<u64>(), total);
            prop_assert!(split.iter().max().unwrap() - split.iter().min().unwrap() <= 1);
        }

        #[test]
        fn weighted_shares_sum_and_stay_within_one_of_their_quota(
            total in 0u64..100_000, weights in proptest::collection::vec(0u64..1000, 1..50)
        ) {
            let sum: u64 = weights.iter().sum();
            prop_assume!(sum > 0);
            let split = weighted(total, &weights);
            prop_assert_eq!(split.iter().sum::<u64>(), total);
            for (part, weight) in split.iter().zip(&weights) {
                let quota = total as f64 * *weight as f64 / sum as f64;
                prop_assert!((*part as f64 - quota).abs() <= 1.0);
            }
        }
    }

    #[test]
    fn the_odd_stream_rotates() {
        assert_eq!(shares(4, 3, 0), [2, 1, 1]);
        assert_eq!(shares(4, 3, 1), [1, 2, 1]);
        assert_eq!(shares(4, 3, 2), [1, 1, 2]);
        assert!(shares(4, 0, 0).is_empty());
    }
}
