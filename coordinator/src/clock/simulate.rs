//! Simulated clocks and paths for the tests: the truth is known, so coverage can be counted.

use super::Exchange;

/// A node's true offset over time, ns.
#[derive(Clone, Debug)]
pub(crate) struct Truth {
    pub(crate) offset: f64,
    pub(crate) drift: f64,
    /// (amplitude in ns per ns, period in ns, phase): the frequency moves by this much around the drift.
    pub(crate) wander: [(f64, f64, f64); 2],
    /// At this moment the offset changes by this much.
    pub(crate) step: Option<(i64, f64)>,
}

impl Truth {
    /// Offset up to ±1e5 s, drift up to ±200 ppm, frequency wandering by up to 1 ppm.
    pub(crate) fn random(rng: &mut fastrand::Rng) -> Self {
        let mut sign = || rng.f64() * 2.0 - 1.0;
        let (offset, drift) = ((sign() * 1e14).round(), sign() * 200e-6);
        let mut wave = || (0.5e-6, (3.0 + 200.0 * rng.f64()) * 1e9, rng.f64() * std::f64::consts::TAU);
        Self { offset, drift, wander: [wave(), wave()], step: None }
    }

    pub(crate) fn at(&self, t: i64) -> f64 {
        let waves = self.wander.iter().map(|(amplitude, period, phase)| {
            let turn = std::f64::consts::TAU / period;
            amplitude / turn * (turn * t as f64 + phase).sin()
        });
        let step = self.step.filter(|(at, _)| t >= *at).map_or(0.0, |(_, by)| by);
        self.offset + self.drift * t as f64 + waves.sum::<f64>() + step
    }
}

/// How long a message takes, ns, each way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Path {
    /// So short that any slip in the bounds shows.
    Quick,
    Idle,
    Jitter,
    OneWayJitter,
    Asymmetric,
    Congested,
    HeavyTail,
}

pub(crate) const PATHS: [Path; 7] = [
    Path::Quick,
    Path::Idle,
    Path::Jitter,
    Path::OneWayJitter,
    Path::Asymmetric,
    Path::Congested,
    Path::HeavyTail,
];

impl Path {
    fn delays(self, rng: &mut fastrand::Rng) -> (f64, f64) {
        let mut exponential = |mean: f64| -mean * (1.0 - rng.f64()).ln();
        match self {
            Self::Quick => (1e3 + exponential(300.0), 1e3 + exponential(300.0)),
            Self::Idle => (18e3 + exponential(2e3), 20e3 + exponential(2e3)),
            Self::Jitter => (140e3 + exponential(60e3), 140e3 + exponential(60e3)),
            Self::OneWayJitter => (140e3, 140e3 + exponential(400e3)),
            Self::Asymmetric => (80e3 + exponential(10e3), 280e3 + exponential(10e3)),
            Self::Congested => (150e3 + exponential(800e3), 150e3 + exponential(800e3)),
            Self::HeavyTail => {
                (20e3 + 5e3 / (1.0 - rng.f64()).powf(0.8), 20e3 + 5e3 / (1.0 - rng.f64()).powf(0.8))
            }
        }
    }
}

/// Exchanges as the pinger makes them: 64 at once, then 8 each second ±10 %, one in twenty lost; over `seconds`.
pub(crate) fn exchanges(truth: &Truth, path: Path, seconds: i64, rng: &mut fastrand::Rng) -> Vec<Exchange> {
    let mut all = Vec::new();
    let mut t = 1_000_000_000;
    let mut pings = 64;
    while t < (1 + seconds) * 1_000_000_000 {
        let mut now = t;
        for _ in 0..pings {
            let exchange = exchange(truth, path, now, rng);
            now = exchange.t3 + 20_000;
            if rng.f64() > 0.05 {
                all.push(exchange);
            }
        }
        pings = 8;
        t += (1e9 * (0.9 + 0.2 * rng.f64())) as i64;
    }
    all
}

fn exchange(truth: &Truth, path: Path, t0: i64, rng: &mut fastrand::Rng) -> Exchange {
    let (there, back) = path.delays(rng);
    let read = t0 + there as i64;
    let written = read + 3_000;
    let t3 = written + back as i64;
    let node = |t: i64| t + truth.at(t).round() as i64;
    Exchange { t0, t1: node(read), t2: node(written), t3 }
}
