//! Which scrapes of an endpoint are a series: their stamps are another machine's word, and one that says the year 2100 must not
//! mute all that follow.

/// Of moments in the order in which they were told: whether each belongs to the longest series that rises. Where all do, as
/// in any run without a fault, nothing is reckoned.
pub(crate) fn rising(moments: &[i64]) -> Vec<bool> {
    if moments.is_sorted_by(|a, b| a < b) {
        return vec![true; moments.len()];
    }
    // Of the series of each length the one whose last moment is least, by its place; and what stands before each in it.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(moments.len());
    for (i, at) in moments.iter().enumerate() {
        let length = ends.partition_point(|&end| moments[end] < *at);
        before.push(length.checked_sub(1).map(|last| ends[last]));
        match ends.get_mut(length) {
            Some(end) if moments[*end] > *at => *end = i,
            // Told twice: the first counts.
            Some(_) => {}
            None => ends.push(i),
        }
    }
    let mut is_kept = vec![false; moments.len()];
    let mut next = ends.last().copied();
    while let Some(i) = next {
        is_kept[i] = true;
        next = before[i];
    }
    is_kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_order_is_left_out_and_nothing_else() {
        let left = |moments: &[i64]| {
            let kept = rising(moments);
            let out = moments.iter().zip(kept).filter(|(_, kept)| !kept).map(|(at, _)| *at);
            out.collect::<Vec<_>>()
        };
        assert!(left(&[1, 2, 3]).is_empty() && left(&[]).is_empty());
        assert_eq!(left(&[1, 2, i64::MAX, 3, 4, 5]), [i64::MAX]);
        assert_eq!(left(&[i64::MAX, i64::MAX - 1, 1, 2, i64::MIN, 3]), [i64::MAX, i64::MAX - 1, i64::MIN]);
        assert_eq!(rising(&[1, 2, 2, 3]), [true, true, false, true], "told twice");
    }
}
