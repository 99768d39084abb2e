//! Random numbers of our own: the same on every agent, and in every release, for the same seed. Every agent draws the
//! whole level's arrivals and must find the same ones.
//!
//! The draws are exact on hosts of one C library; another library's `ln` may differ in the last of 53 bits, which moves
//! an arrival by less than a ns.

use std::f64::consts::TAU;

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014): a counter under a mixing
/// bijection of 64 bits, with period 2⁶⁴.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// A sequence for each combination of parts.
    pub(crate) fn of(parts: &[u64]) -> Random {
        Random(parts.iter().fold(0, |key, &part| mix(key ^ mix(part))))
    }

    pub(crate) fn bits(&mut self) -> u64 {
        let value = mix(self.0);
        self.0 = self.0.wrapping_add(GOLDEN);
        value
    }

    /// Uniform in [0, 1), in steps of 2⁻⁵³.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Exponential with mean 1, by inversion; never infinite, since 1 − u is never 0.
    pub(crate) fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }

    /// Standard normal (Box, Muller, 1958).
    fn normal(&mut self) -> f64 {
        let radius = (2.0 * self.exponential()).sqrt();
        radius * (TAU * self.unit()).cos()
    }

    /// Gamma with this shape and scale 1 (Marsaglia, Tsang: "A simple method for generating gamma variables", 2000). A
    /// shape below 1 is raised by one and the draw scaled by u^(1/shape), as there.
    pub(crate) fn gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            let raised = self.gamma(shape + 1.0);
            return raised * (1.0 - self.unit()).powf(1.0 / shape);
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && (1.0 - self.unit()).ln() < 0.5 * x * x + d * (1.0 - v + v.ln()) {
                return d * v;
            }
        }
    }
}

/// The output function of SplitMix64.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(GOLDEN);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(n: usize, mut draw: impl FnMut() -> f64) -> (f64, f64) {
        let all: Vec<f64> = (0..n).map(|_| draw()).collect();
        let mean = all.iter().sum::<f64>() / n as f64;
        let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
        (mean, variance)
    }

    #[test]
    fn the_sequence_is_that_of_the_reference() {
        // The first outputs of the reference implementation in C for the seed 1234567.
        let mut random = Random(1_234_567);
        let first = [random.bits(), random.bits(), random.bits()];
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn draws_have_the_moments_of_their_laws() {
        let mut random = Random::of(&[7]);
        let near = |(mean, variance): (f64, f64), m: f64, v: f64| {
            assert!((mean / m - 1.0).abs() < 0.02 && (variance / v - 1.0).abs() < 0.06, "{mean} {variance}");
        };
        near(moments(200_000, || random.exponential()), 1.0, 1.0);
        near(moments(200_000, || 1.0 + random.normal()), 1.0, 1.0);
        // Mean and variance of gamma are both its shape.
        for shape in [0.1, 0.5, 1.0, 2.5, 40.0] {
            near(moments(400_000, || random.gamma(shape)), shape, shape);
        }
    }
}
