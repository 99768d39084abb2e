//! Why a GPU's clocks are held down, in NVML's bits (`nvmlClocksEventReason…` of nvml.h).

/// Software power cap.
pub const POWER_CAP: u64 = 0x4;
/// Another GPU's, in a group of one clock.
const SYNC_BOOST: u64 = 0x10;
/// What holds a working card's clocks down; idling and set clocks do not.
pub const HOLDING: u64 = POWER_CAP | 0x8 | SYNC_BOOST | 0x20 | 0x40 | 0x80;
/// Of these, what comes of the card itself.
pub const SLOWING: u64 = HOLDING & !SYNC_BOOST;

const REASONS: [(u64, &str); 9] = [
    (0x1, "idle"),
    (0x2, "clocks set by an application"),
    (POWER_CAP, "software power cap"),
    (0x8, "hardware slowdown"),
    (SYNC_BOOST, "sync boost"),
    (0x20, "software thermal slowdown"),
    (0x40, "hardware thermal slowdown"),
    (0x80, "hardware power brake"),
    (0x100, "clocks set for the display"),
];

/// The names of the bits that are set, lowest first.
pub fn names(bits: u64) -> Vec<&'static str> {
    REASONS.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect()
}

/// Bits that nvml.h had no name for when this was built.
pub fn unknown(bits: u64) -> u64 {
    REASONS.iter().fold(bits, |left, (bit, _)| left & !bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_nvml_has_a_name() {
        assert!((0..9).all(|bit| names(1 << bit).len() == 1));
        assert_eq!((unknown(0x1ff), unknown(1 << 40 | 0x1)), (0, 1 << 40));
        assert_eq!(names(0x24), ["software power cap", "software thermal slowdown"]);
        assert_eq!((HOLDING, SLOWING), (0xfc, 0xec));
    }
}
