//! How fast what came after a gap came. A server that stood still goes on at its own pace; one whose words were held back on
//! the way has them all arrive together.

/// The chunks just after a gap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Burst {
    /// Chunks looked at: half of what the stream's own pace would have brought in the gap, if as many were still to come.
    pub chunks: f64,
    /// Share of the time saved that its own pace would have taken for them: 0 at that pace, 1 all at once.
    pub share: f64,
}

/// Of fewer chunks nothing can be said.
const LEAST: f64 = 3.0;

impl Burst {
    /// Of a gap that ended with chunk `index`, in a stream whose chunks came at `stamps_ns` with `chars` characters each,
    /// `per_ns` chunks a ns at its own pace. `None` when too few came to tell.
    pub(crate) fn of(
        stamps_ns: &[i64],
        chars: &[u64],
        index: usize,
        gap_ns: i64,
        per_ns: f64,
    ) -> Option<Self> {
        let to = *stamps_ns.get(index)?;
        let wanted = (gap_ns as f64 * per_ns / 2.0).max(LEAST);
        // A server may put what it held back into one chunk: a long chunk counts for as many as its text would make.
        let mean = chars.iter().sum::<u64>() as f64 / chars.len().max(1) as f64;
        let worth = |chars: u64| if mean > 0.0 { (chars as f64 / mean).max(1.0) } else { 1.0 };
        let (mut chunks, mut took) = (0.0, 0);
        for (&at, &chars) in stamps_ns[index..].iter().zip(&chars[index..]) {
            chunks += worth(chars);
            took = at - to;
            if chunks >= wanted {
                break;
            }
        }
        if chunks < LEAST {
            return None;
        }
        // The first marks the start; the others take their time.
        let usual = (chunks - 1.0) / per_ns;
        Some(Self { chunks, share: (1.0 - took as f64 / usual).clamp(0.0, 1.0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    fn of(after: &[i64], chars: u64) -> Option<Burst> {
        let mut stamps: Vec<i64> = (0..20).map(|i| i * 10 * MS).collect();
        stamps.extend(after.iter().map(|ms| 690 * MS + ms * MS));
        let mut all = vec![4; stamps.len()];
        all[20] = chars;
        Burst::of(&stamps, &all, 20, 500 * MS, 1.0 / (10 * MS) as f64)
    }

    #[test]
    fn its_own_pace_is_none_and_all_at_once_is_one() {
        let paced: Vec<i64> = (0..40).map(|i| i * 10).collect();
        assert_eq!(of(&paced, 4).map(|b| (b.chunks, b.share < 0.05)), Some((25.0, true)));
        assert!(of(&[0; 40], 4).is_some_and(|b| b.share > 0.99));
        // One chunk with the text of fifty.
        assert!(of(&paced, 200).is_some_and(|b| b.share > 0.99));
        assert!(of(&[0, 1, 2], 4).is_some_and(|b| b.chunks == 3.0 && b.share > 0.85));
        assert_eq!(of(&[0, 1], 4), None);
    }
}
