//! A host's wall clock beside its raw one: where on the raw clock a wall-clock stamp lies, and how exact that is. The wall
//! clock may be slewed, which the pairs around a stamp follow, and may step, forwards or back: then a stamp may have more than
//! one place, or none, and that is said instead of chosen.

use tailcliff_proto::v1::WallClock;

/// Between two readings the wall clock may gain or lose on the raw one by so much of the time between them; more is a step.
/// The kernel slews by at most 500 ppm, and corrects the raw frequency by as much.
const SLEW: f64 = 1e-3;
/// Noise of two readings beside each other, ns, that is no step whatever their widths say.
const NOISE_NS: i64 = 20_000;
/// Beyond the readings the wall clock is believed for so long, ns, …
const REACH_NS: i64 = 10_000_000_000;
/// … getting worse by [`SLEW`]; in the middle of readings farther apart than [`CLOSE_NS`] by this much.
const WANDER: f64 = 50e-6;
/// Readings this close need no allowance for what the clock did between them but their own difference.
const CLOSE_NS: i64 = 1_000_000_000;
/// More segments are no clock.
const MOST_STEPS: usize = 64;
/// Stamps and readings beyond this are nobody's clock, ns.
const FARTHEST_NS: i64 = 1 << 62;

/// A stamp on the host's raw clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) raw_ns: i64,
    /// How far that may be off, ns.
    pub(crate) bound_ns: i64,
}

#[derive(Clone, Copy, Debug)]
struct Pair {
    raw_ns: i64,
    /// Wall less raw.
    offset_ns: i64,
    half_width_ns: i64,
}

impl Pair {
    fn unix_ns(self) -> i64 {
        self.raw_ns + self.offset_ns
    }
}

/// Readings without a step between them.
#[derive(Clone, Debug)]
struct Segment {
    pairs: Vec<Pair>,
    /// What of the raw clock it may speak for: up to the readings on the other sides of the steps around it.
    from_ns: i64,
    to_ns: i64,
}

/// The wall clock of one host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wall {
    segments: Vec<Segment>,
}

impl Wall {
    /// From readings in any order; absurd ones are left out.
    pub(crate) fn new(readings: impl IntoIterator<Item = WallClock>) -> Self {
        let sane = |ns: i64| (-FARTHEST_NS / 2..=FARTHEST_NS / 2).contains(&ns);
        let mut pairs: Vec<Pair> = readings
            .into_iter()
            .filter(|r| sane(r.raw_ns) && sane(r.unix_ns) && (0..CLOSE_NS).contains(&r.width_ns))
            .map(|r| Pair {
                raw_ns: r.raw_ns,
                offset_ns: r.unix_ns - r.raw_ns,
                half_width_ns: (r.width_ns + 1) / 2,
            })
            .collect();
        pairs.sort_by_key(|pair| pair.raw_ns);
        pairs.dedup_by_key(|pair| pair.raw_ns);
        let mut segments: Vec<Segment> = Vec::new();
        for pair in pairs {
            match segments.last_mut() {
                Some(segment) if segment.pairs.last().is_some_and(|last| goes_on(*last, pair)) => {
                    segment.pairs.push(pair);
                }
                _ => segments.push(Segment { pairs: vec![pair], from_ns: i64::MIN, to_ns: i64::MAX }),
            }
            if segments.len() > MOST_STEPS {
                return Self::default();
            }
        }
        bound(&mut segments);
        Self { segments }
    }

    /// Steps: (raw time of the first reading after it, by how much the wall clock jumped, ns).
    pub(crate) fn steps(&self) -> impl Iterator<Item = (i64, i64)> {
        self.segments.windows(2).filter_map(|two| {
            let (before, after) = (two[0].pairs.last()?, two[1].pairs.first()?);
            Some((after.raw_ns, after.offset_ns.saturating_sub(before.offset_ns)))
        })
    }

    /// Where a stamp may lie: one place but for the time of a step, whose stamps may have several or none.
    pub(crate) fn places(&self, unix_ns: i64) -> impl Iterator<Item = Place> {
        let is_sane = (-FARTHEST_NS / 2..=FARTHEST_NS / 2).contains(&unix_ns);
        self.segments.iter().filter(move |_| is_sane).filter_map(move |segment| segment.place(unix_ns))
    }
}

fn goes_on(a: Pair, b: Pair) -> bool {
    let noise = NOISE_NS + a.half_width_ns + b.half_width_ns;
    let moved = b.offset_ns.saturating_sub(a.offset_ns).saturating_abs();
    moved <= noise + (SLEW * (b.raw_ns - a.raw_ns) as f64) as i64
}

