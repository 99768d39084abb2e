//! What memory bandwidth a card is specified with.

/// GB/s (10⁹ bytes, reads and writes together), and where that is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Specified {
    /// GB/s.
    pub(crate) gb_s: f64,
    /// Who says so, or how it was computed.
    pub(crate) source: &'static str,
}

/// What must be in a card's name, in order of trying; GB/s; source. A name that holds another comes before it.
const CARDS: [(&[&str], f64, &str); 21] = [
    (&["B200"], 8000.0, "published by NVIDIA for the HGX B200: 64 TB/s over 8 GPUs"),
    (&["GH200", "144G"], 4900.0, "published by NVIDIA for the GH200 with HBM3e"),
    (&["GH200"], 4000.0, "published by NVIDIA for the GH200 with HBM3"),
    (&["H200"], 4800.0, "published by NVIDIA for the H200"),
    (&["H100", "NVL"], 3900.0, "published by NVIDIA for the H100 NVL"),
    (&["H100", "PCIe"], 2000.0, "published by NVIDIA for the H100 PCIe"),
    (&["H100", "80GB HBM3"], 3350.0, "published by NVIDIA for the H100 SXM"),
    (&["A100", "SXM", "80GB"], 2039.0, "published by NVIDIA for the A100"),
    (&["A100", "SXM", "40GB"], 1555.0, "published by NVIDIA for the A100"),
    (&["A100", "80GB", "PCIe"], 1935.0, "published by NVIDIA for the A100"),
    (&["A100", "PCI", "40GB"], 1555.0, "published by NVIDIA for the A100"),
    (&["A30"], 933.0, "published by NVIDIA for the A30"),
    (&["A40"], 696.0, "published by NVIDIA for the A40"),
    (&["A10G"], 600.0, "published for the A10, of which it is a variant"),
    (&["A10"], 600.0, "published by NVIDIA for the A10"),
    (&["L40S"], 864.0, "published by NVIDIA for the L40S"),
    (&["L40"], 864.0, "published by NVIDIA for the L40"),
    (&["L4"], 300.0, "published by NVIDIA for the L4"),
    (&["V100", "SXM2"], 900.0, "published by NVIDIA for the V100"),
    (&["V100", "PCIE"], 900.0, "published by NVIDIA for the V100"),
    (&["T4"], 320.0, "published by NVIDIA for the T4"),
];

/// By the card's name; else from its fastest memory clock (MHz) and the width of its bus (bits). A part of a card has no
/// specification of its own.
pub(crate) fn specified(name: &str, mem_clock_mhz: Option<u32>, bus_bits: Option<u32>) -> Option<Specified> {
    if name.contains("MIG ") {
        return None;
    }
    let known = CARDS.iter().find(|(parts, ..)| is_named(name, parts));
    let known = known.map(|&(_, gb_s, source)| Specified { gb_s, source });
    known.or_else(|| {
        let gb_s = computed(mem_clock_mhz?, bus_bits?);
        Some(Specified { gb_s, source: "memory clock × 2 × bus width" }).filter(|s| s.gb_s > 0.0)
    })
}

/// GB/s of a bus: two transfers a clock, as NVML counts clocks of HBM and GDDR alike.
pub(crate) fn computed(mem_clock_mhz: u32, bus_bits: u32) -> f64 {
    f64::from(mem_clock_mhz) * 2.0 * f64::from(bus_bits) / 8.0 / 1e3
}

/// Each part stands in the name, and a model's letters and digits stand alone: an "A10" is not in "A100".
fn is_named(name: &str, parts: &[&str]) -> bool {
    let Some((model, rest)) = parts.split_first() else { return false };
    let words = |c: char| !c.is_ascii_alphanumeric();
    let lower = name.to_ascii_lowercase();
    name.split(words).any(|word| word == *model)
        && rest.iter().all(|part| lower.contains(&part.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gb_s(name: &str) -> Option<f64> {
        specified(name, None, None).map(|spec| spec.gb_s)
    }

    #[test]
    fn cards_are_known_by_the_names_that_nvml_gives_them() {
        for (name, expected) in [
            ("NVIDIA H100 80GB HBM3", 3350.0),
            ("NVIDIA H100 PCIe", 2000.0),
            ("NVIDIA H100 NVL", 3900.0),
            ("NVIDIA H200", 4800.0),
            ("NVIDIA H200 NVL", 4800.0),
            ("NVIDIA GH200 480GB", 4000.0),
            ("NVIDIA GH200 144G HBM3e", 4900.0),
            ("NVIDIA A100-SXM4-40GB", 1555.0),
            ("NVIDIA A100-SXM4-80GB", 2039.0),
            ("NVIDIA A100 80GB PCIe", 1935.0),
            ("NVIDIA A100-PCIE-40GB", 1555.0),
            ("NVIDIA A10", 600.0),
            ("NVIDIA A10G", 600.0),
            ("NVIDIA L4", 300.0),
            ("NVIDIA L40", 864.0),
            ("NVIDIA L40S", 864.0),
            ("NVIDIA B200", 8000.0),
            ("Tesla T4", 320.0),
            ("Tesla V100-SXM2-32GB", 900.0),
        ] {
            assert_eq!(gb_s(name), Some(expected), "{name}");
        }
    }

    #[test]
    fn other_cards_are_computed_and_parts_of_cards_are_not_judged() {
        // As an H100's own clock and bus tell.
        let computed = specified("NVIDIA NEXT", Some(2619), Some(5120)).unwrap();
        assert!((computed.gb_s - 3352.3).abs() < 0.1, "{computed:?}");
        assert_eq!(specified("NVIDIA NEXT", Some(2619), None), None);
        assert_eq!(specified("NVIDIA NEXT", Some(0), Some(5120)), None);
        assert_eq!(specified("NVIDIA H100 80GB HBM3 MIG 1g.10gb", Some(2619), Some(5120)), None);
    }
}