/// Each segment may reach up to its neighbours' readings, and beyond the first and last of all for a while.
fn bound(segments: &mut [Segment]) {
    for i in 0..segments.len() {
        let own = |segment: &Segment| Some((segment.pairs.first()?.raw_ns, segment.pairs.last()?.raw_ns));
        let Some((first, last)) = own(&segments[i]) else { continue };
        let before = i.checked_sub(1).and_then(|i| own(&segments[i]));
        let after = segments.get(i + 1).and_then(own);
        segments[i].from_ns = before.map_or(first - REACH_NS, |(_, last)| last);
        segments[i].to_ns = after.map_or(last + REACH_NS, |(first, _)| first);
    }
}

impl Segment {
    fn place(&self, unix_ns: i64) -> Option<Place> {
        let after = self.pairs.partition_point(|pair| pair.unix_ns() <= unix_ns);
        let (a, b) = (after.checked_sub(1).and_then(|i| self.pairs.get(i)), self.pairs.get(after));
        let place = match (a, b) {
            (Some(a), Some(b)) => between(*a, *b, unix_ns),
            (Some(only), None) | (None, Some(only)) => beyond(*only, unix_ns),
            (None, None) => return None,
        };
        (self.from_ns..=self.to_ns).contains(&place.raw_ns).then_some(place)
    }
}

/// The offset goes along the chord; it may lie anywhere between the two that were read, since a slew goes one way.
fn between(a: Pair, b: Pair, unix_ns: i64) -> Place {
    let (gained, length) = (b.offset_ns - a.offset_ns, (b.unix_ns() - a.unix_ns()).max(1));
    let share = (unix_ns - a.unix_ns()) as f64 / length as f64;
    let offset_ns = a.offset_ns + (gained as f64 * share).round() as i64;
    let raw_ns = unix_ns - offset_ns;
    let apart =
        if b.raw_ns - a.raw_ns > CLOSE_NS { (raw_ns - a.raw_ns).min(b.raw_ns - raw_ns).max(0) } else { 0 };
    let bound_ns = a.half_width_ns.max(b.half_width_ns) + gained.abs() + (WANDER * apart as f64) as i64 + 1;
    Place { raw_ns, bound_ns }
}

fn beyond(pair: Pair, unix_ns: i64) -> Place {
    let raw_ns = unix_ns - pair.offset_ns;
    let away = raw_ns.saturating_sub(pair.raw_ns).saturating_abs();
    Place { raw_ns, bound_ns: pair.half_width_ns + (SLEW * away as f64).ceil() as i64 + 1 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: i64 = 1_000_000_000;
    const MS: i64 = 1_000_000;
    const EPOCH: i64 = 1_790_000_000 * S;

    fn readings(offset: impl Fn(i64) -> i64, from: i64, to: i64, every: i64) -> Vec<WallClock> {
        let at = |raw_ns: i64| WallClock { raw_ns, unix_ns: raw_ns + offset(raw_ns), width_ns: 100 };
        (from..to).step_by(every as usize).map(at).collect()
    }

    #[test]
    fn a_slewed_clock_is_followed_within_its_bound() {
        // 40 ppm, and from 5 s on 540: what the kernel's slew adds.
        let offset = |raw: i64| EPOCH + raw / 25_000 + (raw - 5 * S).max(0) / 2_000;
        let wall = Wall::new(readings(offset, 0, 10 * S, 100 * MS));
        assert_eq!(wall.steps().count(), 0);
        for raw in (0..10 * S - 100 * MS).step_by(7_654_321) {
            let place = wall.places(raw + offset(raw)).next().unwrap();
            assert!((place.raw_ns - raw).abs() <= place.bound_ns, "{raw}: {place:?}");
            assert!(place.bound_ns < 60_000, "{place:?}");
            assert!(raw > 5 * S || place.bound_ns < 5_000, "{place:?}");
        }
    }

    #[test]
    fn between_two_readings_a_slew_goes_along_the_chord() {
        let offset = |raw: i64| EPOCH + raw / 2_000;
        let wall = Wall::new(readings(offset, 0, S, 100 * MS));
        for raw in (0..900 * MS).step_by(7_654_321) {
            let place = wall.places(raw + offset(raw)).next().unwrap();
            assert!((place.raw_ns - raw).abs() <= 2, "{raw}: {place:?}");
        }
    }

    /// 1000 ppm of 100 ms, and the noise of two readings.
    #[test]
    fn more_than_any_slew_is_a_step_and_less_is_within_the_bound() {
        for by in [140_000, -140_000, 100_000, -100_000] {
            let offset = |raw: i64| EPOCH + if raw > 5 * S + MS { by } else { 0 };
            let wall = Wall::new(readings(offset, 0, 10 * S, 100 * MS));
            assert_eq!(wall.steps().count(), usize::from(by.abs() > 120_000), "{by}");
            for raw in (0..10 * S - 100 * MS).step_by(7_654_321) {
                let mut places = wall.places(raw + offset(raw));
                assert!(places.any(|place| (place.raw_ns - raw).abs() <= place.bound_ns), "{by} {raw}");
            }
        }
    }

    #[test]
    fn a_step_forwards_leaves_stamps_without_a_place_and_one_back_gives_some_two() {
        let step = |by: i64| move |raw: i64| EPOCH + if raw >= 5 * S + 33 * MS { by } else { 0 };
        for by in [2 * S, -2 * S] {
            let wall = Wall::new(readings(step(by), 0, 10 * S, 100 * MS));
            assert_eq!(wall.steps().collect::<Vec<_>>(), [(5 * S + 100 * MS, by)]);
            for raw in (0..9 * S).step_by(3_456_789) {
                let unix = raw + step(by)(raw);
                let places: Vec<Place> = wall.places(unix).collect();
                let truth = places.iter().filter(|place| (place.raw_ns - raw).abs() <= place.bound_ns);
                assert_eq!(truth.count(), 1, "{by} {raw}: {places:?}");
                let is_twice = by < 0 && (3 * S..7 * S + 100 * MS).contains(&raw);
                assert!(
                    places.len() == 1 || is_twice || (raw - 5 * S).abs() <= 100 * MS,
                    "{by} {raw}: {places:?}"
                );
            }
        }
        // What the wall clock never showed.
        let wall = Wall::new(readings(step(2 * S), 0, 10 * S, 100 * MS));
        assert_eq!(wall.places(EPOCH + 6 * S).count(), 0);
        // The same moment shown twice.
        let wall = Wall::new(readings(step(-2 * S), 0, 10 * S, 100 * MS));
        assert_eq!(wall.places(EPOCH + 4 * S).count(), 2);
    }

    #[test]
    fn beyond_its_readings_it_is_believed_for_a_while() {
        let wall = Wall::new(readings(|_| EPOCH, 100 * S, 101 * S, 100 * MS));
        let far = wall.places(EPOCH + 105 * S).next().unwrap();
        assert_eq!((far.raw_ns, far.bound_ns > 2_000_000), (105 * S, true));
        assert_eq!(wall.places(EPOCH + 112 * S).count() + wall.places(EPOCH + 80 * S).count(), 0);
        assert_eq!(Wall::default().places(EPOCH).count(), 0);
    }

    /// A raw clock that is 150 ppm off, as crystals are: the bound holds beyond its readings too.
    #[test]
    fn beyond_its_readings_the_bound_holds_whatever_the_crystal() {
        let offset = |raw: i64| EPOCH + raw * 15 / 100_000;
        let wall = Wall::new(readings(offset, 0, 10 * S, 100 * MS));
        for raw in [10 * S, 12 * S, 18 * S] {
            let place = wall.places(raw + offset(raw)).next().unwrap();
            assert!((place.raw_ns - raw).abs() <= place.bound_ns, "{raw}: {place:?}");
        }
    }

    #[test]
    fn readings_as_far_apart_as_numbers_go_are_a_step() {
        let far = 1 << 61;
        let reading = |raw_ns, unix_ns| WallClock { raw_ns, unix_ns, width_ns: 0 };
        let wall = Wall::new([reading(-far, far), reading(far, -far)]);
        assert_eq!(wall.steps().count(), 1);
    }

    #[test]
    fn a_gap_between_readings_widens_the_bound() {
        let wall = Wall::new(readings(|_| EPOCH, 0, 100 * S, 20 * S));
        let middle = wall.places(EPOCH + 10 * S).next().unwrap();
        assert!(middle.bound_ns > 400_000, "{middle:?}");
    }

    proptest! {
        #[test]
        fn arbitrary_readings_never_panic(all: Vec<(i64, i64, i64)>, stamps: Vec<i64>) {
            let reading = |&(raw_ns, unix_ns, width_ns): &(i64, i64, i64)| WallClock { raw_ns, unix_ns, width_ns };
            let wall = Wall::new(all.iter().map(reading));
            let found: usize = stamps.iter().map(|unix| wall.places(*unix).count()).sum();
            prop_assert!(found <= stamps.len() * (MOST_STEPS + 1));
            prop_assert!(wall.steps().count() <= MOST_STEPS);
        }
    }
}
